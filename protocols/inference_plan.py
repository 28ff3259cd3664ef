"""Fixed-point formats of variances on shares (:mod:`vfl.protocols.inference`), and what their truncations risk."""

import math
from collections.abc import Sequence

__all__ = [
    "DIAGONAL_BITS",
    "FACTOR_BITS",
    "FISHER_BITS",
    "INVERSE_BITS",
    "MOMENT_BITS",
    "MOST_COLUMNS",
    "MOST_ROUNDS",
    "REST_BITS",
    "SCALE_BITS",
    "UNIT_BITS",
    "opened",
    "truncations",
]

MOST_COLUMNS = 128
"""Of all parties, the intercept included: a round of the inverse multiplies this number cubed, twice."""
MOST_ROUNDS = 16
"""Of the inverse; a direction whose curvature is below 2^-16 of the largest counts as not determined by the data."""
FISHER_BITS = 36  # the information matrix
MOMENT_BITS = 24  # its moments
SCALE_BITS = 16  # what the guest scales it with
REST_BITS = 28  # what the inverse still misses
INVERSE_BITS = 18
UNIT_BITS = 15  # directions whose variance is wanted
DIAGONAL_BITS = 13  # their variances, before the guest's factor
FACTOR_BITS = 30
_MARGIN_BITS = 5  # of the information matrix and of the guest's factor over one
_RESIDUAL_MARGIN = 8  # of a slope and of a residual


def opened(columns: int) -> int:
    """Return how many numbers are opened to a guest of so many columns, for one target, at most."""
    moments, dispersion = 2, 1
    return moments + dispersion + MOST_ROUNDS + columns


def truncations(
    rows: int, columns: int, matrix_bits: int, residual_bits: int, weighting_bits: int
) -> Sequence[tuple[float, float]]:
    """Return (numbers, log2 of their bound before) of the truncations for one target, but for those of the response.

    Parameters
    ----------
    rows : int
        Training rows.
    columns : int
        Of both parties.
    matrix_bits, residual_bits, weighting_bits : int
        Fraction bits of the matrices, of slopes and residuals, and of the rows' weights.
    """
    entries = columns * (columns + 1) / 2
    information = residual_bits + 2 * matrix_bits + math.log2(rows) + _MARGIN_BITS
    return [
        (rows, residual_bits + weighting_bits + _RESIDUAL_MARGIN),
        (rows, 2 * residual_bits + 2 * _RESIDUAL_MARGIN),
        (rows, residual_bits + weighting_bits + 2 * _RESIDUAL_MARGIN),
        (entries, information),
        (entries, FISHER_BITS + _MARGIN_BITS),
        (1, 2 * MOMENT_BITS + 2 * math.log2(columns) + 2 * _MARGIN_BITS),
        (entries, FISHER_BITS + SCALE_BITS + 1),
        (MOST_ROUNDS * entries, 2 * REST_BITS + 1),
        (
            2 * entries,
            REST_BITS + INVERSE_BITS + MOST_ROUNDS,
        ),  # twice the last round's, for it grows by doubling
        (MOST_ROUNDS, REST_BITS + math.log2(columns)),
        (columns, 2 * UNIT_BITS + INVERSE_BITS + MOST_ROUNDS),
        (columns, DIAGONAL_BITS + FACTOR_BITS + MOST_ROUNDS + 2 * _MARGIN_BITS),
    ]
