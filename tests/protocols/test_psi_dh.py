"""Intersection by the OPRF: the result, the padding, every check on the peer, and what the transcript tells."""

import hashlib
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import DeterministicRng
from vfl.crypto.oprf import blind, evaluate, evaluate_directly, random_key
from vfl.errors import AlignmentError, InvalidPoint, LocalProtocolError, MalformedMessage, VFLError
from vfl.protocols.channel import MemoryChannel, Party, memory_pair, run_local
from vfl.protocols.psi import dh, exchange, sets
from vfl.protocols.record import Transcript
from vfl.protocols.wire import Leakage, Role

LARGEST = 10_000


def pair() -> tuple[MemoryChannel, MemoryChannel]:
    return memory_pair(Party("bank", Role.GUEST), Party("shop", Role.HOST))


def keys(*names: object) -> list[bytes]:
    return [str(name).encode() for name in names]


def intersect(
    guest_keys: list[bytes], host_keys: list[bytes], seed: int = 1, minimum: int = 0
) -> tuple[dh.Intersection, dh.Intersection, Transcript]:
    bank, shop = pair()
    transcript = Transcript()
    bank.observe(transcript)
    result = run_local(
        guest=dh.guest(bank, guest_keys, DeterministicRng(seed), minimum, LARGEST),
        host=dh.host(shop, host_keys, DeterministicRng(seed + 1), minimum, LARGEST),
    )
    return result["guest"], result["host"], transcript


def against_guest(host_role: Coroutine[Any, Any, Any], bank: MemoryChannel, own: list[bytes]) -> None:
    run_local(guest=dh.guest(bank, own, DeterministicRng(1), 0, LARGEST), host=host_role)


class TestResult:
    @settings(max_examples=15, deadline=None)
    @given(
        st.sets(st.binary(max_size=20), min_size=1, max_size=90),
        st.sets(st.binary(max_size=20), min_size=1, max_size=90),
    )
    def test_is_the_intersection_in_one_common_order(self, left: set[bytes], right: set[bytes]) -> None:
        mine, theirs = sorted(left), sorted(right)
        guest, host, _ = intersect(mine, theirs)
        assert [mine[i] for i in guest.positions] == [theirs[i] for i in host.positions]
        assert {mine[i] for i in guest.positions} == left & right

    def test_order_is_random_and_not_that_of_either_side(self) -> None:
        names = keys(*range(200))
        first, _, _ = intersect(names, names, seed=1)
        second, _, _ = intersect(names, names, seed=5)
        identity = np.arange(200)
        assert not np.array_equal(first.positions, identity)
        assert not np.array_equal(first.positions, second.positions)
        assert np.array_equal(np.sort(first.positions), identity)

    def test_more_keys_than_one_message_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exchange, "CHUNK", 50)
        monkeypatch.setattr(exchange, "TAGS", 70)
        mine, theirs = keys(*range(300)), keys(*range(150, 390))
        guest, host, transcript = intersect(mine, theirs)
        assert [mine[i] for i in guest.positions] == [theirs[i] for i in host.positions]
        assert len(guest.positions) == 150
        assert sum(r.kind == "psi.blinded" for r in transcript.records) == 7  # 320 padded elements
        assert sum(r.kind == "psi.tags" for r in transcript.records) == 4  # 256

    def test_nothing_in_common(self) -> None:
        guest, host, _ = intersect(keys("a"), keys("b"))
        assert len(guest.positions) == len(host.positions) == 0


class TestOneSide:
    @pytest.mark.parametrize("receiver", ["guest", "host"])
    def test_the_receiver_alone_learns(self, receiver: str) -> None:
        bank, shop = pair()
        transcript = Transcript()
        bank.observe(transcript)
        mine, theirs = keys(*range(100)), keys(*range(60, 200))
        ends = {"guest": (bank, mine), "host": (shop, theirs)}
        other = "host" if receiver == "guest" else "guest"
        result = run_local(
            one=dh.receiver(*ends[receiver], DeterministicRng(1), 40, LARGEST),
            two=dh.sender(*ends[other], DeterministicRng(2), 40, LARGEST),
        )
        found = [ends[receiver][1][i] for i in result["one"].positions]
        assert set(found) == set(mine) & set(theirs)
        assert np.all(np.diff(result["one"].positions) > 0)
        assert result["two"] == sets.bucket(len(ends[receiver][1]))
        names = {"guest": "bank", "host": "shop"}
        seen = {record.leakage for record in transcript.view(names[other])}
        assert seen == {Leakage.PUBLIC, Leakage.UNIFORM}

    def test_too_few_end_it(self) -> None:
        bank, shop = pair()
        with pytest.raises(AlignmentError, match="2 common customers, at least 3"):
            run_local(
                one=dh.receiver(bank, keys(1, 2), DeterministicRng(1), 3, LARGEST),
                two=dh.sender(shop, keys(1, 2), DeterministicRng(2), 3, LARGEST),
            )


