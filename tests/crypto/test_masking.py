"""Masks, sharing and key agreement: known answers, and what is refused."""

import hmac
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.support import DeterministicRng
from vfl.crypto import keystream
from vfl.crypto.agreement import KeyPair, derive, digest, seal, unseal
from vfl.crypto.fixedpoint import FixedPoint
from vfl.crypto.masking import (
    _add_masks_portably,
    add_masks,
    add_packed,
    pack,
    packed_bytes,
    reduced,
    unpack,
    zeros,
)
from vfl.crypto.shamir import PRIME, SHARE_BYTES, combine, correct, read_share, split
from vfl.crypto.weighted import WeightedEncoding
from vfl.errors import CryptoError, EncodingOverflow, InvalidCiphertext, InvalidData, InvalidKey

SEED = bytes(range(32))


class TestMasks:
    @pytest.mark.parametrize("instructions", [True, False])
    @pytest.mark.parametrize("bits", [32, 64])
    @pytest.mark.parametrize("size", [1, 15, 16, 17, 255, 256, 257, 70_001])
    def test_a_mask_is_the_ctr_key_stream_in_little_endian_words(
        self, bits: int, size: int, instructions: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not instructions:
            monkeypatch.setattr(keystream, "available", lambda: False)
        total = zeros(size, bits)
        add_masks(total, [SEED], [])
        stream = Cipher(algorithms.AES256(SEED), modes.CTR(bytes(16))).encryptor().update(bytes(total.nbytes))
        assert np.array_equal(total, np.frombuffer(stream, dtype=f"<u{total.itemsize}"))

    @pytest.mark.parametrize("threads", [1, 2, 3])
    def test_both_ways_and_all_threads_agree(self, threads: int) -> None:
        keys = [DeterministicRng(i).bytes(32) for i in range(7)]
        one, other = zeros(100_003, 40), zeros(100_003, 40)
        add_masks(one, keys[:4], keys[4:], threads)
        _add_masks_portably(other, keys[:4], keys[4:])
        assert np.array_equal(one, other)

    def test_the_first_words_are_the_cipher_of_block_zero(self) -> None:
        """AES-256 of the zero block under the zero key: NIST's known answer test ECBVarKey256 and others."""
        total = zeros(4, 32)
        add_masks(total, [bytes(32)], [])
        assert total.astype("<u4").tobytes().hex() == "dc95c078a2408989ad48a21492842087"

    @pytest.mark.parametrize("bits", [20, 48])
    @pytest.mark.parametrize("size", [0, 1, 3, 1000, 40_000])
    def test_adding_and_subtracting_cancel(self, bits: int, size: int) -> None:
        keys = [DeterministicRng(i).bytes(32) for i in range(5)]
        total = zeros(size, bits)
        add_masks(total, keys[:3], keys[3:])
        assert size < 3 or reduced(total, bits).any()
        add_masks(total, keys[3:], keys[:3])
        assert not reduced(total, bits).any()

    def test_residues_of_a_mask_are_spread_evenly(self) -> None:
        total = zeros(1 << 16, 4)
        add_masks(total, [SEED], [])
        counts = np.bincount(reduced(total, 4).astype(np.int64), minlength=16)
        assert np.all(np.abs(counts - 4096) < 5 * 62)  # five standard deviations

    @pytest.mark.parametrize("bits", [0, 65])
    def test_rings_that_do_not_exist(self, bits: int) -> None:
        with pytest.raises(EncodingOverflow):
            zeros(3, bits)

    def test_packed_bytes_of_a_wrong_size_or_with_bits_to_spare(self) -> None:
        packed = pack(zeros(3, 5), 5)
        assert packed.size == packed_bytes(3, 5) == 2
        with pytest.raises(InvalidData, match="take 2 bytes, not 3"):
            add_packed(zeros(3, 5), np.zeros(3, np.uint8), 5)
        packed[-1] = 0x80
        with pytest.raises(InvalidData, match="bits beyond 3 residues"):
            unpack(packed, 3, 5)


class TestShamir:
    def test_a_worked_example(self) -> None:
        """f(x) = 1234 + 166 x + 94 x^2: the example of many textbooks, here modulo another prime."""
        shares = {x: (1234 + 166 * x + 94 * x * x) % PRIME for x in (2, 4, 5)}
        assert [int(s) for s in shares.values()] == [1942, 3402, 4414]
        assert combine(shares, 3) == (1234).to_bytes(32, "big")

    def test_the_prime(self) -> None:
        import gmpy2

        assert gmpy2.is_prime(PRIME, 50)
        assert PRIME == (1 << 256) + 297

    def test_fewer_shares_say_nothing(self) -> None:
        """For two secrets and the same first shares there are polynomials through both: the next share differs."""
        shares = [split(bytes(32), 3, [1, 2, 3], DeterministicRng(i)) for i in range(2)]
        assert shares[0][:2] != shares[1][:2]
        with pytest.raises(CryptoError, match="2 shares of 3"):
            combine({1: read_share(shares[0][0]), 2: read_share(shares[0][1])}, 3)

    @pytest.mark.parametrize(
        ("threshold", "points"), [(0, [1, 2]), (3, [1, 2]), (2, [1, 1]), (1, [0]), (1, [1 << 32])]
    )
    def test_sharings_that_cannot_be(self, threshold: int, points: list[int]) -> None:
        with pytest.raises(CryptoError):
            split(SEED, threshold, points, DeterministicRng(0))

    def test_a_secret_of_another_size(self) -> None:
        with pytest.raises(CryptoError):
            split(b"short", 1, [1], DeterministicRng(0))

    @pytest.mark.parametrize("raw", [b"", bytes(32), bytes(34), int(PRIME).to_bytes(33, "big"), b"\xff" * 33])
    def test_shares_that_are_none(self, raw: bytes) -> None:
        with pytest.raises(InvalidData):
            read_share(raw)

    def test_too_many_wrong_shares_are_not_taken_for_a_secret(self) -> None:
        held = dict(enumerate(map(read_share, split(SEED, 3, range(1, 8), DeterministicRng(0))), start=1))
        for x in (1, 2, 3):
            held[x] += x
        assert correct(held, 3) is None

    def test_a_value_beyond_32_bytes_is_no_secret(self) -> None:
        assert combine({1: PRIME - 1}, 1) is None

    def test_a_share_has_its_size(self) -> None:
        assert {len(share) for share in split(SEED, 2, range(1, 9), DeterministicRng(0))} == {SHARE_BYTES}


class TestAgreement:
    def test_rfc_7748(self) -> None:
        """Section 6.1: Alice's and Bob's keys and their shared secret."""
        alice = KeyPair(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
        bob = KeyPair(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
        assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
        shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
        assert alice.agree(bob.public).hex() == bob.agree(alice.public).hex() == shared

    @pytest.mark.parametrize("public", [b"", bytes(31), bytes(32), b"\x01" + bytes(31)])
    def test_keys_that_fix_the_secret(self, public: bytes) -> None:
        with pytest.raises(InvalidKey):
            KeyPair(SEED).agree(public)

    def test_a_key_of_another_size(self) -> None:
        with pytest.raises(InvalidKey):
            KeyPair(bytes(31))

    def test_a_key_pair_shows_no_secret(self) -> None:
        assert repr(KeyPair(SEED)) == "KeyPair()"

    def test_hkdf_is_rfc_5869_over_framed_parts(self) -> None:
        framed = b"".join(len(part).to_bytes(8, "big") + part for part in (b"label", b"a", b""))
        pseudorandom = hmac.digest(bytes(32), SEED, "sha256")
        assert derive(SEED, "label", b"a", b"") == hmac.digest(pseudorandom, framed + b"\x01", "sha256")

    def test_parts_do_not_run_into_each_other(self) -> None:
        assert (
            len({derive(SEED, "x", *parts) for parts in [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), ()]}) == 4
        )
        assert digest("a", b"b") != digest("ab", b"")

    def test_sealing(self) -> None:
        sealed = seal(SEED, b"two shares")
        assert unseal(SEED, sealed) == b"two shares"
        for wrong in (sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1]), b""):
            with pytest.raises(InvalidCiphertext):
                unseal(SEED, wrong)
        with pytest.raises(InvalidCiphertext):
            unseal(bytes(32), sealed)


