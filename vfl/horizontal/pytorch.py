"""Models of PyTorch as functions of a flat vector.

    module = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    result = vfl.federate(module, clients, rounds=20)       # or TorchModel(module, classes, loss)
    result.estimator                                        # a trained copy of the module, in evaluation mode

The vector holds the parameters that are to be trained, in the module's order; those with ``requires_grad = False`` stay
as they are. Training starts from the module's present parameters, so a module that was trained elsewhere goes on from
there. Rows are handed to the module as they are, shape (rows, features): a first layer ``torch.nn.Unflatten`` makes
images of them.

Chance inside the module (drop-out) follows from the vector and the rows alone, so a resumed run ends with the same bits
as one without a break; between machines, versions and numbers of threads bits may differ. It takes the extra:
``pip install 'vfl[torch]'``.
"""

import copy
import hashlib
import sys
import threading
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.errors import ConfigError, InvalidData
from vfl.extras import load_torch
from vfl.horizontal.models import accuracy, labels_of, places
from vfl.horizontal.vectors import Matrix, Vector, flatten, unflatten

__all__ = ["TorchModel", "is_module", "outputs"]

_CHANCE = threading.Lock()  # PyTorch has one generator for all threads


def is_module(model: Any) -> bool:
    """Return whether this is a module of PyTorch, which is imported already if it is."""
    loaded = sys.modules.get("torch")
    return loaded is not None and isinstance(model, loaded.nn.Module)


def outputs(module: Any, X: Matrix) -> int:
    """Return how many outputs a module has for a row.

    Raises
    ------
    InvalidData
        If its outputs are not one row for each row.
    """
    package = load_torch()
    copied, first = copy.deepcopy(module).eval(), next(module.parameters(), None)
    if first is None:
        raise ConfigError("the module has no parameter that is to be trained")
    with package.no_grad():
        found = copied(package.tensor(X[[0, 0]], dtype=first.dtype, device=first.device))
    if found.ndim != 2 or len(found) != 2:
        raise InvalidData(f"the module makes {tuple(found.shape)} of two rows; it takes (2, outputs)")
    return int(found.shape[1])


