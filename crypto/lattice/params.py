"""Parameters of the lattice scheme: degree, primes, and the bounds that follow from them.

q is a product of primes p = 1 mod 2N between 2^29 and 2^30, and t, the plaintext modulus, the product of the first of
them. So q/t is an integer: encoding a message rounds nothing, the noise of a result is a sum of products with fresh
errors and nothing else, and decryption is arithmetic modulo single primes.

**Security.** Secrets are ternary, errors centred binomial of standard deviation sqrt(10.5) = 3.24. The table bounds
log2 q for 128-bit classical security: Albrecht and others, "Homomorphic Encryption Standard" (2018,
HomomorphicEncryption.org, eprint 2019/939), table for ternary secrets. Newer estimates of attacks lie some six bits
below the table's 128 at its limit (lattice-estimator: 2^122 for N = 8192 and 218 bits); GRADIENT has 150 bits there.

**Noise.** A result is the sum of c_k x_k for fresh c_k with errors e_k and integer polynomials x_k, plus a public-key
encryption of zero. Each coefficient of its noise is linear in the errors: coefficients of the x_k times e_k, of u
times the public key's error, of s times e_1, and e_0. An error is the sum of 42 independent centred bits, hence
subgaussian with variance 10.5, so |noise| > B = 12 sigma sqrt(|x|^2 + 2N + 1) has a probability below 2 exp(-72) <
2^-102, |x|^2 being the sum of all squared coefficients (Hoeffding's inequality).

**Flooding and switching.** The result is flooded with a uniform number in [-F, F), then switched from q down to q' =
t p for the first prime p after those of t, rounding each coefficient by at most 0.51; in b + a s that is less than N.
The message is read exactly if F + B + N q/q' < q/(2t). F is the largest power of two that fits. A number shifted by
at most B and flooded by F is within statistical distance B/(2F) of the flooding alone: below 2^-41, as
:meth:`Parameters.check_noise` demands F >= 2^40 B.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, final

import gmpy2
import numpy as np
from numpy.typing import NDArray

from vfl.crypto.lattice.tables import Tables, Words, tables
from vfl.errors import EncodingOverflow, InvalidKey

__all__ = [
    "FLOODING_BITS",
    "GRADIENT",
    "MAX_MODULUS_BITS",
    "SHARES",
    "SIGMA",
    "SLOTS",
    "Parameters",
    "limb_primes",
]

MAX_MODULUS_BITS = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438, 32768: 881}
FLOODING_BITS = 40
SIGMA = math.sqrt(10.5)
TAIL = 12
_STEP = 1 << 16  # primes that are 1 modulo this serve every degree of the table

Residues = NDArray[np.uint64]
Integers = NDArray[np.int64] | NDArray[np.object_]


def limb_primes(count: int, skip: int = 0) -> tuple[int, ...]:
    """Return `count` primes below 2^30, the largest first, after leaving out `skip`; all are 1 modulo 2^16."""
    found: list[int] = []
    candidate = (1 << 30) + 1
    while len(found) < count + skip:
        candidate -= _STEP
        if gmpy2.is_prime(candidate):
            found.append(candidate)
    return tuple(found[skip:])


@final
@dataclass(frozen=True)
class Parameters:
    """Degree and primes, checked at construction.

    Parameters
    ----------
    degree : int
        N, a power of two in the table.
    plain : tuple of int
        Primes whose product is t.
    extra : tuple of int
        The other primes of q; results are returned modulo t times the first of them.

    Raises
    ------
    InvalidKey
        If q exceeds the table for 128-bit security, or a prime does not fit the arithmetic.
    """

    degree: int
    plain: tuple[int, ...]
    extra: tuple[int, ...]

    @classmethod
    def of(cls, degree: int, plain: int, extra: int) -> Self:
        """Take the largest primes: `plain` of them for t and `extra` more."""
        primes = limb_primes(plain + extra)
        return cls(degree, primes[:plain], primes[plain:])

    def __post_init__(self) -> None:
        limit, bits = MAX_MODULUS_BITS.get(self.degree), self.modulus.bit_length()
        if limit is None:
            raise InvalidKey(f"degree {self.degree} is not in the table {sorted(MAX_MODULUS_BITS)}")
        if bits > limit:
            raise InvalidKey(
                f"a modulus of {bits} bits at degree {self.degree} exceeds the {limit} bits that the standard "
                "allows for 128-bit security; take a larger degree or fewer primes"
            )
        if not self.plain or not self.extra or len(set(self.primes)) < len(self.primes):
            raise InvalidKey(
                "plaintext and ciphertext modulus need at least one prime more each, all different"
            )
        wrong = [p for p in self.primes if not 1 << 29 < p < 1 << 30 or p % (2 * self.degree) != 1]
        if wrong or not all(gmpy2.is_prime(p) for p in self.primes):
            raise InvalidKey(f"not all primes lie between 2^29 and 2^30 and are 1 modulo {2 * self.degree}")

    @property
    def primes(self) -> tuple[int, ...]:
        """The primes of q, those of t first."""
        return self.plain + self.extra

    @property
    def kept(self) -> int:
        """Number of primes of q', the modulus of what is returned."""
        return len(self.plain) + 1

    @property
    def modulus(self) -> int:
        """The ciphertext modulus q."""
        return math.prod(self.primes)

    @property
    def plain_modulus(self) -> int:
        """The plaintext modulus t."""
        return math.prod(self.plain)

    @cached_property
    def tables(self) -> Tables:
        """Constants of the transforms."""
        return tables(self.degree, self.primes)

    @cached_property
    def delta(self) -> Words:
        """q/t modulo the primes of t, and Shoup's quotients: shape (limbs of t, 2)."""
        scale = math.prod(self.extra)
        return np.array([(scale % p, (scale % p << 32) // p) for p in self.plain], np.uint32)

    @cached_property
    def inverses(self) -> Words:
        """Inverse of each prime modulo each earlier one, and Shoup's quotients: shape (limbs, limbs, 2)."""
        table = np.zeros((len(self.primes), len(self.primes), 2), np.uint32)
        for last, divisor in enumerate(self.primes):
            for limb, p in enumerate(self.primes[:last]):
                inverse = pow(divisor, -1, p)
                table[last, limb] = inverse, (inverse << 32) // p
        return table

    @cached_property
    def halves(self) -> Words:
        """(p - 1)/2 for each prime of q, for rounding."""
        return np.array([(p - 1) // 2 for p in self.primes], np.uint32)

    @property
    def flood_log(self) -> int:
        """log2 F: the flooding is uniform in [-F, F)."""
        delta = math.prod(self.extra)
        room = delta // 2 - (delta // self.extra[0] + 1) * self.degree
        return (room - (room >> FLOODING_BITS)).bit_length() - 1

    def noise_bound(self, norm: float) -> float:
        """Return B for operands whose coefficients have the Euclidean norm `norm` altogether."""
        return TAIL * SIGMA * math.sqrt(norm**2 + 2 * self.degree + 1)

    def flooding_bits(self, norm: float) -> int:
        """Return floor(log2(F/B))."""
        return math.floor(self.flood_log - math.log2(self.noise_bound(norm)))

    def check_noise(self, norm: float) -> None:
        """Refuse results whose noise the flooding would not hide.

        Raises
        ------
        EncodingOverflow
            If fewer than FLOODING_BITS bits of flooding fit over the noise.
        """
        if self.flooding_bits(norm) < FLOODING_BITS:
            raise EncodingOverflow(
                f"operands of norm 2^{math.log2(norm):.1f} leave {self.flooding_bits(norm)} bits of flooding, "
                f"{FLOODING_BITS} are needed; take parameters with one more prime"
            )

    def check_range(self, terms: int, first: int, second: int) -> None:
        """Refuse inner products that could wrap modulo t: `terms` products within the two absolute bounds.

        Raises
        ------
        EncodingOverflow
        """
        if 2 * terms * first * second >= self.plain_modulus:
            raise EncodingOverflow(
                f"{terms} products of up to {first.bit_length()} and {second.bit_length()} bits exceed the plaintext "
                f"modulus of {self.plain_modulus.bit_length()} bits; take parameters with one more prime"
            )

    def residues(self, values: Sequence[int] | NDArray[Any]) -> Words:
        """Reduce integers of any size and shape modulo the primes of t, on a new last axis."""
        array = np.asarray(values)
        if array.dtype.kind not in "iuO":
            raise EncodingOverflow(f"integers are needed, not {array.dtype}")
        return np.stack([(array % p).astype(np.uint32) for p in self.plain], axis=-1)

    def lift(self, residues: NDArray[Any]) -> Integers:
        """Return the centred integers of residues modulo the primes of t (last axis): int64, or Python's."""
        return lift(residues, self.plain)


def lift(residues: NDArray[Any], primes: tuple[int, ...]) -> Integers:
    """Return the integers in [-m/2, m/2) of residues modulo primes of product m (last axis).

    Mixed radix: int64 while m is below 2^62, Python's integers in an object array beyond.
    """
    total = math.prod(primes)
    small = total < 1 << 62
    value: Any = residues[..., 0].astype(np.int64 if small else object)
    product = primes[0]
    for limb, p in enumerate(primes[1:], 1):
        digit = (residues[..., limb].astype(np.int64) - (value % p).astype(np.int64)) % p
        digit = digit * pow(product, -1, p) % p
        value = value + product * (digit if small else digit.astype(object))
        product *= p
    centred: Integers = np.where(value > total // 2, value - total, value)
    return centred


GRADIENT = Parameters.of(8192, 2, 3)  # t of 60 bits: 10^6 rows of 16-bit features and 24-bit residuals
SHARES = Parameters.of(8192, 4, 3)  # t of 120 bits: a ring for shares
SLOTS = tuple(
    Parameters(8192, (p,), limb_primes(3, 4)) for p in SHARES.plain
)  # SHARES prime by prime, with slots
