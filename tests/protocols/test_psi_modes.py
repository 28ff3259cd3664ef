"""The modes of intersection: the result, what each side sees, and the checks on the peer."""

from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import DeterministicRng
from vfl.crypto.commutative import hide
from vfl.errors import AlignmentError, EncodingOverflow, InvalidPoint, LocalProtocolError, MalformedMessage
from vfl.protocols.channel import MemoryChannel, Party, memory_pair, run_local
from vfl.protocols.psi import cardinality, exchange, labelled, payload, sets, spine
from vfl.protocols.record import Transcript
from vfl.protocols.wire import Leakage, Role

LARGEST = 10_000
SETS = st.sets(st.binary(max_size=12), min_size=1, max_size=80)
FEW = settings(max_examples=8, deadline=None)


def keys(*names: object) -> list[bytes]:
    return [str(name).encode() for name in names]


def pair() -> tuple[MemoryChannel, MemoryChannel, Transcript]:
    bank, shop = memory_pair(Party("bank", Role.GUEST), Party("shop", Role.HOST))
    transcript = Transcript()
    bank.observe(transcript)
    return bank, shop, transcript


def both(one: Any, two: Any, *, swapped: bool = False) -> tuple[Any, Any, Transcript]:
    """Run two roles, each given its channel and generator; `swapped` lets the host take the first."""
    bank, shop, transcript = pair()
    ends = (shop, bank) if swapped else (bank, shop)
    roles: list[Coroutine[Any, Any, Any]] = [
        role(end, DeterministicRng(seed)) for role, end, seed in zip((one, two), ends, (1, 2), strict=True)
    ]
    result = run_local(one=roles[0], two=roles[1])
    return result["one"], result["two"], transcript


class TestCardinality:
    def run(self, left: list[bytes], right: list[bytes], minimum: int = 0, **options: Any) -> Any:
        return both(
            lambda end, rng: cardinality.receiver(end, left, rng, minimum, LARGEST),
            lambda end, rng: cardinality.sender(end, right, rng, minimum, LARGEST),
            **options,
        )

    @FEW
    @given(SETS, SETS, st.booleans())
    def test_is_the_size_of_the_intersection(
        self, left: set[bytes], right: set[bytes], swapped: bool
    ) -> None:
        found, told, _ = self.run(sorted(left), sorted(right), swapped=swapped)
        assert found == cardinality.Cardinality(len(left & right), sets.bucket(len(right)))
        assert told == sets.bucket(len(left))

    def test_the_sender_sees_sizes_and_random_elements_alone(self) -> None:
        _, _, transcript = self.run(keys(*range(90)), keys(*range(40, 200)))
        assert {r.leakage for r in transcript.view("shop")} == {Leakage.PUBLIC, Leakage.UNIFORM}

    def test_the_order_of_what_comes_back_tells_nothing(self) -> None:
        """The receiver cannot follow its keys: with its own order kept, the first half would match."""
        mine = keys(*range(64))
        _, _, transcript = self.run(mine, mine[:32])
        sent = next(r.message for r in transcript.records if r.kind == "psi.hidden")
        back = next(r.message for r in transcript.records if r.kind == "psi.reordered")
        assert sent.points.shape == back.points.shape
        again, _, other = self.run(mine, mine[32:])
        assert again.count == 32
        assert [r.size for r in other.records] == [r.size for r in transcript.records]

    def test_too_few_are_not_even_counted_for_the_user(self) -> None:
        with pytest.raises(AlignmentError, match="fewer than 5 customers are common") as caught:
            self.run(keys(1, 2, 3, 4), keys(1, 2, 3), minimum=5)
        assert "3" not in str(caught.value)

    def test_an_echo_is_refused(self) -> None:
        async def sender(end: MemoryChannel) -> None:
            await end.send(sets.SetSize(size=64))
            await end.recv(sets.SetSize)
            await end.send(exchange.Commitment(digest=bytes(32)))
            hidden = (await end.recv(cardinality.Hidden, elements=64)).points
            await end.send(cardinality.Reordered(points=hidden))

        bank, shop, _ = pair()
        with pytest.raises(MalformedMessage, match="back as they came"):
            run_local(
                one=cardinality.receiver(bank, keys(1, 2), DeterministicRng(1), 0, LARGEST),
                two=sender(shop),
            )


