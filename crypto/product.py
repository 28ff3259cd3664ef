"""Encrypted products whose result is shared: what :mod:`vfl.protocols.product` is made of, and its lattice back end.

One party, the key holder, has a secret array of residues of Z_t; the other one, the evaluator, has the operand. Three
products are known: M v and M^T v for a matrix M of small integers, several vectors at once, and sums of J products
number by number. For each there is a :class:`Product`, which knows all sizes beforehand, and three steps:

    encrypt (key holder)     [[v]], fresh
    evaluate (evaluator)     [[M v + mask]], made fresh and flooded; the evaluator's share is minus the mask
    open (key holder)        M v + mask: the key holder's share, uniform

Matrix products take one ring of degree 8192 with t = p_1 ... p_4 (SHARES). Products number by number have operands as
large as t, so they run prime by prime, in slots (SLOTS), with a key for each prime.
"""

import abc
import itertools
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.fresh import FreshCiphertexts, ReceivedCiphertexts
from vfl.crypto.lattice import (
    SHARES,
    SLOTS,
    Layout,
    Matrix,
    PublicKey,
    SecretKey,
    products_bytes,
    vector_bytes,
)
from vfl.crypto.lattice.packing import Slots
from vfl.crypto.lattice.scheme import Ciphertexts
from vfl.crypto.lattice.tables import Words
from vfl.crypto.lattice.tiles import Tiles
from vfl.crypto.ring import RING, Ring, Share
from vfl.crypto.rng import Rng
from vfl.errors import EncodingOverflow, InvalidCiphertext

__all__ = ["Backend", "Bundle", "LatticeBackend", "Prepared", "Product", "Slotwise", "Tiled"]


@final
class Bundle(FreshCiphertexts):
    """Several fresh vectors sent as one."""

    def __init__(self, parts: list[FreshCiphertexts]) -> None:
        self._parts = parts

    def to_bytes(self) -> bytes:
        """Return the encodings one after the other."""
        return b"".join(part.to_bytes() for part in self._parts)


def _split(received: FreshCiphertexts, sizes: list[int]) -> list[ReceivedCiphertexts]:
    """Cut a bundle of known sizes."""
    raw = received.to_bytes()
    if len(raw) != sum(sizes):
        raise InvalidCiphertext(f"expected {sum(sizes)} bytes of ciphertexts, received {len(raw)}")
    edges = np.cumsum([0, *sizes]).tolist()
    return [ReceivedCiphertexts(raw[i:j]) for i, j in itertools.pairwise(edges)]


@dataclass(frozen=True)
class Prepared:
    """A party's matrix: its integers for products with its own shares, and their form for encrypted ones.

    Attributes
    ----------
    integers : array of int32, shape (rows, columns)
    operand : object
        As the back end's products take it.
    """

    integers: NDArray[np.int32]
    operand: Any


class Product(abc.ABC):
    """A product of agreed sizes.

    Attributes
    ----------
    vector_bytes, product_bytes : int
        Sizes of what the key holder and the evaluator send.
    """

    vector_bytes: int
    product_bytes: int

    @abc.abstractmethod
    def encrypt(self, secret: Share, rng: Rng) -> FreshCiphertexts:
        """Encrypt the key holder's array: (L, length, vectors), or (J, L, length) for products number by number."""

    @abc.abstractmethod
    def evaluate(self, received: FreshCiphertexts, operand: Any, rng: Rng) -> tuple[FreshCiphertexts, Share]:
        """Multiply by the operand; return the masked result to send and the evaluator's share.

        On the lattice, a tuple of operands of matrices of one shape multiplies each vector by its own one.

        Raises
        ------
        InvalidCiphertext
            If what was received is not as agreed.
        """

    @abc.abstractmethod
    def open(self, received: FreshCiphertexts) -> Share:
        """Return the key holder's share of the result: (L, length, vectors) or (L, length).

        Raises
        ------
        InvalidCiphertext
        """


