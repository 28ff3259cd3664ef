"""Sums under CKKS: exact, whoever holds the key; what a party sees; what is refused."""

from typing import Any

import numpy as np
import pytest

from tests.cohorts import identities, policy
from tests.support import DeterministicRng
from vfl.crypto.ckks_sums import KeyShare, PublicKey, SumFormat, Total
from vfl.errors import (
    ChannelClosed,
    CohortTooSmall,
    ConfigError,
    EncodingOverflow,
    InconsistentView,
    InvalidCiphertext,
    InvalidKey,
    PeerAborted,
    PeerAuthenticationError,
    VFLError,
)
from vfl.protocols import ckks_sum
from vfl.protocols.channel import Channel, Party, memory_pair, run_local
from vfl.protocols.ckks_sum import JointKey, Opening, Sums, aggregator, client
from vfl.protocols.record import Transcript
from vfl.protocols.wire import Leakage, Role

COUNT, DIMENSION, BITS = 4, 5000, 24
RULES = policy(COUNT, colluders=0)
NAMES = RULES.names
RNG = np.random.default_rng(4)
VECTORS = {name: RNG.integers(-(2**20), 2**20, DIMENSION) for name in NAMES}


class Lost(Exception):
    """A client's process ends."""


async def guarded(role: Any, channels: list[Channel]) -> Any:
    try:
        return await role
    except (VFLError, Lost) as error:
        for channel in channels:
            channel.abort(error)
        return error


def play(holders: tuple[str, ...], **twists: Any) -> tuple[dict[str, Any], dict[str, Transcript]]:
    """Run a sum in memory; `lost` is a client that dies instead of sending its vector."""
    sums = Sums(RULES, holders, b"a test", DIMENSION, BITS)
    near, transcripts, roles = {}, {}, {}
    for i, name in enumerate(NAMES):
        near[name], far = memory_pair(Party("aggregator", Role.AGGREGATOR), Party(name, Role.CLIENT))
        transcripts[name] = Transcript()
        far.observe(transcripts[name])
        if name in twists.get("lost", ()):
            far.observe(dies)
        if "tamper" in twists:
            tampered(near[name], twists["tamper"])
        role = client(far, sums, VECTORS[name], identities(COUNT)[i], DeterministicRng(i))
        roles[name] = guarded(role, [far])
    roles["aggregator"] = guarded(aggregator(near, sums), list(near.values()))
    return run_local(**roles), transcripts


def dies(record: Any) -> None:
    if record.kind == "ckks.summand" and record.direction == "sent":
        raise Lost


def tampered(channel: Any, change: Any) -> None:
    send = channel.send
    channel.send = lambda message: send(change(message))


@pytest.mark.parametrize("holders", [NAMES[:1], NAMES[1:3], NAMES])
class TestSum:
    def test_everybody_gets_it_exactly(self, holders: tuple[str, ...]) -> None:
        results, transcripts = play(holders)
        for name in (*NAMES, "aggregator"):
            total, who = results[name]
            assert np.array_equal(total, sum(VECTORS.values()))
            assert who == NAMES
        for transcript in transcripts.values():
            leaks = {record.kind: record.leakage for record in transcript.records}
            assert {kind for kind, leak in leaks.items() if leak is Leakage.AGGREGATE} <= {
                "ckks.opened",
                "ckks.sum",
            }

    def test_one_that_holds_nothing_may_be_lost(self, holders: tuple[str, ...]) -> None:
        results, _ = play(holders, lost=NAMES[3:])
        if NAMES[3] in holders:
            assert isinstance(results["aggregator"], ChannelClosed | PeerAborted)
            assert all(isinstance(results[name], VFLError) for name in NAMES[:3])
            return
        for name in (*NAMES[:3], "aggregator"):
            assert np.array_equal(results[name][0], sum(VECTORS[n] for n in NAMES[:3]))
            assert results[name][1] == NAMES[:3]


class TestRefusals:
    def test_too_few(self) -> None:
        results, _ = play(NAMES[:1], lost=NAMES[2:])
        assert isinstance(results["aggregator"], CohortTooSmall)
        assert all("CohortTooSmall" in str(results[name]) for name in NAMES[:2])

    def test_another_key(self) -> None:
        def change(message: Any) -> Any:
            if not isinstance(message, JointKey):
                return message
            own = KeyShare(SumFormat(DIMENSION, BITS, COUNT), bytes(32), DeterministicRng(99))
            return JointKey(
                parts=np.frombuffer(own.public_bytes, np.uint8)[None], signatures=message.signatures
            )

        results, _ = play(NAMES[:1], tamper=change)
        assert all(isinstance(results[name], PeerAuthenticationError) for name in NAMES)

    def test_an_opening_over_too_few(self) -> None:
        def change(message: Any) -> Any:
            alone = np.array([1, 0, 0, 0], np.uint8)
            return Opening(present=alone, half=message.half) if isinstance(message, Opening) else message

        results, _ = play(NAMES[:1], tamper=change)
        assert isinstance(results[NAMES[0]], CohortTooSmall)

    def test_another_outcome_than_was_opened(self) -> None:
        def change(message: Any) -> Any:
            if isinstance(message, ckks_sum.Sum):
                return ckks_sum.Sum(present=np.array([1, 1, 1, 0], np.uint8), total=message.total)
            return message

        results, _ = play(NAMES[:1], tamper=change)
        assert isinstance(results[NAMES[0]], InconsistentView)

    @pytest.mark.parametrize("holders", [(), ("nobody",), (NAMES[0], NAMES[0])])
    def test_holders_are_clients(self, holders: tuple[str, ...]) -> None:
        with pytest.raises(ConfigError):
            Sums(RULES, holders, b"", DIMENSION, BITS)


