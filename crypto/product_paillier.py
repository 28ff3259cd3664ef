"""Encrypted products with shared results on Paillier: the other back end of :mod:`vfl.crypto.product`.

A residue of Z_t is encrypted as the centred integer that it stands for. A result S is an integer with a bound |S| < 2^B
that both parties know; the evaluator adds a mask uniform in [2^B, 2^B + 2^(B+64)) and takes the results together, as
many to a plaintext as fit. What is opened is within statistical distance 2^-64 of what does not depend on S, the carry
over t included; both shares are then reduced modulo t. Exponents of products number by number are shares: they are
taken from [t, 2t), so that all of them are equally long, and raised in constant time.

Slower than the lattice by orders of magnitude, on another assumption (decisional composite residuosity).

Source: Paillier, Eurocrypt 1999; Damgard, Jurik, Nielsen, "A generalization of Paillier's public-key system",
section 6 (masks wider than the value).
"""

import abc
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.fresh import FreshCiphertexts
from vfl.crypto.paillier import Ciphertexts, PrivateKey, PublicKey
from vfl.crypto.paillier_proof import CHALLENGES
from vfl.crypto.product import Backend, Prepared, Product
from vfl.crypto.ring import MATRIX_BITS, RING, Ring, Share
from vfl.crypto.rng import Rng
from vfl.errors import EncodingOverflow

__all__ = ["PaillierBackend"]

_MASK_BITS = 64
_RING_BITS = RING.modulus.bit_length()


@final
class PaillierBackend(Backend):
    """Products under a Paillier key drawn for one session.

    Parameters
    ----------
    key : PrivateKey
        Peers must use moduli of the same length.
    """

    slot_rows = 64

    def __init__(self, key: PrivateKey) -> None:
        self.secret, self.peer = key, key.public_key
        self.public_bytes = key.public_key.to_bytes()

    @property
    def key_bytes(self) -> int:
        """Size of a public key with its proof."""
        return (1 + CHALLENGES) * self.secret.public_key.width // 2

    def accept(self, public: bytes) -> None:
        """Check the peer's modulus and its proof."""
        self.peer = PublicKey.from_bytes(public)

    def prepare(self, integers: NDArray[np.int32], bound: int) -> Prepared:
        """Check the bound; nothing can be computed beforehand."""
        if bound >= 1 << MATRIX_BITS or np.abs(integers).max(initial=0) > bound:
            raise EncodingOverflow(
                f"matrix entries exceed the bound {bound}, or the bound 2^{MATRIX_BITS} - 1"
            )
        return Prepared(integers, integers)

    def forward(self, rows: int, columns: int, vectors: int) -> Product:
        """Return the product M v."""
        return _Linear(self, columns, rows, vectors)

    def backward(self, rows: int, columns: int, vectors: int) -> Product:
        """Return the product M^T v."""
        return _Linear(self, rows, columns, vectors)

    def slotwise(self, terms: int, length: int, limbs: int = RING.limbs) -> Product:
        """Return the sum of `terms` products number by number, modulo the first `limbs` primes of t."""
        return _Slotwise(self, terms, length, Ring(RING.primes[:limbs]))


class _Paillier(Product):
    """What both kinds of product share: masks, several results to a plaintext, opening.

    Parameters
    ----------
    inputs, outputs : int
        Numbers sent and returned.
    bits : int
        B.
    """

    def __init__(
        self, backend: PaillierBackend, inputs: int, outputs: int, bits: int, ring: Ring = RING
    ) -> None:
        self._ring = ring
        self._backend, self._inputs, self._outputs, self._bits = backend, inputs, outputs, bits
        width = backend.secret.public_key.width
        self._spacing = bits + _MASK_BITS + 2
        self._slots = (4 * width - 2) // self._spacing
        self._plaintexts = -(-outputs // self._slots)
        self.vector_bytes, self.product_bytes = inputs * width, self._plaintexts * width

    def encrypt(self, secret: Share, rng: Rng) -> FreshCiphertexts:
        return self._backend.secret.encrypt(self._ring.lift(secret).ravel().tolist(), rng)

    @abc.abstractmethod
    def _multiply(self, vector: Ciphertexts, operand: Any) -> Ciphertexts:
        """Return the results in order."""

    @abc.abstractmethod
    def _shape(self, flat: list[int]) -> Share:
        """Arrange opened numbers or masks."""

    def evaluate(self, received: FreshCiphertexts, operand: Any, rng: Rng) -> tuple[FreshCiphertexts, Share]:
        results = self._multiply(self._backend.peer.accept(received, self._inputs), operand)
        masks = [(1 << self._bits) + rng.bits(self._bits + _MASK_BITS) for _ in range(self._outputs)]
        joined = results.join(self._slots, self._spacing).add_plain(self._join(masks)).rerandomise(rng)
        return joined, self._ring.negate(self._shape(masks))

    def _join(self, masks: list[int]) -> list[int]:
        groups = [masks[i : i + self._slots] for i in range(0, len(masks), self._slots)]
        return [sum(mask << self._spacing * place for place, mask in enumerate(group)) for group in groups]

    def open(self, received: FreshCiphertexts) -> Share:
        secret = self._backend.secret
        accepted = secret.public_key.accept(received, self._plaintexts)
        low = (1 << self._spacing) - 1
        numbers = [
            plaintext >> self._spacing * place & low
            for plaintext in secret.decrypt(accepted)
            for place in range(self._slots)
        ]
        return self._shape(numbers[: self._outputs])


@final
class _Linear(_Paillier):
    """M v or M^T v: which, the operand's shape tells."""

    def __init__(self, backend: PaillierBackend, inputs: int, outputs: int, vectors: int) -> None:
        self._length, self._vectors = inputs, vectors
        bits = _RING_BITS + MATRIX_BITS + inputs.bit_length()
        super().__init__(backend, inputs * vectors, outputs * vectors, bits)

    def _multiply(self, vector: Ciphertexts, operand: Any) -> Ciphertexts:
        matrix = operand.astype(np.int64)
        if len(matrix) != self._length:
            matrix = np.ascontiguousarray(matrix.T)
        numbers = vector._values
        parts = [Ciphertexts(vector.key, numbers[v :: self._vectors]) for v in range(self._vectors)]
        products = [part.product(matrix)._values for part in parts]
        return Ciphertexts(vector.key, [each[i] for i in range(len(products[0])) for each in products])

    def _shape(self, flat: list[int]) -> Share:
        return RING.integers(np.array(flat, object).reshape(-1, self._vectors))


@final
class _Slotwise(_Paillier):
    """Sums of products number by number."""

    def __init__(self, backend: PaillierBackend, terms: int, length: int, ring: Ring) -> None:
        self._terms, self._length = terms, length
        bits = 2 * ring.modulus.bit_length() + 1 + terms.bit_length()
        super().__init__(backend, terms * length, length, bits, ring)

    def encrypt(self, secret: Share, rng: Rng) -> FreshCiphertexts:
        return super().encrypt(secret.transpose(1, 0, 2), rng)

    def _multiply(self, vector: Ciphertexts, operand: Any) -> Ciphertexts:
        factors, t = self._ring.lift(operand.transpose(1, 0, 2)).astype(object).ravel(), self._ring.modulus
        products = vector.scale_secretly((factors % t + t).tolist())
        numbers, length = products._values, self._length
        total = Ciphertexts(vector.key, numbers[:length])
        for term in range(1, self._terms):
            total = total.add(Ciphertexts(vector.key, numbers[term * length : (term + 1) * length]))
        return total

    def _shape(self, flat: list[int]) -> Share:
        return self._ring.integers(np.array(flat, object))
