"""Models of one's own beside the common one.

Everything here happens at the client: what leaves it is at most the shared part of its update, so all of it composes
with secure aggregation.

Sources: Li et al., "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021.
Arivazhagan et al., "Federated Learning with Personalization Layers", 2019 (FedPer). Wang et al., "Federated Evaluation
of On-device Personalization", 2019 (fine-tuning). Mansour et al., "Three Approaches for Personalization with
Applications to Federated Learning", 2020 (interpolation of models).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vfl.errors import InvalidData
from vfl.horizontal.models import Model, Network
from vfl.horizontal.optimisation import Local
from vfl.horizontal.vectors import Rows, Vector

__all__ = ["best_mix", "ditto", "fine_tuned", "interpolated", "joined_layers", "shared_coordinates"]


def fine_tuned(model: Model, common: Vector, rows: Rows, local: Local, rng: np.random.Generator) -> Vector:
    """Return the common vector after local steps."""
    return local.trained(model, common, rows, rng)


def ditto(
    model: Model, own: Vector, common: Vector, rows: Rows, local: Local, pull: float, rng: np.random.Generator
) -> Vector:
    """Return one's own vector after steps on f(v) + pull/2 |v - common|^2.

    Parameters
    ----------
    own : ndarray of float64, shape (size,)
        v, kept by the client from round to round.
    common : ndarray of float64, shape (size,)
        The server's vector of this round.
    pull : float
        The paper's lambda: 0 learns alone, much keeps to the common vector.
    """
    if pull < 0:
        raise InvalidData(f"the pull to the common vector is not negative, as {pull} is")
    kept = _Pulled(model, common, pull)
    return local.trained(kept, own, rows, rng)


class _Pulled:
    """A model whose loss has a quadratic pull to a vector that is not the start."""

    def __init__(self, model: Model, centre: Vector, pull: float) -> None:
        self._model, self._centre, self._pull, self.size = model, centre, pull, model.size

    def initial(self, seed: int) -> Vector:
        return self._model.initial(seed)

    def loss(self, vector: Vector, X: Vector, y: NDArray[np.float64]) -> float:
        apart = vector - self._centre
        return self._model.loss(vector, X, y) + self._pull / 2 * float(apart @ apart)

    def gradient(self, vector: Vector, X: Vector, y: NDArray[np.float64]) -> Vector:
        return self._model.gradient(vector, X, y) + self._pull * (vector - self._centre)

    def scores(self, vector: Vector, X: Vector) -> Vector:
        return self._model.scores(vector, X)

    def accuracy(self, vector: Vector, X: Vector, y: NDArray[np.float64]) -> float:
        return self._model.accuracy(vector, X, y)


def shared_coordinates(model: Network, own_layers: int) -> NDArray[np.bool_]:
    """Return which coordinates are shared when the last `own_layers` layers stay at the client."""
    layers = len(model.shapes) // 2
    if not 0 <= own_layers < layers:
        raise InvalidData(f"of {layers} layers 0 to {layers - 1} may stay at the client, not {own_layers}")
    sizes = [int(np.prod(shape)) for shape in model.shapes]
    shared = np.zeros(model.size, dtype=bool)
    shared[: sum(sizes[: 2 * (layers - own_layers)])] = True
    return shared


def joined_layers(common: Vector, own: Vector, shared: NDArray[np.bool_]) -> Vector:
    """Return the common vector where it is shared and one's own elsewhere."""
    return np.where(shared, common, own)


def interpolated(common: Vector, own: Vector, mix: float) -> Vector:
    """Return mix own + (1 - mix) common."""
    if not 0 <= mix <= 1:
        raise InvalidData(f"a mix lies between 0 and 1, not at {mix}")
    return mix * own + (1.0 - mix) * common


def best_mix(
    model: Model,
    common: Vector,
    own: Vector,
    held_out: Rows,
    mixes: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
) -> float:
    """Return the mix with the least loss on rows that neither vector was trained on."""
    losses = [model.loss(interpolated(common, own, mix), held_out.X, held_out.y) for mix in mixes]
    return float(mixes[int(np.argmin(losses))])
