"""The key holder's tables: what they encrypt, and that their randomness is that of exact encryption."""

from collections import Counter
from math import gcd

import numpy as np
import pytest
from gmpy2 import mpz

from tests.paillier_keys import primes, private_key
from tests.support import DeterministicRng
from vfl.crypto.paillier import PrivateKey
from vfl.crypto.paillier_tables import EXTRA_BITS, TableEncryptor
from vfl.crypto.rng import Rng
from vfl.errors import EncodingOverflow, InvalidCiphertext

KEY = private_key(512)
TABLES = TableEncryptor(KEY, DeterministicRng(1))


def values(encryptor: TableEncryptor, count: int, seed: int) -> list[int]:
    """Return ciphertexts of zero: powers r^n mod n^2."""
    return [int(value) for value in encryptor.encrypt([0] * count, DeterministicRng(seed))._values]


def test_what_it_encrypts_decrypts() -> None:
    limit = KEY.public_key.limit
    plaintexts = [0, 1, -1, 2**40, limit, -limit]
    assert KEY.decrypt(TABLES.encrypt(plaintexts, DeterministicRng(2))) == plaintexts
    assert KEY.decrypt(TABLES.encrypt([], DeterministicRng(2))) == []
    assert KEY.decrypt(KEY.public_key.accept(TABLES.encrypt([7, 8], DeterministicRng(2)), 2)) == [7, 8]


@pytest.mark.parametrize("value", [KEY.public_key.limit + 1, -KEY.public_key.limit - 1])
def test_a_plaintext_that_does_not_fit_is_refused(value: int) -> None:
    with pytest.raises(EncodingOverflow, match="1 of 2 plaintexts do not fit a modulus of 512 bits"):
        TABLES.encrypt([0, value], DeterministicRng(1))


def test_its_randomness_lies_in_the_group_of_nth_powers() -> None:
    n, (p, q) = int(KEY.public_key.n), primes(512)
    order = int((p - 1) * (q - 1))
    assert all(pow(value, order, n * n) == 1 for value in values(TABLES, 20, 3))
    assert pow(1 + n, order, n * n) != 1  # the control: a plaintext shows


def test_its_randomness_does_not_stay_in_a_small_subgroup() -> None:
    """Of a prime e that divides p - 1, a share of about 1 - 1/e is no e-th power: squares alone would give none."""
    found = values(TABLES, 400, 4)
    for prime in primes(512):
        assert 140 < sum(pow(value, int(prime - 1) // 2, int(prime)) != 1 for value in found) < 260
        assert len({value % int(prime) for value in found}) == 400


def test_on_a_toy_modulus_every_power_is_as_likely() -> None:
    """143 has 120 units: 24,000 ciphertexts within five standard deviations of 200 each, chi squared within bounds."""
    key = PrivateKey(mpz(11), mpz(13))
    n = int(key.public_key.n)
    counts = Counter(values(TableEncryptor(key, DeterministicRng(5)), 24_000, 6))
    assert set(counts) == {pow(r, n, n * n) for r in range(1, n) if gcd(r, n) == 1}
    squared = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert squared < 119 + 5 * (2 * 119) ** 0.5
    assert max(abs(count - 200) for count in counts.values()) < 5 * 200**0.5


def test_entropy_covers_the_group_and_the_margin() -> None:
    for bits in (512, 1024, 2048):
        key = private_key(bits)
        encryptor = TableEncryptor(key, DeterministicRng(7)) if bits < 2048 else None
        count = encryptor._bases if encryptor else (1024 + EXTRA_BITS) // 8
        assert 8 * count >= max(p.bit_length() for p in primes(bits)) + EXTRA_BITS
    assert count >= 144  # what the bound in the module takes at 2048 bits


def test_no_ciphertext_repeats_and_none_is_predictable() -> None:
    first, second = values(TABLES, 50, 8), values(TABLES, 50, 9)
    assert len(set(first + second)) == 100
    assert values(TABLES, 50, 8) == first
    other = TableEncryptor(KEY, DeterministicRng(10))
    assert not set(values(other, 50, 8)) & set(first)  # other bases, other powers


def test_zeros_from_the_generator_give_a_ciphertext_that_peers_refuse() -> None:
    """A generator that returns zeros is caught by the receiver: the product is then 1."""

    class Zeros(Rng):
        def bytes(self, size: int) -> bytes:
            return bytes(size)

    broken = TABLES.encrypt([3], Zeros())
    assert int(broken._values[0]) == 1 + 3 * int(KEY.public_key.n)
    with pytest.raises(InvalidCiphertext, match="carries no randomness"):
        KEY.public_key.accept(broken, 1)


def test_no_text_shows_a_secret() -> None:
    assert repr(TABLES) == f"TableEncryptor(PrivateKey({KEY.public_key!r}))"


@pytest.mark.slow
def test_tables_at_real_size() -> None:
    key = private_key(2048)
    tables = TableEncryptor(key, DeterministicRng(11))
    plaintexts = np.random.default_rng(1).integers(-(2**60), 2**60, 300).tolist()
    assert key.decrypt(tables.encrypt(plaintexts, DeterministicRng(12))) == plaintexts
