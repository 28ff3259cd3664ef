"""Symmetric-key BFV for linear protocols: encrypt, multiply by plaintexts, add, make fresh, open.

Notation: R = Z[X]/(X^N + 1), q = t Delta, s the ternary secret; parameters and bounds in :mod:`.params`.

    public key     A = expand(seed), B = -A s + e modulo q
    encrypt m      a = expand(seed), b = -a s + e + Delta m modulo q; sent are seed and b
    evaluate       sums of (a_k, b_k) x_k for integer polynomials x_k, and (0, Delta m)
    make fresh     (a, b) + u (A, B) + (e_1, e_0), u ternary; flooding and Delta mask, mask uniform modulo t, are
                   added to the coefficients of b that the key holder may read; switched down to q' = t p
    open           b + a s = (q'/t) (m + mask) + noise modulo q', for those coefficients: m + mask modulo t

**The key holder sees** a' = switch(sum a_k x_k + u A + e_1) and, for each agreed coefficient, b' = switch(...). The
other coefficients of b are never sent, which hides more than a mask would. u A + e_1 is pseudorandom by ring-LWE with
the secret u: A comes out of a seed, so that nobody can choose it, and a' tells nothing about x. Without it a'/a is x.
b' + a' s is what remains: Delta (m + mask), uniform as far as m goes, and noise. The noise is linear in the x_k, the
errors being known to the key holder, and u and e_1 are in it too; the flooding is at least 2^40 times wider. Each
coefficient costs a statistical distance of B/(2F), 2^-58 with GRADIENT at 10^6 rows, so 2^18 openings stay below 2^-40;
nothing here counts them: a protocol above states how many it makes. A malicious key holder could encrypt with large
errors and see x over the flooding; it is semi-honest here.

**The evaluator sees** ciphertexts and, where the protocol opens m + mask to it, m. Li and Micciancio (eprint 2020/1533)
recover keys from openings of approximate schemes: an opening that contains noise is a linear equation in s. Here the
noise is removed by the rounding and an opening is m + mask modulo t exactly, a function of the evaluator's mask and the
plaintexts alone; it could be computed without the key. That holds while decryption is correct: rounding errors are an
oracle too (Cheon, Choe, Passelegue, Stehle, Suvanto, eprint 2024/127; Checri, Sirdey, Boudguiga, Bultel, eprint
2024/116), and these attacks add up correlated errors that an average-case bound took for independent ones. So the norms
that :class:`Ciphertexts` carry are worst-case bounds, sums add norms, not squares, and the probability of an error is
below 2^-102 per coefficient. An opening has no budget. A malicious evaluator could have any linear function of s
opened and read the key: openings are returned to semi-honest evaluators only, and shares never.

Sources: Fan, Vercauteren, "Somewhat Practical Fully Homomorphic Encryption", eprint 2012/144 (the scheme, there under
the public key, and with rounding). Bajard, Eynard, Hasan, Zucca, "A Full RNS Variant of FV like Somewhat Homomorphic
Encryption Schemes", eprint 2016/510 (arithmetic prime by prime). Flooding: Gentry, "A fully homomorphic encryption
scheme" (thesis, 2009). One coefficient of b with all of a: the sample extraction of Chillotti, Gama, Georgieva,
Izabachene, "TFHE", eprint 2018/421.
"""

import math
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.fresh import FreshCiphertexts
from vfl.crypto.lattice import ntt, sampling, wire
from vfl.crypto.lattice.params import Integers, Parameters, lift
from vfl.crypto.lattice.sampling import SEED_BYTES, Small
from vfl.crypto.lattice.tables import Words
from vfl.crypto.lattice.wire import FreshProducts, FreshVector
from vfl.crypto.rng import Rng
from vfl.crypto.threads import run
from vfl.errors import KeyMismatch

__all__ = ["Ciphertexts", "PublicKey", "SecretKey", "transform"]

_BLOCK = 32  # products made fresh at a time, which bounds the memory for their randomness
_FEW = 8  # coefficients up to which inner products beat transforms


def transform(params: Parameters, values: NDArray[np.int32], threads: int | None = None) -> Words:
    """Transform integer polynomials for multiplication: (count, N), absolute values below 2^29, to (count, L, N)."""
    out = np.empty((len(values), len(params.primes), params.degree), np.uint32)
    table = params.tables

    def pieces(start: int, stop: int) -> None:
        ntt.transform(values[start:stop], out[start:stop], table.primes, table.outer, table.inner)

    run(pieces, len(values), threads)
    return out


