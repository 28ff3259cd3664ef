"""Paillier: known answers, arithmetic, and the refusal of every malformed key and ciphertext."""

import hashlib
from collections.abc import Callable
from typing import Any

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz

from tests.paillier_keys import VECTORS, primes, private_key
from tests.support import DeterministicRng
from vfl import errors
from vfl.crypto import fresh, paillier_proof
from vfl.crypto.fresh import ReceivedCiphertexts
from vfl.crypto.paillier import Ciphertexts, FreshCiphertexts, PrivateKey, PublicKey
from vfl.errors import EncodingOverflow, InvalidCiphertext, InvalidKey, KeyMismatch

KEY = private_key(512)
PUBLIC = KEY.public_key
OTHER = private_key(1024)
N, WIDTH = int(PUBLIC.n), PUBLIC.width
PLAINTEXTS = [0, 1, -1, 2**40, -(2**40), 7]


def encrypt(values: list[int], seed: int = 1) -> FreshCiphertexts:
    return PUBLIC.encrypt(values, DeterministicRng(seed))


def receive(values: list[int]) -> ReceivedCiphertexts:
    return ReceivedCiphertexts(b"".join(value.to_bytes(WIDTH, "big") for value in values))


def raw_values(ciphertexts: FreshCiphertexts) -> list[int]:
    raw, width = ciphertexts.to_bytes(), ciphertexts.key.width
    return [int.from_bytes(raw[start : start + width], "big") for start in range(0, len(raw), width)]


def known_answer(bits: int) -> dict[str, Any]:
    """Run one of everything; the frozen results are in the vectors."""
    key, rng = private_key(bits), DeterministicRng(b"known answers")
    public = key.public_key
    by_public_key = public.encrypt(PLAINTEXTS, rng)
    by_key_holder = key.encrypt(PLAINTEXTS, rng)
    matrix = np.array([[1, -3], [2, 5], [-7, 0], [0, 1], [1, 1], [4, -4]], dtype=np.int64)
    computed = by_public_key.scale([3, -2, 1, 0, 5, 1]).add(by_key_holder).add_plain([9, 0, 0, 0, 0, -9])
    product = by_key_holder.product(matrix)
    return {
        "key_id": public.key_id.hex(),
        "public_key_sha256": hashlib.sha256(public.to_bytes()).hexdigest(),
        "by_public_key": by_public_key.to_bytes().hex(),
        "by_key_holder": by_key_holder.to_bytes().hex(),
        "computed": computed.rerandomise(rng).to_bytes().hex(),
        "computed_plaintexts": key.decrypt(computed),
        "product": product.rerandomise(rng).to_bytes().hex(),
        "product_plaintexts": key.decrypt(product),
    }


@pytest.mark.parametrize("bits", [512, 2048])
def test_known_answers(bits: int) -> None:
    assert known_answer(bits) == VECTORS["known_answers"][str(bits)]


def test_a_toy_modulus_decrypts_every_plaintext_with_every_randomness() -> None:
    key = PrivateKey(mpz(11), mpz(13))
    n = int(key.public_key.n)
    units = [r for r in range(1, n) if gmpy2.gcd(r, n) == 1]
    plaintexts = [*range(-71, 72)]
    for r in units:
        values = [mpz((1 + m * n) * pow(r, n, n * n) % (n * n)) for m in plaintexts]
        assert key.decrypt(Ciphertexts(key.public_key, values)) == plaintexts


def test_the_key_holder_draws_its_randomness_from_all_powers_of_units() -> None:
    key = PrivateKey(mpz(11), mpz(13))
    n = int(key.public_key.n)
    pairs = [(mpz(s), mpz(t)) for s in range(1, 11) for t in range(1, 13)]
    at_p, at_q = (part.noise([pair[i] for pair in pairs]) for i, part in enumerate((key._at_p, key._at_q)))
    drawn = [int(s) for s in key._join_noise(at_p, at_q)]
    powers = [pow(r, n, n * n) for r in range(1, n) if gmpy2.gcd(r, n) == 1]
    assert sorted(drawn) == sorted(powers)


