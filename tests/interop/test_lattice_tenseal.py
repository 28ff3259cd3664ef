"""The same products in TenSEAL's BFV and in ours: what SEAL decrypts, coefficient for coefficient."""

import re
from typing import Any

import numpy as np
import pytest
from tenseal import sealapi

from tests.support import DeterministicRng
from vfl.crypto.fresh import ReceivedCiphertexts
from vfl.crypto.lattice import GRADIENT, Matrix, SecretKey, scheme

DEGREE, T = GRADIENT.degree, GRADIENT.plain_modulus


def polynomial(coefficients: list[int]) -> Any:
    """Write a polynomial modulo t as SEAL's hexadecimal text."""
    terms = [f"{value % T:X}x^{power}" for power, value in enumerate(coefficients) if value]
    return sealapi.Plaintext(" + ".join(reversed(terms)).replace("x^0", ""))


def coefficients(plain: Any) -> list[int]:
    out = [0] * DEGREE
    for digits, _, power in re.findall(r"([0-9A-F]+)(x\^(\d+))?", plain.to_string()):
        out[int(power or 0)] = int(digits, 16)
    return out


@pytest.fixture(scope="module")
def seal_product() -> Any:
    """Return a function: two coefficient vectors to the decrypted product of one encrypted, one plain, in SEAL."""
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.BFV)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus(sealapi.CoeffModulus.BFVDefault(DEGREE, sealapi.SEC_LEVEL_TYPE.TC128))
    parameters.set_plain_modulus(sealapi.Modulus(T))
    context = sealapi.SEALContext(parameters, True, sealapi.SEC_LEVEL_TYPE.TC128)
    keys = sealapi.KeyGenerator(context)
    encryptor = sealapi.Encryptor(context, keys.secret_key())
    evaluator, decryptor = sealapi.Evaluator(context), sealapi.Decryptor(context, keys.secret_key())

    def product(secret: list[int], public: list[int]) -> list[int]:
        cipher, out, plain = sealapi.Ciphertext(), sealapi.Ciphertext(), sealapi.Plaintext()
        encryptor.encrypt_symmetric(polynomial(secret), cipher)
        evaluator.multiply_plain(cipher, polynomial(public), out)
        decryptor.decrypt(out, plain)
        return coefficients(plain)

    return product


def test_polynomial_products_agree(seal_product: Any) -> None:
    rng = DeterministicRng(1)
    generator = np.random.default_rng(1)
    secret = [rng.below(T) for _ in range(DEGREE)]
    public = generator.integers(-(1 << 15), 1 << 15, DEGREE)
    key = SecretKey(GRADIENT, rng)
    message = GRADIENT.residues(np.array([secret], object)).transpose(0, 2, 1)
    vector = key.public.accept(key.encrypt(message, rng), 1)
    operand = scheme.transform(GRADIENT, public[None].astype(np.int32))[None]
    everywhere = np.arange(DEGREE)
    fresh, masks = key.public.rerandomise(vector.sums(operand, 2.0**15 * 2**6.5), everywhere, rng)
    opened = key.open(ReceivedCiphertexts(fresh.to_bytes()), 1, everywhere)
    ours = GRADIENT.lift((opened.astype(np.int64) - masks)[0] % np.array(GRADIENT.plain))
    assert [int(value) % T for value in ours] == seal_product(secret, public.tolist())


def test_an_inner_product_agrees(seal_product: Any) -> None:
    rng = DeterministicRng(2)
    generator = np.random.default_rng(2)
    x = generator.integers(-(1 << 15), 1 << 15, (DEGREE, 1))
    r = generator.integers(-(1 << 23), 1 << 23, DEGREE)
    turned = np.concatenate([r[:1], -r[:0:-1]])
    theirs = seal_product(turned.tolist(), x[:, 0].tolist())[0]
    key, matrix = SecretKey(GRADIENT, rng), Matrix(GRADIENT, x, 1 << 15)
    layout = matrix.layout
    vector = key.public.accept(key.encrypt(layout.pack_rows(GRADIENT.residues(r)), rng), 1)
    fresh, masks = key.public.rerandomise(matrix.backward(vector), layout.column_positions, rng)
    opened = key.open(ReceivedCiphertexts(fresh.to_bytes()), 1, layout.column_positions)
    ours = GRADIENT.lift((opened.astype(np.int64) - masks)[0, 0] % np.array(GRADIENT.plain))
    assert int(ours) % T == theirs == int(x[:, 0] @ r) % T