def _encrypt(
    params: Parameters, message: Words, error: Small, a: Words, minus_s: Words, threads: int | None
) -> Words:
    out, table = np.empty_like(a), params.tables

    def pieces(start: int, stop: int) -> None:
        batch = (
            message[start:stop],
            error[start:stop],
            a[start:stop],
            minus_s,
            params.delta,
            out[start:stop],
        )
        ntt.encrypt(*batch, table.primes, table.outer, table.inner, table.scale)

    run(pieces, len(a), threads)
    return out


def _message(params: Parameters, message: NDArray[Any]) -> Words:
    """Check plaintext polynomials, (count, limbs of t, N) residues."""
    shape = (len(params.plain), params.degree)
    if message.ndim != 3 or message.shape[1:] != shape:
        raise ValueError(
            f"plaintext polynomials have shape (count, {shape[0]}, {shape[1]}), not {message.shape}"
        )
    if (message >= np.array(params.plain)[:, None]).any() or message.dtype.kind != "u":
        raise ValueError("plaintext polynomials are unsigned residues of the primes of t")
    return np.ascontiguousarray(message, np.uint32)


class Ciphertexts:
    """Ciphertexts to compute with, transformed; their a and noise show what was computed.

    There is no ``to_bytes``: only what :meth:`PublicKey.rerandomise` returns can be sent.

    Attributes
    ----------
    norm : float
        Bound on the Euclidean norm of the plaintext coefficients that each fresh error was multiplied by.
    """

    def __init__(self, key: "PublicKey", a: Words, b: Words, norm: float) -> None:
        self._key, self._a, self._b, self.norm = key, a, b, norm

    def __len__(self) -> int:
        return len(self._a)

    def __getitem__(self, items: slice) -> "Ciphertexts":
        return Ciphertexts(self._key, self._a[items], self._b[items], self.norm)

    @staticmethod
    def join(parts: "Sequence[Ciphertexts]") -> "Ciphertexts":
        """Put results under one key one after the other."""
        key = parts[0]._key
        if any(part._key.id != key.id for part in parts):
            raise KeyMismatch("ciphertexts under different lattice keys cannot be joined")
        a, b = (np.concatenate([getattr(part, name) for part in parts]) for name in ("_a", "_b"))
        return Ciphertexts(key, a, b, max(part.norm for part in parts))

    def __add__(self, other: "Ciphertexts") -> "Ciphertexts":
        """Add item by item; the errors may be the same, so the norms add up."""
        if other._key.id != self._key.id:
            raise KeyMismatch("ciphertexts under different lattice keys cannot be added")
        primes = np.array(self._key.params.primes, np.uint32)[:, None]
        a, b = (self._a + other._a) % primes, (self._b + other._b) % primes
        return Ciphertexts(self._key, a, b, self.norm + other.norm)

    def add_plain(self, message: NDArray[Any]) -> "Ciphertexts":
        """Add plaintext polynomials: (count, limbs of t, N) residues."""
        params = self._key.params
        none = np.zeros((len(self), params.degree), np.int8)
        embedded = _encrypt(
            params, _message(params, message), none, np.zeros_like(self._a), self._a[0] * 0, None
        )
        b = (self._b + embedded) % np.array(params.primes, np.uint32)[:, None]
        return Ciphertexts(self._key, self._a, b, self.norm)

    def sums(
        self,
        operands: Words,
        norm: float,
        *,
        axis: int = 0,
        out: "Ciphertexts | None" = None,
        threads: int | None = None,
    ) -> "Ciphertexts":
        """Compute for each i the sum over k of the k-th ciphertext times operand (i, k).

        Parameters
        ----------
        operands : array of uint32, shape (results, len(self), L, N)
            From :func:`transform`.
        axis : int
            Axis of the operands that counts the results: 1 if they lie the other way, (len(self), results, L, N).
        norm : float
            Bound on the Euclidean norm of all coefficients of one row of operands.
        out : Ciphertexts, optional
            Results to which the sums are added in place; `norm` is then that of both together.
        """
        table = self._key.params.tables
        shape = (operands.shape[axis], *self._a.shape[1:])
        if out is None:
            out = Ciphertexts(self._key, np.zeros(shape, np.uint32), np.zeros(shape, np.uint32), 0.0)
        a, b, out.norm = out._a, out._b, self.norm * norm

        def pieces(start: int, stop: int) -> None:
            results = (a[start:stop], b[start:stop])
            ntt.accumulate(self._a, self._b, operands, start, axis, *results, table.primes, table.scale)

        run(pieces, shape[0], threads)
        return out

    def block_sums(self, operands: Words, norm: float, threads: int | None = None) -> "Ciphertexts":
        """Compute for each block i of J ciphertexts the sum over j of the j-th times operand (i, j).

        Parameters
        ----------
        operands : array of uint32, shape (blocks, J, L, N)
            From :func:`transform`.
        norm : float
            Bound on the Euclidean norm of all coefficients of one block of operands.
        """
        table, terms = self._key.params.tables, operands.shape[1]
        shape = (len(operands), *self._a.shape[1:])
        a, b = np.zeros(shape, np.uint32), np.zeros(shape, np.uint32)

        def pieces(start: int, stop: int) -> None:
            for i in range(start, stop):
                block = slice(i * terms, (i + 1) * terms)
                vector, results = (self._a[block], self._b[block]), (a[i : i + 1], b[i : i + 1])
                ntt.accumulate(*vector, operands[i : i + 1], 0, 0, *results, table.primes, table.scale)

        run(pieces, len(operands), threads)
        return Ciphertexts(self._key, a, b, self.norm * norm)


