"""Fewer bytes: quantisation, random and largest coordinates, sketches; and the memory of what was left out.

A codec makes bytes of an update and, of the bytes, a *payload*: numbers that may be averaged over clients before
:meth:`Codec.restore` makes a vector of the mean. What composes with secure aggregation is what every client has in the
same places and on the same scale:

    Full, RandomK, Sketched        compose: payloads add up
    Quantised                      does not: each client has a scale of its own (secure aggregation has its own, the
                                   agreed fixed-point grid of 2 to 60 bits)
    TopK                           does not: each client has coordinates of its own, and they tell about its data

Error feedback keeps what a codec left out of an update and adds it to the next one; the loop does it for codecs that
say `feedback`.

Sources: Suresh et al., "Distributed Mean Estimation with Limited Communication", ICML 2017 (stochastic k-level
quantisation). Alistarh et al., "QSGD", NeurIPS 2017. Stich, Cordonnier and Jaggi, "Sparsified SGD with
Memory", NeurIPS 2018 (top-k, random-k, memory). Charikar, Chen and Farach-Colton, "Finding Frequent Items in Data
Streams", 2002 (count-sketch); Rothchild et al., "FetchSGD", ICML 2020.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.errors import InvalidData, MalformedMessage
from vfl.horizontal.composing import Needs
from vfl.horizontal.vectors import Matrix, Vector, generator

__all__ = [
    "Codec",
    "Full",
    "Quantised",
    "RandomK",
    "Sketched",
    "TopK",
    "buckets",
    "dequantise",
    "estimates",
    "quantise",
    "sketch",
    "with_feedback",
]

FLOAT = np.dtype("<f4")


@dataclass(frozen=True)
class Codec:
    """How an update travels; this one as 32-bit numbers."""

    @property
    def needs(self) -> Needs:
        """What the server has to see."""
        return Needs.SUM

    @property
    def feedback(self) -> bool:
        """Whether clients keep what was left out."""
        return False

    def encode(self, vector: Vector, rng: np.random.Generator, seed: int) -> bytes:
        """Return the bytes of an update.

        Parameters
        ----------
        vector : ndarray of float64, shape (size,)
        rng : numpy.random.Generator
            The client's own.
        seed : int
            The round's, which all clients and the server know.
        """
        return vector.astype(FLOAT).tobytes()

    def payload(self, raw: bytes, size: int, seed: int) -> Vector:
        """Return the numbers that may be averaged.

        Raises
        ------
        MalformedMessage
            If the bytes are not as many as an update takes.
        """
        return _floats(raw, size)

    def restore(self, payload: Vector, size: int, seed: int) -> Vector:
        """Return the vector, shape (size,), of a payload or of a mean of payloads."""
        return payload

    def decode(self, raw: bytes, size: int, seed: int) -> Vector:
        """Return the vector that the server makes of one client's bytes."""
        return self.restore(self.payload(raw, size, seed), size, seed)


@dataclass(frozen=True)
class Full(Codec):
    """All coordinates as 32-bit numbers: 4 bytes each."""


def _floats(raw: bytes, count: int) -> Vector:
    if len(raw) != 4 * count:
        raise MalformedMessage(f"an update of {count} numbers has {4 * count} bytes, not {len(raw)}")
    return np.frombuffer(raw, FLOAT).astype(np.float64)


# --- quantisation


