"""What a split network does for labels that hosts must not learn, and for columns that the guest must not.

A defence is a value that all parties agree on before data move: :class:`Defended` by default, :class:`Undefended` where
that has been accepted. Labels are protected by :class:`RandomisedLabels` or :class:`Marvell`.
"""

import hashlib
import math
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from vfl.crypto.rng import Rng
from vfl.protocols.wire import Leakage

__all__ = [
    "Defence",
    "Defended",
    "Marvell",
    "NoisyEmbeddings",
    "RandomisedLabels",
    "Undefended",
    "bound",
    "gaussian",
    "leakage",
    "marvell_noise",
    "randomised",
]

Numbers = NDArray[np.float32]
FloatArray = NDArray[np.float64]
Places = NDArray[np.int64]
MARGIN = 8.0
"""Standard deviations of the noise that the bound on embeddings leaves room for."""


class RandomisedLabels(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Hosts train on labels that were randomised once; nothing that they receive depends on others.

    With probability `advantage` a row's label is its own, else a class drawn uniformly, once for the whole training.
    The gradient of a row towards a host is a direction that belongs to its randomised label and to nothing else. So
    all that a host receives in all epochs is a function of the randomised labels: label differential privacy for each
    row, with the epsilon of :meth:`epsilon` for each training, whatever the host computes. The guest's own networks
    train on the true labels, and nothing of them is sent.

    Parameters
    ----------
    advantage : float
        In (0, 1). An attack on two classes has an AUC of (1 + advantage) / 2 in expectation, and no more.

    Notes
    -----
    Warner, "Randomized response", JASA 1965; label differential privacy: Ghazi et al., "Deep Learning with Label
    Differential Privacy", arXiv 2102.06062.
    """

    advantage: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.advantage < 1:
            raise ValueError("advantage must lie in (0, 1)")

    def epsilon(self, classes: int) -> float:
        """Return epsilon of label differential privacy, of one training."""
        return math.log1p(classes * self.advantage / (1 - self.advantage))


class Marvell(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Gaussian noise on exact gradients, shaped so that the classes of a batch are hard to tell; two classes only.

    The noise is drawn anew in each epoch, and the guarantee is for one batch: a host that keeps all epochs averages it
    out. It is here for comparison; accepting it takes ``row_gradient``.

    Parameters
    ----------
    power : float
        Mean squared noise of a row, in units of the squared distance between the mean gradients of both classes.

    Notes
    -----
    Li et al., "Label Leakage and Protection in Two-party Split Learning", ICLR 2022, arXiv 2102.08504.
    """

    power: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.power <= 1e6:
            raise ValueError("power must lie in (0, 1e6]")


class Defended(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Protected labels, and embeddings that are clipped, noisy and less correlated with the columns.

    Parameters
    ----------
    labels : RandomisedLabels or Marvell
    clip : float
        Longest embedding, in units of the square root of its length: a component has variance one before.
    noise : float
        Standard deviation of the noise of a component. Half of its variance is the same whenever the same row is
        embedded by the same model, so that neither averages nor differences of epochs are free of it.
    distance_correlation : float
        Weight, in a host's loss, of the squared distance correlation of its columns and embeddings.

    Notes
    -----
    Vepakomma et al., "NoPeek: Information leakage reduction to share activations in distributed deep learning",
    arXiv 2008.09161 (distance correlation).
    """

    labels: RandomisedLabels | Marvell = RandomisedLabels()
    clip: float = 1.5
    noise: float = 0.1
    distance_correlation: float = 0.05

    def __post_init__(self) -> None:
        checks = {
            "clip must lie in (0, 100]": 0 < self.clip <= 100,
            "noise must lie in [0, 100]": 0 <= self.noise <= 100,
            "distance_correlation must lie in [0, 100]": 0 <= self.distance_correlation <= 100,
        }
        for text, fulfilled in checks.items():
            if not fulfilled:
                raise ValueError(text)


class Undefended(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """The classic split network: embeddings and gradients as they are. Labels follow from the gradients."""


Defence = Defended | Undefended


def leakage(defence: Defence) -> tuple[Leakage, Leakage]:
    """Return the classes that both parties have to accept."""
    protected = isinstance(defence, Defended) and isinstance(defence.labels, RandomisedLabels)
    return Leakage.REPRESENTATION, Leakage.NOISY_LABEL if protected else Leakage.ROW_GRADIENT


def gaussian(rng: Rng, *shape: int) -> FloatArray:
    """Return standard normal numbers from secret randomness."""
    words = np.frombuffer(rng.bytes(8 * math.prod(shape)), "<u8") >> np.uint64(11)
    return np.asarray(ndtri((words + 0.5) / 2.0**53)).reshape(shape)


def randomised(labels: Places, classes: int, advantage: float, rng: Rng) -> Places:
    """Return each label with probability `advantage`, else a uniform class."""
    words = np.frombuffer(rng.bytes(8 * len(labels)), "<u8")
    other = rng.residues(classes, len(labels)).astype(np.int64)
    return np.where(words < np.uint64(advantage * 2.0**64), labels, other)


class NoisyEmbeddings:
    """A host's noise: one part that belongs to a row and this model, and one that is new each time.

    Parameters
    ----------
    key : bytes
        The host's secret, which the row's part is made from.
    noise : float
        Standard deviation of a component.
    bound : float
        Beyond which components are cut off.
    """

    def __init__(self, key: bytes, noise: float, bound: float) -> None:
        self._key, self._noise, self._bound = key, noise, bound

    def of_rows(self, raw: NDArray[np.uint8], width: int) -> FloatArray:
        """Return the rows' part, standard normal, shape (rows, width), from the bytes of each row."""
        blocks = [
            hashlib.blake2b(row, key=self._key, person=block.to_bytes(4, "big")).digest()
            for row in map(bytes, raw)
            for block in range(-(-width // 8))
        ]
        words = np.frombuffer(b"".join(blocks), "<u8").reshape(len(raw), -1)[:, :width] >> np.uint64(11)
        return np.asarray(ndtri((words + 0.5) / 2.0**53))

    def apply(self, embeddings: Numbers, own: FloatArray, rng: Rng) -> Numbers:
        """Return noisy embeddings."""
        both = math.sqrt(0.5) * (own + gaussian(rng, *embeddings.shape))
        return np.clip(embeddings + self._noise * both, -self._bound, self._bound).astype(np.float32)


def bound(defence: Defence, width: int, otherwise: float) -> float:
    """Return the largest component of an embedding of some length that the guest accepts."""
    if isinstance(defence, Undefended):
        return otherwise
    return defence.clip * math.sqrt(width) + MARGIN * defence.noise


def marvell_noise(gradient: Numbers, labels: Places, power: float, rng: Rng) -> Numbers:
    """Return gradients of two classes with Marvell's noise; zeros for a batch of one class, which has no optimum.

    Minimises the sum of both Kullback-Leibler divergences between the noisy gradients of the classes, taken to be
    normal with isotropic covariance, at a mean squared noise of `power` times the squared distance of their means. The
    noise of each class is isotropic, and larger along the difference of the means. The class of the larger variance
    gets no isotropic part, which leaves two numbers, found on a grid that is refined.
    """
    sides = [gradient[labels == label].astype(np.float64) for label in (0, 1)]
    if not all(map(len, sides)):
        return np.zeros_like(gradient)
    means, d = [side.mean(axis=0) for side in sides], gradient.shape[1]
    difference = means[1] - means[0]
    distance = float(difference @ difference)
    if distance == 0:
        return gradient
    variances = [float(side.var(axis=0).mean()) / distance + 1e-9 for side in sides]
    shares = [len(side) / len(labels) for side in sides]
    flat = int(variances[1] < variances[0])  # the class whose noise has an isotropic part
    along, across = _marvell_powers(variances[flat], variances[1 - flat], shares[flat], d, power)
    noisy = gradient.astype(np.float64)
    for label, more, rest in ((flat, along[0], across), (1 - flat, along[1], 0.0)):
        rows = labels == label
        noise = gaussian(rng, int(rows.sum()), d) * math.sqrt(rest * distance)
        extra = gaussian(rng, int(rows.sum()), 1) * math.sqrt(max(0.0, more - rest))
        noisy[rows] += noise + extra * difference
    return noisy.astype(np.float32)


def _marvell_powers(
    u: float, v: float, share: float, d: int, power: float
) -> tuple[tuple[float, float], float]:
    """Return the noise along the difference for both classes, and across it for the first, in squared distances."""
    low, high = np.zeros(2), np.ones(2)
    best: Any = None
    for _ in range(4):
        a, b = np.meshgrid(np.linspace(low[0], high[0], 41), np.linspace(low[1], high[1], 41), indexing="ij")
        own = (1 - a) * power / share
        across = b * own / d
        along, other = own - (d - 1) * across, a * power / (1 - share)
        divergence = (d - 1) * ((across + u) / v + v / (across + u))
        divergence = divergence + (along + u + 1) / (other + v) + (other + v + 1) / (along + u)
        place = np.unravel_index(np.argmin(divergence), divergence.shape)
        best = (float(along[place]), float(other[place])), float(across[place])
        centre, reach = np.array([a[place], b[place]]), (high - low) / 20
        low, high = np.maximum(centre - reach, 0), np.minimum(centre + reach, 1)
    return best  # type: ignore[no-any-return]