@final
class PublicKey:
    """The evaluator's side of a key.

    Parameters
    ----------
    params : Parameters
    raw : bytes
        The peer's public key.

    Raises
    ------
    InvalidKey
    """

    def __init__(self, params: Parameters, raw: bytes) -> None:
        seed, b = wire.accept_public(params, raw)
        self.params, self.id, self._raw = params, wire.key_id(raw), raw
        self._pair = np.stack([sampling.expand(params, seed, 1)[0], b])

    def to_bytes(self) -> bytes:
        """Return the canonical encoding."""
        return self._raw

    def accept(self, received: FreshCiphertexts, count: int, threads: int | None = None) -> Ciphertexts:
        """Validate `count` fresh ciphertexts under this key.

        Raises
        ------
        InvalidCiphertext
        """
        seed, b = wire.accept_vector(self.params, self.id, received.to_bytes(), count)
        return Ciphertexts(self, sampling.expand(self.params, seed, count, threads), b, 1.0)

    def rerandomise(
        self, products: Ciphertexts, positions: NDArray[np.int64], rng: Rng, threads: int | None = None
    ) -> tuple[FreshProducts, Words]:
        """Make results fresh, flood and mask the coefficients at `positions`, leave out the others, switch down.

        Returns
        -------
        FreshProducts
        masks : array of uint32, shape (count, positions, limbs of t)
            What was added modulo t, uniform; minus that is the evaluator's share.

        Raises
        ------
        EncodingOverflow
            If the flooding would not hide the noise.
        KeyMismatch
            If the results are under another key.
        """
        params = self.params
        if products._key.id != self.id:
            raise KeyMismatch("the products are under another lattice key")
        params.check_noise(products.norm)
        count, readable = len(products), len(positions)
        a = np.empty((count, params.kept, params.degree), np.uint32)
        b = np.empty((count, params.kept, readable), np.uint32)
        masks = sampling.masks(params, rng, (count, readable)).transpose(1, 0, 2)
        for start in range(0, count, _BLOCK):
            block = slice(start, min(start + _BLOCK, count))
            coefficients = self._add_zero(products[block], positions, a[block], rng, threads)
            self._finish(coefficients, masks[block], b[block], rng, threads)
        return FreshProducts(self.id, a, b.transpose(0, 2, 1)), masks.transpose(0, 2, 1)

    def _add_zero(
        self, products: Ciphertexts, positions: NDArray[np.int64], out: Words, rng: Rng, threads: int | None
    ) -> Words:
        """Add encryptions of zero but for e_0; switch a into `out`; return b at the positions, (k, L, positions)."""
        params, table, count = self.params, self.params.tables, len(products)
        constant = positions.tolist() == [0]
        b = np.empty((count, len(params.primes), 1 if constant else params.degree), np.uint32)
        u = sampling.ternaries(rng, count, params.degree)
        error = sampling.errors(rng, count, params.degree)

        def pieces(start: int, stop: int) -> None:
            batch = (
                products._a[start:stop],
                products._b[start:stop],
                self._pair,
                u[start:stop],
                error[start:stop],
            )
            switch = (params.kept, params.inverses, params.halves, out[start:stop], b[start:stop])
            ntt.rerandomise(*batch, *switch, table.primes, table.outer, table.inner, table.scale)

        run(pieces, count, threads)
        return b if constant or len(positions) == params.degree else b[:, :, positions]

    def _finish(self, b: Words, masks: Words, out: Words, rng: Rng, threads: int | None) -> None:
        """Add e_0, flooding and Delta mask to coefficients, (k, L, positions), and switch them down into `out`."""
        params, table, shape = self.params, self.params.tables, (len(b), b.shape[2])
        flood = sampling.flooding(params, rng, shape)
        error = sampling.errors(rng, 1, math.prod(shape)).reshape(shape)
        powers = np.array([[(1 << 30 * w) % p for p in params.primes] for w in range(len(flood))], np.uint64)
        offset = np.array([-(1 << params.flood_log) % p for p in params.primes], np.uint64)

        def pieces(start: int, stop: int) -> None:
            batch = (
                b[start:stop],
                masks[start:stop],
                flood[:, start:stop],
                error[start:stop],
                offset,
                powers,
            )
            switch = (params.delta, params.kept, params.inverses, params.halves, out[start:stop])
            ntt.finish(*batch, *switch, table.primes, table.scale)

        run(pieces, len(b), threads)


