"""What the guest shares with each host in a training (:mod:`vfl.protocols.glm`): points, gradients and their products.

:class:`Pair` is the guest's or the first host's side of what the two share; :class:`GuestSide` and :class:`HostSide`
are the two sides of what the guest shares with a further host. All have the same three operations, in which both take
part at the same time: :meth:`gradient`, :meth:`move` and :meth:`scores`.
"""

import abc
from typing import Annotated, final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.pads import Pads
from vfl.crypto.ring import RING, Share
from vfl.protocols.arithmetic import Arithmetic
from vfl.protocols.channel import Channel
from vfl.protocols.glm_plan import LARGEST_ENTRY, Plan
from vfl.protocols.product import backward, exchange, forward
from vfl.protocols.span import Span
from vfl.protocols.wire import Array, Declaration, Leakage, Message, Role

__all__ = ["GuestSide", "HostSide", "Pair", "Shared", "pass_on"]

FloatArray = NDArray[np.float64]
Residues = NDArray[np.uint32]


class Reshared(Message, frozen=True, kw_only=True):
    """A share of scores or residuals under a pad that the guest does not know."""

    declaration = Declaration("glm.reshared", Role.HOST, Leakage.UNIFORM, "padded shares: uniform numbers")
    share: Annotated[Residues, Array("<u4", RING.limbs, "rows", "targets")]


class Shared(abc.ABC):
    """One party's side of what two share.

    Parameters
    ----------
    arithmetic : Arithmetic
    plan : Plan
    origin : Share, shape (L, columns, targets)
        The first point.

    Attributes
    ----------
    span : Span
    point : Share, shape (L, columns, targets)
        Where the next gradient is taken.
    penalties : Share, shape (L, columns, targets)
        Residuals of the rows that stand for the penalty.
    """

    def __init__(self, arithmetic: Arithmetic, plan: Plan, origin: Share) -> None:
        self.arithmetic, self.plan, self.point = arithmetic, plan, origin
        self.span = Span(arithmetic, origin)
        self.penalties = np.zeros_like(origin)

    @abc.abstractmethod
    async def gradient(self, residuals: Share) -> None:
        """Add the gradient at the point to the span, from shares of the residuals, (L, rows, targets)."""

    @abc.abstractmethod
    async def scores(self) -> Share:
        """Return the share of the products of matrices and point, (L, rows + validation rows, targets)."""

    async def move(self, coefficients: FloatArray | None) -> None:
        """Go to a point of the span; the host does not know the coefficients."""
        self.point = await self.span.point(coefficients)

    def _add_gradient(self, gradient: Share) -> None:
        self.span.add(self.arithmetic.truncate(gradient, self.plan.gradient_shift))

    def _cut(self, products: Share) -> Share:
        """Keep what belongs to the penalty, return the rest."""
        plan = self.plan
        tail = self.arithmetic.truncate(products[:, plan.scored :], plan.score_shift)
        shift = plan.response.score_bits + plan.curvature_bits - plan.response.residual_bits
        self.penalties = (
            self.arithmetic.truncate(tail, shift) if shift >= 0 else RING.scale(tail, 1 << -shift)
        )
        return products[:, : plan.scored]


@final
class Pair(Shared):
    """The guest's or the first host's side of what these two share: the weights of both.

    Attributes
    ----------
    matrix : Prepared
        This party's, with the root of its penalty below.
    """

    def __init__(
        self,
        arithmetic: Arithmetic,
        plan: Plan,
        matrix: FloatArray,
        penalty: FloatArray,
        start: FloatArray | None,
    ) -> None:
        columns, party = plan.columns[:2], arithmetic.party
        origin = RING.zeros(sum(columns), plan.targets)
        if start is not None:
            origin[:, : columns[0]] = plan.encode_point(start)
        super().__init__(arithmetic, plan, origin)
        if start is not None:
            self.penalties[:, : columns[0]] = plan.encode_penalties(penalty, start)
        integers = plan.integers(matrix, penalty, party)
        self.matrix = arithmetic.backend.prepare(integers, LARGEST_ENTRY)
        self._other = (plan.height(0), columns[1 - party])

    async def gradient(self, residuals: Share) -> None:
        """Add both parties' gradients to the span."""
        own, one = self.arithmetic, self.plan.stack(residuals, self.penalties)
        parts = await backward(own.peer, own.backend, self.matrix, self._other, one, own.rng)
        self._add_gradient(np.concatenate(parts[:: -1 if own.party else 1], axis=1))

    async def scores(self) -> Share:
        """Return the share of both parties' products with their weights."""
        own, cut = self.arithmetic, self.plan.columns[0]
        guests, hosts = self.point[:, :cut], self.point[:, cut:]
        mine, theirs = (hosts, guests) if own.party else (guests, hosts)
        both = (self.matrix, mine), (self._other, theirs)
        return self._cut(await forward(own.peer, own.backend, *both, own.rng))