@pytest.mark.parametrize("bits", [512, 1024])
def test_both_encryptions_decrypt(bits: int) -> None:
    key = private_key(bits)
    limit = key.public_key.limit
    plaintexts = [0, 1, -1, limit, -limit]
    assert key.decrypt(key.public_key.encrypt(plaintexts, DeterministicRng(1))) == plaintexts
    assert key.decrypt(key.encrypt(plaintexts, DeterministicRng(1))) == plaintexts


def test_no_ciphertext_repeats() -> None:
    rng = DeterministicRng(2)
    values = raw_values(PUBLIC.encrypt([5] * 50, rng)) + raw_values(KEY.encrypt([5] * 50, rng))
    assert len({value % N for value in values}) == 100


def test_an_empty_vector_is_a_vector() -> None:
    empty = encrypt([])
    assert empty.to_bytes() == b""
    assert KEY.decrypt(PUBLIC.accept(empty, 0)) == []
    assert len(empty.product(np.zeros((0, 3), dtype=np.int64))) == 3


def test_sums_wrap_modulo_n() -> None:
    limit = PUBLIC.limit
    assert KEY.decrypt(encrypt([limit]).add_plain([1])) == [-limit]
    assert KEY.decrypt(encrypt([limit]).add(encrypt([limit], 2))) == [-1]


def test_a_product_of_zeros_is_zero() -> None:
    assert KEY.decrypt(encrypt([3, 4]).product(np.zeros((2, 2), dtype=np.int64))) == [0, 0]


@pytest.mark.parametrize("top", [1, 2**20, 2**61 - 1])
def test_products_at_the_ends_of_the_range(top: int) -> None:
    matrix = np.array([[top, -top], [-top, top - 1], [0, 1]], dtype=np.int64)
    expected = [5 * top - 6 * -top, 5 * -top + -6 * (top - 1) + 7]
    assert KEY.decrypt(encrypt([5, -6, 7]).product(matrix)) == expected


@pytest.mark.parametrize("rows", [1, 40, 400])
def test_products_of_many_rows(rows: int) -> None:
    generator = np.random.default_rng(rows)
    matrix = generator.integers(-(2**20), 2**20, (rows, 2), endpoint=True)
    values = [int(value) for value in generator.integers(-(2**24), 2**24, rows)]
    expected = matrix.astype(object).T @ np.array(values, dtype=object)
    assert KEY.decrypt(KEY.encrypt(values, DeterministicRng(3)).product(matrix)) == expected.tolist()


