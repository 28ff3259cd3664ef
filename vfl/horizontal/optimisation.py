"""Local training and the server's step: FedAvg and what came after it.

A client starts at the server's vector x, makes K steps of stochastic gradient descent on its own rows to y, and gives
y - x. The server steps along the mean of these. All of these methods compose with secure aggregation: the server needs
one weighted sum. SCAFFOLD doubles the vector, since the changes of the control variates are summed too.

Sources: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017
(FedAvg). Stich, "Local SGD Converges Fast and Communicates Little", ICLR 2019. Li et al., "Federated
Optimization in Heterogeneous Networks", MLSys 2020 (FedProx). Karimireddy et al., "SCAFFOLD: Stochastic
Controlled Averaging for Federated Learning", ICML 2020 (control variates by option II). Hsu, Qi and Brown,
"Measuring the Effects of Non-Identical Data Distribution", 2019 (arXiv 1909.06335: server momentum). Reddi et al.,
"Adaptive Federated Optimization", ICLR 2021 (FedAdagrad, FedYogi, FedAdam; no bias correction).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from vfl.errors import InvalidData, TrainingDiverged
from vfl.horizontal.composing import Needs
from vfl.horizontal.models import Model
from vfl.horizontal.vectors import Rows, Vector

__all__ = [
    "Adaptive",
    "FedAvg",
    "FedProx",
    "Local",
    "RecordCost",
    "Scaffold",
    "ServerState",
    "Strategy",
    "adaptive_step",
    "averaged_step",
    "control_change",
    "local_sgd",
]


RecordCost = tuple[float, float, int]
"""Noise multiplier, chance of a record, noisy steps."""


@dataclass(frozen=True)
class Local:
    """How a client trains; :class:`.records.RecordPrivacy` does it with privacy for single records.

    Parameters
    ----------
    steps : int
        K, of stochastic gradient descent in a round; 1 with `batch` 0 is FedSGD.
    rate : float
        Step size.
    batch : int
        Rows of a step, drawn in shuffled passes; 0 takes all rows.
    """

    steps: int = 10
    rate: float = 0.1
    batch: int = 32

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 0 or not 0 < self.rate < math.inf:
            raise InvalidData("local training takes at least one step, a positive rate and no negative batch")

    @property
    def delta(self) -> float:
        """At which epsilon of single records is told; 0 without."""
        return 0.0

    def cost(self, rows: int) -> RecordCost | None:
        """Return what a round costs each record of a client with so many rows; None: there is no such privacy."""
        return None

    def trained(
        self,
        model: Model,
        start: Vector,
        rows: Rows,
        rng: np.random.Generator,
        proximal: float = 0.0,
        correction: Vector | None = None,
    ) -> Vector:
        """Return the vector after local training; see :func:`local_sgd`."""
        return local_sgd(model, start, rows, self, rng, proximal, correction)


def local_sgd(
    model: Model,
    start: Vector,
    rows: Rows,
    local: Local,
    rng: np.random.Generator,
    proximal: float = 0.0,
    correction: Vector | None = None,
) -> Vector:
    """Return the vector after K local steps.

    Parameters
    ----------
    model : Model
    start : ndarray of float64, shape (size,)
        x; stays as it is.
    rows : Rows
    local : Local
    rng : numpy.random.Generator
        Orders the rows.
    proximal : float
        FedProx's mu: each step descends on f(y) + mu/2 |y - x|^2.
    correction : ndarray of float64, optional
        SCAFFOLD's c - c_i, added to each gradient.

    Raises
    ------
    TrainingDiverged
        If the vector is not finite any more.
    """
    y, order = start.copy(), np.empty(0, np.int64)
    for _ in range(local.steps):
        if local.batch and local.batch < len(rows):
            if len(order) < local.batch:
                order = np.concatenate([order, rng.permutation(len(rows))])
            index, order = order[: local.batch], order[local.batch :]
            gradient = model.gradient(y, rows.X[index], rows.y[index])
        else:
            gradient = model.gradient(y, rows.X, rows.y)
        if proximal:
            gradient = gradient + proximal * (y - start)
        if correction is not None:
            gradient = gradient + correction
        y -= local.rate * gradient
    if not np.isfinite(y).all():
        raise TrainingDiverged(f"local training left the range of float64; take a rate below {local.rate:g}")
    return y


def control_change(own: Vector, common: Vector, update: Vector, local: Local) -> Vector:
    """Return the change of a client's control variate, c_i+ - c_i = -c + (x - y) / (K eta): option II.

    Parameters
    ----------
    own, common : ndarray of float64, shape (size,)
        c_i and c; c_i cancels and stands here for its shape.
    update : ndarray of float64, shape (size,)
        y - x.
    local : Local
    """
    if own.shape != common.shape or own.shape != update.shape:
        raise InvalidData(f"control variates have the model's size, not {own.shape} and {common.shape}")
    change: Vector = -common - update / (local.steps * local.rate)
    return change


@dataclass(frozen=True, eq=False)
class ServerState:
    """What the server carries from round to round.

    Attributes
    ----------
    vector : ndarray of float64, shape (size,)
        x.
    first, second : ndarray of float64, shape (size,)
        m and v.
    control : ndarray of float64, shape (size,)
        c.
    """

    vector: Vector
    first: Vector
    second: Vector
    control: Vector

    @classmethod
    def start(cls, vector: Vector) -> "ServerState":
        """Return the state before the first round."""
        return cls(vector.copy(), *(np.zeros_like(vector) for _ in range(3)))


def averaged_step(state: ServerState, mean: Vector, rate: float = 1.0, momentum: float = 0.0) -> ServerState:
    """Return x + rate m with m = momentum m + mean; FedAvg is rate 1 without momentum."""
    first = momentum * state.first + mean
    return replace(state, vector=state.vector + rate * first, first=first)


Kind = Literal["adagrad", "yogi", "adam"]


def adaptive_step(
    state: ServerState,
    mean: Vector,
    kind: Kind,
    rate: float = 0.1,
    beta1: float = 0.9,
    beta2: float = 0.99,
    tau: float = 1e-3,
) -> ServerState:
    """Return the state after a step of FedAdagrad, FedYogi or FedAdam: x + rate m / (sqrt(v) + tau).

    As in the paper v starts at tau^2, and m has no bias correction.
    """
    square = mean**2
    second = state.second if state.second.any() else np.full_like(mean, tau**2)
    first = beta1 * state.first + (1.0 - beta1) * mean
    if kind == "adagrad":
        second = second + square
    elif kind == "yogi":
        second = second - (1.0 - beta2) * square * np.sign(second - square)
    else:
        second = beta2 * second + (1.0 - beta2) * square
    vector = state.vector + rate * first / (np.sqrt(second) + tau)
    return replace(state, vector=vector, first=first, second=second)


@dataclass(frozen=True)
class Strategy:
    """A server's step with what it changes at the clients; averages, so it composes with secure aggregation."""

    @property
    def needs(self) -> Needs:
        """What the server has to see."""
        return Needs.SUM

    @property
    def proximal(self) -> float:
        """FedProx's mu."""
        return 0.0

    @property
    def controlled(self) -> bool:
        """Whether clients keep control variates and their updates have twice the size."""
        return False

    def step(self, state: ServerState, mean: Vector, part: float) -> ServerState:
        """Return the state after a round.

        Parameters
        ----------
        state : ServerState
        mean : ndarray of float64
            Weighted mean of the updates.
        part : float
            Weight of those in it over the weight of all clients.
        """
        return averaged_step(state, mean)


