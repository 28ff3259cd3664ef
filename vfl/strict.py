"""Training on shares (:mod:`vfl.protocols.glm`): no score, residual or gradient is opened; the default.

The guest fits its own columns first and starts there. Each party whitens its columns locally, the guest by the
curvature of its own model; nothing of that is sent.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from vfl.blocks import Block
from vfl.crypto.product import Backend, LatticeBackend
from vfl.crypto.rng import Rng
from vfl.families import Target
from vfl.protocols import glm
from vfl.protocols.glm_plan import LARGEST_ENTRY, MOST_ITERATIONS, Labels, Plan
from vfl.protocols.glm_plan import Fit as Trained
from vfl.protocols.responses import Identity, Logarithmic, Logistic, Response
from vfl.protocols.wire import Leakage, Role
from vfl.session import Session
from vfl.start import Start, own_model
from vfl.training import Fit, Task

__all__ = ["LEAKAGE", "MAX_ITER", "TOL", "told", "train"]

FloatArray = NDArray[np.float64]
LEAKAGE: tuple[Leakage, ...] = ()
MAX_ITER = {"logistic": 40, "identity": 40, "log": 40}
LARGEST_MAX_ITER = MOST_ITERATIONS
TOL = {"logistic": 0.002, "identity": 0.001, "log": 0.002}
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
                whitened.back,
            )
        )
    errors = _errors(whitened, found)
    return [
        Fit(*whitened.weights_and_intercept(column), errors=errors[place])
        for place, column in enumerate(found.weights.T)
    ]


def _errors(block: Block, found: Trained) -> list[FloatArray | None]:
    """Return the standard errors of each model's weights, if they were wanted."""
    if found.variances is None:
        return [None] * found.weights.shape[1]
    return [block.standard_errors(column) for column in found.variances.T]


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
                whitened.back,
            )
        )
    errors = _errors(whitened, found)
    if not monitor.arrived:
        _warn(session, task, plan, found.distances[-1])
    return [
        Fit(
            *whitened.weights_and_intercept(column),
            errors=errors[place],
            losses=[float(loss[place]) for loss in found.losses],
            iterations=len(found.distances),
            converged=monitor.arrived,
            distances=[float(distance[place]) for distance in found.distances],
        )
        for place, column in enumerate(found.weights.T)
    ]


def _warn(session: Session, task: Task, plan: Plan, missing: FloatArray) -> None:
    """Say that the limit of iterations came before convergence."""
    limit = (
        f"max_iter={task.max_iter}" if plan.iterations == task.max_iter else f"{plan.iterations} iterations"
    )
    remedy = (
        "Raise max_iter on all sides"
        if plan.iterations == task.max_iter
        else "More would open as many numbers to the guest as the hosts hold. Align more rows"
    )
    text = (
        f"{session.name}: training stopped at {limit} before it converged: scores still lack about "
        f"{missing.max():.2g}, tol is {task.tol:.2g}. {remedy}, penalise more, or cut extreme values off with winsorise"
    )
    session.facts.notes.append(text)
    warnings.warn(text, ConvergenceWarning, stacklevel=6)


def _labels(
    block: Block, plan: Plan, targets: Sequence[Target], starts: Sequence[Start], monitor: "_Monitor"
) -> Labels:
    """Return what the guest brings, its own models in whitened coordinates."""
    roots = targets[0].weights.copy()
    roots[plan.rows :] = np.sqrt(roots[plan.rows :])  # so that squared residuals come out weighted
    every = slice(0, plan.scored)
    low, high = plan.response.reach or (-math.inf, math.inf)
    for start in starts:  # the guest's own model may be off by any amount where it was not trained
        np.clip(start.scores[plan.rows :], low, high, out=start.scores[plan.rows :])
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
        dispersion=targets[0].dispersion,
    )


class _Monitor:
    """Decides at the guest when training ends; `arrived` is whether it has ended by itself."""

    def __init__(self, task: Task, plan: Plan) -> None:
        self.tol, self._early = task.tol, plan.validation_rows > 0
        self.arrived = False

    def finished(self, distances: list[FloatArray], losses: list[FloatArray]) -> bool:
        """Return whether all models have arrived, or the held-out loss has not fallen for a while."""
        totals = [float(loss.sum()) for loss in losses]
        early = self._early and len(totals) > PATIENCE
        stopped = early and min(totals[-PATIENCE:]) >= min(totals[:-PATIENCE])
        self.arrived = stopped or bool((distances[-1] <= self.tol).all())
        return self.arrived


def _plan(task: Task) -> Plan:
    guest, *hosts = task.columns
    rows, columns = task.rows - task.validation_rows, (guest + int(task.intercept), *hosts)
    return Plan(
        rows=rows,
        validation_rows=task.validation_rows,
        columns=columns,
        response=_response(task),
        iterations=min(task.max_iter, Plan.most_iterations(rows, columns)),
        targets=task.models,
        curvature_bits=round(-math.log2(task.family.curvature)),
        weighted=task.told.get("weighted") == "yes",
        inference=task.inference,
    )


def _bounded(block: Block, plan: Plan) -> Block:
    """Cut off entries of validation rows beyond the bound that whitening gives for training rows."""
    limit = math.ldexp(LARGEST_ENTRY, -plan.matrix_bits)
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


def _response(task: Task) -> Response:
    if task.family.link == "logistic":
        return Logistic()
    if task.family.link == "identity":
        return Identity()
    power = task.family.power
    dispersed = task.inference and power > 1  # counts have a known dispersion
    return Logarithmic(power, Logarithmic(1 + power / 2) if dispersed else None)
