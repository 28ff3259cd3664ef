"""Means that a minority of malicious clients cannot move far.

All take updates as rows of a matrix, shape (clients, size), and return a vector of shape (size,). They compare clients
with each other, so they need updates in the clear and do not compose with secure aggregation; :func:`groups` makes them
work on sums of groups that do, at the price that one bad client spoils its group. Clipping each update to an agreed
length (:func:`clipped`) is done by the client, composes, and bounds what one client can do only if clients obey.

Sources: Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017
(Krum, multi-Krum). El Mhamdi, Guerraoui and Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium",
ICML 2018 (Bulyan). Yin et al., "Byzantine-Robust Distributed Learning", ICML 2018 (median, trimmed mean). Pillutla,
Kakade and Harchaoui, "Robust Aggregation for Federated Learning", 2022 (geometric median, smoothed Weiszfeld).
Karimireddy, He and Jaggi, "Learning from History for Byzantine Robust Optimization", ICML 2021 (centred clipping).
Sun et al., "Can You Really Backdoor Federated Learning?", 2019 (norm clipping). Cao et al., "FLTrust", NDSS 2021.
Fung, Yoon and Beschastnikh, "The Limitations of Federated Learning in Sybil Settings", RAID 2020 (FoolsGold).
Chen, Su and Xu, "Distributed Statistical Machine Learning in Adversarial Settings", 2017 (geometric median of the means
of groups).
"""

import numpy as np
from numpy.typing import NDArray

from vfl.errors import CohortTooSmall, InvalidData
from vfl.horizontal.composing import FEWEST
from vfl.horizontal.vectors import Matrix, Vector

__all__ = [
    "bulyan",
    "centred_clipping",
    "clipped",
    "coordinate_median",
    "fltrust",
    "foolsgold",
    "geometric_median",
    "groups",
    "krum",
    "norm_clipping",
    "trimmed_mean",
]


def _enough(updates: Matrix, needed: int, rule: str, byzantine: int) -> None:
    if byzantine < 0 or updates.ndim != 2 or len(updates) < needed:
        raise CohortTooSmall(
            f"{rule} against {byzantine} malicious clients takes {needed} updates, there are {len(updates)}"
        )


def _finite(updates: Matrix) -> Matrix:
    """Return updates in which what is not finite is as far away as float64 allows, so that it loses everywhere."""
    finite: Matrix = np.nan_to_num(
        np.asarray(updates, dtype=np.float64), nan=1e100, posinf=1e100, neginf=-1e100
    )
    return finite


def _squares(updates: Matrix) -> Matrix:
    """Return squared distances between rows."""
    lengths = (updates**2).sum(axis=1)
    return np.asarray(np.maximum(lengths[:, None] + lengths[None, :] - 2 * updates @ updates.T, 0.0))


def _krum_scores(squares: Matrix, byzantine: int) -> Vector:
    """Return each row's sum of squared distances to its n - f - 2 nearest others."""
    near = max(1, len(squares) - byzantine - 2)
    apart = squares + np.diag(np.full(len(squares), np.inf))
    return np.asarray(np.sort(apart, axis=1)[:, :near].sum(axis=1))


def krum(updates: Matrix, byzantine: int, chosen: int = 1) -> Vector:
    """Return the mean of the `chosen` updates with the best Krum scores; 1 is Krum, more is multi-Krum.

    Raises
    ------
    CohortTooSmall
        If there are not 2 f + 3 updates.
    InvalidData
        If `chosen` is not between 1 and n - f.
    """
    _enough(updates, 2 * byzantine + 3, "Krum", byzantine)
    if not 1 <= chosen <= len(updates) - byzantine:
        raise InvalidData(
            f"multi-Krum takes the mean of 1 to {len(updates) - byzantine} updates, not {chosen}"
        )
    updates = _finite(updates)
    best = np.argsort(_krum_scores(_squares(updates), byzantine), kind="stable")[:chosen]
    return np.asarray(updates[best].mean(axis=0))


def bulyan(updates: Matrix, byzantine: int) -> Vector:
    """Return, in each coordinate, the mean of the n - 4 f values nearest the median of n - 2 f updates that Krum chose.

    Raises
    ------
    CohortTooSmall
        If there are not 4 f + 3 updates.
    """
    _enough(updates, 4 * byzantine + 3, "Bulyan", byzantine)
    updates = _finite(updates)
    left, selected = list(range(len(updates))), []
    squares = _squares(updates)
    for _ in range(len(updates) - 2 * byzantine):
        scores = _krum_scores(squares[np.ix_(left, left)], byzantine) if len(left) > 1 else np.zeros(1)
        selected.append(left.pop(int(scores.argmin())))
    kept = updates[selected]
    apart = np.abs(kept - np.median(kept, axis=0))
    nearest = np.argsort(apart, axis=0, kind="stable")[: len(kept) - 2 * byzantine]
    return np.asarray(np.take_along_axis(kept, nearest, axis=0).mean(axis=0))


def coordinate_median(updates: Matrix) -> Vector:
    """Return the median of each coordinate."""
    _enough(updates, 1, "the median", 0)
    return np.asarray(np.median(_finite(updates), axis=0))


def trimmed_mean(updates: Matrix, byzantine: int) -> Vector:
    """Return the mean of each coordinate without its f largest and f smallest values."""
    _enough(updates, 2 * byzantine + 1, "the trimmed mean", byzantine)
    ordered = np.sort(_finite(updates), axis=0)
    return np.asarray(ordered[byzantine : len(ordered) - byzantine].mean(axis=0))


