"""Vectors of bounded length as noisy residues: what a sum needs so that it is differentially private without trust.

A client's vector x of d numbers, padded with zeros to a power of two D >= d, becomes residues modulo 2^b:

    1. clip      x <- x min(1, c / |x|)
    2. rotate    x <- H S x / sqrt(D), S public random signs, H the Hadamard matrix: no coordinate stands out
    3. scale     x <- s x
    4. round     every coordinate up or down at random, its mean kept, until |x| <= L ("conditional rounding")
    5. noise     + N_Z(0, sigma^2) in each coordinate, exact
    6. modulo    2^b

Sums are scaled, rotated back and cut to d numbers. L bounds the integers themselves, so privacy does not depend on
floating-point numbers: the sensitivity of the sum to one client is L, and the noise of n honest clients, each sigma^2
in integers, has the privacy of :meth:`NoisyEncoding.costs`. More noise, of further clients, only helps.

b leaves room for 8 standard deviations of a coordinate: a sum wraps around with a probability of about 2^-46 for each
coordinate, which would spoil the result and not privacy.

Source: Kairouz, Liu and Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation", ICML 2021 (arXiv 2102.06387): theorem 1 (L, tau), proposition 14 (costs), section 4 (modulus, rotation).
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.discrete_gaussian import LARGEST_SIGMA, sample
from vfl.crypto.masking import LARGEST_BITS, Words, reduced, zeros
from vfl.crypto.rng import Rng
from vfl.errors import EncodingOverflow, InvalidData

__all__ = ["NoisyEncoding"]

Floats = NDArray[np.floating]
SPREAD = 8.0  # standard deviations that fit into the modulus
LOG_BETA = -0.5  # of the paper's beta: the logarithm of the part of roundings that may be refused
FINE = 8.0  # a client's length in grid steps, over sqrt(D): rounding adds 1 / (4 * 64) to its square
FEWEST_STEPS = 1024.0  # and at least so many


@dataclass(frozen=True)
class NoisyEncoding:
    """The encoding of one summand.

    Parameters
    ----------
    dimension : int
        d.
    clip : float
        c, the largest Euclidean length of a client's vector.
    noise : float
        Standard deviation, over `clip`, of the noise that all `honest` clients add together to a coordinate.
    parties, honest : int
        Most summands of a sum, and the clients that are sure to be in it and to add their noise.

    Raises
    ------
    EncodingOverflow
        If the noise is too small for the grid or too large for the sampler, or a sum needs more than 64 bits.
    InvalidData
        If a number is not positive.
    """

    dimension: int
    clip: float
    noise: float
    parties: int
    honest: int

    def __post_init__(self) -> None:
        if not (self.dimension >= 1 and 1 <= self.honest <= self.parties and 0 < self.clip < math.inf):
            raise InvalidData("dimension, clip and the number of honest clients must be positive")
        if not 0 < self.noise < math.inf:
            raise InvalidData("the noise must be positive and finite")
        if self.sigma > LARGEST_SIGMA or self.bits > LARGEST_BITS:
            raise EncodingOverflow(
                f"noise of {self.noise:g} times the clip in {self.dimension:,} coordinates takes sums of {self.bits} "
                "bits; take less noise or fewer coordinates"
            )

    @cached_property
    def size(self) -> int:
        """D, the number of residues."""
        return 1 << (self.dimension - 1).bit_length()

    @cached_property
    def scale(self) -> float:
        """s, a power of two."""
        steps = max(FINE * math.sqrt(self.size), FEWEST_STEPS, 2 * math.sqrt(self.honest) / self.noise)
        return float(2.0 ** math.ceil(math.log2(steps / self.clip)))

    @cached_property
    def sigma(self) -> int:
        """Standard deviation of one client's noise, an integer, rounded up."""
        return math.ceil(self.noise * self.clip * self.scale / math.sqrt(self.honest))

    @cached_property
    def limit(self) -> int:
        """L^2, which the integers' squares add up to at most."""
        length, root = self.clip * self.scale, math.sqrt(self.size)
        refusable = length**2 + self.size / 4 + math.sqrt(-2 * LOG_BETA) * (length + root / 2)
        return math.floor(min((length + root) ** 2, refusable))

    @cached_property
    def bits(self) -> int:
        """B, the bits of the modulus."""
        length = math.sqrt(self.limit)
        signal = self.parties * min(length, SPREAD * length / math.sqrt(self.size))
        noise = SPREAD * math.sqrt(self.parties * (self.sigma**2 + 0.25))
        return math.ceil(math.log2(2 * (signal + noise) + 1))

    def costs(self, rounds: int = 1) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return two pairs (rho, xi): the sum of `rounds` sums has Renyi divergences of order a below rho a + xi.

        Both hold; neighbours differ in one client's vector being there or zero.
        """
        k = np.arange(1, self.honest)
        tau = 10 * float(np.exp(-2 * (math.pi * self.sigma) ** 2 * k / (k + 1)).sum())
        ratio = math.sqrt(self.limit / self.honest) / self.sigma
        return (
            (rounds * ratio**2 / 2, rounds * tau * self.size),
            (rounds * (ratio + math.sqrt(self.size) * tau) ** 2 / 2, 0.0),
        )

    def encode(self, vector: Floats, signs: bytes, rng: Rng) -> Words:
        """Return the residues of a noisy vector, shape (size,).

        Parameters
        ----------
        vector : ndarray of float64, shape (dimension,)
        signs : bytes
            Any name of the sum, the same at all clients: it gives the signs of the rotation.
        rng : Rng

        Raises
        ------
        InvalidData
            If a number is not finite.
        """
        length = float(np.linalg.norm(vector))
        if not math.isfinite(length):
            raise InvalidData("the vector has numbers that are not finite, or its length is not")
        padded = np.zeros(self.size)
        padded[: self.dimension] = vector * min(1.0, self.clip / length if length else 1.0)
        turned = _hadamard(padded * self._signs(signs)) * (self.scale / math.sqrt(self.size))
        noisy = self._rounded(turned, rng) + sample(rng, self.sigma, self.size)
        residues = zeros(self.size, self.bits)
        residues[:] = noisy.view(np.uint64).astype(residues.dtype)
        return residues

    def decode(self, total: Words, signs: bytes) -> NDArray[np.float64]:
        """Return the noisy sum of vectors, shape (dimension,), from a sum of residues."""
        shift = np.uint64(64 - self.bits)
        signed = (reduced(total, self.bits) << shift).view(np.int64) >> np.int64(shift)
        turned = _hadamard(signed * (1.0 / (self.scale * math.sqrt(self.size))))
        return (turned * self._signs(signs))[: self.dimension].astype(np.float64, copy=False)

    def _rounded(self, values: Floats, rng: Rng) -> NDArray[np.int64]:
        """Round at random, keeping means, until the squares add up to no more than the limit."""
        down = np.floor(values)
        chance, low = values - down, down.astype(np.int64)
        while True:
            uniform = np.frombuffer(rng.bytes(8 * values.size), "<u8") >> np.uint64(11)
            rounded: NDArray[np.int64] = low + (uniform * 2.0**-53 < chance)
            if int(rounded @ rounded) <= self.limit:
                return rounded

    def _signs(self, name: bytes) -> Floats:
        octets = hashlib.shake_256(b"vfl noisy signs" + name).digest(-(-self.size // 8))
        ones = np.unpackbits(np.frombuffer(octets, np.uint8))[: self.size]
        return 1.0 - 2.0 * ones


def _hadamard(values: Floats) -> Floats:
    """Return H x for the Hadamard matrix of Sylvester's order."""
    half = 1
    while half < values.size:
        pairs = values.reshape(-1, 2, half)
        values = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
        half *= 2
    return values.reshape(-1)
