"""Products without encryption: the same numbers as on a real back end, for tests of what stands above the products."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.fresh import FreshCiphertexts, ReceivedCiphertexts
from vfl.crypto.product import Backend, Prepared, Product
from vfl.crypto.ring import RING, Ring, Share
from vfl.crypto.rng import Rng


@final
class OpenBackend(Backend):
    """Sends shares as they are. Masks are drawn as on the real back ends."""

    slot_rows = 1 << 13
    public_bytes = b"nothing is encrypted"
    key_bytes = len(public_bytes)

    def __init__(self, rng: Rng) -> None:
        pass

    def accept(self, public: bytes) -> None:
        assert public == self.public_bytes

    def prepare(self, integers: NDArray[np.int32], bound: int) -> Prepared:
        assert np.abs(integers).max() <= bound
        return Prepared(integers, integers)

    def forward(self, rows: int, columns: int, vectors: int) -> Product:
        return _Open((RING.limbs, columns, vectors), (RING.limbs, rows, vectors), RING, RING.forward)

    def backward(self, rows: int, columns: int, vectors: int) -> Product:
        def multiply(operand: Any, received: Share) -> Share:
            if not isinstance(operand, tuple):
                return RING.backward(operand, received)
            parts = [RING.backward(matrix, received[:, :, v : v + 1]) for v, matrix in enumerate(operand)]
            return np.concatenate(parts, axis=2)

        return _Open((RING.limbs, rows, vectors), (RING.limbs, columns, vectors), RING, multiply)

    def slotwise(self, terms: int, length: int, limbs: int = RING.limbs) -> Product:
        ring = Ring(RING.primes[:limbs])

        def multiply(operand: Any, received: Share) -> Share:
            products = [ring.multiply(x, y) for x, y in zip(operand, received, strict=True)]
            total = products[0]
            for product in products[1:]:
                total = ring.add(total, product)
            return total

        return _Open((terms, limbs, length), (limbs, length), ring, multiply)


@final
class _Open(Product):
    def __init__(self, held: tuple[int, ...], made: tuple[int, ...], ring: Ring, multiply: Any) -> None:
        self._held, self._made, self._ring, self._multiply = held, made, ring, multiply
        self.vector_bytes, self.product_bytes = 4 * int(np.prod(held)), 4 * int(np.prod(made))

    def encrypt(self, secret: Share, rng: Rng) -> FreshCiphertexts:
        assert secret.shape == self._held
        return ReceivedCiphertexts(np.ascontiguousarray(secret, "<u4").tobytes())

    def evaluate(self, received: FreshCiphertexts, operand: Any, rng: Rng) -> tuple[FreshCiphertexts, Share]:
        vector = np.frombuffer(received.to_bytes(), "<u4").reshape(self._held)
        mask = self._ring.uniform(rng, *self._made[1:])
        masked = self._ring.add(self._multiply(operand, vector), mask)
        return ReceivedCiphertexts(masked.tobytes()), self._ring.negate(mask)

    def open(self, received: FreshCiphertexts) -> Share:
        return np.frombuffer(received.to_bytes(), "<u4").reshape(self._made).astype(np.uint32)