def geometric_median(
    updates: Matrix, weights: Vector | None = None, steps: int = 100, smoothing: float = 1e-9
) -> Vector:
    """Return the point with the least weighted sum of distances, by smoothed Weiszfeld steps.

    Ends after `steps` steps, or when a step moves by less than 10^-9 of the point's length.
    """
    _enough(updates, 1, "the geometric median", 0)
    updates = _finite(updates)
    weights = np.ones(len(updates)) if weights is None else weights
    point = np.median(updates, axis=0)
    for _ in range(steps):
        pull = weights / np.maximum(np.linalg.norm(updates - point, axis=1), smoothing)
        before, point = point, (pull / pull.sum()) @ updates
        if np.linalg.norm(point - before) <= 1e-9 * (1.0 + np.linalg.norm(before)):
            break
    return np.asarray(point)


def clipped(update: Vector, length: float) -> Vector:
    """Return the update, shortened to a Euclidean length if it is longer."""
    if not 0 < length < np.inf:
        raise InvalidData(f"a length to clip to is positive and finite, not {length}")
    norm = float(np.linalg.norm(update))
    return update * min(1.0, length / norm) if norm > 0 else update


def norm_clipping(updates: Matrix, length: float | None = None) -> Vector:
    """Return the mean of updates clipped to a length, by default the median of their lengths."""
    _enough(updates, 1, "norm clipping", 0)
    updates = _finite(updates)
    limit = float(np.median(np.linalg.norm(updates, axis=1))) if length is None else length
    if limit == 0.0:
        return np.zeros(updates.shape[1])
    return np.asarray(np.mean([clipped(update, limit) for update in updates], axis=0))


def centred_clipping(
    updates: Matrix, radius: float | None = None, centre: Vector | None = None, steps: int = 5
) -> Vector:
    """Return v after steps v + mean((x_i - v) min(1, radius / |x_i - v|)).

    Parameters
    ----------
    updates : ndarray of float64, shape (clients, size)
    radius : float, optional
        By default the median distance to v, newly in each step.
    centre : ndarray of float64, optional
        The v to start from; the paper takes the aggregate of the round before, the default is zero.
    steps : int
    """
    _enough(updates, 1, "centred clipping", 0)
    updates = _finite(updates)
    v = np.zeros(updates.shape[1]) if centre is None else centre.copy()
    for _ in range(steps):
        apart = updates - v
        lengths = np.linalg.norm(apart, axis=1)
        limit = float(np.median(lengths)) if radius is None else radius
        v = v + (apart * np.minimum(1.0, limit / np.maximum(lengths, 1e-300))[:, None]).mean(axis=0)
    return v


def fltrust(updates: Matrix, reference: Vector) -> Vector:
    """Return the mean of updates scaled to the length of the server's own update, weighted by their cosine to it.

    Parameters
    ----------
    updates : ndarray of float64, shape (clients, size)
    reference : ndarray of float64, shape (size,)
        Trained by the server from the same start on a small clean data set of its own.

    Returns
    -------
    ndarray of float64, shape (size,)
        Zero if no update points to the reference's side.
    """
    _enough(updates, 1, "FLTrust", 0)
    updates = _finite(updates)
    length = float(np.linalg.norm(reference))
    lengths = np.maximum(np.linalg.norm(updates, axis=1), 1e-300)
    trust = np.maximum(updates @ reference / (lengths * max(length, 1e-300)), 0.0)
    if trust.sum() == 0.0:
        return np.zeros_like(reference)
    scaled = updates * (length / lengths)[:, None]
    return np.asarray((trust / trust.sum()) @ scaled)


def foolsgold(histories: Matrix, confidence: float = 1.0) -> Vector:
    """Return weights, shape (clients,), from 0 for clients that push the same way as others to 1.

    Parameters
    ----------
    histories : ndarray of float64, shape (clients, size)
        The sum of each client's updates so far.
    confidence : float
        The paper's kappa.

    Notes
    -----
    It assumes that honest clients differ: clients with equal data look like Sybils and lose their weight, and a single
    attacker keeps its own.
    """
    _enough(histories, 2, "FoolsGold", 0)
    histories = _finite(histories)
    unit = histories / np.maximum(np.linalg.norm(histories, axis=1), 1e-300)[:, None]
    similar = unit @ unit.T
    np.fill_diagonal(similar, -np.inf)
    most = similar.max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        pardon = np.where(most[:, None] < most[None, :], most[:, None] / most[None, :], 1.0)
        np.fill_diagonal(similar, 0.0)
        alpha = 1.0 - (similar * np.where(np.isfinite(pardon), pardon, 1.0)).max(axis=1)
        alpha = np.clip(alpha, 0.0, 1.0)
        alpha = alpha / alpha.max() if alpha.max() > 0 else np.ones_like(alpha)
        weights = confidence * (np.log(alpha / (1.0 - alpha)) + 0.5)
    return np.asarray(np.clip(np.nan_to_num(weights, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0))


def groups(count: int, clients: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Return a random division of clients into groups whose sizes differ by at most one.

    A robust rule of the groups' means holds against f bad clients if it holds against f bad rows among `count`.

    Raises
    ------
    CohortTooSmall
        If a group had fewer than three clients: its sum would hide nothing.
    """
    if count < 1 or clients < FEWEST * count:
        raise CohortTooSmall(
            f"{count} groups of at least {FEWEST} take {FEWEST * count} clients, there are {clients}"
        )
    return [np.sort(part) for part in np.array_split(rng.permutation(clients), count)]
