"""Arithmetic on numbers that two parties share modulo t, in fixed point.

Sums, and products with public constants, are local. A product of shared numbers is x y = (a + b)(c + d) = a c + b d +
(a d + c b): the guest (a, c) and the host (b, d) multiply their own parts and take one
:func:`~vfl.protocols.product.cross` for the rest. A whole polynomial of one shared number is a single such round, too:
by the binomial theorem

    P(a + b) = P(a) + sum_j (sum_k>j c_k binom(k, j) a^(k-j)) b^j + sum_j c_j b^j

where the first sum takes j = 1 ... degree - 1 products of a number of the guest's and one of the host's. All of that is
exact modulo t; then one truncation brings the result back to its fraction bits (:meth:`vfl.crypto.ring.Ring.truncate`).

A sine needs no truncation and wraps as its argument does. If both parties know their share as a part of a turn, x =
2 pi (a + b), then sin x = sin 2 pi a cos 2 pi b + cos 2 pi a sin 2 pi b, and what each has to bring in is a number of a
few bits that it computes alone. An integer shared modulo m stands for the angle 2 pi k x/m for integers k, which does
not change where the shares wrap (:meth:`Ring.turns`); so numbers that only go into further sines may be shared modulo
one prime of t, for a quarter of the cost.

Adversary and leakage are those of :mod:`vfl.protocols.product`: nothing is opened. The recombination follows Gilboa,
CRYPTO 1999, section 4; polynomials of shares by the binomial theorem are folklore.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import final

import numpy as np

from vfl.crypto.links import Chain, Step
from vfl.crypto.product import Backend
from vfl.crypto.ring import RING, FloatArray, Ring, Share
from vfl.crypto.rng import Rng
from vfl.protocols.channel import Channel
from vfl.protocols.product import cross
from vfl.protocols.wire import Role

__all__ = ["Arithmetic"]


@final
@dataclass
class Arithmetic:
    """Operations on shares; both parties call the same ones in the same order.

    Attributes
    ----------
    peer : Channel
    backend : Backend
        With the peer's keys.
    rng : Rng
    truncations : dict of int to int
        How many numbers have been truncated by how many bits: for the bound on failures.
    """

    peer: Channel
    backend: Backend
    rng: Rng
    truncations: dict[int, int] = field(default_factory=dict)

    @property
    def party(self) -> int:
        """0 for the guest, 1 for the host."""
        return 0 if self.peer.me.role is Role.GUEST else 1

    def constant(self, values: Share) -> Share:
        """Return this party's share of numbers that both know: all of it at the guest."""
        return values if self.party == 0 else np.zeros_like(values)

    def truncate(self, x: Share, bits: int) -> Share:
        """Return the share of x 2^-bits, rounded down or up."""
        self.truncations[bits] = self.truncations.get(bits, 0) + x[0].size
        return RING.truncate(x, bits, self.party)

    async def cross(self, factors: Sequence[Share]) -> Share:
        """Return the share of the sum of the products of the guest's with the host's factors, number by number."""
        shape = factors[0].shape
        flat = np.stack([factor.reshape(RING.limbs, -1) for factor in factors])
        return (await cross(self.peer, self.backend, flat, self.rng)).reshape(shape)

    async def multiply(self, x: Share, y: Share, bits: int = 0) -> Share:
        """Return the share of x y 2^-bits."""
        factors = (x, y) if self.party == 0 else (y, x)
        mixed = await self.cross(factors)
        return self.truncate(RING.add(RING.multiply(x, y), mixed), bits)

    async def square(self, x: Share, bits: int = 0) -> Share:
        """Return the share of x^2 2^-bits: half of what a product sends."""
        mixed = await self.cross([RING.scale(x, 2) if self.party == 0 else x])
        return self.truncate(RING.add(RING.square(x), mixed), bits)

    async def polynomial(self, x: Share, coefficients: Sequence[int], bits: int = 0) -> Share:
        """Return the share of (c_0 + c_1 x + ... + c_d x^d) 2^-bits for public integers c, in one round.

        Parameters
        ----------
        x : Share
        coefficients : sequence of int
            The constant first; at least degree 2.
        bits : int
            Fraction bits to take away. The integer before that must be small against t.
        """
        degree = len(coefficients) - 1
        powers = [self._ones(x), x]
        while len(powers) <= degree:
            powers.append(RING.multiply(powers[-1], x))
        if self.party:
            own = self._sum(powers, [0, *coefficients[1:]])
            factors = powers[1:degree]
        else:
            own = self._sum(powers, coefficients)
            factors = [
                self._sum(powers, [0, *(coefficients[k] * math.comb(k, j) for k in range(j + 1, degree + 1))])
                for j in range(1, degree)
            ]
        return self.truncate(RING.add(own, await self.cross(factors)), bits)

    async def sine(self, turns: FloatArray, amplitude: float, limbs: int = RING.limbs) -> Share:
        """Return the share of round(amplitude sin(2 pi x)), x being the sum of both parties' `turns`, in one round.

        Parameters
        ----------
        turns : ndarray, shape (n,)
            This party's part of the angle; whole turns do not matter.
        amplitude : float
            Of the integers shared; its absolute value is below half of their modulus, and below 2^120.
        limbs : int
            Primes of t modulo which the result is shared.

        Returns
        -------
        Share, shape (limbs, n)
            Off by at most sqrt(2 |amplitude|) + 1/2: each party rounds factors as large as the amplitude's root.
        """
        ring = Ring(RING.primes[:limbs])
        root = math.sqrt(abs(amplitude))
        own = root if self.party else math.copysign(root, amplitude)
        sine, cosine = (ring.encode(own * wave(2 * np.pi * turns), 0) for wave in (np.sin, np.cos))
        factors = (cosine, sine) if self.party else (sine, cosine)
        return await cross(self.peer, self.backend, np.stack(factors), self.rng)

    async def chain(self, chain: Chain, scores: Share, score_bits: int, bits: int) -> Share:
        """Return the share of a function of scores, in as many rounds as it has steps.

        Parameters
        ----------
        chain : Chain
        scores : Share, shape (L, n)
            Without a linear term in the chain, fewer limbs will do: angles wrap as shares modulo any primes do.
        score_bits : int
            Fraction bits of the scores.
        bits : int
            Fraction bits of the result, the guard bits of the chain being gone.

        Returns
        -------
        Share, shape (L, n)
        """
        inner, carried = Ring(RING.primes[: chain.limbs]), np.zeros(scores.shape[1])
        *steps, last = chain.steps
        for step in steps:
            turns = self._turns(scores, step, score_bits) + carried
            shared = await self.sine(turns, step.amplitude * inner.modulus / (2 * math.pi), chain.limbs)
            carried = inner.turns(shared, 1)
        unit = chain.scale * 2.0 ** (bits + chain.guard_bits)
        turns = self._turns(scores, last, score_bits) + carried
        curve = await self.sine(turns, last.amplitude * unit)
        constant = RING.integers(np.full(scores.shape[1], round(chain.constant * unit)))
        whole = RING.add(curve, self.constant(constant))
        if chain.linear:
            whole = RING.add(whole, RING.scale(scores, round(chain.linear * unit / 2**score_bits)))
        return self.truncate(whole, chain.guard_bits)

    def _turns(self, scores: Share, step: Step, score_bits: int) -> FloatArray:
        """Return this party's part of the angle w z + f."""
        ring = Ring(RING.primes[: len(scores)])
        multiplier = round(Fraction(step.slope / (2 * math.pi)) * ring.modulus / 2**score_bits)
        start = 0.0 if self.party else step.start / (2 * math.pi)
        return ring.turns(scores, multiplier) + start

    async def times_guest(self, x: Share, factor: Share | None, bits: int = 0) -> Share:
        """Return the share of x w 2^-bits for a factor w that the guest knows; the host passes None."""
        mixed = await self.cross([x if factor is None else factor])
        own = mixed if factor is None else RING.add(mixed, RING.multiply(x, factor))
        return self.truncate(own, bits)

    @staticmethod
    def _ones(x: Share) -> Share:
        return np.ones_like(x)

    @staticmethod
    def _sum(powers: Sequence[Share], coefficients: Sequence[int]) -> Share:
        total = np.zeros_like(powers[0])
        for power, coefficient in zip(powers, coefficients, strict=False):
            if coefficient:
                total = RING.add(total, RING.scale(power, coefficient))
        return total