class TestSum:
    def run(
        self, left: list[bytes], right: list[bytes], values: Any, minimum: int = 0, **options: Any
    ) -> Any:
        table = np.asarray(values, np.int64)
        return both(
            lambda end, rng: payload.counter(end, left, table.shape[1], rng, minimum, LARGEST),
            lambda end, rng: payload.owner(end, right, table, rng, minimum, LARGEST),
            **options,
        )

    @FEW
    @given(SETS, SETS, st.booleans())
    def test_is_the_sum_over_the_intersection(
        self, left: set[bytes], right: set[bytes], swapped: bool
    ) -> None:
        theirs = sorted(right)
        values = np.array([[(-1) ** i * i * 10**9, i] for i in range(len(theirs))])
        told, found, _ = self.run(sorted(left), theirs, values, swapped=swapped)
        chosen = [key in left for key in theirs]
        assert found.totals == tuple(values[chosen].sum(axis=0).tolist())
        assert found.count == told.count == len(left & right)
        assert told.totals == ()

    def test_the_largest_values(self) -> None:
        values = np.array([[2**57], [2**56], [-(2**55)]])
        _, found, _ = self.run(keys(1, 2, 9), keys(1, 2, 3), values)
        assert found.totals == (2**57 + 2**56,)
        with pytest.raises(EncodingOverflow, match=r"2\^58"):
            self.run(keys(1), keys(1, 2), [[2**57], [-(2**57)]])

    def test_too_few_end_it_before_anything_is_told(self) -> None:
        bank, shop, transcript = pair()
        with pytest.raises(AlignmentError, match="2 common customers, at least 3"):
            run_local(
                one=payload.counter(bank, keys(1, 2), 1, DeterministicRng(1), 3, LARGEST),
                two=payload.owner(shop, keys(1, 2), np.array([[1], [2]]), DeterministicRng(2), 3, LARGEST),
            )
        assert "psi.summed" not in transcript.by_kind()

    def test_the_owner_sees_no_order_that_it_knows(self) -> None:
        _, _, transcript = self.run(keys(*range(50)), keys(*range(25, 75)), np.ones((50, 1)))
        seen = {r.leakage for r in transcript.view("shop")}
        assert seen == {Leakage.PUBLIC, Leakage.UNIFORM, Leakage.INTERSECTION}
        assert {r.kind for r in transcript.view("shop") if r.leakage is Leakage.INTERSECTION} == {
            "psi.summed"
        }


class TestLabelled:
    def run(self, left: list[bytes], right: list[bytes], rows: Any, minimum: int = 0, **options: Any) -> Any:
        return both(
            lambda end, rng: labelled.receiver(end, left, rows.shape[1], rng, minimum, LARGEST),
            lambda end, rng: labelled.sender(end, right, rows, rng, minimum, LARGEST),
            **options,
        )

    @FEW
    @given(SETS, SETS, st.integers(1, 100), st.booleans())
    def test_brings_the_rows_of_the_matches(
        self, left: set[bytes], right: set[bytes], width: int, swapped: bool
    ) -> None:
        mine, theirs = sorted(left), sorted(right)
        rows = np.frombuffer(DeterministicRng(4).bytes(width * len(theirs)), np.uint8).reshape(-1, width)
        found, told, _ = self.run(mine, theirs, rows, swapped=swapped)
        assert [mine[i] for i in found.positions] == [key for key in mine if key in right]
        expected = [rows[theirs.index(mine[i])].tobytes() for i in found.positions]
        assert [row.tobytes() for row in found.rows] == expected
        assert told == sets.bucket(len(left))

    def test_what_is_not_common_stays_under_its_pad(self) -> None:
        rows = np.full((100, 40), 65, np.uint8)
        _, _, transcript = self.run(keys(*range(50)), keys(*range(100, 200)), rows)
        sent = next(r.message for r in transcript.records if r.kind == "psi.labels").rows
        counts = np.bincount(sent[:, 8:].ravel(), minlength=256)
        expected = counts.sum() / 256
        assert float(((counts - expected) ** 2 / expected).sum()) < 255 + 6 * np.sqrt(2 * 255)

    def test_long_rows_take_several_messages(self) -> None:
        rows = np.arange(100, dtype=np.uint8)[:, None].repeat(40_000, axis=1)
        found, _, transcript = self.run(keys(7, 9), keys(*range(100)), rows)
        assert found.rows[:, 39_999].tolist() == [7, 9]
        assert transcript.by_kind()["psi.labels"].count == 4

    def test_rows_that_do_not_fit_the_keys(self) -> None:
        with pytest.raises(LocalProtocolError, match=r"shape \(2, 3\) for 1 keys"):
            self.run(keys(1), keys(1), np.zeros((2, 3), np.uint8))


