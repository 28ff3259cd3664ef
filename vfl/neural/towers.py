"""The networks of a split model: a bottom network at each party, the top network at the guest."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vfl.extras import load_torch
from vfl.neural.backend import draw, perceptron
from vfl.neural.inputs import Values

__all__ = ["Bottom", "distance_correlation", "top"]


class Bottom:
    """A party's bottom network: a linear map beside a perceptron, standardised over the batch, clipped at a length.

    A categorical column enters through an embedding of its own. The linear map starts close to orthogonal, so that the
    columns are kept before anything was learned.

    Parameters
    ----------
    numbers : int
        Numeric columns.
    categories : sequence of int
        Number of categories of each categorical column.
    hidden : sequence of int
    width : int
        Length of an embedding.
    longest : float
        Length at which an embedding is clipped; infinity clips nothing.
    seed : int
    """

    def __init__(
        self,
        numbers: int,
        categories: Sequence[int],
        hidden: Sequence[int],
        width: int,
        longest: float,
        seed: int,
    ) -> None:
        torch = load_torch()
        self._torch, self._longest = torch, longest
        sizes = [(count, min(8, 1 + math.ceil(math.sqrt(count)))) for count in categories]
        tables = torch.nn.ModuleList(torch.nn.Embedding(count, size) for count, size in sizes)
        columns = numbers + sum(size for _, size in sizes)
        self.network = torch.nn.ModuleDict(
            {
                "categories": tables,
                "straight": torch.nn.Linear(columns, width, bias=False),
                "layers": perceptron(columns, hidden, width),
                "standard": torch.nn.BatchNorm1d(width, affine=False, momentum=0.05),
            }
        )
        draw(self.network, seed)
        with torch.no_grad():
            straight = self.network["straight"].weight
            turned = np.linalg.svd(straight.numpy().astype(np.float64), full_matrices=False)
            straight.copy_(torch.from_numpy((turned[0] @ turned[2]).astype(np.float32)))

    def inputs(self, values: Values) -> Any:
        """Return numbers and embedded categories side by side, shape (rows, columns)."""
        torch = self._torch
        codes = torch.from_numpy(values.codes)
        parts = [table(codes[:, place]) for place, table in enumerate(self.network["categories"])]
        return torch.cat([torch.from_numpy(values.numbers), *parts], dim=1)

    def embed(self, inputs: Any) -> Any:
        """Return embeddings of inputs, shape (rows, width)."""
        raw = self.network["straight"](inputs) + self.network["layers"](inputs)
        standard = self.network["standard"](raw)
        if math.isinf(self._longest):
            return standard
        lengths = standard.norm(dim=1, keepdim=True).clamp(min=1e-9)
        return standard * (self._longest / lengths).clamp(max=1.0)

    def scores(self, values: Values) -> Any:
        """Return embeddings of rows that are scored, by the statistics of the training."""
        self.network.eval()
        with self._torch.no_grad():
            return self.embed(self.inputs(values))


def top(width: int, hidden: Sequence[int], classes: int, seed: int) -> Any:
    """Return the network from all embeddings to a score of each class."""
    network = perceptron(width, hidden, classes)
    draw(network, seed)
    return network


def distance_correlation(left: Any, right: Any) -> Any:
    """Return the squared distance correlation of two samples, shape (rows, .): 0 for independent ones, at most 1.

    Székely, Rizzo, Bakirov, "Measuring and testing dependence by correlation of distances", Ann. Statist. 2007.
    """
    torch = load_torch()
    centred = []
    for sample in (left, right):
        lengths = sample.square().sum(dim=1)
        squares = lengths[:, None] + lengths[None] - 2 * sample @ sample.T
        distances = (squares.clamp(min=0) + 1e-6).sqrt()  # the root has no gradient at zero
        means = distances.mean(dim=0)
        centred.append(distances - means[:, None] - means[None] + distances.mean())
    covariance = (centred[0] * centred[1]).mean()
    variances = [each.square().mean() for each in centred]
    return covariance / torch.sqrt(variances[0] * variances[1] + 1e-12)
