"""How well scores separate two classes: the figures that credit risk teams compare.

Areas, curves and losses come from scikit-learn; the tables by score band are built here, because there a
band must hold the same weight whatever ties the scores have. All functions take one-dimensional array-likes
(numpy, pandas, polars, pyarrow) of equal length: `y` holds 0 and 1 (or booleans), `score` is higher where
1 is likelier, `p` is a probability. They run on one party's own data: nothing is sent.

Source of the definitions: Hand and Till 2001, "A simple generalisation of the area under the ROC curve";
Thomas, Edelman and Crook 2002, "Credit Scoring and Its Applications" (KS, Gini, gains).
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import sklearn.metrics
from numpy.typing import ArrayLike, NDArray

from vfl.errors import InvalidData

__all__ = [
    "CalibrationRow",
    "GainsRow",
    "ModelCurves",
    "brier",
    "calibration",
    "curves",
    "gains_table",
    "ks",
    "log_loss",
    "roc_auc",
    "roc_curve",
    "summary",
]

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class GainsRow:
    """One band of a gains table; band 1 holds the highest scores.

    Attributes
    ----------
    band : int
        From 1.
    rows, positives : float
        Weight in the band, in rows; fractions appear where a band ends inside a row or a tie.
    rate : float
        positives / rows.
    gain : float
        Share of all positives in this band and those above, 0 to 1.
    lift : float
        `gain` over the share of rows in this band and those above; 1 is chance.
    lowest_score : float
    """

    band: int
    rows: float
    positives: float
    rate: float
    gain: float
    lift: float
    lowest_score: float


@dataclass(frozen=True)
class CalibrationRow:
    """One band of probabilities, lowest first: rows, mean predicted and observed rate."""

    rows: float
    predicted: float
    observed: float


@dataclass(frozen=True)
class ModelCurves:
    """What a report draws of one model: (false, true) positive rates, gains table, calibration bands."""

    roc: list[tuple[float, float]]
    gains: list[GainsRow]
    calibration: list[CalibrationRow]


def roc_auc(y: ArrayLike, score: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the area under the ROC curve, 0 to 1.

    Raises
    ------
    InvalidData
        If `y` holds one class or anything but 0 and 1, a value is not finite, a weight is not positive, or
        lengths differ. The same holds for every function of this module.
    """
    labels, scores, weight = _checked(y, score, weights)
    return float(sklearn.metrics.roc_auc_score(labels, scores, sample_weight=weight))


def roc_curve(
    y: ArrayLike, score: ArrayLike, *, weights: ArrayLike | None = None
) -> tuple[Floats, Floats, Floats]:
    """Return false and true positive rates and thresholds: the origin and every distinct score."""
    labels, scores, weight = _checked(y, score, weights)
    false, true, thresholds = sklearn.metrics.roc_curve(
        labels, scores, sample_weight=weight, drop_intermediate=False
    )
    return false, true, thresholds