def quantise(vector: Vector, bits: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], float, float]:
    """Return levels 0 to 2^bits - 1 between the least and the largest number, and these two; the mean is kept.

    A number between two levels goes to either at random, with chances that make it right on average.
    """
    if not 1 <= bits <= 8:
        raise InvalidData(f"quantisation takes 1 to 8 bits, not {bits}")
    low, high = (float(end) for end in (vector.min(), vector.max()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InvalidData("the update has numbers that are not finite")
    places = (vector - low) * (((1 << bits) - 1) / (high - low) if high > low else 0.0)
    down = np.floor(places)
    levels = down + (rng.random(vector.size) < places - down)
    return levels.astype(np.uint8), low, high


def dequantise(levels: NDArray[np.uint8], bits: int, low: float, high: float) -> Vector:
    """Return the numbers of levels."""
    return low + levels.astype(np.float64) * ((high - low) / ((1 << bits) - 1))


@dataclass(frozen=True)
class Quantised(Codec):
    """Stochastic quantisation: `bits` for each coordinate and 8 bytes for the ends of the range."""

    bits: int = 8

    @property
    def needs(self) -> Needs:
        """Every client has its own scale."""
        return Needs.CLEAR

    def encode(self, vector: Vector, rng: np.random.Generator, seed: int) -> bytes:
        """Return the ends and the levels, packed."""
        levels, low, high = quantise(vector.astype(FLOAT).astype(np.float64), self.bits, rng)
        octets = np.unpackbits(levels[:, None], axis=1, bitorder="little")[:, : self.bits]
        return (
            np.array([low, high], FLOAT).tobytes() + np.packbits(octets.ravel(), bitorder="little").tobytes()
        )

    def payload(self, raw: bytes, size: int, seed: int) -> Vector:
        """Return the numbers of all coordinates."""
        expected = 8 + -(-size * self.bits // 8)
        if len(raw) != expected:
            raise MalformedMessage(
                f"{size} numbers of {self.bits} bits have {expected} bytes, not {len(raw)}"
            )
        low, high = np.frombuffer(raw[:8], FLOAT).tolist()
        ones = np.unpackbits(np.frombuffer(raw[8:], np.uint8), bitorder="little")[: size * self.bits]
        levels = np.packbits(ones.reshape(size, self.bits), axis=1, bitorder="little")[:, 0]
        return dequantise(levels, self.bits, low, high)


# --- some of the coordinates


def _kept(part: float, size: int) -> int:
    if not 0 < part <= 1:
        raise InvalidData(f"the part of coordinates that is kept lies above 0 and at most at 1, not {part}")
    return max(1, int(part * size))


@dataclass(frozen=True)
class RandomK(Codec):
    """A random part of the coordinates, the same at all clients by the round's seed: no index travels."""

    part: float = 1 / 32

    @property
    def feedback(self) -> bool:
        """What is left out comes later."""
        return True

    def support(self, size: int, seed: int) -> NDArray[np.int64]:
        """Return the coordinates of a round, sorted."""
        return np.sort(generator(seed, 2).permutation(size)[: _kept(self.part, size)])

    def encode(self, vector: Vector, rng: np.random.Generator, seed: int) -> bytes:
        """Return the coordinates of the round."""
        return vector[self.support(vector.size, seed)].astype(FLOAT).tobytes()

    def payload(self, raw: bytes, size: int, seed: int) -> Vector:
        """Return the coordinates of the round."""
        return _floats(raw, _kept(self.part, size))

    def restore(self, payload: Vector, size: int, seed: int) -> Vector:
        """Return the vector with zeros elsewhere."""
        vector = np.zeros(size)
        vector[self.support(size, seed)] = payload
        return vector


@dataclass(frozen=True)
class TopK(Codec):
    """The coordinates of largest absolute value: 4 bytes of value and 4 of place each, 2 below 2^16 coordinates."""

    part: float = 1 / 48

    @property
    def needs(self) -> Needs:
        """Every client has its own coordinates."""
        return Needs.CLEAR

    @property
    def feedback(self) -> bool:
        """What is left out comes later."""
        return True

    def encode(self, vector: Vector, rng: np.random.Generator, seed: int) -> bytes:
        """Return places and values."""
        kept = _kept(self.part, vector.size)
        places = np.sort(np.argpartition(np.abs(vector), -kept)[-kept:])
        return places.astype(_places(vector.size)).tobytes() + vector[places].astype(FLOAT).tobytes()

    def payload(self, raw: bytes, size: int, seed: int) -> Vector:
        """Return the vector with zeros elsewhere."""
        kept, kind = _kept(self.part, size), _places(size)
        if len(raw) != kept * (kind.itemsize + 4):
            raise MalformedMessage(f"{kept} places and values do not have {len(raw)} bytes")
        places = np.frombuffer(raw[: kept * kind.itemsize], kind)
        if int(places.max()) >= size or (np.diff(places.astype(np.int64)) <= 0).any():
            raise MalformedMessage("places ascend and lie within the vector")
        vector = np.zeros(size)
        vector[places] = _floats(raw[kept * kind.itemsize :], kept)
        return vector


def _places(size: int) -> np.dtype[np.unsignedinteger]:
    return np.dtype("<u2") if size <= 1 << 16 else np.dtype("<u4")


# --- count-sketch


def buckets(size: int, rows: int, columns: int, seed: int) -> tuple[NDArray[np.int64], Matrix]:
    """Return column and sign of every coordinate in every row, shapes (rows, size)."""
    rng = generator(seed, 3)
    return rng.integers(columns, size=(rows, size)), rng.choice(np.array([-1.0, 1.0]), size=(rows, size))


def sketch(vector: Vector, rows: int, columns: int, seed: int) -> Matrix:
    """Return the table, shape (rows, columns): sums of signed coordinates by column. Linear in the vector."""
    places, signs = buckets(vector.size, rows, columns, seed)
    table = [
        np.bincount(p, weights=s * vector, minlength=columns) for p, s in zip(places, signs, strict=True)
    ]
    return np.array(table)


def estimates(table: Matrix, size: int, seed: int) -> Vector:
    """Return the estimate of each coordinate: the median over rows."""
    rows, columns = table.shape
    places, signs = buckets(size, rows, columns, seed)
    return np.asarray(np.median(signs * np.take_along_axis(table, places, axis=1), axis=0))


@dataclass(frozen=True)
class Sketched(Codec):
    """A count-sketch of the update; of the mean sketch the largest estimates are taken.

    Without the server's memory of FetchSGD: what is small in every round stays out, so it suits updates with few large
    coordinates.
    """

    rows: int = 5
    columns: int = 100
    kept: int = 50

    def encode(self, vector: Vector, rng: np.random.Generator, seed: int) -> bytes:
        """Return the table."""
        return sketch(vector, self.rows, self.columns, seed).astype(FLOAT).tobytes()

    def payload(self, raw: bytes, size: int, seed: int) -> Vector:
        """Return the table, flat."""
        return _floats(raw, self.rows * self.columns)

    def restore(self, payload: Vector, size: int, seed: int) -> Vector:
        """Return the largest estimates, zeros elsewhere."""
        guessed = estimates(payload.reshape(self.rows, self.columns), size, seed)
        small = np.argpartition(np.abs(guessed), -min(self.kept, size))[: -min(self.kept, size)]
        guessed[small] = 0.0
        return guessed


def with_feedback(
    codec: Codec, vector: Vector, memory: Vector, rng: np.random.Generator, seed: int
) -> tuple[bytes, Vector]:
    """Return the bytes of the update and the memory together, and the memory of what these bytes leave out."""
    wanted = vector + memory
    raw = codec.encode(wanted, rng, seed)
    return raw, wanted - codec.decode(raw, vector.size, seed)
