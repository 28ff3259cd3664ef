"""Sums, means and statistics over the clients of a cohort that show nobody's part: useful alone, before any learning.

    with vfl.join("silo1.toml"):
        total = vfl.secure_sum(np.array([patients, deaths]))
        means = vfl.secure_mean(frame[["age", "dose"]])
        stats = vfl.secure_statistics(frame[["age", "dose"]], low=0, high=[120, 50])

An array is one vector of each client, added element by element. A data frame holds a client's rows: its columns are
summed, or averaged, over the rows of all clients. All clients make the same calls, in the same order.

Leakage
-------
Everybody, the aggregator included, learns the results, whose data are in them and how many rows these have together;
nobody learns a client's part (docs/protocols/secagg.md). Two results over almost the same clients differ by the part of
the others: a client that was lost between two calls over the same data is shown by the difference. Differential privacy
(`privacy`) bounds what follows from results at all.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from vfl.crypto.fixedpoint import FixedPoint
from vfl.crypto.weighted import WeightedEncoding
from vfl.data import features
from vfl.errors import InvalidData
from vfl.membership import Membership, member
from vfl.privacy import ClientPrivacy
from vfl.tables import like

__all__ = ["ColumnStatistics", "Statistics", "secure_mean", "secure_statistics", "secure_sum"]

Floats = NDArray[np.float64]
T = TypeVar("T")

LARGEST_WEIGHT = 1 << 24
WORD_BITS = 60  # of a residue, where the caller leaves the precision open
CELLS = 16  # into which a round of the search divides an interval


def secure_sum(
    values: T,
    *,
    bound: float = 1e6,
    fraction_bits: int | None = None,
    privacy: ClientPrivacy | None = None,
) -> T:
    """Return the sum over all clients.

    Parameters
    ----------
    values : array-like or data frame
        An array of the same shape at all clients, or rows of numeric columns of the same names.
    bound : float
        Largest absolute value of an element, or of a column's sum over one client's rows; the same at all clients.
    fraction_bits : int, optional
        Bits after the binary point: each client's part is rounded to a multiple of 2^-fraction_bits, and the sum of the
        rounded parts is exact. By default as many as fit into 60 bits; fewer make shorter messages.
    privacy : ClientPrivacy, optional
        Makes the sum differentially private: parts are clipped to its length in place of `bound`, and every client adds
        noise to its own.

    Returns
    -------
    float, ndarray of float64, or a frame with one row
        Of the shape of the array, or of the same kind and columns as the frame.

    Raises
    ------
    EncodingOverflow
        If a part is beyond the bound, or the bound needs too many bits.
    InvalidData, MissingValues
        If the values are no numbers.
    ConfigMismatch, CohortTooSmall, PeerError, ChannelError
        If there is no sum; see :meth:`vfl.membership.Membership.total`.
    """
    cohort = member()
    rows, names = _parts(values, cohort.name)
    if privacy is not None:
        return cast(
            T, _shaped(values, _private(cohort, privacy, rows.sum(axis=0), "secure_sum", names), names)
        )
    encoding = _encoding(cohort, bound, fraction_bits, 1)
    total, _ = _total(cohort, encoding, rows.sum(axis=0), 1, _call("secure_sum", bound, names))
    return cast(T, _shaped(values, total, names))


def secure_mean(
    values: T,
    weight: int = 1,
    *,
    bound: float = 1e6,
    fraction_bits: int | None = None,
    largest_weight: int = LARGEST_WEIGHT,
    privacy: ClientPrivacy | None = None,
) -> T:
    """Return the weighted mean over all clients, or the mean over all clients' rows.

    Parameters
    ----------
    values : array-like or data frame
        An array of the same shape at all clients, or rows of numeric columns of the same names.
    weight : int
        Of this client's array, from 1 to `largest_weight`, for instance its number of rows; it is not shown either. A
        frame has its number of rows as weight.
    bound : float
        Largest absolute value of an element, or of a column's mean over one client's rows; the same at all clients.
    fraction_bits : int, optional
        Bits after the binary point of a part times weight / `largest_weight`. By default as many as fit into 60 bits.
    largest_weight : int
        The same at all clients.
    privacy : ClientPrivacy, optional
        Makes the mean of arrays of equal weight differentially private, as in :func:`secure_sum`.

    Returns
    -------
    float, ndarray of float64, or a frame with one row
        Of the shape of the array, or of the same kind and columns as the frame.

    Raises
    ------
    VFLError
        As :func:`secure_sum`; InvalidData for a weight that is not allowed.
    """
    cohort = member()
    rows, names = _parts(values, cohort.name)
    if names and weight != 1:
        raise InvalidData(f"{cohort.name}: a frame has its number of rows as weight; leave weight away")
    encoding = _encoding(cohort, bound, fraction_bits, largest_weight)
    if privacy is not None:
        if names or weight != 1:
            raise InvalidData(f"{cohort.name}: a private mean is one of arrays with weight 1")
        mean = _private(cohort, privacy, rows[0], "secure_mean", ()) / len(cohort.survivors)
        return cast(T, _shaped(values, mean, ()))
    own = len(rows) if names else weight
    total, weights = _total(cohort, encoding, rows.mean(axis=0), own, _call("secure_mean", bound, names))
    return cast(T, _shaped(values, total / weights, names))


@dataclass(frozen=True)
class ColumnStatistics:
    """One column over the rows of all clients.

    Attributes
    ----------
    rows : int
    mean, variance : float
        The variance has the divisor rows - 1.
    quantiles : dict of float to float
        Level to the least value that so large a part of the rows does not exceed (numpy's "inverted_cdf"), from above
        by at most `resolution` times the range.
    edges : ndarray of float64, shape (bins + 1,)
    histogram : ndarray of int64, shape (bins,)
        Rows between two edges; a value on an edge counts to the right one, the last edge to the left.
    """

    rows: int
    mean: float
    variance: float
    quantiles: dict[float, float]
    edges: Floats
    histogram: NDArray[np.int64]

    @property
    def std(self) -> float:
        """Root of the variance."""
        return math.sqrt(self.variance)


class Statistics(Mapping[str, ColumnStatistics]):
    """What :func:`secure_statistics` returns: statistics by name of the column.

    Attributes
    ----------
    survivors : tuple of str
        The clients whose rows are in all of them.
    """

    def __init__(self, columns: dict[str, ColumnStatistics], survivors: tuple[str, ...]) -> None:
        self._columns, self.survivors = columns, survivors

    def __getitem__(self, name: str) -> ColumnStatistics:
        """Return the statistics of a column."""
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the columns."""
        return iter(self._columns)

    def __len__(self) -> int:
        """Return the number of columns."""
        return len(self._columns)


def secure_statistics(
    table: Any,
    *,
    low: float | Sequence[float],
    high: float | Sequence[float],
    quantiles: Sequence[float] = (0.25, 0.5, 0.75),
    bins: int = 20,
    resolution: float = 2.0**-20,
) -> Statistics:
    """Return mean, variance, histogram and quantiles of each column over the rows of all clients.

    One round gives means and histograms, one the variances; the quantiles are found together by repeated division of
    the intervals that hold them, four bits of each in a round.

    Parameters
    ----------
    table : data frame or 2-D array
        Numeric columns without gaps, the same at all clients.
    low, high : float or sequence of float
        The range of all columns, or of each; the same at all clients.
    quantiles : sequence of float
        Levels, each above 0 and at most 1; may be empty.
    bins : int
        Of the histograms, of equal width.
    resolution : float
        Of the quantiles, as a part of the range; from 2^-40 to 1.

    Raises
    ------
    InvalidData, MissingValues
        If values are no numbers or beyond their range, or a parameter is not possible.
    ConfigMismatch, CohortTooSmall, PeerError, ChannelError
        As :func:`secure_sum`.

    Leakage
    -------
    Counts of rows, of all clients together, in each bin and between the ends of each interval of the search. A bin with
    one row shows that a row is there.
    """
    cohort = member()
    matrix = features(table, cohort.name, minimum_rows=1)
    lows, highs = _ranges(low, high, matrix.names, matrix.values, cohort.name)
    levels = tuple(float(level) for level in quantiles)
    _check(levels, bins, resolution, cohort.name)
    what = f"low {lows.tolist()}, high {highs.tolist()}, {bins} bins, levels {levels}, of {', '.join(matrix.names)}"
    pool = _Pool(cohort, (matrix.values - lows) / (highs - lows), what)
    counts, means = pool.histogram(bins)
    variances = pool.variances(means)
    found = pool.quantiles(levels, max(1, math.ceil(-math.log2(resolution))))
    columns = {}
    for i, name in enumerate(matrix.names):
        start, span = float(lows[i]), float(highs[i] - lows[i])
        ends = {q: start + span * float(found[k, i]) for k, q in enumerate(levels)}
        mean, variance = start + span * float(means[i]), span**2 * float(variances[i])
        edges = np.linspace(start, highs[i], bins + 1)
        columns[name] = ColumnStatistics(pool.rows, mean, variance, ends, edges, counts[i])
    return Statistics(columns, tuple(name for name in cohort.policy.names if name in pool.survivors))


def _check(levels: tuple[float, ...], bins: int, resolution: float, party: str) -> None:
    if not (all(0 < q <= 1 for q in levels) and bins >= 1 and 2.0**-40 <= resolution <= 1):
        raise InvalidData(
            f"{party}: levels lie above 0 and at most at 1, there is at least one bin, and the resolution "
            "lies between 2^-40 and 1"
        )


class _Pool:
    """Means over all clients' rows of functions of columns that lie in [0, 1]."""

    def __init__(self, cohort: Membership, values: Floats, what: str) -> None:
        self._cohort, self._values, self._what = cohort, np.clip(values, 0.0, 1.0), what
        self._encoding = _encoding(cohort, 1.0, None, LARGEST_WEIGHT)
        self.rows = 0
        self.survivors = set(cohort.policy.names)

    def _means(self, own: Floats, step: str) -> tuple[Floats, int]:
        """Return the mean over all rows of what `own` is the mean of over this client's rows."""
        call = f"secure_statistics, {step}, {self._what}"
        total, rows = _total(self._cohort, self._encoding, own.ravel(), len(self._values), call)
        self.survivors &= set(self._cohort.survivors)
        return total.reshape(own.shape) / rows, rows

    def histogram(self, bins: int) -> tuple[NDArray[np.int64], Floats]:
        """Return the counts, shape (columns, bins), and the means, shape (columns,)."""
        values = self._values
        counts = np.array([np.histogram(column, bins, (0.0, 1.0))[0] for column in values.T])
        own = np.column_stack([values.mean(axis=0), counts / len(values)])
        pooled, self.rows = self._means(own, "histogram")
        return np.rint(pooled[:, 1:] * self.rows).astype(np.int64), pooled[:, 0]

    def variances(self, means: Floats) -> Floats:
        """Return the variances; right also if this round is over other clients than the one before."""
        apart = self._values - means
        own = np.stack([apart.mean(axis=0), (apart**2).mean(axis=0)])
        pooled, rows = self._means(own, f"variance about {_digest(means)}")
        variances: Floats = (pooled[1] - pooled[0] ** 2) * rows / max(1, rows - 1)
        return np.maximum(variances, 0.0)

    def quantiles(self, levels: tuple[float, ...], bits: int) -> Floats:
        """Return the upper ends of the last intervals, shape (levels, columns)."""
        columns = np.sort(self._values, axis=0)
        upper, width = np.ones((len(levels), columns.shape[1])), 1.0
        while levels and width > 2.0**-bits:
            width /= CELLS
            ends = upper[..., None] - width * np.arange(CELLS)[::-1]  # of the cells, ascending
            below = [
                np.searchsorted(column, ends[:, i], side="right") / len(column)
                for i, column in enumerate(columns.T)
            ]
            pooled, rows = self._means(np.stack(below, axis=1), f"quantiles below {_digest(upper)}")
            counts = np.rint(pooled * rows)
            ranks = np.maximum(1.0, np.ceil(np.array(levels) * rows - 1e-9))
            first = np.argmax(counts[..., :] >= ranks[:, None, None], axis=-1)
            upper = np.take_along_axis(ends, first[..., None], axis=-1)[..., 0]
        return upper


# --- encoding


def _encoding(
    cohort: Membership, bound: float, fraction_bits: int | None, largest_weight: int
) -> WeightedEncoding:
    parties = len(cohort.policy.names)
    if not (math.isfinite(bound) and bound > 0):
        raise InvalidData(f"{cohort.name}: the bound must be positive and finite, not {bound}")
    if fraction_bits is None:
        fraction_bits = min(52, max(0, WORD_BITS - math.ceil(math.log2(2 * parties * bound))))
    return WeightedEncoding(FixedPoint(fraction_bits, bound), parties, largest_weight)


def _total(
    cohort: Membership, encoding: WeightedEncoding, vector: Floats, weight: int, call: str
) -> tuple[Floats, int]:
    """Return the sums of weight times vector and of the weights."""
    values = encoding.values
    how = f"{values.fraction_bits} fraction bits, weights to {encoding.largest_weight}"
    words = encoding.encode(vector, weight)
    return encoding.decode(cohort.total(words, encoding.bits, f"{call}, {how}").total.copy())


def _private(
    cohort: Membership, privacy: ClientPrivacy, vector: Floats, name: str, columns: tuple[str, ...]
) -> Floats:
    """Return the noisy sum of clipped vectors; it has cost what it costs as soon as it is tried."""
    encoding = privacy.encoding(cohort.policy, vector.size)
    call = f"{_call(name, privacy.clip, columns)}, noise {privacy.noise_multiplier!r} times that"
    words = encoding.encode(vector, call.encode(), cohort.rng)
    privacy.spend(encoding)
    return encoding.decode(cohort.total(words, encoding.bits, call).total, call.encode())


def _call(name: str, bound: float, columns: tuple[str, ...]) -> str:
    return f"{name}, bound {bound!r}{', of ' + ', '.join(columns) if columns else ''}"


def _digest(values: Floats) -> str:
    return hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()[:16]


# --- data


def _parts(values: Any, party: str) -> tuple[Floats, tuple[str, ...]]:
    """Return rows and names of a frame; an array is one row without names."""
    if isinstance(nw.from_native(values, pass_through=True, eager_only=False), nw.DataFrame):
        matrix = features(values, party, minimum_rows=1)
        return matrix.values, matrix.names
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidData(f"{party}: {type(values).__name__} is no array of numbers and no frame") from None
    if not array.size:
        raise InvalidData(f"{party}: the array is empty")
    return array.reshape(1, -1), ()


def _shaped(values: Any, result: Floats, names: tuple[str, ...]) -> Any:
    return like(values, result[None, :], names) if names else result.reshape(np.shape(values))[()]


def _ranges(
    low: float | Sequence[float],
    high: float | Sequence[float],
    names: tuple[str, ...],
    values: Floats,
    party: str,
) -> tuple[Floats, Floats]:
    try:
        lows, highs = (np.broadcast_to(np.asarray(end, dtype=np.float64), len(names)) for end in (low, high))
    except ValueError:
        raise InvalidData(
            f"{party}: low and high are one number, or one for each of {len(names)} columns"
        ) from None
    if not (np.isfinite(lows).all() and np.isfinite(highs).all() and (lows < highs).all()):
        raise InvalidData(f"{party}: every low must be below its high, and both finite")
    outside = ((values < lows) | (values > highs)).sum(axis=0)
    if outside.any():
        found = ", ".join(f"{n} in {name}" for name, n in zip(names, outside.tolist(), strict=True) if n)
        raise InvalidData(
            f"{party}: values lie outside low and high: {found}; clip them, or agree on wider ones"
        )
    return lows, highs
