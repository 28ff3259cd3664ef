"""Training on shares (:mod:`vfl.protocols.glm`): no score, residual or gradient is opened; the default.

The guest fits its own columns first and starts there. Each party whitens its columns locally, the guest by the
curvature of its own model; nothing of that is sent.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vfl.blocks import Block
from vfl.crypto.product import Backend, LatticeBackend
from vfl.crypto.rng import Rng
from vfl.families import Family, Target
from vfl.protocols import glm
from vfl.protocols.glm_plan import Labels, Plan
from vfl.protocols.responses import Identity, Response
from vfl.protocols.wire import Leakage, Role
from vfl.session import Session
from vfl.start import Start, own_model
from vfl.training import Fit, Task

__all__ = ["LEAKAGE", "MAX_ITER", "TOL", "told", "train"]

FloatArray = NDArray[np.float64]
LEAKAGE: tuple[Leakage, ...] = ()
MAX_ITER = {"logistic": 40, "identity": 40, "log": 40}
TOL = {"logistic": 0.005, "identity": 0.001, "log": 0.005}
LEAST_IMPORTANCE = 0.25
"""Of a row in the guest's covariance: it bounds whitened entries by twice the root of the number of rows."""
PATIENCE = 3
"""Gradients without a fall of the held-out loss that end a training with early stopping."""


def told(targets: Sequence[Target]) -> dict[str, object]:
    """Return what the guest tells the hosts about its targets: whether rows are weighted."""
    return {"weighted": "yes" if any((target.weights != 1).any() for target in targets) else "no"}


def train(session: Session, task: Task, values: FloatArray, targets: Sequence[Target]) -> list[Fit]:
    """Train with the hosts, all models over the same rows at once.

    Parameters
    ----------
    session : Session
    task : Task
    values : ndarray, shape (rows, own columns)
    targets : sequence of Target
        The guest's, one for each model; empty at a host.

    Raises
    ------
    InvalidData
        If the sizes allow no bound on the rounding, or the targets do not fit their formats.
    TrainingDiverged
        If scores leave the range of the link.
    """
    plan = _plan(task)
    guest = session.role is Role.GUEST
    block = Block.standard(
        values, task.strength, rows=plan.rows, centred=task.intercept, ones=guest and task.intercept
    )
    backend = _backend(task)
    if guest:
        return _guest(session, task, block, plan, backend, targets)
    whitened = _bounded(block.whitened(task.family.curvature, rows=plan.rows), plan)
    place = 1 + session.hosts.index(session.name)
    with session.phases.phase("train") as progress:
        found = session.run(
            glm.host(
                session.channel,
                whitened.matrix,
                whitened.penalty,
                plan,
                place,
                backend,
                session.rng,
                progress,
            )
        )
    return [Fit(*whitened.weights_and_intercept(column)) for column in found.weights.T]


def _guest(
    session: Session,
    task: Task,
    block: Block,
    plan: Plan,
    backend: glm.MakeBackend,
    targets: Sequence[Target],
) -> list[Fit]:
    starts = [own_model(block, target, plan.rows) for target in targets]
    importance = np.mean([start.importance for start in starts], axis=0)
    importance = np.maximum(importance, LEAST_IMPORTANCE)
    whitened = _bounded(block.whitened(task.family.curvature, rows=plan.rows, importance=importance), plan)
    monitor = _Monitor(task, plan)
    with session.phases.phase("train") as progress:
        found = session.run(
            glm.guest(
                session.channels,
                whitened.matrix,
                whitened.penalty,
                _labels(whitened, plan, targets, starts, monitor),
                plan,
                backend,
                session.rng,
                progress,
            )
        )
    losses = [float(np.sum(held_out)) for held_out in found.losses]
    iterations, converged = len(found.distances), monitor.arrived(found.distances)
    return [
        Fit(*whitened.weights_and_intercept(column), losses, iterations, converged, float(distance))
        for column, distance in zip(found.weights.T, found.distances[-1], strict=True)
    ]


def _labels(
    block: Block, plan: Plan, targets: Sequence[Target], starts: Sequence[Start], monitor: "_Monitor"
) -> Labels:
    """Return what the guest brings, its own models in whitened coordinates."""
    roots = targets[0].weights.copy()
    roots[plan.rows :] = np.sqrt(roots[plan.rows :])  # so that squared residuals come out weighted
    every = slice(0, plan.scored)
    first = [
        target.family.residual(start.scores, target.y[every]) * roots
        for target, start in zip(targets, starts, strict=True)
    ]
    return Labels(
        y=np.stack([target.y for target in targets], axis=1),
        start=np.stack([np.linalg.solve(block.back, start.weights) for start in starts], axis=1),
        first=np.stack(first, axis=1),
        curvature=np.array([start.curvature for start in starts]),
        finished=monitor.finished,
        tolerance=monitor.tol,
        weights=roots if plan.weighted else None,
        offset=targets[0].offset,
    )


class _Monitor:
    """Decides at the guest when training ends."""

    def __init__(self, task: Task, plan: Plan) -> None:
        self.tol, self._early = task.tol, plan.validation_rows > 0
        self._stopped = False

    def finished(self, distances: list[FloatArray], losses: list[FloatArray]) -> bool:
        """Return whether all models have arrived, or the held-out loss has not fallen for a while."""
        totals = [float(loss.sum()) for loss in losses]
        self._stopped = (
            self._early and len(totals) > PATIENCE and min(totals[-PATIENCE:]) >= min(totals[:-PATIENCE])
        )
        return self._stopped or bool((distances[-1] <= self.tol).all())

    def arrived(self, distances: list[FloatArray]) -> bool:
        """Return whether training ended by itself and not at the limit of iterations."""
        return self._stopped or bool((distances[-1] <= self.tol).all())


def _plan(task: Task) -> Plan:
    guest, *hosts = task.columns
    return Plan(
        rows=task.rows - task.validation_rows,
        validation_rows=task.validation_rows,
        columns=(guest + int(task.intercept), *hosts),
        response=_response(task.family),
        iterations=task.max_iter,
        targets=task.models,
        curvature_bits=round(-math.log2(task.family.curvature)),
        weighted=task.told.get("weighted") == "yes",
    )


def _bounded(block: Block, plan: Plan) -> Block:
    """Cut off entries of validation rows beyond the bound that whitening gives for training rows."""
    limit = 2 * math.sqrt(plan.rows)
    np.clip(block.matrix[plan.rows :], -limit, limit, out=block.matrix[plan.rows :])
    return block


def _backend(task: Task) -> glm.MakeBackend:
    """Return what makes fresh keys for one pair of parties."""
    if task.he != "paillier":
        return LatticeBackend

    def paillier(rng: Rng) -> Backend:
        from vfl.crypto.paillier import PrivateKey
        from vfl.crypto.product_paillier import PaillierBackend

        return PaillierBackend(PrivateKey.generate(rng, task.key_bits))

    return paillier


def _response(family: Family) -> Response:
    return Identity()