def test_a_product_refuses_what_is_no_int64_matrix_of_its_length() -> None:
    with pytest.raises(ValueError, match="a matrix of 3 rows cannot multiply 2 ciphertexts"):
        encrypt([1, 2]).product(np.ones((3, 1), dtype=np.int64))
    with pytest.raises(ValueError, match="must be of int64, not float64"):
        encrypt([1, 2]).product(np.ones((2, 1)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="below 2\\^62"):
        encrypt([1]).product(np.array([[-(2**62)]], dtype=np.int64))


def test_rerandomising_changes_the_ciphertext_and_not_the_plaintext() -> None:
    before = encrypt([12, -3])
    after = before.rerandomise(DeterministicRng(9))
    assert KEY.decrypt(after) == [12, -3]
    assert not {value % N for value in raw_values(before)} & {value % N for value in raw_values(after)}


@pytest.mark.parametrize("value", [PUBLIC.limit + 1, -PUBLIC.limit - 1, N, N**2])
def test_a_plaintext_that_does_not_fit_is_refused(value: int) -> None:
    for encrypting in (PUBLIC.encrypt, KEY.encrypt):
        with pytest.raises(EncodingOverflow, match="1 of 2 plaintexts do not fit a modulus of 512 bits"):
            encrypting([0, value], DeterministicRng(1))
    with pytest.raises(EncodingOverflow, match="do not fit"):
        encrypt([0]).add_plain([value])


# --- what may be sent -------------------------------------------------------------------------------------


def send(message: fresh.FreshCiphertexts) -> bytes:
    return message.to_bytes()


def test_only_fresh_ciphertexts_can_be_sent() -> None:
    first = encrypt([1])
    rerandomised = PUBLIC.accept(first, 1).rerandomise(DeterministicRng(2))
    assert len(send(first)) == len(send(rerandomised)) == WIDTH
    for computed in (
        first.add(first),
        first.add_plain([1]),
        first.scale([2]),
        first.product(np.ones((1, 1), dtype=np.int64)),
        PUBLIC.accept(first, 1),
    ):
        assert not hasattr(computed, "to_bytes")
        assert not isinstance(computed, fresh.FreshCiphertexts)
        with pytest.raises(AttributeError):
            send(computed)  # type: ignore[arg-type]  # the type checker finds the same mistake


def test_no_text_shows_a_secret() -> None:
    p, q = primes(512)
    text = repr(KEY) + repr(PUBLIC) + repr(encrypt([123456789])) + str(KEY)
    assert PUBLIC.key_id.hex() in text
    for secret in (p, q, mpz(123456789)):
        assert str(secret) not in text
        assert f"{secret:x}" not in text


# --- one key at a time ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mixing",
    [
        lambda mine, theirs: mine.add(theirs),
        lambda mine, theirs: KEY.decrypt(theirs),
        lambda mine, theirs: PUBLIC.accept(theirs, 1),
    ],
    ids=["add", "decrypt", "accept"],
)
def test_keys_do_not_mix(mixing: Callable[[FreshCiphertexts, FreshCiphertexts], object]) -> None:
    with pytest.raises(KeyMismatch, match=f"{PUBLIC.key_id.hex()}.*{OTHER.public_key.key_id.hex()}"):
        mixing(encrypt([1]), OTHER.encrypt([1], DeterministicRng(1)))


def test_keys_compare_by_modulus() -> None:
    same = PrivateKey(*primes(512)).public_key
    assert same == PUBLIC
    assert hash(same) == hash(PUBLIC)
    assert OTHER.public_key != PUBLIC
    assert KEY.decrypt(same.encrypt([4], DeterministicRng(1))) == [4]


# --- received ciphertexts ---------------------------------------------------------------------------------

GOOD = raw_values(encrypt([3, 4, 5]))


def test_good_ciphertexts_are_accepted() -> None:
    assert KEY.decrypt(PUBLIC.accept(receive(GOOD), 3)) == [3, 4, 5]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (0, "1 of 3 ciphertexts lie outside the range"),
        (1, "carries no randomness"),
        (N, "shares a factor with n"),
        (N * 12345, "shares a factor with n"),
        (int(primes(512)[0]), "shares a factor with n"),
        (int(primes(512)[1]) * 99, "shares a factor with n"),
        (N**2, "1 of 3 ciphertexts lie outside the range"),
        (N**2 + GOOD[0], "1 of 3 ciphertexts lie outside the range"),
        (256**WIDTH - 1, "1 of 3 ciphertexts lie outside the range"),
        (N**2 - 1, "carries no randomness"),
        (1 + 77 * N, "carries no randomness"),
        (GOOD[0], "repeated or share their randomness"),
        (GOOD[0] * (1 + 5 * N) % N**2, "repeated or share their randomness"),
    ],
    ids=["0", "1", "n", "kn", "p", "kq", "n^2", "above n^2", "all ones", "-1", "1 + mn", "same", "same r"],
)
def test_a_bad_value_is_refused(bad: int, reason: str) -> None:
    with pytest.raises(InvalidCiphertext, match=reason):
        PUBLIC.accept(receive([GOOD[0], bad, GOOD[2]]), 3)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        receive(GOOD).to_bytes()[:-1],
        receive(GOOD).to_bytes() + b"\0",
        receive(GOOD[:2]).to_bytes(),
        receive(GOOD * 2).to_bytes(),
        b"".join(value.to_bytes(WIDTH + 1, "big") for value in GOOD),
        OTHER.encrypt([1, 2, 3], DeterministicRng(1)).to_bytes(),
    ],
    ids=["nothing", "short", "long", "one too few", "twice", "wide numbers", "longer key"],
)
def test_a_wrong_size_is_refused(raw: bytes) -> None:
    message = f"expected 3 ciphertexts of {WIDTH} bytes, {3 * WIDTH} bytes in all; received {len(raw)} bytes"
    with pytest.raises(InvalidCiphertext, match=message):
        PUBLIC.accept(ReceivedCiphertexts(raw), 3)


