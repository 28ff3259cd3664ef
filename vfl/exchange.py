"""Training by the classic gradient exchange (:mod:`vfl.protocols.gradient`): fast to explain, and it leaks.

It opens each row's host score to the guest once per epoch and each batch's gradient to the host, so it runs only if
both configurations accept that. Mini-batches, momentum and few epochs keep the number of openings small.
"""

import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.blocks import Block
from vfl.errors import InvalidData, LeakageWarning, LocalProtocolError, MalformedMessage, TrainingDiverged
from vfl.families import Target
from vfl.protocols import gradient
from vfl.protocols.wire import Leakage
from vfl.session import Session
from vfl.training import Fit, Task

__all__ = ["LEAKAGE", "MAX_ITER", "TOL", "Monitor", "told", "train"]

FloatArray = NDArray[np.float64]
LEAKAGE = (Leakage.SCORE, Leakage.GRADIENT)
MAX_ITER = {"logistic": 8, "identity": 30}
LARGEST_MAX_ITER = 1 << 20
TOL = {"logistic": 1e-3, "identity": 1e-5}
"""By link; other links are not for this protocol: nothing bounds their curvature."""
LARGEST_RESIDUAL_BITS = 16
DIVERGED = 1.05
"""A loss so many times that of the first epoch ends the training."""
STEP = 0.5
"""In units of the inverse curvature: safe for two whitened blocks."""
MOMENTUM = 0.5
PATIENCE = 1
"""Epochs without improvement that end the training."""


def told(targets: Sequence[Target]) -> dict[str, object]:
    """Return what the guest tells the host about its targets."""
    return {"residual_bits": max(map(residual_bits, targets))}


def residual_bits(target: Target) -> int:
    """Return the bits before the binary point of the target's weighted residuals, which the host is told.

    Raises
    ------
    InvalidData
        If one of them is too large for the agreed format.
    """
    largest = float(target.weights.max())
    if target.family.link == "identity":  # scores overshoot while they approach the targets
        largest = 2 * float(np.max(target.weights * np.abs(target.y)))
    bits = max(0, math.ceil(math.log2(largest)))
    if bits > LARGEST_RESIDUAL_BITS:
        raise InvalidData(
            f"the largest weighted residual is {largest:.0f} times the typical one: limit the extreme "
            "targets or weights"
        )
    return bits


def train(session: Session, task: Task, values: FloatArray, targets: Sequence[Target]) -> list[Fit]:
    """Train with the host, one linear model after the other.

    Parameters
    ----------
    session : Session
    task : Task
    values : ndarray, shape (rows, own columns)
    targets : sequence of Target
        The guest's, one for each model; empty at the host.

    Raises
    ------
    InvalidData
        If the batches are too small for the host's columns.
    TrainingDiverged
    """
    plan = _plan(task, session)
    _warn(plan, session)
    guest = bool(targets)
    block = Block.of(
        values,
        task.strength,
        task.family.curvature,
        rows=plan.rows,
        centred=task.intercept,
        ones=guest and task.intercept,
    )
    if not guest:
        return [_host(session, task, block, plan) for _ in range(task.models)]
    return [_guest(session, task, block, plan, target) for target in targets]


def _guest(session: Session, task: Task, block: Block, plan: gradient.Plan, target: Target) -> Fit:
    monitor = Monitor(target, plan, task.tol, PATIENCE, early=plan.validation_rows > 0)
    side = gradient.GuestSide(target.residual, monitor.finished)
    with session.phases.phase("train") as progress:
        weights = session.run(
            gradient.guest(
                session.channel,
                block.matrix,
                block.penalty,
                side,
                plan,
                _scheme(task, plan),
                session.rng,
                progress,
            )
        )
    losses = monitor.losses
    return Fit(*block.weights_and_intercept(weights), losses, len(losses), monitor.converged)


def _host(session: Session, task: Task, block: Block, plan: gradient.Plan) -> Fit:
    with session.phases.phase("train") as progress:
        weights = session.run(
            gradient.host(
                session.channel, block.matrix, block.penalty, plan, _scheme(task, plan), session.rng, progress
            )
        )
    return Fit(*block.weights_and_intercept(weights))


def _scheme(task: Task, plan: gradient.Plan) -> gradient.Scheme:
    return gradient.scheme(
        "ckks" if task.he == "auto" else task.he, gradient.make_format(plan), task.key_bits
    )


def _plan(task: Task, session: Session) -> gradient.Plan:
    if len(task.columns) != 2:
        raise LocalProtocolError(
            f"security='exchange' is for one host, there are {len(session.hosts)} ({', '.join(session.hosts)}); "
            "security='strict' takes several"
        )
    bits = task.told.get("residual_bits", "")
    if not bits.isdecimal() or int(bits) > LARGEST_RESIDUAL_BITS:
        raise MalformedMessage("the guest did not state a plausible number of residual_bits")
    host_columns = task.columns[1]
    training = task.rows - task.validation_rows
    batch = {"auto": gradient.batch_rows(training, host_columns), None: training}
    return gradient.Plan(
        rows=training,
        validation_rows=task.validation_rows,
        batch_rows=min(training, batch.get(task.batch_size, task.batch_size)),  # type: ignore[arg-type,type-var]
        epochs=task.max_iter,
        step=STEP / task.family.curvature,
        momentum=MOMENTUM,
        host_columns=host_columns,
        residual_bound=2.0 ** int(bits),
    )


def _warn(plan: gradient.Plan, session: Session) -> None:
    if plan.epochs >= plan.host_columns:
        text = (
            f"max_iter={plan.epochs} epochs open each row's host score up to {plan.epochs} times; with "
            f"{plan.host_columns} host columns the guest can then compute inner products between the host's rows. "
            f"Fewer epochs than host columns prevent that"
        )
        session.facts.notes.append(text)
        warnings.warn(text, LeakageWarning, stacklevel=5)


@dataclass
class Monitor:
    """Decides at the guest when training ends; the losses are those of the rows as they were scored in the epoch."""

    target: Target
    plan: gradient.Plan
    tol: float
    patience: int
    early: bool

    def __post_init__(self) -> None:
        self.losses: list[float] = []
        self.converged = False
        self._last, self._stale = sys.float_info.max, 0

    def finished(self, epoch: int, training: FloatArray, validation: FloatArray) -> bool:
        """Return whether the training loss stands still, or the validation loss does not fall, within `tol`."""
        loss = self.target.loss(training, slice(0, self.plan.rows))
        self.losses.append(loss)
        if loss > DIVERGED * self.losses[0] or not np.isfinite(loss):
            raise TrainingDiverged(
                f"the loss rose from {self.losses[0]:.4g} to {loss:.4g} in epoch {epoch + 1}: the step is too large "
                "for these data; take larger batches, cut extreme values off with winsorise, or train with "
                "security='strict'"
            )
        if self.early:
            loss = self.target.loss(validation, self.plan.validation)
        fell = self._last - loss if self.early else abs(self._last - loss)
        self._stale = 0 if fell > self.tol * self._last else self._stale + 1
        self._last = min(self._last, loss) if self.early else loss
        self.converged = self._stale >= self.patience
        return self.converged