class Backend(abc.ABC):
    """One party's keys, and the peer's once they have come.

    Attributes
    ----------
    public_bytes : bytes
        To be sent to the peer.
    slot_rows : int
        Numbers in a ciphertext of :meth:`slotwise`: the unit in which rows are shared out.
    """

    public_bytes: bytes
    slot_rows: int

    @abc.abstractmethod
    def accept(self, public: bytes) -> None:
        """Take the peer's public keys. Raises InvalidKey."""

    @property
    @abc.abstractmethod
    def key_bytes(self) -> int:
        """Size of the peer's public keys."""

    @abc.abstractmethod
    def prepare(self, integers: NDArray[np.int32], bound: int) -> Prepared:
        """Prepare this party's matrix, whose entries are at most `bound`. Raises EncodingOverflow."""

    @abc.abstractmethod
    def forward(self, rows: int, columns: int, vectors: int) -> Product:
        """Return the product M v."""

    @abc.abstractmethod
    def backward(self, rows: int, columns: int, vectors: int) -> Product:
        """Return the product M^T v."""

    @abc.abstractmethod
    def slotwise(self, terms: int, length: int, limbs: int = RING.limbs) -> Product:
        """Return the sum of `terms` products number by number, modulo the first `limbs` primes of t."""


@final
class LatticeBackend(Backend):
    """Products on the lattice engine, under keys drawn for one session.

    Parameters
    ----------
    rng : Rng
    """

    slot_rows = SHARES.degree

    def __init__(self, rng: Rng) -> None:
        self.secret = SecretKey(SHARES, rng)
        self.slot_secrets = [SecretKey(params, rng) for params in SLOTS]
        keys = [key.public.to_bytes() for key in (self.secret, *self.slot_secrets)]
        self._sizes = [len(key) for key in keys]
        self.public_bytes = b"".join(keys)
        self.peer: PublicKey
        self.slot_peers: list[PublicKey]

    @property
    def key_bytes(self) -> int:
        """Size of the public keys."""
        return sum(self._sizes)

    def accept(self, public: bytes) -> None:
        """Check the peer's five keys."""
        edges = np.cumsum([0, *self._sizes]).tolist()
        first, *others = [public[i:j] for i, j in itertools.pairwise(edges)]
        self.peer = PublicKey(SHARES, first)
        self.slot_peers = [PublicKey(params, raw) for params, raw in zip(SLOTS, others, strict=True)]

    def prepare(self, integers: NDArray[np.int32], bound: int) -> Prepared:
        """Transform the matrix once: 28 bytes an entry."""
        layout = Layout.balanced(SHARES, *integers.shape)
        return Prepared(integers, Matrix(SHARES, integers, bound, layout=layout))

    def forward(self, rows: int, columns: int, vectors: int) -> Product:
        """Return the product M v."""
        return _Forward(self, Layout.balanced(SHARES, rows, columns), vectors)

    def backward(self, rows: int, columns: int, vectors: int) -> Product:
        """Return the product M^T v."""
        return _Backward(self, Layout.balanced(SHARES, rows, columns), vectors)

    def slotwise(self, terms: int, length: int, limbs: int = RING.limbs) -> "Slotwise":
        """Return the sum of `terms` products number by number, modulo the first `limbs` primes of t."""
        return Slotwise(self, terms, length, limbs)

    def tiled(self, rows: int, columns: int, vectors: int, bound: int, *, limbs: int = RING.limbs) -> "Tiled":
        """Return the product M V of many vectors in few ciphertexts, for entries of M of at most `bound`.

        It is exact modulo t, or modulo the first prime of t if `limbs` is 1, for less than half of the cost.
        """
        return Tiled(self, (rows, columns, vectors), bound, limbs)


class _Coefficients(Product):
    """Coefficient-packed products with a matrix, in either orientation."""

    def __init__(self, backend: LatticeBackend, layout: Layout, vectors: int) -> None:
        self._backend, self._layout, self._vectors = backend, layout, vectors
        self._inputs, self._outputs, self._positions = self._counts(layout)
        self.vector_bytes = vector_bytes(SHARES, vectors * self._inputs)
        self.product_bytes = products_bytes(SHARES, vectors * self._outputs, len(self._positions))

    @staticmethod
    @abc.abstractmethod
    def _counts(layout: Layout) -> tuple[int, int, NDArray[np.int64]]:
        """Return ciphertexts per vector in, out, and the positions to read."""

    @abc.abstractmethod
    def _pack(self, residues: Words) -> Words: ...

    @abc.abstractmethod
    def _unpack(self, opened: Words) -> Words: ...

    @abc.abstractmethod
    def _multiply(self, matrix: Matrix, vector: Any) -> Any: ...

    def encrypt(self, secret: Share, rng: Rng) -> FreshCiphertexts:
        packed = [self._pack(np.ascontiguousarray(secret[:, :, v].T)) for v in range(self._vectors)]
        return self._backend.secret.encrypt(np.concatenate(packed), rng)

    def evaluate(self, received: FreshCiphertexts, operand: Any, rng: Rng) -> tuple[FreshCiphertexts, Share]:
        peer, each = self._backend.peer, self._inputs
        vector = peer.accept(received, self._vectors * each)
        matrices = operand if isinstance(operand, tuple) else (operand,) * self._vectors
        results = [
            self._multiply(matrix, vector[v * each : (v + 1) * each])
            for v, matrix in zip(range(self._vectors), matrices, strict=True)
        ]
        joined = type(vector).join(results) if len(results) > 1 else results[0]
        fresh, masks = peer.rerandomise(joined, self._positions, rng)
        return fresh, RING.negate(self._arrange(masks))

    def open(self, received: FreshCiphertexts) -> Share:
        return self._arrange(
            self._backend.secret.open(received, self._vectors * self._outputs, self._positions)
        )

    def _arrange(self, opened: Words) -> Share:
        """Order (vectors outputs, positions, L) as (L, length, vectors)."""
        each = self._outputs
        parts = [self._unpack(opened[v * each : (v + 1) * each]) for v in range(self._vectors)]
        return np.ascontiguousarray(np.stack(parts, axis=-1).transpose(1, 0, 2))


