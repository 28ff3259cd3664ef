"""Sizes and fixed-point formats of a training on shares (:mod:`vfl.protocols.glm`); what the guest brings and gets."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.ring import MATRIX_BITS, RING, Share, failure_bits
from vfl.errors import EncodingOverflow, InvalidData
from vfl.protocols import inference_plan
from vfl.protocols.responses import Response
from vfl.protocols.span import GRADIENT_BITS, POINT_SHIFT, WEIGHT_BITS

__all__ = ["LARGEST_ENTRY", "MOST_ITERATIONS", "WEIGHTING_BITS", "Fit", "Labels", "Plan"]

FloatArray = NDArray[np.float64]
LARGEST_ENTRY = (1 << MATRIX_BITS) - 1
MOST_ITERATIONS = 100
WEIGHTING_BITS = 14
FAILURE_BITS = -40
_MARGIN_BITS = 8  # of gradients and moves over one, for the bound on truncations


@dataclass(frozen=True)
class Plan:
    """What all parties have agreed on before the first iteration.

    Attributes
    ----------
    rows : int
        Rows that train, the first ones of all matrices.
    validation_rows : int
        Rows after those, which are only scored (0 for none).
    columns : tuple of int
        Of the guest, then of each host; a column of ones counts.
    response : Response
    iterations : int
        At most this many gradients.
    targets : int
        Models trained in lockstep on the same columns.
    curvature_bits : int
        The penalty's Hessian, in whitened coordinates, is at most 2^-curvature_bits.
    weighted : bool
        Whether the guest weights rows; it takes a round more.
    inference : bool
        Whether variances of the coefficients follow (:mod:`vfl.protocols.inference`): with one host only.

    Raises
    ------
    InvalidData
        If the sizes leave no bound of 2^-40 on the probability that a truncation fails, or the iterations would open as
        many numbers to the guest as the hosts hold.
    """

    rows: int
    validation_rows: int
    columns: tuple[int, ...]
    response: Response
    iterations: int = 25
    targets: int = 1
    curvature_bits: int = 0
    weighted: bool = False
    inference: bool = False

    @staticmethod
    def most_iterations(rows: int, columns: tuple[int, ...]) -> int:
        """Return how many gradients may be taken: K of them open K (K + 1) / 2 numbers, and hosts hold rows x columns.

        With more, the guest would have as many equations as the hosts have values, and could look for a solution.
        """
        values = rows * sum(columns[1:])
        return min(MOST_ITERATIONS, (math.isqrt(8 * values + 1) - 1) // 2)

    def __post_init__(self) -> None:
        if min(self.rows, self.targets, len(self.columns) - 1, *self.columns) < 1 or self.validation_rows < 0:
            raise InvalidData("a training needs rows, a target, and columns of the guest and of each host")
        if not 1 <= self.iterations <= MOST_ITERATIONS:
            raise InvalidData(f"the iterations lie between 1 and {MOST_ITERATIONS}, not at {self.iterations}")
        if self.iterations > (most := self.most_iterations(self.rows, self.columns)):
            raise InvalidData(
                f"{self.iterations} iterations open as many inner products to the guest as the hosts have values: "
                f"with {self.rows} rows and {sum(self.columns[1:])} host columns no more than {most} are taken"
            )
        if self.inference:
            self._check_inference()
        if self.failure_bits > FAILURE_BITS:
            raise InvalidData(
                f"with {self.rows} rows, {self.targets} targets and {self.iterations} iterations a truncation fails "
                f"with a probability of up to 2^{self.failure_bits:.0f}; lower one of them"
            )

    def _check_inference(self) -> None:
        if len(self.columns) > 2:
            raise InvalidData(
                "standard errors take a guest and one host: train with inference=False, or let one host hold the "
                "columns of all"
            )
        if sum(self.columns) > inference_plan.MOST_COLUMNS or sum(self.columns) >= self.rows:
            raise InvalidData(
                f"standard errors of {sum(self.columns)} columns in all, the intercept included, and {self.rows} rows: "
                f"{inference_plan.MOST_COLUMNS} columns at most, and fewer than rows; train with inference=False"
            )
        products = self.iterations * (self.iterations + 1) // 2
        opened = products + inference_plan.opened(self.columns[0])
        if opened > self.rows * self.columns[1]:
            raise InvalidData(
                f"{self.iterations} iterations and standard errors open up to {opened} numbers to the guest, more than "
                f"the host has values ({self.rows} x {self.columns[1]}): lower max_iter, or train with inference=False"
            )

    @property
    def scored(self) -> int:
        """Rows of the parties' matrices."""
        return self.rows + self.validation_rows

    @cached_property
    def matrix_bits(self) -> int:
        """Fraction bits of the integer matrices: whitened entries are at most twice the root of the rows."""
        return MATRIX_BITS - math.ceil(math.log2(2 * math.sqrt(self.rows)))

    @property
    def score_shift(self) -> int:
        """Bits that a product with a point has too many for a score."""
        return self.matrix_bits + WEIGHT_BITS - self.response.score_bits

    @property
    def gradient_shift(self) -> int:
        """Bits that a product with residuals has too many, and log2 of the rows, rounded up, that it is divided by."""
        log_rows = math.ceil(math.log2(self.rows))
        return self.matrix_bits + self.response.residual_bits + log_rows - GRADIENT_BITS

    @property
    def mean(self) -> float:
        """Mean gradients are gradients as they are shared times this."""
        return float(2.0 ** math.ceil(math.log2(self.rows)) / self.rows)

    def height(self, place: int) -> int:
        """Return the rows of a party's integer matrix: data, and penalties of the pair that shares its weights."""
        return self.scored + (self.columns[0] + self.columns[1] if place < 2 else self.columns[place])

    def integers(self, matrix: FloatArray, penalty: FloatArray, place: int) -> NDArray[np.int32]:
        """Return the integers of a party's matrix, with the root of its penalty in rows of their own.

        Raises
        ------
        EncodingOverflow
            If an entry is larger than whitening allows.
        """
        first = self.scored + (self.columns[0] if place == 1 else 0)
        out = np.zeros((self.height(place), self.columns[place]))
        out[: self.scored] = matrix
        out[first : first + self.columns[place]] = self.root(penalty)
        scaled = np.rint(np.ldexp(out, self.matrix_bits))
        if not (np.abs(scaled) <= LARGEST_ENTRY).all():
            raise EncodingOverflow(
                f"a whitened entry exceeds {2.0 ** (MATRIX_BITS - self.matrix_bits):.0f}, the limit with {self.rows} "
                "rows: whiten with the penalty and weights floored"
            )
        return scaled.astype(np.int32)

    def encode_point(self, weights: FloatArray) -> Share:
        """Return weights as they are shared."""
        return RING.encode(weights, WEIGHT_BITS)

    def encode_penalties(self, penalty: FloatArray, weights: FloatArray) -> Share:
        """Return the residuals of the rows that stand for the penalty, at weights that are known."""
        residuals = np.ldexp(self.root(penalty) @ weights, -self.curvature_bits)
        return RING.encode(residuals, self.response.residual_bits)

    def stack(self, residuals: Share, penalties: Share) -> Share:
        """Return residuals in the order of the rows of an integer matrix; validation rows do not train."""
        held_out = RING.zeros(self.validation_rows, self.targets)
        return np.concatenate([residuals[:, : self.rows], held_out, penalties], axis=1)

    def root(self, penalty: FloatArray) -> FloatArray:
        """Return D with D^T D = penalty rows / curvature."""
        values, vectors = np.linalg.eigh(penalty)
        root: FloatArray = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
        return root * math.sqrt(self.rows * 2.0**self.curvature_bits)

    @property
    def failure_bits(self) -> float:
        """log2 of the bound on the probability that any truncation fails, scores being within their range."""
        rows = self.iterations * self.targets * (self.scored + sum(self.columns))
        reach = self.response.reach
        largest = math.log2(max(map(abs, reach))) if reach else _MARGIN_BITS
        vectors = self.iterations * self.targets * sum(self.columns)
        every = self.iterations * (self.iterations + 1) // 2 * self.targets * (len(self.columns) - 1)
        response = [(count * rows, bits) for count, bits in self.response.truncations()]
        weights = (
            [(rows, self.response.residual_bits + WEIGHTING_BITS + _MARGIN_BITS)] if self.weighted else []
        )
        if self.inference:
            sizes = self.rows, sum(self.columns), self.matrix_bits, self.response.residual_bits
            once = [
                (count * self.targets, bits)
                for count, bits in inference_plan.truncations(*sizes, WEIGHTING_BITS)
            ]
            evaluated = [
                (2 * count * self.targets * self.rows, bits) for count, bits in self.response.truncations()
            ]
            response += once + evaluated
        return failure_bits(
            [
                (rows, self.score_shift + self.response.score_bits + largest),
                (vectors, self.gradient_shift + GRADIENT_BITS + _MARGIN_BITS),
                (every, 2 * GRADIENT_BITS + _MARGIN_BITS),
                (vectors, WEIGHT_BITS + POINT_SHIFT + _MARGIN_BITS),
                *response,
                *weights,
            ]
        )