# --- received keys ----------------------------------------------------------------------------------------


def forged(n: int, size: int, factors: list[int]) -> bytes:
    """Encode a modulus with the best proof that somebody who knows its factors can make."""
    if len(factors) < 1:
        return b"".join(value.to_bytes(size, "big") for value in [n] + [1] * paillier_proof.CHALLENGES)
    phi = 1
    for position, factor in enumerate(factors):
        phi *= factor if factor in factors[:position] else factor - 1
    while gmpy2.gcd(phi, n) > 1:
        phi //= int(gmpy2.gcd(phi, n))
    exponent = int(gmpy2.invert(n, phi)) if phi > 1 else 1
    roots = [pow(int(rho), exponent, n) for rho in paillier_proof._challenges(mpz(n))]
    return b"".join(value.to_bytes(size, "big") for value in [n, *roots])


def bad_key(case: dict[str, Any]) -> bytes:
    return forged(int(case["n"], 16), case["bytes"], [int(factor, 16) for factor in case["factors"]])


@pytest.mark.parametrize("case", VECTORS["bad_keys"], ids=[case["name"] for case in VECTORS["bad_keys"]])
def test_a_bad_key_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(getattr(errors, case["error"]), match=case["reason"]):
        PublicKey.from_bytes(bad_key(case))


def good_key() -> bytes:
    return private_key(2048).public_key.to_bytes()