@final
class GuestSide(Shared):
    """The guest's side of what it shares with a further host."""

    def __init__(self, arithmetic: Arithmetic, plan: Plan, place: int, first: Channel) -> None:
        super().__init__(arithmetic, plan, RING.zeros(plan.columns[place], plan.targets))
        self._sizes, self._first = (plan.height(place), plan.columns[place], plan.targets), first

    async def gradient(self, residuals: Share) -> None:
        """Take the first host's padded share to the guest's own: the guest's and the further host's shares."""
        plan, own = self.plan, self.arithmetic
        padded = (await self._first.recv(Reshared, rows=plan.rows, targets=plan.targets)).share
        share = plan.stack(RING.add(residuals[:, : plan.rows], padded), self.penalties)
        held = (own.backend.backward(*self._sizes), share)
        opened, _ = await exchange(own.peer, held, None, own.rng)
        assert opened is not None  # noqa: S101  (it was asked for)
        self._add_gradient(opened)

    async def scores(self) -> Share:
        """Return the share that the guest holds with the first host."""
        plan, own = self.plan, self.arithmetic
        held = (own.backend.forward(*self._sizes), self.point)
        opened, _ = await exchange(own.peer, held, None, own.rng)
        assert opened is not None  # noqa: S101  (it was asked for)
        padded = (await own.peer.recv(Reshared, rows=plan.scored, targets=plan.targets)).share
        return RING.add(self._cut(opened), padded)


@final
class HostSide(Shared):
    """A further host's side of what it shares with the guest."""

    def __init__(
        self,
        arithmetic: Arithmetic,
        plan: Plan,
        matrix: FloatArray,
        penalty: FloatArray,
        place: int,
        pads: Pads,
    ) -> None:
        super().__init__(arithmetic, plan, RING.zeros(plan.columns[place], plan.targets))
        self._sizes, self._pads = (plan.height(place), plan.columns[place], plan.targets), pads
        self._matrix = arithmetic.backend.prepare(plan.integers(matrix, penalty, place), LARGEST_ENTRY)

    async def gradient(self, residuals: Share) -> None:
        """Add the gradient from the pad that the first host has put on its share; `residuals` are not looked at."""
        plan, own = self.plan, self.arithmetic
        share = RING.negate(RING.uniform(self._pads, plan.rows, plan.targets))
        stacked = plan.stack(share, self.penalties)
        owned = (own.backend.backward(*self._sizes), self._matrix.operand)
        _, kept = await exchange(own.peer, None, owned, own.rng)
        assert kept is not None  # noqa: S101  (it was asked for)
        self._add_gradient(RING.add(kept, RING.backward(self._matrix.integers, stacked)))

    async def scores(self) -> Share:
        """Give the guest this host's share under a pad; what is left here is nothing."""
        own = self.arithmetic
        owned = (own.backend.forward(*self._sizes), self._matrix.operand)
        _, kept = await exchange(own.peer, None, owned, own.rng)
        assert kept is not None  # noqa: S101  (it was asked for)
        share = self._cut(RING.add(kept, RING.forward(self._matrix.integers, self.point)))
        await own.peer.send(Reshared(share=RING.add(share, RING.uniform(self._pads, *share.shape[1:]))))
        return np.zeros_like(share)


async def pass_on(guest: Channel, residuals: Share, pads: Pads) -> None:
    """Give the guest the first host's share of the residuals under a pad that a further host draws, too."""
    await guest.send(Reshared(share=RING.add(residuals, RING.uniform(pads, *residuals.shape[1:]))))