class TestMatching:
    def test_tags_that_begin_alike_are_told_apart(self) -> None:
        theirs = np.zeros((4, 10), np.uint8)
        theirs[:, 9] = range(4)
        pairs = sets.match(theirs[[2, 0]], theirs, "shop")
        assert pairs.tolist() == [[0, 2], [1, 0]]


class TestPadding:
    @given(st.integers(1, 10**9))
    def test_bucket_is_tight_stable_and_coarse(self, size: int) -> None:
        padded = sets.bucket(size)
        assert padded >= size
        assert sets.bucket(padded) == padded
        assert padded <= max(64, size * 1.126 + 8)

    def test_sizes_within_a_bucket_look_alike(self) -> None:
        *_, one = intersect(keys(*range(65)), keys(*range(70)))
        *_, two = intersect(keys(*range(72)), keys(*range(66)))
        public = ("psi.size", "psi.commitment", "psi.blinded", "psi.evaluated", "psi.tags")
        shapes = [[(r.kind, r.size) for r in t.records if r.kind in public] for t in (one, two)]
        assert shapes[0] == shapes[1]

    def test_cost_per_item_is_at_most_80_bytes_of_each_padded_set(self) -> None:
        *_, transcript = intersect(keys(*range(960)), keys(*range(900, 1860)))
        assert transcript.by_kind()["psi.blinded"].size <= 960 * 32 + 100
        assert sum(total.size for total in transcript.by_kind().values()) <= 74 * 960 + 1000

    @pytest.mark.parametrize(("size", "width"), [(64, 8), (960, 8), (106_496, 10), (10**7, 11), (10**8, 12)])
    def test_tags_of_two_keys_are_equal_with_at_most_2_to_the_minus_40(self, size: int, width: int) -> None:
        assert sets.tag_bytes(size, size) == width
        assert size**2 / 2.0 ** (8 * width) <= 2.0**-40


class TestTranscript:
    def test_holds_only_declared_classes(self) -> None:
        *_, transcript = intersect(keys(*range(100)), keys(*range(50, 150)))
        allowed = {Leakage.PUBLIC, Leakage.UNIFORM, Leakage.INTERSECTION}
        assert {record.leakage for record in transcript.records} == allowed

    def test_fresh_keys_and_blinds_give_unrelated_transcripts(self) -> None:
        same = keys(*range(64))
        *_, one = intersect(same, same, seed=1)
        *_, two = intersect(same, same, seed=9)
        for kind in ("psi.blinded", "psi.evaluated", "psi.tags"):
            first, second = (next(r.message for r in t.records if r.kind == kind) for t in (one, two))
            field = "tags" if kind == "psi.tags" else "points"
            rows = {row.tobytes() for row in getattr(first, field)}
            assert rows.isdisjoint({row.tobytes() for row in getattr(second, field)})

    def test_blinded_elements_are_uniform_bytes_in_their_low_half(self) -> None:
        *_, transcript = intersect(keys(*range(900)), keys(*range(900)))
        points = next(r.message for r in transcript.records if r.kind == "psi.blinded").points  # type: ignore[attr-defined]
        counts = np.bincount(points[:, 1:31].ravel(), minlength=256)
        expected = counts.sum() / 256
        chi_squared = float(((counts - expected) ** 2 / expected).sum())
        assert chi_squared < 255 + 6 * np.sqrt(2 * 255)  # six standard deviations


class TestOwnMistakes:
    def test_repeated_keys(self) -> None:
        with pytest.raises(LocalProtocolError, match="distinct"):
            intersect(keys("a", "a"), keys("a"))

    def test_no_keys(self) -> None:
        with pytest.raises(LocalProtocolError, match="no key"):
            intersect([], keys("a"))


class TestCaps:
    def test_too_few_in_common_is_not_told_to_the_host(self) -> None:
        bank, shop = pair()
        transcript = Transcript()
        bank.observe(transcript)
        with pytest.raises(AlignmentError, match="3 common customers, at least 5"):
            run_local(
                guest=dh.guest(bank, keys(*range(20)), DeterministicRng(1), 5, LARGEST),
                host=dh.host(shop, keys(*range(17, 40)), DeterministicRng(2), 5, LARGEST),
            )
        assert "psi.matches" not in transcript.by_kind()

    def test_enumeration_is_refused_before_anything_is_evaluated(self) -> None:
        bank, shop = pair()
        transcript = Transcript()
        shop.observe(transcript)
        with pytest.raises(AlignmentError, match="enumerate"):
            run_local(
                guest=dh.guest(bank, keys(*range(2000)), DeterministicRng(1), 0, LARGEST),
                host=dh.host(shop, keys(*range(20)), DeterministicRng(2), 0, 1000),
            )
        assert set(transcript.by_kind()) == {"psi.size"}


