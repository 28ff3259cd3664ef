"""Local training that is private for single records: DP-SGD with Opacus.

    local = RecordPrivacy(steps=20, rate=0.2, batch=32, clip=1.0, noise_multiplier=1.1, delta=1e-5)
    result = vfl.federate(module, clients, rounds=20, local=local)
    result.history[-1].record_epsilon           # {"client000": 2.31, ...}

Each step takes every record with chance batch / rows, shortens the gradient of each to `clip`, adds the noise to their
sum, and divides by `batch`. What leaves the client is a function of these noisy sums, so with respect to any single
record of its own it is (epsilon, delta)-differentially private against everybody, the server included: it composes with
every aggregation, codec and strategy.

Two different promises: epsilon here is each client's own, and hides whether one *record* was among its rows. The number
of its rows is taken as known. Epsilon of :class:`.privacy.Central`, :class:`.privacy.Tree` and
:class:`vfl.ClientPrivacy` hides whether a *client* took part at all. Neither follows from the other; both may be asked
for at once, and the history tells both.

Opacus gives the gradient of each record, the clipping and the accountant. Its noise and its choice of records come from
PyTorch's generator, which is none for secrets; here both come from :mod:`vfl.crypto.rng`. The noise is the discrete
Gaussian of :mod:`.privacy`, on a grid of sigma / 2^20: for the accountant it is the continuous one. Gradients are in
float64. Neighbours differ by one record added or removed. A module whose answer for one record depends on others of its
batch is not private; Opacus refuses the layers of PyTorch that do this, and cannot see it in other code.

Sources: Abadi et al., "Deep Learning with Differential Privacy", CCS 2016. Mironov, Talwar and Zhang,
"Renyi Differential Privacy of the Sampled Gaussian Mechanism", 2019 (what the accountant computes).
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.rng import Rng, SystemRng
from vfl.errors import ConfigError, InvalidData, TrainingDiverged
from vfl.extras import load_opacus, load_torch
from vfl.horizontal.models import Model
from vfl.horizontal.optimisation import Local, RecordCost
from vfl.horizontal.privacy import noisy
from vfl.horizontal.pytorch import TorchModel
from vfl.horizontal.vectors import Rows, Vector, flatten, unflatten

__all__ = ["RecordPrivacy", "sampled"]


def sampled(rows: int, chance: float, rng: Rng) -> NDArray[np.int64]:
    """Return a Poisson sample: each row with this chance, in units of 2^-64, independently of the others."""
    if not 0 < chance <= 1:
        raise InvalidData(f"a chance lies above 0 and at most at 1, not at {chance}")
    drawn = np.frombuffer(rng.bytes(8 * rows), dtype="<u8")
    return np.flatnonzero(drawn < np.uint64(min(math.floor(chance * 2.0**64), (1 << 64) - 1)))


@dataclass(frozen=True)
class RecordPrivacy(Local):
    """DP-SGD in place of SGD.

    Parameters
    ----------
    steps : int
        Noisy steps of a round.
    rate : float
    batch : int
        Records of a step, on average; all of a client that has fewer.
    clip : float
        Largest length of a record's gradient.
    noise_multiplier : float
        Standard deviation of the noise on the sum of a step, over `clip`.
    delta : float
        At which epsilon is told.
    """

    clip: float = 1.0
    noise_multiplier: float = 1.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.clip < math.inf and 0 < self.noise_multiplier < math.inf and 0 < self.delta < 1):
            raise InvalidData("clip and noise_multiplier are positive and finite, delta lies between 0 and 1")
        if not self.batch:
            raise InvalidData(
                "the records of a step are chosen by chance: batch is how many on average, not 0"
            )

    def chance(self, rows: int) -> float:
        """Return the chance with which a step takes a record."""
        return min(1.0, self.batch / rows)

    def cost(self, rows: int) -> RecordCost:
        """Return what a round costs each record of a client with so many rows."""
        return self.noise_multiplier, self.chance(rows), self.steps

    def trained(
        self,
        model: Model,
        start: Vector,
        rows: Rows,
        rng: np.random.Generator,
        proximal: float = 0.0,
        correction: Vector | None = None,
    ) -> Vector:
        """Return the vector after the noisy steps; see :func:`.optimisation.local_sgd`.

        What FedProx and SCAFFOLD add to a step does not depend on a single record beyond earlier noisy sums, and is
        added after the noise.

        Raises
        ------
        ConfigError
            If the model is none of PyTorch, or Opacus does not support a layer of it.
        TrainingDiverged
            If the vector is not finite any more.
        """
        if not isinstance(model, TorchModel):
            raise ConfigError(
                f"privacy of single records takes a module of PyTorch, not {type(model).__name__}"
            )
        y, chance, secret = start.copy(), self.chance(len(rows)), SystemRng()
        under = _Opacus(model, self, start, secret)
        for _ in range(self.steps):
            index = sampled(len(rows), chance, secret)
            total = under.noisy_sum(y, rows.take(index) if len(index) else None)
            gradient = total / (chance * len(rows)) + proximal * (y - start)
            y -= self.rate * (gradient if correction is None else gradient + correction)
        if not np.isfinite(y).all():
            raise TrainingDiverged(
                f"local training left the range of float64; take a rate below {self.rate:g}"
            )
        return y


class _Opacus:
    """One client's module under Opacus, in float64 and on the processor."""

    def __init__(self, model: TorchModel, rule: RecordPrivacy, start: Vector, secret: Rng) -> None:
        self._torch, self._model = load_torch(), model
        inner = model.module(start).cpu().double().train()
        errors = load_opacus("validators").ModuleValidator.validate(inner, strict=False)
        if errors:
            raise ConfigError(f"Opacus has no gradients of single records for this module: {errors[0]}")
        self._wrapped = load_opacus("grad_sample").GradSampleModule(inner, loss_reduction="sum")
        self._parameters = [part for part in inner.parameters() if part.requires_grad]
        self._optimizer = _optimizer()(
            self._torch.optim.SGD(self._parameters, lr=1.0),
            noise_multiplier=rule.noise_multiplier,
            max_grad_norm=rule.clip,
            expected_batch_size=None,
            loss_reduction="sum",
            generator=secret,
        )

    def noisy_sum(self, vector: Vector, rows: Rows | None) -> Vector:
        """Return the noisy sum of clipped gradients at a vector; of no records it is noise alone."""
        package, model = self._torch, self._model
        with package.no_grad():
            for part, array in zip(self._parameters, unflatten(vector, model.shapes), strict=True):
                part.copy_(package.tensor(array))
        self._optimizer.zero_grad(set_to_none=True)
        if rows is not None:
            X = package.tensor(rows.X, dtype=package.float64)
            outputs = self._wrapped(
                X.requires_grad_()
            )  # PyTorch warns of Opacus' hooks where no input has a gradient
            model.summed_loss(outputs, model.targets(rows.y, package.float64).cpu()).backward()
        self._repair(0 if rows is None else len(rows))
        self._optimizer.pre_step()
        return flatten([part.grad.numpy() for part in self._parameters])

    def _repair(self, count: int) -> None:
        """Give every parameter gradients of `count` records; a record with one that is not finite has none at all."""
        package, finite = self._torch, self._torch.ones(count, dtype=bool)
        for part in self._parameters:
            if part.grad_sample is None:
                part.grad_sample = package.zeros((count, *part.shape), dtype=part.dtype)
            finite &= package.isfinite(part.grad_sample).reshape(count, part.numel()).all(dim=1)
        for part in self._parameters:
            part.grad_sample[~finite] = 0.0


@functools.cache
def _optimizer() -> Any:
    """Return Opacus' optimiser, with the noise of this library."""
    package = load_torch()

    class SecretNoise(load_opacus("optimizers").DPOptimizer):  # type: ignore[misc]
        """Takes an :class:`vfl.crypto.rng.Rng` as its generator."""

        def add_noise(self) -> None:
            total = flatten([part.summed_grad.numpy() for part in self.params])
            found = noisy(total, self.max_grad_norm, self.noise_multiplier, self.generator)
            arrays = unflatten(found, [tuple(part.shape) for part in self.params])
            for part, array in zip(self.params, arrays, strict=True):
                part.grad = package.tensor(array)

    return SecretNoise