@dataclass(frozen=True)
class FedAvg(Strategy):
    """The weighted mean, with a server's rate and momentum (0: FedAvg as it was published)."""

    rate: float = 1.0
    momentum: float = 0.0

    def step(self, state: ServerState, mean: Vector, part: float) -> ServerState:
        """Return the state after a round."""
        return averaged_step(state, mean, self.rate, self.momentum)


@dataclass(frozen=True)
class FedProx(Strategy):
    """FedAvg of clients that are held near the server's vector by mu/2 |y - x|^2."""

    mu: float = 0.1

    @property
    def proximal(self) -> float:
        """The published mu."""
        return self.mu


@dataclass(frozen=True)
class Scaffold(Strategy):
    """Control variates against the drift of clients; weighted by rows as FedAvg is, equal weights are the paper's."""

    rate: float = 1.0

    @property
    def controlled(self) -> bool:
        """Whether clients keep control variates: yes."""
        return True

    def step(self, state: ServerState, mean: Vector, part: float) -> ServerState:
        """Return the state after a round: x + rate dy, and c + part dc."""
        moved, change = np.split(mean, 2)
        return replace(
            averaged_step(state, moved, self.rate, 0.0), control=state.control + min(1.0, part) * change
        )


@dataclass(frozen=True)
class Adaptive(Strategy):
    """FedAdagrad, FedYogi or FedAdam; see :func:`adaptive_step`."""

    kind: Kind = "adam"
    rate: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def step(self, state: ServerState, mean: Vector, part: float) -> ServerState:
        """Return the state after a round."""
        return adaptive_step(state, mean, self.kind, self.rate, self.beta1, self.beta2, self.tau)
