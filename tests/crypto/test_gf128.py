"""The field against arithmetic on integers, by both ways to multiply; bulk hashing and digests on top of it."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import DeterministicRng
from vfl.crypto import gf128
from vfl.crypto.digests import Packed, decimal, digests, pack
from vfl.crypto.fixedkey import FixedKey, derive, keystream
from vfl.crypto.gf128 import Elements, element, inverse, product, scale_add

NUMBERS = st.integers(0, 2**128 - 1)


def number(row: Elements) -> int:
    return int.from_bytes(row.tobytes(), "little")


def times(x: int, y: int) -> int:
    """Multiply by the definition: shift and add, then divide by x^128 + x^7 + x^2 + x + 1."""
    total = 0
    for bit in range(128):
        if y >> bit & 1:
            total ^= x << bit
    for bit in range(254, 127, -1):
        if total >> bit & 1:
            total ^= (1 << 128 | 0x87) << (bit - 128)
    return total


def elements(count: int, seed: int = 1) -> Elements:
    return np.frombuffer(DeterministicRng(seed).bytes(16 * count), dtype="<u8").reshape(-1, 2).copy()


class TestField:
    @settings(max_examples=200, deadline=None)
    @given(NUMBERS, NUMBERS)
    def test_product_by_vectors_or_not(self, x: int, y: int) -> None:
        out = element(0)
        gf128._portable_add(out, 0, element(x), 0, element(y), 0)
        assert number(out) == number(product(element(x), element(y))) == times(x, y)

    def test_setting_overwrites_and_adding_adds(self) -> None:
        x, y = element(3), element(5)
        out = element(1)
        gf128._portable_set(out, 0, x, 0, y, 0)
        assert number(out) == 15
        gf128._portable_add(out, 0, x, 0, y, 0)
        assert number(out) == 0
        total = element(1)
        scale_add(total, x, y)
        assert number(total) == 14

    @settings(max_examples=10, deadline=None)
    @given(NUMBERS)
    def test_inverse(self, x: int) -> None:
        assert number(product(element(x), inverse(element(x)))) == (x != 0)

    def test_the_top_bits_are_reduced(self) -> None:
        top = element(1 << 127)
        assert number(product(top, top)) == times(1 << 127, 1 << 127)

    def test_scaling_many(self) -> None:
        x, total = elements(1001), elements(1001, 2)
        before, factor = total.copy(), elements(1, 3)
        scale_add(total, x, factor)
        wanted = [number(b) ^ times(number(a), number(factor)) for a, b in zip(x, before, strict=True)]
        assert [number(row) for row in total] == wanted


class TestFixedKey:
    def test_hash_is_the_cipher_plus_the_block_in_place_or_not(self) -> None:
        key, x = bytes(range(16)), elements((1 << 15) + 5)
        cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        wanted = np.frombuffer(cipher.update(x.tobytes()), dtype="<u8").reshape(-1, 2) ^ x
        assert np.array_equal(FixedKey(key).hash(x), wanted)
        FixedKey(key).hash(x, x)
        assert np.array_equal(x, wanted)

    def test_tweaked(self) -> None:
        key, x, tweak = bytes(16), elements(3), elements(3, 2)
        cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()

        def permuted(blocks: Elements) -> Elements:
            return np.frombuffer(cipher.update(blocks.tobytes()), dtype="<u8").reshape(-1, 2)

        wanted = permuted(permuted(x) ^ tweak) ^ permuted(x)
        assert np.array_equal(FixedKey(key).tweaked(x, tweak), wanted)

    def test_keystream_from_any_block(self) -> None:
        whole, part = np.empty((50, 2), np.uint64), np.empty((20, 2), np.uint64)
        keystream(b"k" * 16, 7, whole)
        keystream(b"k" * 16, 17, part)
        assert np.array_equal(whole[10:30], part)
        counter = Cipher(algorithms.AES(b"k" * 16), modes.CTR((7).to_bytes(16, "big"))).encryptor()
        assert whole.tobytes() == counter.update(bytes(800))

    def test_derived_keys_keep_parts_apart(self) -> None:
        keys = {derive("a", b"bc"), derive("ab", b"c"), derive("a", b"b", b"c"), derive("a", b"bc", b"")}
        assert len(keys) == 4


class TestDigests:
    KEY = bytes(range(1, 17))

    def polynomial(self, text: bytes) -> int:
        key, total = int.from_bytes(self.KEY, "little"), 0
        for at in range(0, len(text), 16):
            total = times(total ^ int.from_bytes(text[at : at + 16], "little"), key)
        return times(total ^ len(text), key)

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.binary(max_size=70), max_size=8))
    def test_are_the_polynomial(self, texts: list[bytes]) -> None:
        assert [number(row) for row in digests(pack(texts), self.KEY)] == [self.polynomial(t) for t in texts]

    def test_padding_does_not_collide(self) -> None:
        texts = [b"", b"\0", b"\0" * 15, b"\0" * 16, b"\0" * 17, b"a", b"a\0", b"a" * 16, b"a" * 16 + b"\0"]
        assert len({number(row) for row in digests(pack(texts), self.KEY)}) == len(texts)

    def test_another_key_gives_others(self) -> None:
        column = pack([b"x", b"y"])
        assert not np.intersect1d(digests(column, self.KEY), digests(column, bytes(15) + b"\1")).size

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
    def test_decimal_is_str(self, values: list[int]) -> None:
        column = decimal(np.array(values, dtype=np.int64))
        assert [column[i].decode() for i in range(len(column))] == list(map(str, values))

    @pytest.mark.parametrize("value", [0, 9, 10, -1, -9, -10, 10**18, 2**63 - 1, -(2**63)])
    def test_decimal_at_its_ends(self, value: int) -> None:
        assert decimal(np.array([value]))[0] == str(value).encode()

    def test_a_column_knows_its_strings(self) -> None:
        column = pack([b"ab", b"", b"c"])
        assert isinstance(column, Packed)
        assert [column[i] for i in range(len(column))] == [b"ab", b"", b"c"]