@final
class SecretKey:
    """The key holder's side, with a key drawn for one session.

    Parameters
    ----------
    params : Parameters
    rng : Rng
    """

    def __init__(self, params: Parameters, rng: Rng) -> None:
        self.params = params
        self._secret = sampling.ternaries(rng, 1, params.degree)[0]
        self._transformed = transform(params, self._secret[None].astype(np.int32))[0]
        self._minus = transform(params, -self._secret[None].astype(np.int32))[0]
        seed, b = self._zeros(np.zeros((1, len(params.plain), params.degree), np.uint32), rng, None)
        self.public = PublicKey(params, wire.public_bytes(params, seed, b[0]))

    def _zeros(self, message: Words, rng: Rng, threads: int | None) -> tuple[bytes, Words]:
        seed = rng.bytes(SEED_BYTES)
        error = sampling.errors(rng, len(message), self.params.degree)
        a = sampling.expand(self.params, seed, len(message), threads)
        return seed, _encrypt(self.params, message, error, a, self._minus, threads)

    def encrypt(self, message: NDArray[Any], rng: Rng, threads: int | None = None) -> FreshVector:
        """Encrypt plaintext polynomials: (count, limbs of t, N) residues."""
        seed, b = self._zeros(_message(self.params, message), rng, threads)
        return FreshVector(self.public.id, seed, b)

    def open(
        self, received: FreshCiphertexts, count: int, positions: NDArray[np.int64], threads: int | None = None
    ) -> Words:
        """Validate products and decrypt the agreed coefficients: masked residues, (count, positions, limbs of t).

        Raises
        ------
        InvalidCiphertext
        """
        params = self.params
        a, b = wire.accept_products(params, self.public.id, received.to_bytes(), count, len(positions))
        if len(positions) > _FEW:
            inner = self._times_secret(a, threads)[:, :, positions].transpose(0, 2, 1).astype(np.int64)
        else:
            inner = np.empty((count, len(positions), params.kept), np.int64)
            for column, position in enumerate(positions.tolist()):
                ntt.inner(a, self._rotated(position), inner[:, column])
        primes = np.array(params.primes[: params.kept], np.int64)
        phase = (inner + b) % primes
        p = int(primes[-1])
        noise = phase[..., -1] - p * (phase[..., -1] > p // 2)
        plain = [(phase[..., limb] - noise) % t * pow(p, -1, t) % t for limb, t in enumerate(params.plain)]
        return np.stack(plain, axis=-1).astype(np.uint32)

    def _rotated(self, position: int) -> Small:
        """Return the digits whose inner product with a is coefficient `position` of a s."""
        turned = np.roll(self._secret[::-1], position + 1)
        turned[position + 1 :] *= -1
        return np.ascontiguousarray(turned)

    def _times_secret(self, a: Words, threads: int | None) -> Words:
        out, table = np.empty_like(a), self.params.tables

        def pieces(start: int, stop: int) -> None:
            batch = (a[start:stop], self._transformed, out[start:stop])
            ntt.multiply(*batch, table.primes, table.outer, table.inner, table.scale)

        run(pieces, len(a), threads)
        return out

    def noise(self, products: Ciphertexts) -> Integers:
        """Return the noise of results that were not made fresh, all coefficients: for measurements, never to send."""
        params, table = self.params, self.params.tables
        primes = np.array(params.primes, np.uint64)[:, None]
        phase = (products._b + products._a.astype(np.uint64) * self._transformed) % primes
        out = np.empty(phase.shape, np.uint32)
        values = phase.astype(np.uint32)
        ntt.to_coefficients(values, out, table.primes, table.outer, table.inner, table.scale)
        return lift(out[:, len(params.plain) :].transpose(0, 2, 1), params.extra)