@final
class _Forward(_Coefficients):
    @staticmethod
    def _counts(layout: Layout) -> tuple[int, int, NDArray[np.int64]]:
        return layout.groups, layout.chunks, layout.row_positions

    def _pack(self, residues: Words) -> Words:
        return self._layout.pack_columns(residues)

    def _unpack(self, opened: Words) -> Words:
        return self._layout.unpack_rows(opened)

    def _multiply(self, matrix: Matrix, vector: Any) -> Any:
        return matrix.forward(vector)


@final
class _Backward(_Coefficients):
    @staticmethod
    def _counts(layout: Layout) -> tuple[int, int, NDArray[np.int64]]:
        return layout.chunks, layout.groups, layout.column_positions

    def _pack(self, residues: Words) -> Words:
        return self._layout.pack_rows(residues)

    def _unpack(self, opened: Words) -> Words:
        return self._layout.unpack_columns(opened)

    def _multiply(self, matrix: Matrix, vector: Any) -> Any:
        return matrix.backward(vector)


@final
class Tiled(Product):
    """Products with a matrix that take many vectors in a ciphertext (:mod:`vfl.crypto.lattice.tiles`)."""

    def __init__(self, backend: LatticeBackend, sizes: tuple[int, int, int], bound: int, limbs: int) -> None:
        if limbs not in (1, RING.limbs):
            raise EncodingOverflow(f"products in tiles have 1 or {RING.limbs} limbs, not {limbs}")
        self._bound, self._ring = bound, Ring(RING.primes[:limbs])
        whole = limbs == RING.limbs
        self._params = SHARES if whole else SLOTS[0]
        self._secret = backend.secret if whole else backend.slot_secrets[0]
        self._peer = backend.peer if whole else backend.slot_peers[0]
        self._tiles = tiles = Tiles.fewest(self._params, *sizes)
        self.vector_bytes = vector_bytes(self._params, tiles.inputs)
        self.product_bytes = products_bytes(self._params, tiles.outputs, len(tiles.positions))

    def prepare(self, integers: NDArray[np.int32]) -> Words:
        """Return the operand for a matrix. Raises EncodingOverflow if an entry exceeds the bound."""
        if int(np.abs(integers).max()) > self._bound:
            raise EncodingOverflow(f"matrix entries exceed the bound {self._bound}")
        return self._tiles.operands(integers)

    def encrypt(self, secret: Share, rng: Rng) -> FreshCiphertexts:
        """Encrypt V, (L, columns, vectors)."""
        return self._secret.encrypt(self._tiles.pack(secret), rng)

    def evaluate(
        self, received: FreshCiphertexts, operand: Words, rng: Rng
    ) -> tuple[FreshCiphertexts, Share]:
        """Multiply by a matrix that :meth:`prepare` took."""
        peer, tiles = self._peer, self._tiles
        product = tiles.multiply(peer.accept(received, tiles.inputs), operand, self._bound)
        fresh, masks = peer.rerandomise(product, tiles.positions, rng)
        return fresh, self._ring.negate(tiles.unpack(masks))

    def open(self, received: FreshCiphertexts) -> Share:
        """Return the key holder's share: (L, rows, vectors)."""
        tiles = self._tiles
        return tiles.unpack(self._secret.open(received, tiles.outputs, tiles.positions))