class TorchModel:
    """A module and its loss as a :class:`.models.Model`.

    Parameters
    ----------
    module : torch.nn.Module
        Gives logits, shape (rows, classes), or predictions, shape (rows, 1). It is copied, and stays as it is.
    classes : iterable, optional
        All labels that occur at any client, as many as outputs; none for a regression.
    loss : callable, optional
        Of outputs and targets, the mean over rows; targets are places among the sorted classes, or numbers, shape
        (rows, 1). By default the cross-entropy, or half the squared error.

    Raises
    ------
    ConfigError
        If PyTorch is not installed, nothing is to be trained, or a layer keeps running statistics of its batches.
    """

    def __init__(
        self, module: Any, classes: Iterable[Any] | None = None, loss: Callable[[Any, Any], Any] | None = None
    ) -> None:
        self._torch = load_torch()
        self._module = copy.deepcopy(module)
        self._loss = loss
        self.classes = None if classes is None else np.unique(np.array(list(classes)))
        for name, part in self._module.named_modules():
            if getattr(part, "running_mean", None) is not None:
                raise ConfigError(_statistics(name, part))
        if not self._named:
            raise ConfigError("the module has no parameter that is to be trained")
        self.size = sum(int(part.numel()) for part in self._named.values())

    def __repr__(self) -> str:
        """Return a text that names everything that training depends on, for checkpoints."""
        kept = hashlib.sha256()
        for name, value in self._module.state_dict().items():
            kept.update(name.encode() + value.detach().cpu().numpy().tobytes())
        classes = None if self.classes is None else self.classes.tolist()
        frozen = [n for n, p in self._module.named_parameters() if not p.requires_grad]
        return f"TorchModel({self._module}, {classes}, {self._loss}, {frozen}, {kept.hexdigest()})"

    @cached_property
    def _named(self) -> dict[str, Any]:
        return {name: part for name, part in self._module.named_parameters() if part.requires_grad}

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the arrays of the vector."""
        return [tuple(part.shape) for part in self._named.values()]

    def initial(self, seed: int) -> Vector:
        """Return the module's present parameters; the seed is not used."""
        return flatten([part.detach().cpu().numpy() for part in self._named.values()])

    def parameters(self, vector: Vector) -> dict[str, Any]:
        """Return the parameters that a vector holds, by name, in the module's precision."""
        arrays = unflatten(np.asarray(vector, dtype=np.float64), self.shapes)
        return {
            name: self._torch.tensor(array, dtype=part.dtype, device=part.device)
            for (name, part), array in zip(self._named.items(), arrays, strict=True)
        }

    def inputs(self, X: Matrix) -> Any:
        """Return rows as a tensor in the module's precision."""
        first = next(iter(self._named.values()))
        return self._torch.tensor(X, dtype=first.dtype, device=first.device)

    def targets(self, y: NDArray[Any], precision: Any = None) -> Any:
        """Return the places of labels among the classes, or numbers, shape (rows, 1), in the module's precision."""
        first = next(iter(self._named.values()))
        if self.classes is None:
            numbers = np.asarray(y, dtype=np.float64)[:, None]
            return self._torch.tensor(numbers, dtype=precision or first.dtype, device=first.device)
        return self._torch.tensor(places(self.classes, y), device=first.device)

    def mean_loss(self, outputs: Any, targets: Any) -> Any:
        """Return the mean loss of outputs.

        Raises
        ------
        InvalidData
            If there are not as many outputs as classes.
        """
        wanted = 1 if self.classes is None else len(self.classes)
        if outputs.ndim != 2 or outputs.shape[1] != wanted:
            raise InvalidData(
                f"the module's outputs have shape {tuple(outputs.shape)}; the labels take (rows, {wanted})"
            )
        if self._loss is not None:
            return self._loss(outputs, targets)
        functional = self._torch.nn.functional
        if self.classes is None:
            return functional.mse_loss(outputs, targets) / 2
        return functional.cross_entropy(outputs, targets)

    def summed_loss(self, outputs: Any, targets: Any) -> Any:
        """Return the sum of each row's own loss; one of the caller's may mix rows, so it gets them one by one."""
        if self._loss is None:
            return self.mean_loss(outputs, targets) * len(outputs)
        return sum(self.mean_loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(len(outputs)))

    def _evaluated(self, vector: Vector, X: Matrix) -> Any:
        """Return outputs for prediction: no drop-out."""
        with self._torch.no_grad():
            return self.module(vector)(self.inputs(X))

    def module(self, vector: Vector) -> Any:
        """Return a copy of the module with the vector's parameters, in evaluation mode."""
        made = copy.deepcopy(self._module).eval()
        with self._torch.no_grad():
            made.load_state_dict(self.parameters(vector), strict=False)
        return made

    estimator = module

    def loss(self, vector: Vector, X: Matrix, y: NDArray[Any]) -> float:
        """Return the mean loss, without drop-out."""
        return float(self.mean_loss(self._evaluated(vector, X), self.targets(y)))

    def gradient(self, vector: Vector, X: Matrix, y: NDArray[Any]) -> Vector:
        """Return the gradient of the mean loss in training mode.

        Raises
        ------
        ConfigError
            If the module changed its buffers, which are no parameters.
        """
        package = self._torch
        parameters = {name: part.requires_grad_() for name, part in self.parameters(vector).items()}
        inputs, targets = self.inputs(X), self.targets(y)
        before = {name: buffer._version for name, buffer in self._module.named_buffers()}
        with _CHANCE, package.random.fork_rng(devices=[]):
            package.manual_seed(_seed(vector, X))
            outputs = package.func.functional_call(self._module.train(), parameters, (inputs,))
            gradients = package.autograd.grad(
                self.mean_loss(outputs, targets),
                list(parameters.values()),
                allow_unused=True,
                materialize_grads=True,
            )
        changed = [name for name, buffer in self._module.named_buffers() if before[name] != buffer._version]
        if changed:
            raise ConfigError(
                f"training changes the buffer {changed[0]!r}, which is no parameter and is not averaged"
            )
        return flatten([part.cpu().numpy() for part in gradients])

    def scores(self, vector: Vector, X: Matrix) -> Matrix:
        """Return logits, shape (rows, classes), or predictions, shape (rows, 1)."""
        return np.asarray(self._evaluated(vector, X).cpu().numpy(), dtype=np.float64)

    def predict(self, vector: Vector, X: Matrix) -> NDArray[Any]:
        """Return labels or numbers, shape (rows,)."""
        return labels_of(self.classes, self.scores(vector, X))

    def accuracy(self, vector: Vector, X: Matrix, y: NDArray[Any]) -> float:
        """Return the part of rows classified right, or R^2."""
        return accuracy(self.classes, self.predict(vector, X), y)


def _seed(vector: Vector, X: Matrix) -> int:
    text = hashlib.blake2b(np.ascontiguousarray(vector).tobytes(), digest_size=8)
    text.update(np.ascontiguousarray(X).tobytes())
    return int.from_bytes(text.digest(), "little")


def _statistics(name: str, part: Any) -> str:
    return (
        f"layer {name!r} ({type(part).__name__}) keeps running statistics of its batches, which are no parameters: "
        "they differ from client to client and are not averaged. Replace it by torch.nn.GroupNorm, which keeps none"
    )
