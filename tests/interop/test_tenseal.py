"""The same residues mean the same to TenSEAL: its ciphertexts open here, ours decrypt there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenseal
from tenseal import sealapi

from tests.support import DeterministicRng
from vfl.crypto import ckks_ring, seal
from vfl.crypto.ckks import CKKSEvaluator, CKKSKeyHolder
from vfl.crypto.ckks_format import CHUNK, FreshCKKSCiphertexts, Scales
from vfl.crypto.ckks_ring import DEGREE, MODULUS, SLOTS, FloatArray, Residues
from vfl.crypto.innerproduct import Format

FORMAT = Format(max_rows=SLOTS, residual_bound=1.0)
SCALES = Scales.of(FORMAT)


@pytest.fixture(scope="module")
def theirs() -> Any:
    """Return a TenSEAL context with a secret key; by its bit sizes TenSEAL chooses the primes by itself."""
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=[60, 60, 30])
    context.global_scale = 2.0**40
    return context


@pytest.fixture(scope="module")
def secret(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = str(tmp_path_factory.mktemp("key") / "secret")
    theirs.secret_key().data.save(path)
    secret = sealapi.SecretKey()
    secret.load(seal.context(), path)
    return secret


@pytest.fixture(scope="module")
def holder(secret: Any) -> CKKSKeyHolder:
    """Our key holder, with TenSEAL's secret key."""
    public = sealapi.PublicKey()
    sealapi.KeyGenerator(seal.context(), secret).create_public_key(public)
    return CKKSKeyHolder(FORMAT, DeterministicRng(1), seal.key_pair(secret, public))


def decrypt_there(theirs: Any, ours: Any, scale: float, path: Path) -> FloatArray:
    """Decrypt a ciphertext in TenSEAL, by replacing the one inside a serialized CKKSVector."""
    ours.scale = scale
    ours.save(str(path))
    stream = path.read_bytes()
    blank = tenseal.ckks_vector(theirs, [0.0] * SLOTS).serialize()
    # Protocol buffer: field 1, the sizes; field 2, the ciphertexts; field 3, the scale.
    start, end = blank.index(b"\x12"), len(blank) - 9
    raw = blank[:start] + b"\x12" + varint(len(stream)) + stream + blank[end:-8] + np.float64(scale).tobytes()
    return np.array(tenseal.ckks_vector_from(theirs, raw).decrypt())


def varint(number: int) -> bytes:
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


def unpack(vector: FreshCKKSCiphertexts) -> Any:
    item = np.frombuffer(vector.to_bytes(), CHUNK, 1, 32)[0]
    return seal.ciphertext(item["polynomial"], *ckks_ring.expand([item["seed"].tobytes()]))


def test_parameters_are_those_that_tenseal_chooses(theirs: Any) -> None:
    assert theirs.seal_context().data.first_parms_id() == seal.context().first_parms_id()
    assert theirs.seal_context().data.key_parms_id() == seal.context().key_parms_id()


def test_their_vector_opens_here(theirs: Any, secret: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(1).uniform(-1, 1, SLOTS)
    tenseal.ckks_vector(theirs, values.tolist()).ciphertext()[0].save(str(tmp_path / "vector"))
    vector = sealapi.Ciphertext()
    vector.load(seal.context(), str(tmp_path / "vector"))
    c0, c1 = seal.residues(vector, 2, 2)
    key = seal.residues(secret.data(), 1, 3)[0, :2]
    sums = ckks_ring.inner_products(c0[None], np.ones_like(c0)) + ckks_ring.inner_products(c1[None], key)
    (constant,) = ckks_ring.constants(sums)
    centred = (constant + MODULUS // 2) % MODULUS - MODULUS // 2
    assert centred * SLOTS / vector.scale == pytest.approx(values.sum(), abs=1e-4)


def test_our_vector_decrypts_there(theirs: Any, holder: CKKSKeyHolder, tmp_path: Path) -> None:
    r = np.random.default_rng(2).uniform(-1, 1, SLOTS)
    vector = unpack(holder.encrypt(r, DeterministicRng(2)))
    decrypted = decrypt_there(theirs, vector, SCALES.residual, tmp_path / "vector")
    assert np.abs(decrypted - r).max() < 1e-12


def test_our_matrices_multiply_there_slot_by_slot(theirs: Any, holder: CKKSKeyHolder, tmp_path: Path) -> None:
    """SEAL multiplies our vector by our prepared columns; of c1 it finds what we do."""
    rng = np.random.default_rng(3)
    x, r = rng.uniform(-1, 1, (SLOTS, 2)), rng.uniform(-1, 1, SLOTS)
    evaluator = CKKSEvaluator.from_public(FORMAT, holder.public_bytes)
    vector, prepared = holder.encrypt(r, DeterministicRng(3)), evaluator.prepare(x)
    products = evaluator.products(vector, prepared)
    for column, plain, ours in zip(x.T, prepared.polynomials[:, 0], products.polynomials, strict=True):
        product = sealapi.Ciphertext()
        sealapi.Evaluator(seal.context()).multiply(unpack(vector), trivial(plain), product)
        assert np.array_equal(seal.residues(product, 3, 2)[1], ours)
        decrypted = decrypt_there(
            theirs, two_parts(product), SCALES.matrix * SCALES.residual, tmp_path / "product"
        )
        assert np.abs(decrypted - column * r).max() < 1e-6


def trivial(plain: Residues) -> Any:
    """Return the encryption (plain, 0)."""
    return seal.ciphertext(plain, np.zeros_like(plain))


def two_parts(product: Any) -> Any:
    """Leave out the third part of a product, which is zero."""
    c0, c1, none = seal.residues(product, 3, 2)
    assert not none.any()
    return seal.ciphertext(c0, c1)


def test_our_protocol_runs_under_their_key(holder: CKKSKeyHolder) -> None:
    rng = DeterministicRng(4)
    x, r = np.linspace(-1, 1, 300).reshape(100, 3), np.linspace(1, -1, 100)
    evaluator = CKKSEvaluator.from_public(FORMAT, holder.public_bytes)
    reply, masks = evaluator.masked_products(holder.encrypt(r, rng), evaluator.prepare(x), rng)
    opened = evaluator.unmask(holder.open_masked(reply, 3), masks)
    assert np.abs(opened - x.T @ r).max() < 5e-3
