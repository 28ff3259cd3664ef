"""python-paillier (phe) as the oracle: same keys, same plaintexts, ciphertexts exchanged both ways.

phe is under the GPLv3: these tests import it, the package never does.
"""

import math
from typing import Any

import pytest
from gmpy2 import mpz

from tests.paillier_keys import VECTORS, primes, private_key
from tests.support import DeterministicRng
from vfl.crypto.fresh import ReceivedCiphertexts
from vfl.errors import InvalidCiphertext

phe = pytest.importorskip("phe")

PLAINTEXTS = [0, 1, -1, 2**40, -(2**40), 7]


def phe_key(bits: int) -> Any:
    p, q = (int(prime) for prime in primes(bits))
    return phe.PaillierPrivateKey(phe.PaillierPublicKey(p * q), p, q)


def centred(key: Any, ciphertext: int) -> int:
    """Decrypt with phe; its plaintexts are residues below n."""
    n, value = int(key.public_key.n), int(key.raw_decrypt(ciphertext))
    return value - n if value > n // 2 else value


def numbers(raw: bytes, bits: int) -> list[int]:
    width = bits // 4
    return [int.from_bytes(raw[start : start + width], "big") for start in range(0, len(raw), width)]


@pytest.mark.parametrize("bits", [512, 2048])
def test_phe_decrypts_ours(bits: int) -> None:
    ours, theirs, rng = private_key(bits), phe_key(bits), DeterministicRng(1)
    limit = ours.public_key.limit
    plaintexts = [*PLAINTEXTS, limit, -limit]
    for fresh in (ours.public_key.encrypt(plaintexts, rng), ours.encrypt(plaintexts, rng)):
        assert [centred(theirs, c) for c in numbers(fresh.to_bytes(), bits)] == plaintexts


@pytest.mark.parametrize("bits", [512, 2048])
def test_we_decrypt_what_phe_encrypts(bits: int) -> None:
    ours, public = private_key(bits), phe_key(bits).public_key
    raw = b"".join(int(public.raw_encrypt(m % int(public.n))).to_bytes(bits // 4, "big") for m in PLAINTEXTS)
    accepted = ours.public_key.accept(ReceivedCiphertexts(raw), len(PLAINTEXTS))
    assert ours.decrypt(accepted) == PLAINTEXTS


def test_the_same_randomness_gives_the_same_ciphertext() -> None:
    ours, public = private_key(512).public_key, phe_key(512).public_key
    rng, again = DeterministicRng(3), DeterministicRng(3)
    r = again.below(int(ours.n))
    assert numbers(ours.encrypt([1234567], rng).to_bytes(), 512) == [int(public.raw_encrypt(1234567, r))]


@pytest.mark.parametrize("bits", ["512", "2048"])
def test_phe_reads_the_known_answers(bits: str) -> None:
    case, key = VECTORS["known_answers"][bits], phe_key(int(bits))

    def read(name: str) -> list[int]:
        return [centred(key, c) for c in numbers(bytes.fromhex(case[name]), int(bits))]

    assert read("by_public_key") == read("by_key_holder") == PLAINTEXTS
    assert read("computed") == case["computed_plaintexts"]
    assert read("product") == case["product_plaintexts"]


def test_phe_reads_the_packed_known_answer() -> None:
    case, key = VECTORS["packed"], phe_key(1024)
    digit_bytes, rows = len(case["opened"]) // 2 // 2, len(case["residuals"])
    bound = 20 * 2 * 2**24 * 2**20
    digit_bits = (2 * bound).bit_length() + 64 + 1
    slots = (1022 // digit_bits + 1) // 2
    residuals = [round(r * 2**24) for r in case["residuals"]] + [0] * (-rows % slots)
    packed = [
        sum(r << digit_bits * k for k, r in enumerate(residuals[start : start + slots]))
        for start in range(0, len(residuals), slots)
    ]
    assert [centred(key, c) for c in numbers(bytes.fromhex(case["vector"]), 1024)] == packed
    replies = [centred(key, c) for c in numbers(bytes.fromhex(case["reply"]), 1024)]
    middle = [reply >> digit_bits * (slots - 1) & (1 << digit_bits) - 1 for reply in replies]
    assert b"".join(digit.to_bytes(digit_bytes, "big") for digit in middle).hex() == case["opened"]


@pytest.mark.parametrize("multiple", [1, 2, 12345])
def test_a_multiple_of_n_gives_the_factors_away_in_phe_and_is_refused_here(multiple: int) -> None:
    """Control: phe decrypts c = k n to m with m (p + q) = 1 modulo n, because it takes L(0) as -1."""
    p, q = primes(512)
    n = p * q
    leaked = phe_key(512).raw_decrypt(int(multiple * n))
    total = pow(mpz(leaked), -1, n)
    root = math.isqrt(int(total * total - 4 * n))
    assert {int(total + root) // 2, int(total - root) // 2} == {int(p), int(q)}
    raw = int(multiple * n).to_bytes(128, "big")
    with pytest.raises(InvalidCiphertext, match="shares a factor with n"):
        private_key(512).public_key.accept(ReceivedCiphertexts(raw), 1)
