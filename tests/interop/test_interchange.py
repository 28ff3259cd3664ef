"""Keys and ciphertexts to python-paillier and TenSEAL and back: the same values, and nothing unchecked comes in."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tenseal
from gmpy2 import mpz

from tests.paillier_keys import primes, private_key
from tests.support import DeterministicRng
from vfl import interchange
from vfl.crypto import seal
from vfl.crypto.ckks import CKKSEvaluator, CKKSKeyHolder
from vfl.crypto.ckks_ring import SLOTS
from vfl.crypto.fresh import ReceivedCiphertexts
from vfl.crypto.innerproduct import Format
from vfl.crypto.paillier import PrivateKey, PublicKey
from vfl.errors import ConfigError, InvalidCiphertext, InvalidKey, KeyMismatch

phe = pytest.importorskip("phe")

BITS = 2048
PLAINTEXTS = [0, 1, -1, 2**40, -(2**40), 7]
FORMAT = Format(max_rows=2 * SLOTS, residual_bound=1.0)
ROWS = SLOTS + 100


@pytest.fixture(scope="module")
def ours() -> PrivateKey:
    return private_key(BITS)


@pytest.fixture(scope="module")
def theirs() -> Any:
    p, q = (int(prime) for prime in primes(BITS))
    return phe.PaillierPrivateKey(phe.PaillierPublicKey(p * q), p, q)


def test_private_keys_there_and_back(ours: PrivateKey) -> None:
    there = interchange.to_phe_private_key(ours)
    assert there.decrypt(there.public_key.encrypt(-5)) == -5
    back = interchange.from_phe_private_key(there)
    assert back.public_key == ours.public_key
    rng = DeterministicRng(1)
    assert back.decrypt(ours.public_key.encrypt(PLAINTEXTS, rng)) == PLAINTEXTS


def test_a_key_that_phe_generates_convinces_a_peer() -> None:
    _, private = phe.generate_paillier_keypair(n_length=BITS)
    key = interchange.from_phe_private_key(private)
    proven = key.public_key.to_bytes()
    assert interchange.from_phe_public_key(private.public_key, proven) == PublicKey.from_bytes(proven)
    assert key.decrypt(key.encrypt(PLAINTEXTS, DeterministicRng(2))) == PLAINTEXTS


def test_public_key_there_and_back(ours: PrivateKey, theirs: Any) -> None:
    there = interchange.to_phe_public_key(ours.public_key)
    assert there == theirs.public_key
    back = interchange.from_phe_public_key(there, ours.public_key.to_bytes())
    assert back.to_bytes() == ours.public_key.to_bytes()


def test_a_public_key_without_its_proof_is_refused(ours: PrivateKey, theirs: Any) -> None:
    with pytest.raises(InvalidKey, match="ask its owner"):
        interchange.from_phe_public_key(theirs.public_key)
    raw = ours.public_key.to_bytes()
    with pytest.raises(InvalidKey, match="root 11"):
        interchange.from_phe_public_key(theirs.public_key, raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(KeyMismatch, match="another modulus"):
        interchange.from_phe_public_key(phe.PaillierPublicKey(theirs.public_key.n + 2), raw)


def private_key_of(p: int, q: int) -> Any:
    return phe.PaillierPrivateKey(phe.PaillierPublicKey(p * q), p, q)


def small() -> Any:
    return private_key_of(*(int(prime) for prime in primes(512)))


def composite() -> Any:
    p, q = (int(prime) for prime in primes(BITS))
    factors = [int(prime) for prime in primes(1024)]
    return private_key_of(factors[0] * factors[1], min(p, q))


@pytest.mark.parametrize(
    ("make", "reason"),
    [(small, "512 bits"), (composite, "not prime"), (lambda: "key", "expected a phe.PaillierPrivateKey")],
)
def test_a_private_key_that_peers_would_refuse_is_refused(make: Callable[[], Any], reason: str) -> None:
    with pytest.raises(InvalidKey, match=reason):
        interchange.from_phe_private_key(make())


def test_what_is_no_public_key_is_refused(ours: PrivateKey) -> None:
    with pytest.raises(InvalidKey, match="not int"):
        interchange.from_phe_public_key(7, ours.public_key.to_bytes())


def test_ciphertexts_decrypt_there(ours: PrivateKey, theirs: Any) -> None:
    rng = DeterministicRng(3)
    fresh = ours.encrypt(PLAINTEXTS, rng)
    assert [theirs.decrypt(number) for number in interchange.to_phe_ciphertexts(fresh)] == PLAINTEXTS
    halves = interchange.to_phe_ciphertexts(ours.encrypt([8, -24], rng), exponent=-1)
    assert [theirs.decrypt(number) for number in halves] == [0.5, -1.5]


def test_phe_refuses_what_is_beyond_its_range(ours: PrivateKey, theirs: Any) -> None:
    limit = ours.public_key.limit
    (number,) = interchange.to_phe_ciphertexts(ours.encrypt([limit], DeterministicRng(9)))
    with pytest.raises(OverflowError):
        theirs.decrypt(number)


def test_what_was_computed_stays_until_it_is_rerandomised(ours: PrivateKey, theirs: Any) -> None:
    rng = DeterministicRng(4)
    computed = ours.encrypt([3, 4], rng).scale([5, -6])
    with pytest.raises(TypeError, match="rerandomise"):
        interchange.to_phe_ciphertexts(computed)  # type: ignore[arg-type]
    numbers = interchange.to_phe_ciphertexts(computed.rerandomise(rng))
    assert [theirs.decrypt(number) for number in numbers] == [15, -24]


def test_ciphertexts_of_phe_are_computed_with_here(ours: PrivateKey, theirs: Any) -> None:
    numbers = [theirs.public_key.encrypt(value) for value in PLAINTEXTS]
    received = interchange.from_phe_ciphertexts(ours.public_key, numbers)
    assert ours.decrypt(received) == PLAINTEXTS
    assert not hasattr(received, "to_bytes")
    tripled = received.scale([3] * len(PLAINTEXTS)).rerandomise(DeterministicRng(5))
    back = [theirs.decrypt(number) for number in interchange.to_phe_ciphertexts(tripled)]
    assert back == [3 * value for value in PLAINTEXTS]


def test_floats_come_with_one_exponent(ours: PrivateKey, theirs: Any) -> None:
    values = [0.5, -1.25, 1000.0]
    numbers = [theirs.public_key.encrypt(value, precision=2.0**-20) for value in values]
    integers = ours.decrypt(interchange.from_phe_ciphertexts(ours.public_key, numbers, exponent=-5))
    assert [integer * 16.0**-5 for integer in integers] == values


def test_exponents_of_their_own_are_refused(ours: PrivateKey, theirs: Any) -> None:
    numbers = [theirs.public_key.encrypt(value) for value in (0.5, 1e-9)]
    assert numbers[0].exponent != numbers[1].exponent
    with pytest.raises(InvalidCiphertext, match=r"1 of 2 .* show magnitudes"):
        interchange.from_phe_ciphertexts(ours.public_key, numbers, exponent=numbers[0].exponent)


def test_another_key_is_refused(ours: PrivateKey) -> None:
    others = [small().public_key.encrypt(1)]
    with pytest.raises(KeyMismatch, match="belong to"):
        interchange.from_phe_ciphertexts(ours.public_key, others)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (lambda n: 0, "from 1 to n"),
        (lambda n: -5, "from 1 to n"),
        (lambda n: n * n + 5, "from 1 to n"),
        (lambda n: "12", "are integers"),
        (lambda n: 3 * n, "shares a factor with n"),
        (lambda n: 1 + 5 * n, "no randomness"),
    ],
)
def test_unvalidated_numbers_are_refused(
    ours: PrivateKey, theirs: Any, value: Callable[[int], Any], reason: str
) -> None:
    number = phe.EncryptedNumber(theirs.public_key, value(theirs.public_key.n))
    with pytest.raises(InvalidCiphertext, match=reason):
        interchange.from_phe_ciphertexts(ours.public_key, [theirs.public_key.encrypt(1), number])


def test_shared_randomness_is_refused_until_it_is_obfuscated(ours: PrivateKey, theirs: Any) -> None:
    number = theirs.public_key.encrypt(1)
    computed = number + 1
    with pytest.raises(InvalidCiphertext, match="share their randomness"):
        interchange.from_phe_ciphertexts(ours.public_key, [number, computed])
    computed.obfuscate()
    received = interchange.from_phe_ciphertexts(ours.public_key, [number, computed])
    assert ours.decrypt(received) == [1, 2]


def test_what_is_no_encrypted_number_is_refused(ours: PrivateKey) -> None:
    with pytest.raises(InvalidCiphertext, match="not all of 1 objects"):
        interchange.from_phe_ciphertexts(ours.public_key, [mpz(5)])


def test_without_phe_the_remedy_is_named(ours: PrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name == "phe":
            raise ModuleNotFoundError("No module named 'phe'", name="phe")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    calls: list[Callable[[], Any]] = [
        lambda: interchange.to_phe_public_key(ours.public_key),
        lambda: interchange.to_phe_private_key(ours),
        lambda: interchange.from_phe_public_key(None),
        lambda: interchange.from_phe_private_key(None),
        lambda: interchange.to_phe_ciphertexts(ours.encrypt([1], DeterministicRng(6))),
        lambda: interchange.from_phe_ciphertexts(ours.public_key, []),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=r"pip install vfl\[phe\]"):
            call()


def test_the_module_itself_does_without_phe() -> None:
    code = "import sys; sys.modules['phe'] = None; import vfl.interchange"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def context() -> Any:
    return tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 60, 30])


def public_part(context: Any) -> Any:
    return tenseal.context_from(context.serialize(save_secret_key=False, save_relin_keys=False))


def holder_of(context: Any) -> CKKSKeyHolder:
    return interchange.from_tenseal_secret_key(FORMAT, DeterministicRng(1), context)


def test_a_public_context_there_and_back() -> None:
    public_bytes = CKKSKeyHolder(FORMAT, DeterministicRng(2)).public_bytes
    there = interchange.to_tenseal_context(FORMAT, public_bytes)
    assert there.has_public_key()
    assert not there.has_secret_key()
    assert interchange.from_tenseal_context(FORMAT, there) == public_bytes
    tenseal.ckks_vector(there, [1.0, 2.0])  # it can encrypt


def test_the_protocol_runs_under_a_tenseal_key(context: Any) -> None:
    rng, holder = DeterministicRng(3), holder_of(context)
    public_bytes = interchange.from_tenseal_context(FORMAT, public_part(context))
    assert public_bytes == holder.public_bytes
    evaluator = CKKSEvaluator.from_public(FORMAT, public_bytes)
    x, r = np.linspace(-1, 1, 300).reshape(100, 3), np.linspace(1, -1, 100)
    reply, masks = evaluator.masked_products(holder.encrypt(r, rng), evaluator.prepare(x), rng)
    opened = evaluator.unmask(holder.open_masked(reply, 3), masks)
    assert np.abs(opened - x.T @ r).max() < 1e-2


def test_no_key_is_drawn_for_it(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "generate", lambda: pytest.fail("a key was drawn"))
    assert interchange.from_tenseal_context(FORMAT, context) == holder_of(context).public_bytes


def test_a_product_has_no_room_there(context: Any) -> None:
    vector = holder_of(context).encrypt(np.ones(10), DeterministicRng(8))
    (there,) = interchange.to_tenseal_vectors(FORMAT, context, vector, 10)
    with pytest.raises(ValueError, match="scale out of bounds"):
        there.mul([2.0] * 10)


def test_vectors_under_our_public_context_open_with_the_tenseal_secret(context: Any) -> None:
    there = interchange.to_tenseal_context(FORMAT, holder_of(context).public_bytes)
    raw = tenseal.ckks_vector(there, [0.5, -0.25]).serialize()
    assert tenseal.ckks_vector_from(context, raw).decrypt() == pytest.approx([0.5, -0.25], abs=1e-9)


def test_vectors_decrypt_and_add_there(context: Any) -> None:
    rng, holder = DeterministicRng(4), holder_of(context)
    r = np.random.default_rng(4).uniform(-1, 1, ROWS)
    received = ReceivedCiphertexts(holder.encrypt(r, rng).to_bytes())
    vectors = interchange.to_tenseal_vectors(FORMAT, context, received, ROWS)
    assert [vector.size() for vector in vectors] == [SLOTS, ROWS - SLOTS]
    assert np.abs(np.concatenate([vector.decrypt() for vector in vectors]) - r).max() < 1e-10
    assert np.abs(np.array((vectors[1] + vectors[1]).decrypt()) - 2 * r[SLOTS:]).max() < 1e-10


def test_vectors_of_another_key_or_length_are_refused(context: Any) -> None:
    rng = DeterministicRng(5)
    vector = CKKSKeyHolder(FORMAT, rng).encrypt(np.ones(10), rng)
    with pytest.raises(InvalidCiphertext, match="expected the key"):
        interchange.to_tenseal_vectors(FORMAT, context, vector, 10)
    with pytest.raises(InvalidCiphertext, match="bytes for 2 ciphertexts"):
        interchange.to_tenseal_vectors(FORMAT, context, vector, ROWS)


def test_vectors_that_are_no_residues_are_refused(context: Any) -> None:
    raw = holder_of(context).encrypt(np.ones(10), DeterministicRng(6)).to_bytes()
    with pytest.raises(InvalidCiphertext, match="not residues"):
        interchange.to_tenseal_vectors(FORMAT, context, ReceivedCiphertexts(raw[:-8] + b"\xff" * 8), 10)


def test_malformed_public_bytes_never_reach_tenseal() -> None:
    public_bytes = CKKSKeyHolder(FORMAT, DeterministicRng(7)).public_bytes
    for raw in (b"", public_bytes[:-1], public_bytes[:-8] + b"\xff" * 8):
        with pytest.raises(InvalidKey):
            interchange.to_tenseal_context(FORMAT, raw)


def other_moduli() -> Any:
    return tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60])


def other_scheme() -> Any:
    return tenseal.context(tenseal.SCHEME_TYPE.BFV, 4096, 1032193)


def symmetric() -> Any:
    kind = tenseal.ENCRYPTION_TYPE.SYMMETRIC
    return tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 60, 30], encryption_type=kind
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (other_moduli, "other parameters"),
        (other_scheme, "other parameters"),
        (symmetric, "no public key to exchange"),
    ],
)
def test_other_contexts_are_refused(make: Callable[[], Any], reason: str) -> None:
    with pytest.raises(InvalidKey, match=reason):
        interchange.from_tenseal_context(FORMAT, make())


def test_a_key_holder_needs_the_secret_key(context: Any) -> None:
    with pytest.raises(InvalidKey, match="is public"):
        holder_of(public_part(context))
