"""What the roles of a split training do with a batch: the guest's and a host's networks, optimisers and defences."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.rng import Rng
from vfl.extras import load_torch
from vfl.neural import defences
from vfl.neural.defences import Defence, Defended, Marvell, NoisyEmbeddings, RandomisedLabels
from vfl.neural.inputs import Values
from vfl.neural.towers import Bottom, distance_correlation
from vfl.protocols import split

__all__ = ["Guest", "Host", "protection"]

HOST_SHARE = 0.7
"""Part of the steps after which a host's network stays as it is."""
Numbers = NDArray[np.float32]
Places = NDArray[np.int64]
LABEL_COMPONENTS = 4
"""Components that learn from randomised labels, or one less than there are classes; the others stay free."""


class _Exact:
    """Gradients as they are."""

    def gradients(self, rows: Places, exact: list[Numbers]) -> list[Numbers]:
        return exact


class _Perturbed:
    """Gradients with Marvell's noise."""

    def __init__(self, labels: Places, power: float, rng: Rng) -> None:
        self._labels, self._power, self._rng = labels, power, rng

    def gradients(self, rows: Places, exact: list[Numbers]) -> list[Numbers]:
        whole = np.hstack(exact)  # one noise for all hosts: they may compare what they get
        noisy = defences.marvell_noise(whole, self._labels[rows], self._power, self._rng)
        cuts = np.cumsum([each.shape[1] for each in exact])[:-1]
        return [np.ascontiguousarray(part) for part in np.split(noisy, cuts, axis=1)]


class _Randomised:
    """A direction for each randomised label, the same for all hosts and epochs; exact gradients are not looked at.

    The directions are random, and centred by the frequencies of the randomised labels, so that they depend on nothing
    else that is secret.
    """

    def __init__(
        self, labels: Places, classes: int, widths: Sequence[int], advantage: float, rng: Rng
    ) -> None:
        self._labels = defences.randomised(labels, classes, advantage, rng)
        shares = np.bincount(self._labels, minlength=classes) / len(labels)
        self._directions = []
        for width in widths:
            directions = np.zeros((classes, width))
            used = min(width, max(LABEL_COMPONENTS, classes - 1))
            directions[:, :used] = defences.gaussian(rng, classes, used)
            self._directions.append((shares @ directions - directions).astype(np.float32))

    def gradients(self, rows: Places, exact: list[Numbers]) -> list[Numbers]:
        return [directions[self._labels[rows]] for directions in self._directions]


Protection = _Exact | _Perturbed | _Randomised


def protection(defence: Defence, labels: Places, classes: int, widths: Sequence[int], rng: Rng) -> Protection:
    """Return what turns exact gradients into those that are sent."""
    if not isinstance(defence, Defended):
        return _Exact()
    if isinstance(defence.labels, RandomisedLabels):
        return _Randomised(labels, classes, widths, defence.labels.advantage, rng)
    return _Perturbed(labels, defence.labels.power, rng)


class _Optimiser:
    """AdamW whose step falls to zero: at hosts before the end, so that the guest learns from their last embeddings."""

    def __init__(self, networks: Sequence[Any], rate: float, decay: float, steps: float) -> None:
        weights = [weight for network in networks for weight in network.parameters()]
        self._adam = load_torch().optim.AdamW(weights, lr=rate, weight_decay=decay)
        self._rate, self._steps, self._done = rate, steps, 0

    def step(self, loss: Any) -> None:
        self._adam.param_groups[0]["lr"] = self._rate * max(0.0, 1 - self._done / self._steps)
        self._done += 1
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()


class Guest(split.GuestSide):
    """The guest's networks in training.

    Attributes
    ----------
    losses : list of float
        Mean loss by epoch.
    """

    def __init__(
        self,
        bottom: Bottom,
        top: Any,
        values: Values,
        labels: Places,
        protect: Protection,
        rate: float,
        decay: float,
        steps: int,
    ) -> None:
        self._bottom, self._top, self._values, self._labels = bottom, top, values, labels
        self._protect = protect
        self._optimiser = _Optimiser([bottom.network, top], rate, decay, steps)
        self._sum, self.losses = 0.0, list[float]()
        bottom.network.train()

    def step(self, rows: Places, embeddings: list[Numbers]) -> list[Numbers]:
        """Train on a batch; return what is sent to each host."""
        torch = load_torch()
        received = [torch.from_numpy(each.copy()).requires_grad_() for each in embeddings]
        own = self._bottom.embed(self._bottom.inputs(self._values.rows(rows)))
        scores = self._top(torch.cat([own, *received], dim=1))
        loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(self._labels[rows]))
        self._optimiser.step(loss)
        self._sum += loss.item() * len(rows)
        return self._protect.gradients(rows, [each.grad.numpy() * len(rows) for each in received])

    def end(self) -> None:
        """Note the mean loss of an epoch."""
        self.losses.append(self._sum / len(self._labels))
        self._sum = 0.0


class Host(split.HostSide):
    """A host's bottom network in training."""

    def __init__(
        self,
        bottom: Bottom,
        values: Values,
        width: int,
        defence: Defence,
        noise: NoisyEmbeddings | None,
        rng: Rng,
        rate: float,
        decay: float,
        steps: int,
    ) -> None:
        self._bottom, self._values, self._rng, self._noise = bottom, values, rng, noise
        self._penalty = defence.distance_correlation if isinstance(defence, Defended) else 0.0
        self._own = noise.of_rows(values.raw, width) if noise else np.zeros((len(values), 0))
        self._optimiser = _Optimiser([bottom.network], rate, decay, HOST_SHARE * steps)
        self._inputs: Any = None
        self._embedded: Any = None
        bottom.network.train()

    def embed(self, rows: Places) -> Numbers:
        """Return the embeddings of a batch as they are sent."""
        self._inputs = self._bottom.inputs(self._values.rows(rows))
        self._embedded = self._bottom.embed(self._inputs)
        sent: Numbers = self._embedded.detach().numpy()
        return sent if self._noise is None else self._noise.apply(sent, self._own[rows], self._rng)

    def step(self, gradient: Numbers) -> None:
        """Step along what the guest sent, and away from what the columns show."""
        torch = load_torch()
        loss = (self._embedded * torch.from_numpy(gradient.copy())).sum() / len(gradient)
        if self._penalty:
            loss = loss + self._penalty * distance_correlation(self._inputs.detach(), self._embedded)
        self._optimiser.step(loss)


def noise(defence: Defence, secret: bytes, width: int) -> NoisyEmbeddings | None:
    """Return a host's noise; None without a defence."""
    if not isinstance(defence, Defended):
        return None
    return NoisyEmbeddings(
        hashlib.sha256(b"embeddings" + secret).digest(),
        defence.noise,
        defences.bound(defence, width, split.LARGEST),
    )


def longest(defence: Defence, width: int) -> float:
    """Return the length at which embeddings of hosts are clipped."""
    return defence.clip * math.sqrt(width) if isinstance(defence, Defended) else math.inf


def two_classes_only(defence: Defence) -> bool:
    """Return whether a defence is for two classes only."""
    return isinstance(defence, Defended) and isinstance(defence.labels, Marvell)