class TestScheme:
    format = SumFormat(300, 20, 3, 2)

    def keys(self, format: SumFormat) -> tuple[list[KeyShare], PublicKey, Any]:
        rng = DeterministicRng(7)
        shares = [KeyShare(format, bytes(32), rng) for _ in range(format.holders)]
        return shares, PublicKey(format, bytes(32), [share.public_bytes for share in shares]), rng

    @pytest.mark.parametrize(
        ("parties", "holders", "bits"), [(3, 1, 30), (100, 1, 24), (100, 100, 40), (1000, 3, 30)]
    )
    def test_the_largest_numbers_and_their_noise(self, parties: int, holders: int, bits: int) -> None:
        format = SumFormat(5, bits, parties, holders)
        shares, public, rng = self.keys(format)
        largest = (1 << bits - 1) // parties
        total = Total(format)
        values = np.array([largest, -largest, 0, 1, -1])
        for _ in range(3):
            total.add(public.encrypt(values, rng).to_bytes())
        assert total.open([share.share(total.c1, rng) for share in shares]).tolist() == (3 * values).tolist()
        assert 2 ** (format.flood_bits - 40) >= format._noise(format.degree)
        modulus = np.prod([float(p) for p in format.primes])
        assert modulus > format.scale * 2.0**bits

    def test_a_missing_share_opens_nothing(self) -> None:
        shares, public, rng = self.keys(self.format)
        total = Total(self.format)
        total.add(public.encrypt(np.arange(300), rng).to_bytes())
        one = shares[0].share(total.c1, rng)
        with pytest.raises(InvalidCiphertext, match="1 of 2 holders"):
            total.open([one])
        with pytest.raises(InvalidCiphertext, match="open no sum"):
            total.open([one, one])

    def test_a_key_opens_one_sum(self) -> None:
        shares, public, rng = self.keys(self.format)
        total = Total(self.format)
        total.add(public.encrypt(np.arange(300), rng).to_bytes())
        shares[0].share(total.c1, rng)
        with pytest.raises(InvalidKey, match="opens one sum"):
            shares[0].share(total.c1, rng)

    def test_ciphertexts_are_fresh(self) -> None:
        _, public, rng = self.keys(self.format)
        assert (
            public.encrypt(np.arange(300), rng).to_bytes() != public.encrypt(np.arange(300), rng).to_bytes()
        )

    def test_malformed_ciphertexts(self) -> None:
        _, public, rng = self.keys(self.format)
        good = public.encrypt(np.arange(300), rng).to_bytes()
        total = Total(self.format)
        for raw in (b"", good[:-1], good + b"0", b"\xff" * len(good)):
            with pytest.raises(InvalidCiphertext):
                total.add(raw)
        for _ in range(3):
            total.add(good)
        with pytest.raises(InvalidCiphertext, match="3 parties are in the sum"):
            total.add(good)

    def test_keys_that_are_none(self) -> None:
        shares, _, _ = self.keys(self.format)
        part = shares[0].public_bytes
        for parts in ([part], [part, part], [part, b""], [part, b"\xff" * len(part)]):
            with pytest.raises(InvalidKey):
                PublicKey(self.format, bytes(32), parts)

    def test_numbers_that_do_not_fit(self) -> None:
        _, public, rng = self.keys(self.format)
        for values in (np.full(300, 2**18), np.arange(299)):
            with pytest.raises(EncodingOverflow):
                public.encrypt(values, rng)
        for numbers in ((0, 20, 3, 1), (5, 63, 3, 1), (5, 20, 3, 4), (5, 62, 1 << 14, 1 << 14)):
            with pytest.raises(EncodingOverflow):
                SumFormat(*numbers)

    def test_the_share_of_a_sum_is_flooded(self) -> None:
        """What is left of a share beside c1 s is uniform over the width of the flooding, not the size of an error."""
        format = SumFormat(4096, 20, 3, 1)
        shares, public, rng = self.keys(format)
        total = Total(format)
        total.add(public.encrypt(np.zeros(4096, np.int64), rng).to_bytes())
        first = shares[0].share(total.c1, rng)
        shares[0]._used = False
        second = shares[0].share(total.c1, rng)
        from vfl.crypto.ckks_sums import _unpacked
        from vfl.crypto.lattice.params import lift

        difference = (_unpacked(format, first, 1).astype(np.int64) - _unpacked(format, second, 1)) % np.array(
            format.primes
        )[:, None]
        apart = lift(np.moveaxis(difference, 1, -1).reshape(-1, 3), format.primes).astype(np.float64)
        width = 2.0**format.flood_bits
        assert np.abs(apart).max() < 2 * width
        assert apart.std() == pytest.approx(width * (2 / 3) ** 0.5, rel=0.1)
