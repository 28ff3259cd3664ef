"""The fast intersection: the result for all kinds of sets, the checks on the peer, what the transcript tells."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import DeterministicRng
from vfl.crypto import okvs, tags
from vfl.crypto.digests import decimal, pack
from vfl.errors import (
    AlignmentError,
    CryptoError,
    InvalidPoint,
    LocalProtocolError,
    MalformedMessage,
    PeerError,
    UnexpectedMessage,
)
from vfl.protocols.channel import Channel, MemoryChannel, Party, memory_pair, run_local
from vfl.protocols.psi import vole
from vfl.protocols.psi.sets import Intersection, SetSize, bucket
from vfl.protocols.record import Transcript
from vfl.protocols.wire import Leakage, Message, Role

LARGEST = 10_000_000


class Seen(NamedTuple):
    guest: Intersection
    host: Intersection
    transcript: Transcript


def pair() -> tuple[MemoryChannel, MemoryChannel]:
    return memory_pair(Party("bank", Role.GUEST), Party("shop", Role.HOST))


def names(*values: object) -> list[bytes]:
    return [str(value).encode() for value in values]


def intersect(guest_keys: vole.Keys, host_keys: vole.Keys, seed: int = 1, minimum: int = 0) -> Seen:
    bank, shop = pair()
    transcript = Transcript()
    bank.observe(transcript)
    result = run_local(
        guest=vole.guest(bank, guest_keys, DeterministicRng(seed), minimum, LARGEST),
        host=vole.host(shop, host_keys, DeterministicRng(seed + 1000), minimum, LARGEST),
    )
    return Seen(result["guest"], result["host"], transcript)


class TestResult:
    @settings(max_examples=12, deadline=None)
    @given(
        st.sets(st.binary(max_size=20), min_size=1, max_size=90),
        st.sets(st.binary(max_size=20), min_size=1, max_size=90),
        st.integers(0, 100),
    )
    def test_is_the_intersection_in_one_common_order(
        self, left: set[bytes], right: set[bytes], seed: int
    ) -> None:
        mine, theirs = sorted(left), sorted(right)
        seen = intersect(mine, theirs, seed)
        assert [mine[i] for i in seen.guest.positions] == [theirs[i] for i in seen.host.positions]
        assert {mine[i] for i in seen.guest.positions} == left & right

    @pytest.mark.parametrize(
        ("left", "right"),
        [
            (range(5000), range(2500, 9000)),
            (range(1, 20_001), range(1, 20_001)),
            (range(3000), range(3000, 6000)),
            (range(20), range(10, 30_000)),
            (range(10, 30_000), range(20)),
            (range(1), range(1)),
        ],
    )
    def test_agrees_with_numpy(self, left: range, right: range) -> None:
        mine, theirs = (DeterministicRng(n).permutation(len(r)) + r.start for n, r in ((1, left), (2, right)))
        seen = intersect(decimal(mine), decimal(theirs))
        assert np.array_equal(mine[seen.guest.positions], theirs[seen.host.positions])
        assert np.array_equal(np.sort(mine[seen.guest.positions]), np.intersect1d(mine, theirs))

    def test_many_bins_in_many_messages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(okvs, "BIN", 300)
        monkeypatch.setattr(vole, "TAGS", 700)
        okvs.shape.cache_clear()
        seen = intersect(decimal(np.arange(3000)), decimal(np.arange(1500, 4500)))
        okvs.shape.cache_clear()
        assert np.array_equal(seen.guest.positions, seen.host.positions + 1500)
        assert sum(r.kind == "vole.masked" for r in seen.transcript.records) > 3
        assert sum(r.kind == "vole.tags" for r in seen.transcript.records) == 5  # 3,072 padded tags

    def test_order_is_random_and_not_that_of_either_side(self) -> None:
        keys = names(*range(200))
        first, second = intersect(keys, keys, 1).guest.positions, intersect(keys, keys, 5).guest.positions
        identity = np.arange(200)
        assert not np.array_equal(first, identity)
        assert not np.array_equal(first, second)
        assert np.array_equal(np.sort(first), identity)

    def test_order_does_not_depend_on_the_rows(self) -> None:
        keys = names(*range(200))
        one, other = intersect(keys, keys, 1), intersect(keys[::-1], keys, 1)
        assert np.array_equal(one.guest.positions, 199 - other.guest.positions)

    def test_texts_and_packed_columns_are_the_same_keys(self) -> None:
        seen = intersect(names("x", "longer than one block of sixteen", ""), pack(names("", "x")))
        assert len(seen.guest.positions) == 2

    @pytest.mark.slow
    def test_a_million(self) -> None:
        mine, theirs = np.arange(1_000_000), np.arange(500_000, 1_500_000)
        seen = intersect(decimal(mine), decimal(theirs))
        assert np.array_equal(mine[seen.guest.positions], theirs[seen.host.positions])
        assert len(seen.guest.positions) == 500_000
        assert sum(record.size for record in seen.transcript.records) < 33_000_000

    @pytest.mark.parametrize(("left", "right"), [(2000, 2500), (40, 5000), (5000, 40)])
    def test_large_sets_are_cut_into_parts(
        self, monkeypatch: pytest.MonkeyPatch, left: int, right: int
    ) -> None:
        monkeypatch.setattr(vole, "PART", 500)
        mine, theirs = np.arange(left), np.arange(left // 2, left // 2 + right)
        seen = intersect(decimal(mine), decimal(theirs))
        assert np.array_equal(mine[seen.guest.positions], theirs[seen.host.positions])
        assert len(seen.guest.positions) == len(np.intersect1d(mine, theirs))
        kinds = [r.kind for r in seen.transcript.records]
        parts = -(-bucket(max(left, right)) // 500)
        assert kinds.count("vole.extension") == parts
        assert kinds[-parts:] == ["vole.common"] * parts
        assert len({r.size for r in seen.transcript.records if r.kind == "vole.extension"}) == 1

    def test_parts_tell_nothing_before_the_minimum_is_reached(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(vole, "PART", 100)
        bank, shop = pair()
        transcript = Transcript()
        bank.observe(transcript)
        with pytest.raises(AlignmentError, match="60 common customers, at least 61"):
            run_local(
                guest=vole.guest(bank, names(*range(260)), DeterministicRng(1), 61, LARGEST),
                host=vole.host(shop, names(*range(200, 460)), DeterministicRng(2), 61, LARGEST),
            )
        assert "vole.common" not in transcript.by_kind()


class TestTranscript:
    ALLOWED = (Leakage.PUBLIC, Leakage.UNIFORM, Leakage.INTERSECTION)

    def test_holds_declared_messages_alone_and_the_smaller_set_receives(self) -> None:
        seen = intersect(names(*range(100)), names(*range(50, 400)))
        kinds = [(r.kind, r.direction) for r in seen.transcript.records]
        assert kinds == [
            ("psi.size", "sent"),
            ("psi.size", "received"),
            ("vole.offer", "sent"),
            ("vole.choices", "received"),
            ("vole.extension", "sent"),
            ("vole.answer", "received"),
            ("vole.masked", "sent"),
            ("vole.heads", "received"),
            ("vole.tags", "received"),
            ("vole.common", "sent"),
        ]
        other = intersect(names(*range(400)), names(*range(50, 100)))
        flipped = {"sent": "received", "received": "sent"}
        assert [(r.kind, r.direction) for r in other.transcript.records][2:] == [
            (kind, flipped[direction]) for kind, direction in kinds[2:]
        ]
        assert {r.leakage for r in seen.transcript.records} <= set(self.ALLOWED)

    def test_sizes_within_a_bucket_look_alike(self) -> None:
        one = intersect(names(*range(65)), names(*range(70))).transcript.records
        two = intersect(names(*range(72)), names(*range(60, 126))).transcript.records
        assert [(r.kind, r.size) for r in one] == [(r.kind, r.size) for r in two]

    @staticmethod
    def fields(transcript: Transcript) -> dict[str, bytes]:
        kinds = {
            "vole.masked": "elements",
            "vole.tags": "lows",
            "vole.extension": "columns",
            "vole.answer": "sums",
        }
        return {
            r.kind: np.asarray(getattr(r.message, kinds[r.kind])).tobytes()
            for r in transcript.records
            if r.kind in kinds
        }

    def test_fresh_randomness_gives_unrelated_transcripts(self) -> None:
        same = names(*range(64))
        one, two = (self.fields(intersect(same, same, seed).transcript) for seed in (1, 7))
        assert len(one) == 4
        for kind, before in one.items():
            rows = np.frombuffer(before, "<u8"), np.frombuffer(two[kind], "<u8")
            assert np.intersect1d(*rows).size == 0

    def test_what_is_masked_is_uniform_whatever_the_keys_are(self) -> None:
        transcript = intersect(names(*range(5000)), names(*range(5000))).transcript
        for field in self.fields(transcript).values():
            counts = np.bincount(np.frombuffer(field, np.uint8), minlength=256)
            expected = counts.sum() / 256
            chi_squared = float(((counts - expected) ** 2 / expected).sum())
            assert chi_squared < 255 + 6 * np.sqrt(2 * 255)

    def test_the_store_is_hidden_by_the_mask(self) -> None:
        """Zero columns of the store would show as zeros without it: none is there."""
        transcript = intersect(names(*range(100)), names(*range(100))).transcript
        masked = next(r.message for r in transcript.records if r.kind == "vole.masked")
        assert masked.elements.any(axis=1).all()  # type: ignore[attr-defined]


class TestOwnMistakes:
    @pytest.mark.parametrize("side", ["guest", "host"])
    @pytest.mark.parametrize("count", [3, 3000])
    def test_repeated_keys(self, side: str, count: int) -> None:
        good, bad = names(*range(count)), names(*range(count), 0)
        with pytest.raises(LocalProtocolError, match="distinct"):
            intersect(*((bad, good) if side == "guest" else (good, bad)))

    def test_no_keys(self) -> None:
        with pytest.raises(LocalProtocolError, match="no key"):
            intersect([], names("a"))

    def test_more_keys_than_a_part_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With probability 2^-41 by the capacity; here because the capacity is wrong."""
        monkeypatch.setattr(vole, "PART", 100)
        monkeypatch.setattr(okvs, "capacity", lambda keys, bins: keys // bins)
        with pytest.raises(CryptoError, match="keys for a part of"):
            intersect(names(*range(900)), names(*range(900)))

    def test_a_link_for_the_other_role(self) -> None:
        bank, shop = pair()

        async def wrong(peer: Channel, receiving: bool) -> None:
            joined = await vole.link(peer, DeterministicRng(1), receiving)
            run = vole.send if receiving else vole.receive
            with pytest.raises(LocalProtocolError, match="this link was made for"):
                await run(peer, joined, np.zeros((1, 2), np.uint64), vole.Sizes(64, 64), DeterministicRng(1))

        run_local(guest=wrong(bank, True), host=wrong(shop, False))

    def test_a_store_that_fails_by_chance_is_not_blamed_on_the_keys(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unlucky(*_: object) -> None:
            raise CryptoError("overflows")

        monkeypatch.setattr(okvs, "encode", unlucky)
        with pytest.raises(CryptoError, match="overflows"):
            intersect(names("a"), names("a"))


class TestCaps:
    def test_too_few_in_common_is_not_told_to_the_sender(self) -> None:
        bank, shop = pair()
        transcript = Transcript()
        bank.observe(transcript)
        with pytest.raises(AlignmentError, match="3 common customers, at least 5"):
            run_local(
                guest=vole.guest(bank, names(*range(20)), DeterministicRng(1), 5, LARGEST),
                host=vole.host(shop, names(*range(17, 40)), DeterministicRng(2), 5, LARGEST),
            )
        assert "vole.common" not in transcript.by_kind()

    def test_enumeration_is_refused_before_anything_else(self) -> None:
        bank, shop = pair()
        transcript = Transcript()
        shop.observe(transcript)
        with pytest.raises(AlignmentError, match="enumerate"):
            run_local(
                guest=vole.guest(bank, names(*range(2000)), DeterministicRng(1), 0, LARGEST),
                host=vole.host(shop, names(*range(20)), DeterministicRng(2), 0, 1000),
            )
        assert set(transcript.by_kind()) == {"psi.size"}


@dataclass
class Meddler:
    """A channel of a party that changes one of its messages just before it leaves."""

    kind: type[Message]
    change: Callable[[Any], Message]

    def wrap(self, channel: MemoryChannel) -> MemoryChannel:
        send = channel.send

        async def changed(message: Message) -> None:
            await send(self.change(message) if isinstance(message, self.kind) else message)

        channel.send = changed  # type: ignore[method-assign]
        return channel


def against(kind: type[Message], change: Callable[[Any], Message], *, cheater: str, minimum: int = 0) -> None:
    """Let one party's message be changed; the guest receives, the host sends."""
    bank, shop = pair()
    ends = {"guest": bank, "host": shop}
    ends[cheater] = Meddler(kind, change).wrap(ends[cheater])
    roles: dict[str, Coroutine[Any, Any, Any]] = {
        "guest": vole.guest(ends["guest"], names(*range(60)), DeterministicRng(1), minimum, LARGEST),
        "host": vole.host(ends["host"], names(*range(50, 140)), DeterministicRng(2), minimum, LARGEST),
    }
    run_local(**roles)


class TestDeviatingSender:
    @staticmethod
    def doubled(message: vole.Tags) -> vole.Tags:
        lows = message.lows.copy()
        lows[:] = lows[0]
        return vole.Tags(lows=lows)

    @staticmethod
    def shifted(message: vole.Heads) -> vole.Heads:
        bits = message.bits.copy()
        bits[0] ^= 1
        return vole.Heads(bits=bits)

    @staticmethod
    def at_no_element(message: vole.Choices) -> vole.Choices:
        points = message.points.copy()
        points[3, 1] = 255
        return vole.Choices(seed=message.seed, points=points)

    @pytest.mark.parametrize(
        ("kind", "change", "error"),
        [
            (vole.Tags, "doubled", MalformedMessage),
            (vole.Heads, "shifted", MalformedMessage),
            (vole.Choices, "at_no_element", InvalidPoint),
        ],
    )
    def test_is_refused(self, kind: type[Message], change: str, error: type[Exception]) -> None:
        with pytest.raises(error):
            against(kind, getattr(self, change), cheater="host")

    def test_a_size_that_is_no_bucket(self) -> None:
        with pytest.raises(MalformedMessage, match="no size bucket"):
            against(SetSize, lambda _: SetSize(size=65), cheater="host")

    @pytest.mark.parametrize(
        ("kind", "change"),
        [
            (vole.Answer, lambda m: vole.Answer(sums=m.sums[:-1], totals=m.totals)),
            (vole.Answer, lambda m: vole.Answer(sums=m.sums, totals=np.concatenate([m.totals, m.totals]))),
            (vole.Heads, lambda m: vole.Heads(bits=m.bits[:-1])),
            (vole.Tags, lambda m: vole.Tags(lows=m.lows[:-1])),
            (vole.Tags, lambda m: vole.Heads(bits=m.lows.view(np.uint8))),
        ],
    )
    def test_wrong_shapes_and_kinds(self, kind: type[Message], change: Callable[[Any], Message]) -> None:
        with pytest.raises((PeerError, LocalProtocolError, MalformedMessage, UnexpectedMessage)):
            against(kind, change, cheater="host")

    def test_a_changed_answer_gives_wrong_matches_but_no_others_than_own(self) -> None:
        """Semi-honest security: nothing detects it, and nothing else is learnt by it either."""

        def damaged(message: vole.Answer) -> vole.Answer:
            totals = message.totals.copy()
            totals[:] ^= np.uint64(1)
            return vole.Answer(sums=message.sums, totals=totals)

        against(vole.Answer, damaged, cheater="host")


class TestDeviatingReceiver:
    @staticmethod
    def all_ones(message: vole.Common) -> vole.Common:
        return vole.Common(bits=np.full_like(message.bits, 255))

    @staticmethod
    def padding(message: vole.Common) -> vole.Common:
        """Half of the list: some of it is padding (90 keys, 96 tags) with probability nearly 1."""
        bits = message.bits.copy()
        bits[:] = 0
        bits[:8] = 255
        return vole.Common(bits=bits)

    def test_a_match_with_everything(self) -> None:
        with pytest.raises(MalformedMessage, match="padding"):
            against(vole.Common, self.all_ones, cheater="guest")

    def test_a_match_with_padding(self) -> None:
        with pytest.raises(MalformedMessage, match="padding"):
            against(vole.Common, self.padding, cheater="guest")

    def test_fewer_than_the_minimum(self) -> None:
        with pytest.raises(MalformedMessage, match="0 common keys, fewer than 10"):
            against(vole.Common, lambda m: vole.Common(bits=m.bits * 0), cheater="guest", minimum=10)

    def test_bits_beyond_the_list(self) -> None:
        rows = np.arange(100)
        bank, shop = pair()

        async def cheat() -> None:
            bits = np.zeros(13, np.uint8)
            bits[-1] = 1
            await bank.send(vole.Common(bits=bits))

        with pytest.raises(MalformedMessage, match="outside the list"):
            run_local(guest=cheat(), host=vole.hear(shop, [rows], [rows.astype(np.uint32)], 0))

    @pytest.mark.parametrize(
        ("kind", "change"),
        [
            (vole.Extension, lambda m: vole.Extension(columns=m.columns[:, :-1])),
            (vole.Masked, lambda m: vole.Masked(elements=m.elements[1:])),
            (vole.Common, lambda m: vole.Common(bits=m.bits[1:])),
        ],
    )
    def test_wrong_shapes(self, kind: type[Message], change: Callable[[Any], Message]) -> None:
        with pytest.raises(PeerError):
            against(kind, change, cheater="guest")

    def test_an_element_that_is_none(self) -> None:
        with pytest.raises(InvalidPoint):
            against(vole.Offer, lambda m: vole.Offer(seed=m.seed, point=bytes(32)), cheater="guest")


def test_tags_are_long_enough() -> None:
    """64 + head bits: two sets up to the largest give equal tags by chance with at most 2^-40."""
    for own in (64, 1 << 10, 1 << 20, vole.LARGEST):
        for theirs in (64, 1 << 10, 1 << 20, vole.LARGEST):
            assert own * theirs <= 2 ** (64 + tags.head_bits(theirs) - 40)
