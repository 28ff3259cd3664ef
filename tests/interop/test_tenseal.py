"""The same residues mean the same to TenSEAL: its ciphertexts open here, ours decrypt there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenseal
from tenseal import sealapi

from tests.support import DeterministicRng
from vfl.crypto import seal
from vfl.crypto.ckks import CKKSEvaluator, CKKSKeyHolder
from vfl.crypto.ckks_format import CHUNK, SLOTS, FreshCKKSCiphertexts, Scales
from vfl.crypto.innerproduct import Format
from vfl.crypto.seal import DEGREE, MODULUS, FloatArray

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


@pytest.fixture
def holder(secret: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[CKKSKeyHolder]:
    """Our key holder, with TenSEAL's secret key."""
    generator = sealapi.KeyGenerator
    with monkeypatch.context() as patch:
        patch.setattr(sealapi, "KeyGenerator", lambda context: generator(context, secret))
        yield CKKSKeyHolder(FORMAT, DeterministicRng(1))


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
    return seal.expand(item["polynomial"], item["seed"].tobytes())


def test_parameters_are_those_that_tenseal_chooses(theirs: Any) -> None:
    assert theirs.seal_context().data.first_parms_id() == seal.context().first_parms_id()
    assert theirs.seal_context().data.key_parms_id() == seal.context().key_parms_id()


def test_their_vector_opens_here(theirs: Any, secret: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(1).uniform(-1, 1, SLOTS)
    tenseal.ckks_vector(theirs, values.tolist()).ciphertext()[0].save(str(tmp_path / "vector"))
    vector = sealapi.Ciphertext()
    vector.load(seal.context(), str(tmp_path / "vector"))
    c0, c1 = seal.residues(vector, 2, 2)
    key = seal.limbs(seal.residues(secret.data(), 1, 3)[0, :2])
    constant = (seal.constant(c0) + seal.inner_products(c1[None], key)[0]) % MODULUS
    centred = (constant + MODULUS // 2) % MODULUS - MODULUS // 2
    assert centred * SLOTS / vector.scale == pytest.approx(values.sum(), abs=1e-4)


def test_our_vector_decrypts_there(theirs: Any, holder: CKKSKeyHolder, tmp_path: Path) -> None:
    r = np.random.default_rng(2).uniform(-1, 1, SLOTS)
    vector = unpack(holder.encrypt(r, DeterministicRng(2)))
    decrypted = decrypt_there(theirs, vector, SCALES.residual, tmp_path / "vector")
    assert np.abs(decrypted - r).max() < 1e-12


def test_our_products_decrypt_there_slot_by_slot(theirs: Any, holder: CKKSKeyHolder, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x, r = rng.uniform(-1, 1, (SLOTS, 2)), rng.uniform(-1, 1, SLOTS)
    evaluator = CKKSEvaluator.from_public(FORMAT, holder.public_bytes)
    products = evaluator.products(holder.encrypt(r, DeterministicRng(3)), evaluator.prepare(x))
    for column, product in zip(x.T, products, strict=True):
        decrypted = decrypt_there(theirs, product, SCALES.matrix * SCALES.residual, tmp_path / "product")
        assert np.abs(decrypted - column * r).max() < 1e-6


def test_our_protocol_runs_under_their_key(holder: CKKSKeyHolder) -> None:
    rng = DeterministicRng(4)
    x, r = np.linspace(-1, 1, 300).reshape(100, 3), np.linspace(1, -1, 100)
    evaluator = CKKSEvaluator.from_public(FORMAT, holder.public_bytes)
    reply, masks = evaluator.masked_products(holder.encrypt(r, rng), evaluator.prepare(x), rng)
    opened = evaluator.unmask(holder.open_masked(reply, 3), masks)
    assert np.abs(opened - x.T @ r).max() < 5e-3