def test_a_good_key_is_accepted() -> None:
    assert forged(int(private_key(2048).public_key.n), 256, [int(p) for p in primes(2048)]) == good_key()
    key = PublicKey.from_bytes(good_key())
    assert key == private_key(2048).public_key
    assert key.to_bytes() == good_key()
    assert len(good_key()) == 12 * 256


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (lambda: b"", "0 bits; 2048 to 8192"),
        (lambda: good_key()[:-1], "12 numbers of one width.*received 3071 bytes"),
        (lambda: good_key()[:-256], "received 2816 bytes"),
        (lambda: bytes(12 * 1025), "at most 8192 bits"),
        (lambda: good_key()[:256] + bytes(11 * 256), "fails at root 1 of 11"),
        (lambda: good_key()[:-1] + bytes([good_key()[-1] ^ 1]), "fails at root 11 of 11"),
        (lambda: good_key()[:256] + good_key()[512:768] * 11, "fails at root 1 of 11"),
        (lambda: good_key()[:256] + good_key()[:256] + good_key()[512:], "fails at root 1 of 11"),
    ],
    ids=["empty", "short", "a root less", "too long", "no proof", "bit flip", "one root for all", "root n"],
)
def test_a_malformed_key_is_refused(raw: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(InvalidKey, match=reason):
        PublicKey.from_bytes(raw())


def test_a_root_is_canonical() -> None:
    n = int(private_key(2048).public_key.n)
    numbers = [int.from_bytes(good_key()[256 * i : 256 * (i + 1)], "big") for i in range(12)]
    number = next(i for i in range(1, 12) if numbers[i] + n < 256**256)
    numbers[number] += n  # the same root again, were it not for the range
    with pytest.raises(InvalidKey, match=f"fails at root {number} of 11"):
        PublicKey.from_bytes(b"".join(value.to_bytes(256, "big") for value in numbers))


def test_a_challenge_that_is_no_unit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = primes(2048)
    monkeypatch.setattr(paillier_proof, "_challenges", lambda n: [p] * paillier_proof.CHALLENGES)
    roots = paillier_proof.prove(p, q)
    assert gmpy2.powmod(roots[0], p * q, p * q) == p  # it has a root all the same
    with pytest.raises(InvalidKey, match="fails at root 1 of 11"):
        paillier_proof.verify(p * q, roots)


def test_a_proof_has_eleven_roots() -> None:
    public = private_key(2048).public_key
    with pytest.raises(InvalidKey, match="has 10 roots, not 11"):
        paillier_proof.verify(public.n, public._roots[:10])


# --- key generation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [-1, 0, 512, 1024, 2047, 2040, 2056, 8208, 2**20])
def test_key_lengths_out_of_the_rules_are_refused(bits: int) -> None:
    with pytest.raises(InvalidKey, match=f"{bits} bits is not allowed.*2048 to 8192"):
        PrivateKey.generate(DeterministicRng(1), bits)


def test_a_generated_key_passes_its_own_checks() -> None:
    key = PrivateKey.generate(DeterministicRng(1), 2048)
    assert key.public_key.n.bit_length() == 2048
    assert PublicKey.from_bytes(key.public_key.to_bytes()) == key.public_key
    assert key.public_key != PrivateKey.generate(DeterministicRng(2), 2048).public_key
    assert KEY.public_key.limit == (N - 1) // 2


@pytest.mark.parametrize(
    ("p", "q", "reason"),
    [
        (primes(512)[0], primes(1024)[1], "one length"),
        (mpz(11), mpz(23), "one length"),
        (primes(512)[0], primes(512)[0], "too close"),
        (primes(512)[0], gmpy2.next_prime(primes(512)[0]), "too close"),
    ],
    ids=["lengths", "p divides q - 1", "equal", "neighbours"],
)
def test_unfit_primes_are_refused(p: mpz, q: mpz, reason: str) -> None:
    with pytest.raises(InvalidKey, match=reason):
        PrivateKey(p, q)


@pytest.mark.slow
def test_the_default_size() -> None:
    rng = DeterministicRng(5)
    key = PrivateKey.generate(rng)
    assert key.public_key.n.bit_length() == 3072
    public = PublicKey.from_bytes(key.public_key.to_bytes())
    sums = public.encrypt([2, 3], rng).add(key.encrypt([40, -50], rng)).rerandomise(rng)
    assert len(sums.to_bytes()) == 2 * 768
    assert key.decrypt(key.public_key.accept(ReceivedCiphertexts(sums.to_bytes()), 2)) == [42, -47]


# --- attack: randomness that was not refreshed ------------------------------------------------------------


def features_found(reply: list[int], sent: int) -> list[int]:
    """What the key holder does: modulo n a reply is r^(n x), so it looks for the x that makes it from r^n."""
    powers = {pow(sent, x, N): x for x in range(-1000, 1001)}
    return [powers[value % N] for value in reply if value % N in powers]


def test_a_result_without_fresh_randomness_shows_the_feature() -> None:
    sent = encrypt([17])
    generator = np.random.default_rng(1)
    features = [int(x) for x in generator.integers(-1000, 1001, 20)]
    masks = [int(mask) for mask in generator.integers(0, 2**62, 20)]
    masked = [sent.scale([x]).add_plain([mask]) for x, mask in zip(features, masks, strict=True)]
    leaking = [int(product._values[0]) for product in masked]
    assert features_found(leaking, raw_values(sent)[0]) == features


def test_a_rerandomised_result_shows_nothing_in_a_thousand_trials() -> None:
    sent = encrypt([17])
    features = np.random.default_rng(2).integers(-1000, 1001, (1, 1000))
    reply = sent.product(features).rerandomise(DeterministicRng(6))
    assert features_found(raw_values(reply), raw_values(sent)[0]) == []