class TestSpine:
    def run(self, left: list[bytes], right: list[bytes]) -> Any:
        return both(
            lambda end, rng: spine.guest(end, left, rng, LARGEST),
            lambda end, rng: spine.host(end, right, rng, LARGEST),
        )

    @FEW
    @given(SETS, SETS)
    def test_lines_up_the_union(self, left: set[bytes], right: set[bytes]) -> None:
        mine, theirs = sorted(left), sorted(right)
        one, two, _ = self.run(mine, theirs)
        assert len(one.positions) == len(two.positions)
        rows = list(zip(one.positions.tolist(), two.positions.tolist(), strict=True))
        common = {mine[i] for i, j in rows if i >= 0 and j >= 0}
        assert common == left & right
        assert all(mine[i] == theirs[j] for i, j in rows if i >= 0 and j >= 0)
        assert sorted(i for i, _ in rows if i >= 0) == list(range(len(mine)))
        assert sorted(j for _, j in rows if j >= 0) == list(range(len(theirs)))
        union = sets.bucket(len(mine)) + sets.bucket(len(theirs)) - len(common)
        assert len(rows) == union

    def test_the_order_is_that_of_neither_side(self) -> None:
        same = keys(*range(128))
        one, two, _ = self.run(same, same)
        np.testing.assert_array_equal(one.positions, two.positions)
        assert abs(np.corrcoef(one.positions, np.arange(128))[0, 1]) < 0.5

    def test_the_host_cannot_find_its_rows_that_are_not_common(self) -> None:
        """What comes under the third key is none of the elements that the host holds in its own order."""
        _, _, transcript = self.run(keys(*range(64)), keys(*range(32, 96)))
        seen: dict[str, set[bytes]] = {}
        for record in transcript.view("shop"):
            if hasattr(record.message, "points"):
                seen.setdefault(record.kind, set()).update(row.tobytes() for row in record.message.points)
        assert len(seen["spine.only"]) == 64
        assert not seen["spine.only"] & (seen["spine.twice"] | seen["spine.once"])

    def test_the_guest_cannot_find_its_rows_that_are_common(self) -> None:
        _, _, transcript = self.run(keys(*range(64)), keys(*range(32, 96)))
        lists = {
            kind: [
                row.tobytes()
                for record in transcript.view("bank")
                if record.kind == kind
                for row in record.message.points
            ]
            for kind in ("spine.twice", "spine.loose", "spine.only")
        }
        assert not set(lists["spine.twice"]) & set(lists["spine.loose"])
        assert not set(lists["spine.only"]) & set(lists["spine.twice"])

    def test_differences_that_do_not_fit_are_refused(self) -> None:
        async def guest(end: MemoryChannel) -> None:
            await end.send(sets.SetSize(size=64))
            await end.recv(sets.SetSize)
            points = hide(bytes([5]) + bytes(31), keys(*range(64)))
            await end.send(spine.Once(points=points))
            for kind in (spine.Once, spine.Twice, spine.Loose):
                await end.recv(kind, elements=64)
            await end.send(spine.Twice(points=points))
            await end.send(spine.Difference(guest_only=3, host_only=4))

        bank, shop, _ = pair()
        with pytest.raises(MalformedMessage, match="do not fit"):
            run_local(one=guest(bank), two=spine.host(shop, keys(1, 2), DeterministicRng(1), LARGEST))

    def test_repeated_elements_are_refused(self) -> None:
        async def guest(end: MemoryChannel) -> None:
            await end.send(sets.SetSize(size=64))
            await end.recv(sets.SetSize)
            points = hide(bytes([5]) + bytes(31), keys(*range(64)))
            points[1] = points[0]
            await end.send(spine.Once(points=points))

        bank, shop, _ = pair()
        with pytest.raises(InvalidPoint, match="repeats"):
            run_local(one=guest(bank), two=spine.host(shop, keys(1, 2), DeterministicRng(1), LARGEST))


def test_every_mode_caps_the_peer() -> None:
    many, few = keys(*range(2000)), keys(*range(20))
    values, rows = np.ones((20, 1), np.int64), np.ones((20, 1), np.uint8)
    attempts: list[tuple[Any, Any]] = [
        (
            lambda end, rng: cardinality.receiver(end, many, rng, 0, LARGEST),
            lambda end, rng: cardinality.sender(end, few, rng, 0, 1000),
        ),
        (
            lambda end, rng: payload.counter(end, many, 1, rng, 0, LARGEST),
            lambda end, rng: payload.owner(end, few, values, rng, 0, 1000),
        ),
        (
            lambda end, rng: labelled.receiver(end, many, 1, rng, 0, LARGEST),
            lambda end, rng: labelled.sender(end, few, rows, rng, 0, 1000),
        ),
        (
            lambda end, rng: spine.guest(end, many, rng, LARGEST),
            lambda end, rng: spine.host(end, few, rng, 1000),
        ),
    ]
    for attempt in attempts:
        with pytest.raises(AlignmentError, match="enumerate"):
            both(*attempt)
