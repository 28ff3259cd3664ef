"""Where a strict training starts: the guest's own model of its own columns, computed in the clear by the guest."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.blocks import Block, gram
from vfl.families import Target

__all__ = ["Start", "own_model"]

FloatArray = NDArray[np.float64]
STEPS = 30
HALVINGS = 20
ENOUGH = 1e-9
"""Newton decrement, by the loss's curvature, at which the model is good enough to start from."""


@dataclass(frozen=True)
class Start:
    """The guest's own model of one target.

    Attributes
    ----------
    weights : ndarray, shape (columns,)
        In the coordinates of the block.
    scores : ndarray, shape (rows,)
        Of all rows, offsets included.
    importance : ndarray, shape (training rows,)
        Second derivatives of the weighted loss by the scores, divided by their mean.
    curvature : float
        That mean.
    """

    weights: FloatArray
    scores: FloatArray
    importance: FloatArray
    curvature: float


def own_model(block: Block, target: Target, rows: int) -> Start:
    """Fit the target on the guest's columns: Fisher scoring, steps halved as long as the objective grows.

    Parameters
    ----------
    block : Block
        Standardised.
    target : Target
    rows : int
        Training rows, the first ones.
    """
    x, train = block.matrix[:rows], slice(0, rows)
    offset = np.zeros(len(block.matrix)) if target.offset is None else target.offset
    weights = np.zeros(x.shape[1])
    best = _objective(block, target, weights, x @ weights + offset[train], train)
    for _ in range(STEPS):
        scores = x @ weights + offset[train]
        slopes = target.family.slope(scores) * target.weights[train]
        gradient = x.T @ target.residual(scores, train) / rows + block.penalty @ weights
        hessian = gram(x, slopes) / rows + block.penalty
        ridge = 1e-9 * np.trace(hessian) / len(hessian) + 1e-300
        step = np.linalg.solve(hessian + ridge * np.eye(len(hessian)), gradient)
        for _ in range(HALVINGS):
            tried = _objective(block, target, weights - step, x @ (weights - step) + offset[train], train)
            if tried <= best:
                weights, best = weights - step, tried
                break
            step = step / 2
        else:
            break
        if float(gradient @ step) < ENOUGH * float(slopes.mean()):
            break
    scores = block.matrix @ weights + offset
    slopes = target.family.slope(scores[train]) * target.weights[train]
    curvature = float(slopes.mean())
    return Start(weights, scores, slopes / curvature, curvature)


def _objective(block: Block, target: Target, weights: FloatArray, scores: FloatArray, rows: slice) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        loss = target.loss(scores, rows) + float(weights @ block.penalty @ weights) / 2
    return loss if np.isfinite(loss) else np.inf