@final
class Slotwise(Product):
    """Products number by number, prime by prime; short ones side by side, so that one ciphertext takes all J."""

    def __init__(self, backend: LatticeBackend, terms: int, length: int, limbs: int) -> None:
        if terms < 1 or length < 1 or not 1 <= limbs <= RING.limbs:
            raise EncodingOverflow(
                f"{terms} products of {length} numbers of {limbs} limbs cannot be computed"
            )
        self._backend, self._degree, self._length = backend, SHARES.degree, length
        self._beside = terms if terms * length <= self._degree else 1
        self._terms, self._blocks = terms // self._beside, -(-length // self._degree)
        self._positions = np.arange(self._degree)
        self._ring = Ring(RING.primes[:limbs])
        self._slots = [Slots(params) for params in SLOTS[:limbs]]
        self._vectors = [vector_bytes(params, self._blocks * self._terms) for params in SLOTS[:limbs]]
        self._products = [products_bytes(params, self._blocks, self._degree) for params in SLOTS[:limbs]]
        self.vector_bytes, self.product_bytes = sum(self._vectors), sum(self._products)

    def _arrange(self, values: Share, limb: int) -> Words:
        """Cut one limb of (J, L, length) into (blocks, J, N)."""
        out = np.zeros((self._terms, self._blocks * self._degree), np.uint32)
        out[:, : self._beside * self._length] = values[:, limb].reshape(self._terms, -1)
        blocks = out.reshape(self._terms, self._blocks, self._degree).transpose(1, 0, 2)
        return np.ascontiguousarray(blocks)

    def encrypt(self, secret: Share, rng: Rng) -> FreshCiphertexts:
        """Encrypt factors, (J, L, length)."""
        parts: list[FreshCiphertexts] = []
        for limb, (slots, key) in enumerate(zip(self._slots, self._backend.slot_secrets, strict=False)):
            encoded = slots.encode(self._arrange(secret, limb).reshape(-1, self._degree))
            parts.append(key.encrypt(encoded, rng))
        return Bundle(parts)

    def evaluate(self, received: FreshCiphertexts, operand: Any, rng: Rng) -> tuple[FreshCiphertexts, Share]:
        """Multiply by the other factors, (J, L, length)."""
        return self.multiply(self.accept(received), operand, rng)

    def accept(self, received: FreshCiphertexts) -> list[Ciphertexts]:
        """Validate the key holder's factors, prime by prime, for one product with them or several."""
        bundle = _split(received, self._vectors)
        return [
            key.accept(part, self._blocks * self._terms)
            for part, key in zip(bundle, self._backend.slot_peers, strict=False)
        ]

    def multiply(
        self, factors: list[Ciphertexts], operand: Share, rng: Rng
    ) -> tuple[FreshCiphertexts, Share]:
        """Multiply accepted factors by (J, L, length) numbers, L being that of the factors or smaller."""
        parts: list[FreshCiphertexts] = []
        limbs = operand.shape[1]
        ring = Ring(RING.primes[:limbs])
        share = ring.zeros(self._length)
        for limb, (slots, key) in enumerate(zip(self._slots[:limbs], self._backend.slot_peers, strict=False)):
            sums = slots.multiply(factors[limb], self._arrange(operand, limb))
            fresh, masks = key.rerandomise(sums, self._positions, rng)
            parts.append(fresh)
            share[limb] = self._sums(slots.decode(masks), limb)
        return Bundle(parts), ring.negate(share)

    def open(self, received: FreshCiphertexts) -> Share:
        """Return the key holder's share: (L, length)."""
        return self.open_limbs(received, self._ring.limbs)

    def bytes_of(self, limbs: int) -> int:
        """Return the size of a product modulo the first `limbs` primes."""
        return sum(self._products[:limbs])

    def open_limbs(self, received: FreshCiphertexts, limbs: int) -> Share:
        """Return the key holder's share of a product modulo the first `limbs` primes: (limbs, length)."""
        share = Ring(RING.primes[:limbs]).zeros(self._length)
        bundle = _split(received, self._products[:limbs])
        for limb, (slots, key) in enumerate(
            zip(self._slots[:limbs], self._backend.slot_secrets, strict=False)
        ):
            opened = key.open(bundle[limb], self._blocks, self._positions)
            share[limb] = self._sums(slots.decode(opened), limb)
        return share

    def _sums(self, values: Words, limb: int) -> Words:
        """Return the first `length` numbers of slots, (blocks, N), and those that stand beside them added."""
        used = values.reshape(-1)[: self._beside * self._length].reshape(self._beside, -1)
        summed: Words = (used.sum(axis=0, dtype=np.uint64) % RING.primes[limb]).astype(np.uint32)
        return summed