def ks(y: ArrayLike, score: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the Kolmogorov-Smirnov distance between the scores of the two classes, 0 to 1."""
    false, true, _ = roc_curve(y, score, weights=weights)
    return float(np.max(np.abs(true - false)))


def log_loss(y: ArrayLike, p: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the mean negative log likelihood, in nats; probabilities of 0 and 1 are clipped by 2.2e-16."""
    labels, probabilities, weight = _checked(y, _probabilities(p), weights)
    return float(sklearn.metrics.log_loss(labels, probabilities, sample_weight=weight))


def brier(y: ArrayLike, p: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """Return the mean squared difference of probability and label, 0 to 1."""
    labels, probabilities, weight = _checked(y, _probabilities(p), weights)
    return float(np.average((probabilities - labels) ** 2, weights=weight))


def gains_table(
    y: ArrayLike, score: ArrayLike, bins: int = 10, *, weights: ArrayLike | None = None
) -> list[GainsRow]:
    """Return the cumulative gains in `bins` bands of equal weight, the highest scores first.

    Rows of equal score share their positives evenly, so the table does not depend on the order of the rows.
    """
    labels, scores, weight = _checked(y, score, weights)
    positives, lowest, rows = _bands(-scores, labels, bins, weight)
    total = positives.sum()
    gain = np.cumsum(positives) / total
    lift = gain / (np.cumsum(rows) / rows.sum())
    return [
        GainsRow(band, *map(float, values))
        for band, *values in zip(
            range(1, bins + 1), rows, positives, positives / rows, gain, lift, -lowest, strict=True
        )
    ]


def calibration(
    y: ArrayLike, p: ArrayLike, bins: int = 10, *, weights: ArrayLike | None = None
) -> list[CalibrationRow]:
    """Return mean predicted and observed rates in `bins` bands of equal weight, the lowest first."""
    labels, probabilities, weight = _checked(y, _probabilities(p), weights)
    observed, _, rows = _bands(probabilities, labels, bins, weight)
    predicted, _, _ = _bands(probabilities, probabilities, bins, weight)
    return [
        CalibrationRow(float(n), float(mean), float(rate))
        for n, mean, rate in zip(rows, predicted / rows, observed / rows, strict=True)
    ]


def summary(y: ArrayLike, p: ArrayLike, *, weights: ArrayLike | None = None) -> dict[str, float]:
    """Return rows, base_rate, auc, gini (2 auc - 1), ks, log_loss and brier of one model's probabilities."""
    labels, probabilities, weight = _checked(y, _probabilities(p), weights)
    auc = roc_auc(labels, probabilities, weights=weight)
    return {
        "auc": auc,
        "gini": 2 * auc - 1,
        "ks": ks(labels, probabilities, weights=weight),
        "log_loss": log_loss(labels, probabilities, weights=weight),
        "brier": brier(labels, probabilities, weights=weight),
        "base_rate": float(np.average(labels, weights=weight)),
        "rows": len(labels),
    }


def curves(y: ArrayLike, p: ArrayLike, *, weights: ArrayLike | None = None, points: int = 201) -> ModelCurves:
    """Return what a report draws; the ROC curve is thinned to about `points` of its vertices."""
    false, true, _ = roc_curve(y, p, weights=weights)
    # evenly spaced along the curve's length, the corner farthest from the diagonal kept
    length = false + true
    kept = np.searchsorted(length, np.linspace(0, 2, points)).clip(max=len(length) - 1)
    kept = np.unique(np.append(kept, [0, np.argmax(np.abs(true - false)), len(length) - 1]))
    roc = [(float(across), float(up)) for across, up in zip(false[kept], true[kept], strict=True)]
    bins = min(10, np.size(np.asarray(p)))
    return ModelCurves(
        roc, gains_table(y, p, bins, weights=weights), calibration(y, p, bins, weights=weights)
    )


def _bands(key: Floats, values: Floats, bins: int, weight: Floats | None) -> tuple[Floats, Floats, Floats]:
    """Return, per band of equal weight ascending in `key`, the sum of `values`, the last key, the weight."""
    if not 1 <= bins <= len(key):
        raise InvalidData(f"bins must lie between 1 and the number of rows ({len(key)}), not {bins}")
    keys, group = np.unique(key, return_inverse=True)
    mass = np.bincount(group, weights=weight)
    sums = np.bincount(group, weights=values if weight is None else values * weight)
    at, cumulated = _cumulated(mass), _cumulated(sums)
    edges = at[-1] * np.arange(bins + 1) / bins
    last = np.searchsorted(at[1:], edges[1:] * (1 - 1e-12)).clip(max=len(keys) - 1)
    return np.diff(np.interp(edges, at, cumulated)), keys[last], np.diff(edges)


def _cumulated(values: NDArray[Any]) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values)])


def _vector(name: str, values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype == object:  # nullable integers and booleans arrive as objects
        array = np.asarray(array.tolist())
    if array.ndim != 1:
        hint = "; pass one column, such as [:, 1] of predict_proba" if array.ndim == 2 else ""
        raise InvalidData(f"{name} must have one dimension, has shape {array.shape}{hint}")
    if array.dtype.kind not in "biuf":
        raise InvalidData(f"{name} must hold numbers, has dtype {array.dtype}")
    bad = np.count_nonzero(~np.isfinite(array))
    if bad:
        raise InvalidData(f"{name} holds {bad} values that are NaN or infinite, in {len(array)} rows")
    return array


def _checked(
    y: ArrayLike, score: ArrayLike, weights: ArrayLike | None
) -> tuple[Floats, Floats, Floats | None]:
    labels, scores = _vector("y", y), _vector("score", score).astype(np.float64)
    weight = None if weights is None else _vector("weights", weights).astype(np.float64)
    lengths = {"y": len(labels), "score": len(scores)} | ({} if weight is None else {"weights": len(weight)})
    if len(set(lengths.values())) > 1:
        raise InvalidData(f"lengths differ: {lengths}")
    if weight is not None and np.any(weight <= 0):
        raise InvalidData(f"{np.count_nonzero(weight <= 0)} weights are zero or negative: drop those rows")
    strange = np.count_nonzero((labels != 0) & (labels != 1))
    if strange:
        raise InvalidData(f"y must hold 0 and 1 alone; {strange} of {len(labels)} rows hold something else")
    positives = np.count_nonzero(labels)
    if positives in (0, len(labels)):
        raise InvalidData(f"y needs both classes, has {positives} positives in {len(labels)} rows")
    return labels.astype(np.float64), scores, weight


def _probabilities(p: ArrayLike) -> Floats:
    values = _vector("p", p).astype(np.float64)
    outside = np.count_nonzero((values < 0) | (values > 1))
    if outside:
        raise InvalidData(f"p must lie in [0, 1]; {outside} of {len(values)} rows do not: pass probabilities")
    return values
