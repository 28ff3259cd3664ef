"""PyTorch, imported when a network is made, and networks whose first weights come from a seed of their own."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.errors import SchemaMismatch
from vfl.extras import load_torch

__all__ = ["Arrays", "arrays_of", "draw", "perceptron", "restore"]

Arrays = dict[str, NDArray[Any]]


def perceptron(inputs: int, hidden: Sequence[int], outputs: int) -> Any:
    """Return linear layers with rectifiers between them."""
    torch = load_torch()
    layers: list[Any] = []
    for width in hidden:
        layers += [torch.nn.Linear(inputs, width), torch.nn.ReLU()]
        inputs = width
    return torch.nn.Sequential(*layers, torch.nn.Linear(inputs, outputs))


def draw(network: Any, seed: int) -> None:
    """Draw all weights of a network anew, uniform within 1 / sqrt(inputs); PyTorch's own generator is left alone.

    Several networks may be made at the same time, so the weights do not come from a generator that they share.
    """
    torch, rng = load_torch(), np.random.default_rng(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Embedding):
                _fill(module.weight, rng.normal(size=tuple(module.weight.shape)))
            elif isinstance(module, torch.nn.Linear):
                reach = 1 / np.sqrt(max(1, module.in_features))
                for parameter in module.parameters():
                    _fill(parameter, rng.uniform(-reach, reach, size=tuple(parameter.shape)))


def _fill(parameter: Any, values: NDArray[np.float64]) -> None:
    parameter.copy_(load_torch().from_numpy(values.astype(np.float32)))


def arrays_of(networks: Iterable[tuple[str, Any]]) -> Arrays:
    """Return weights and statistics of networks by name."""
    return {
        f"{name}.{key}": value.detach().numpy().copy()
        for name, network in networks
        for key, value in network.state_dict().items()
    }


def restore(networks: Iterable[tuple[str, Any]], arrays: Arrays) -> None:
    """Put weights back; they have to be exactly those of these networks, and finite.

    Raises
    ------
    SchemaMismatch
    """
    torch, left = load_torch(), dict(arrays)
    for name, network in networks:
        state = network.state_dict()
        for key, value in state.items():
            found = left.pop(f"{name}.{key}", None)
            if found is None or found.shape != tuple(value.shape) or not np.isfinite(found).all():
                raise SchemaMismatch(f"the weights {name}.{key} do not fit the network: damaged")
            state[key] = torch.from_numpy(found.copy()).to(value.dtype)
        network.load_state_dict(state)
    if left:
        raise SchemaMismatch(f"unknown weights: {', '.join(sorted(left)[:5])}")
