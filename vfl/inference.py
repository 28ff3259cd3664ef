"""Coefficients with standard errors, z and p values and confidence intervals, as a table of one party's own columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

__all__ = ["Summary"]

FloatArray = NDArray[np.float64]
LEVEL = 0.95
HEADS = ("coef", "se", "z", "p", "lower", "upper")


@final
@dataclass(frozen=True, eq=False)
class Summary:
    """What a party knows of its own coefficients.

    Attributes
    ----------
    names : sequence of str
        Of the columns.
    coef, se : ndarray, shape (columns,)
        Coefficients and their standard errors in the units of ``coef_``. The error of a constant column is NaN; that of
        a coefficient that the data do not determine is large.

    Notes
    -----
    Standard errors are roots of the diagonal of the inverse of the information matrix over all parties' columns, the
    penalty inside, times the dispersion: with a penalty they are the posterior deviations under the prior that it
    stands for. z and p values and intervals take the normal distribution. Weights of rows count as their precisions.
    """

    names: Sequence[str]
    coef: FloatArray
    se: FloatArray

    @property
    def z(self) -> FloatArray:
        """Coefficients over their standard errors."""
        return np.asarray(self.coef / np.where(self.se > 0, self.se, np.nan))

    @property
    def p(self) -> FloatArray:
        """Two-sided p values of the hypothesis that a coefficient is zero."""
        return np.asarray(2 * norm.sf(np.abs(self.z)))

    @property
    def lower(self) -> FloatArray:
        """Lower ends of the 95 % intervals."""
        return self.interval()[:, 0]

    @property
    def upper(self) -> FloatArray:
        """Upper ends of the 95 % intervals."""
        return self.interval()[:, 1]

    def interval(self, level: float = LEVEL) -> FloatArray:
        """Return confidence intervals: (columns, 2).

        Parameters
        ----------
        level : float
            Between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError("level must lie between 0 and 1")
        reach = norm.ppf((1 + level) / 2) * self.se
        return np.stack([self.coef - reach, self.coef + reach], axis=1)

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the table by columns, as pandas and polars take it: column, coef, se, z, p, lower, upper."""
        numbers = {head: getattr(self, head).tolist() for head in HEADS}
        return {"column": list(self.names), **numbers}

    def __repr__(self) -> str:
        width = max([6, *map(len, self.names)])
        lines = [f"{'':{width}}" + "".join(f"{head:>12}" for head in HEADS)]
        for name, *numbers in zip(*self.to_dict().values(), strict=True):
            lines.append(f"{name:<{width}}" + "".join(f"{number:>12.4g}" for number in numbers))
        return "\n".join(lines)