@dataclass(frozen=True)
class Labels:
    """What the guest brings besides its matrix.

    Attributes
    ----------
    y : ndarray, shape (rows + validation rows, targets)
    start : ndarray, shape (guest columns, targets)
        The first point: the guest's own model.
    first : ndarray, shape (rows + validation rows, targets)
        Its residuals, times the weights.
    curvature : ndarray, shape (targets,)
        Its mean curvature: the second derivative of the loss by the score.
    finished : callable
        (distances, held-out losses) -> bool, after each gradient: lists of arrays of shape (targets,).
    tolerance : float
        At this distance a model has arrived (:class:`~vfl.protocols.steering.Steering`).
    weights : ndarray, shape (rows + validation rows,), optional
        Of mean one; of validation rows the square roots.
    offset : ndarray, shape (rows + validation rows,), optional
        Known parts of the scores.
    dispersion : float
        Variance of the labels over that of the family, if the response does not estimate it.
    """

    y: FloatArray
    start: FloatArray
    first: FloatArray
    curvature: FloatArray
    finished: Callable[[list[FloatArray], list[FloatArray]], bool]
    tolerance: float
    weights: FloatArray | None = None
    offset: FloatArray | None = None
    dispersion: float = 1.0


@dataclass(frozen=True)
class Fit:
    """A party's part of what came out.

    Attributes
    ----------
    weights : ndarray, shape (own columns, targets)
    distances : list of ndarray, shape (targets,)
        What was missing at each gradient; empty at a host, as are the losses.
    losses : list of ndarray, shape (targets,)
        Mean squared residual of the validation rows at each gradient; empty without such rows.
    variances : ndarray, shape (own columns, targets), or None
        Of what the party wanted the variances of.
    """

    weights: FloatArray
    distances: list[FloatArray] = field(default_factory=list)
    losses: list[FloatArray] = field(default_factory=list)
    variances: FloatArray | None = None
