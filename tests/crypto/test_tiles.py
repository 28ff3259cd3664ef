"""Products of matrices in tiles, against numpy; factors that serve for several products."""

import numpy as np
import pytest

from tests.support import DeterministicRng
from vfl.crypto.lattice import SHARES
from vfl.crypto.lattice.tiles import Tiles
from vfl.crypto.product import LatticeBackend
from vfl.crypto.ring import RING, Ring, Share
from vfl.errors import EncodingOverflow, InvalidCiphertext

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def parties() -> tuple[LatticeBackend, LatticeBackend]:
    holder, evaluator = (LatticeBackend(DeterministicRng(seed)) for seed in (1, 2))
    holder.accept(evaluator.public_bytes)
    evaluator.accept(holder.public_bytes)
    return holder, evaluator


@pytest.mark.parametrize(
    ("rows", "columns", "vectors"),
    [(256, 14, 32), (10, 256, 32), (1, 1, 1), (3, 8192, 2), (70, 5, 300), (256, 65, 33)],
)
def test_shares_of_a_product(
    parties: tuple[LatticeBackend, LatticeBackend], rows: int, columns: int, vectors: int
) -> None:
    holder, evaluator = parties
    matrix = RNG.integers(-(1 << 12), (1 << 12) + 1, (rows, columns)).astype(np.int32)
    secret = RING.uniform(DeterministicRng(5), columns, vectors)
    product = holder.tiled(rows, columns, vectors, 1 << 12)
    sent = product.encrypt(secret, DeterministicRng(6))
    assert len(sent.to_bytes()) == product.vector_bytes
    same = evaluator.tiled(rows, columns, vectors, 1 << 12)
    returned, kept = same.evaluate(sent, same.prepare(matrix), DeterministicRng(7))
    assert len(returned.to_bytes()) == product.product_bytes
    assert (RING.add(product.open(returned), kept) == RING.forward(matrix, secret)).all()


def test_modulo_the_first_prime(parties: tuple[LatticeBackend, LatticeBackend]) -> None:
    ring, matrix = Ring(RING.primes[:1]), RNG.integers(-(1 << 14), 1 << 14, (256, 14)).astype(np.int32)
    secret = ring.uniform(DeterministicRng(5), 14, 32)
    product, same = (party.tiled(256, 14, 32, 1 << 14, limbs=1) for party in parties)
    returned, kept = same.evaluate(
        product.encrypt(secret, DeterministicRng(6)), same.prepare(matrix), DeterministicRng(7)
    )
    assert product.product_bytes < 0.5 * parties[0].tiled(256, 14, 32, 1 << 14).product_bytes
    assert (ring.add(product.open(returned), kept) == ring.forward(matrix, secret)).all()


def test_sizes() -> None:
    """256 rows of 14 columns and 32 vectors: one ciphertext in and fifteen out; the other way round fourteen."""
    there, back = Tiles.fewest(SHARES, 256, 14, 32), Tiles.fewest(SHARES, 14, 256, 32)
    assert (there.inputs, there.outputs, back.inputs, back.outputs) == (1, 15, 1, 14)


def test_what_does_not_fit_is_refused(parties: tuple[LatticeBackend, LatticeBackend]) -> None:
    holder, _ = parties
    with pytest.raises(EncodingOverflow, match="8193"):
        holder.tiled(1, 8193, 1, 1)
    with pytest.raises(EncodingOverflow, match="not 2"):
        holder.tiled(1, 1, 1, 1, limbs=2)
    product = holder.tiled(2, 2, 1, 7)
    with pytest.raises(EncodingOverflow, match="bound 7"):
        product.prepare(np.full((2, 2), -8, np.int32))


def factors(terms: int, length: int, seed: int) -> Share:
    rng = DeterministicRng(seed)
    return np.stack([RING.uniform(rng, length) for _ in range(terms)])


@pytest.mark.parametrize("length", [100, 9_000])
def test_factors_serve_for_several_products(
    parties: tuple[LatticeBackend, LatticeBackend], length: int
) -> None:
    holder, evaluator = parties
    secret = factors(2, length, 8)
    product, same = holder.slotwise(2, length), evaluator.slotwise(2, length)
    sent = product.encrypt(secret, DeterministicRng(9))
    accepted = same.accept(sent)
    for limbs, seed in ((RING.limbs, 10), (1, 11)):
        ring, operand = Ring(RING.primes[:limbs]), factors(2, length, seed)[:, :limbs]
        returned, kept = same.multiply(accepted, operand, DeterministicRng(seed))
        assert len(returned.to_bytes()) == product.bytes_of(limbs)
        total = ring.add(product.open_limbs(returned, limbs), kept)
        parts = [ring.multiply(x, y[:limbs]) for x, y in zip(operand, secret, strict=True)]
        assert (total == ring.add(*parts)).all()
    with pytest.raises(InvalidCiphertext):
        product.open_limbs(returned, 2)