class TestWeighted:
    @pytest.mark.parametrize(("parties", "bits"), [(3, 18), (100, 23), (1000, 26)])
    def test_modulus_of_values_of_16_bits(self, parties: int, bits: int) -> None:
        assert WeightedEncoding(FixedPoint(15, 1.0), parties).bits == bits

    @pytest.mark.parametrize("weight", [0, -1, 11, 1.5])
    def test_weights_that_are_none(self, weight: Any) -> None:
        with pytest.raises(InvalidData):
            WeightedEncoding(FixedPoint(15, 1.0), 3, 10).encode(np.zeros(2), weight)

    def test_values_beyond_the_bound(self) -> None:
        with pytest.raises(EncodingOverflow):
            WeightedEncoding(FixedPoint(15, 1.0), 3).encode(np.array([1.1]))

    def test_sums_beyond_64_bits(self) -> None:
        with pytest.raises(EncodingOverflow, match="take fewer fraction bits"):
            WeightedEncoding(FixedPoint(60, 1.0), 1000)
        with pytest.raises(InvalidData):
            WeightedEncoding(FixedPoint(15, 1.0), 0)

    def test_extremes_do_not_wrap(self) -> None:
        encoding = WeightedEncoding(FixedPoint(15, 1.0), 5, 3)
        total = zeros(encoding.size(2), encoding.bits)
        for _ in range(5):
            total += encoding.encode(np.array([1.0, -1.0]), 3)
        values, weight = encoding.decode(total)
        assert values.tolist() == [15.0, -15.0]
        assert weight == 15
