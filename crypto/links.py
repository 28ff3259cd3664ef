"""Links as chains of sines, which shares can evaluate: the logistic function and the exponential.

    u_k = a_k sin(u_(k-1) + w_k z + f_k),  u_0 = 0,        link(z) = c + b z + u_n

A sine of a shared angle costs one round and no truncation (:meth:`vfl.protocols.arithmetic.Arithmetic.sine`), and it
is bounded whatever its argument. So a chain needs no comparison and no domain extension, covers a wide range with few
steps, each of which about doubles the steepness at zero, and outside of its range it is wrong but no larger than
inside, which a polynomial is not. The inner steps are shared modulo a few primes of t only: m is their product, and u_k
is shared as u_k m / (2 pi), so that the share itself is the next angle. That bounds |a_k| by pi, and fixes their
precision: a factor is rounded to an integer, which moves the angle by up to sqrt(2 |a_k| 2 pi/m), at random and with
mean zero.

The constants are minimax fits: nonlinear least squares of rising powers of the error over random starts, of what stays
below pi. What they are worth is what :func:`Chain.clear` says, and the tests compare it with the function itself on a
fine grid. Cheon, Kim, Park, "Logistic regression over encrypted data from fully homomorphic encryption", BMC Medical
Genomics 2018, and Cheon, Kim, Kim, "Efficient homomorphic evaluation on large intervals", eprint 2020/1203, section 3,
reach such ranges by iterated polynomials: 12 products and truncations for what takes seven sines here.
"""

import math
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.ring import RING

__all__ = ["EXPONENTIAL", "LOGISTIC", "LOGISTIC_20", "Chain", "Step"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """One sine: amplitude a, and the angle's slope w and start f, in radians."""

    amplitude: float
    slope: float
    start: float = 0.0


@final
@dataclass(frozen=True)
class Chain:
    """A function of a score.

    Attributes
    ----------
    steps : tuple of Step
    reach : tuple of float
        The scores for which it approximates the link.
    limbs : int
        Primes of t modulo which the inner steps are shared.
    guard_bits : int
        Fraction bits of the last step beyond those of the result.
    scale : float
        The function is this times c + b z + u_n.
    constant, linear : float
        c and b.
    """

    steps: tuple[Step, ...]
    reach: tuple[float, float]
    limbs: int
    guard_bits: int
    scale: float = 1.0
    constant: float = 0.0
    linear: float = 0.0

    @property
    def inner_modulus(self) -> int:
        """m: what inner steps are shared modulo."""
        return math.prod(RING.primes[: self.limbs])

    @property
    def largest(self) -> float:
        """Bound of the absolute value, for scores within the range."""
        ends = max(map(abs, self.reach))
        return self.scale * (abs(self.constant) + abs(self.linear) * ends + abs(self.steps[-1].amplitude))

    @property
    def rounding(self) -> float:
        """Bound of what rounding inner steps does to the function: each step's, by the slopes of those after it."""
        error = 0.0
        for step in self.steps[:-1]:
            error = abs(step.amplitude) * error
            error += math.sqrt(2 * abs(step.amplitude) * 2 * math.pi / self.inner_modulus)
        return self.scale * abs(self.steps[-1].amplitude) * error

    def stretched(self, factor: float) -> "Chain":
        """Return the function of `factor` z."""
        low, high = sorted(end / factor for end in self.reach)
        steps = tuple(replace(step, slope=step.slope * factor) for step in self.steps)
        return replace(self, steps=steps, reach=(low, high), linear=self.linear * factor)

    def clear(self, z: FloatArray) -> FloatArray:
        """Return the function of scores in the clear."""
        u = np.zeros_like(z)
        for step in self.steps:
            u = step.amplitude * np.sin(u + step.slope * z + step.start)
        value: FloatArray = self.scale * (self.constant + self.linear * z + u)
        return value


_LOGISTIC = [
    (0.894149926, 24.5333941),
    (1.19766592, 6.51752089),
    (1.44560851, 3.1204371),
    (1.1305031, 0.686546577),
    (1.73553557, 0.313692438),
    (0.942026038, -0.146408577),
    (0.618288825, 1.30318916e-06),
]
_EXPONENTIAL = [
    (0.9920132422, -0.1636791798, 2.59899561),
    (1.579602191, -0.1450472978, 0.6684733784),
    (2.520597929, -0.016220602, 3.266020235),
    (1.841630706, -0.1045060087, -1.213245098),
    (2.532920641, -0.2112667974, 0.3456004441),
    (1.988584821, 9.389555339e-05, -4.104361168),
]

LOGISTIC = Chain(
    steps=tuple(Step(amplitude, slope / 250) for amplitude, slope in _LOGISTIC),
    reach=(-250.0, 250.0),
    limbs=2,
    guard_bits=24,
    constant=0.5,
)
"""1 / (1 + e^-z): off by at most 4.5e-5."""

_LOGISTIC_20 = [
    (0.6440948748, 0.2929653816),
    (1.4328602054, 0.1396462559),
    (1.0541127173, -0.1222476490),
    (0.5001212123, 0.1326062306),
]
LOGISTIC_20 = Chain(
    steps=tuple(Step(*step) for step in _LOGISTIC_20),
    reach=(-20.0, 20.0),
    limbs=1,
    guard_bits=24,
    constant=0.5,
)
"""1 / (1 + e^-z) in four steps, for scores that are bounded: off by at most 1.3e-4."""

EXPONENTIAL = Chain(
    steps=tuple(Step(*step) for step in _EXPONENTIAL),
    reach=(-10.0, 6.0),
    limbs=2,
    guard_bits=20,
    scale=math.exp(6),
    constant=1.988587284,
    linear=5.065081486e-07,
)
"""e^z: off by at most 1.5e-4 of e^z + 0.0025."""