class TestDeviatingHost:
    """What a host that breaks the protocol sends, and how the guest answers."""

    async def _host(self, shop: MemoryChannel, own: list[bytes], *, deviate: str) -> None:
        rng = DeterministicRng(3)
        secret = random_key(rng)
        await shop.send(sets.SetSize(size=65 if deviate == "size" else sets.bucket(len(own))))
        theirs = (await shop.recv(sets.SetSize)).size
        width = sets.tag_bytes(theirs, sets.bucket(len(own)))
        padding = np.frombuffer(rng.bytes(width * (sets.bucket(len(own)) - len(own))), dtype=np.uint8)
        tags = np.concatenate([evaluate_directly(secret, own, width), padding.reshape(-1, width)])
        if deviate == "repeat":
            tags[1] = tags[0]
        salt = rng.bytes(32)
        await shop.send(exchange.Commitment(digest=hashlib.sha256(salt + tags.tobytes()).digest()))
        points = (await shop.recv(exchange.Blinded, elements=theirs)).points
        answer = points if deviate == "echo" else evaluate(secret, points)
        if deviate == "identity":
            answer = answer.copy()
            answer[5] = 0
        if deviate == "non-canonical":
            answer = answer.copy()
            answer[5] = 255
        if deviate == "duplicate":
            answer = answer.copy()
            answer[5] = answer[6]
        await shop.send(exchange.Evaluated(points=answer))
        if deviate == "commitment":
            tags = tags.copy()
            tags[0] ^= 1
        await shop.send(exchange.TagList(tags=tags))
        await shop.send(exchange.Opening(salt=salt))

    @pytest.mark.parametrize(
        ("deviate", "error", "text"),
        [
            ("size", MalformedMessage, "no size bucket"),
            ("commitment", MalformedMessage, "committed"),
            ("repeat", MalformedMessage, "1 tags twice"),
            ("echo", MalformedMessage, "sent elements back"),
            ("identity", InvalidPoint, "identity"),
            ("non-canonical", InvalidPoint, "canonical"),
            ("duplicate", InvalidPoint, "repeats"),
        ],
    )
    def test_is_refused(self, deviate: str, error: type[Exception], text: str) -> None:
        bank, shop = pair()
        with pytest.raises(error, match=text):
            against_guest(self._host(shop, keys(*range(40)), deviate=deviate), bank, keys(*range(40)))


class TestDeviatingGuest:
    async def _guest(self, bank: MemoryChannel, *, marks: list[int], size: int = 8) -> None:
        await bank.send(sets.SetSize(size=64))
        await bank.recv(sets.SetSize)
        await bank.recv(exchange.Commitment)
        _, points = blind(keys(*range(64)), DeterministicRng(1))
        await bank.send(exchange.Blinded(points=points))
        await bank.recv(exchange.Evaluated, elements=64)
        await bank.recv(exchange.TagList, elements=64, width=8)
        await bank.recv(exchange.Opening)
        bits = np.zeros(8 * size, np.bool_)
        bits[marks] = True
        await bank.send(sets.Matches(seed=bytes(32), bits=np.packbits(bits).tobytes()))

    @pytest.mark.parametrize(
        ("marks", "size", "text"),
        [
            (list(range(64)), 8, "64 common keys, possible are 5 to 40"),
            ([0, 1, 2], 8, "3 common keys, possible are 5"),
            ([1, 2, 3, 4, 5], 9, "bytes"),
        ],
    )
    def test_is_refused(self, marks: list[int], size: int, text: str) -> None:
        bank, shop = pair()
        with pytest.raises(VFLError, match=text):
            run_local(
                guest=self._guest(bank, marks=marks, size=size),
                host=dh.host(shop, keys(*range(40)), DeterministicRng(2), 5, LARGEST),
            )

    def test_a_match_with_padding_is_refused(self) -> None:
        padded = 64
        bank, shop = pair()
        with pytest.raises(MalformedMessage, match=r"padding|possible"):
            run_local(
                guest=self._guest(bank, marks=list(range(0, padded, 2))),
                host=dh.host(shop, keys(*range(33)), DeterministicRng(2), 0, LARGEST),
            )
