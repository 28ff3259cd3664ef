"""Rows dealt out to clients, seeded: equal, skewed by label, skewed by size, or as they were collected.

All return a list with one ascending array of row numbers for each client; every row has exactly one client (but for
:func:`natural`, which groups by a column and may have fewer clients).

Sources: McMahan et al., AISTATS 2017 (pathological shards: two labels for most clients). Hsu, Qi and Brown, 2019 (arXiv
1909.06335) and Yurochkin et al., ICML 2019: for each label the clients' parts are drawn from a Dirichlet distribution.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.errors import InvalidData
from vfl.horizontal.vectors import Rows, generator

__all__ = ["by_columns", "dealt", "dirichlet", "iid", "natural", "quantity", "shards"]

Index = NDArray[np.int64]
TRIES = 1000


def _cut(order: Index, sizes: Index) -> list[Index]:
    return [np.sort(part) for part in np.split(order, np.cumsum(sizes)[:-1])]


def _possible(rows: int, clients: int, fewest: int) -> None:
    if clients < 1 or rows < clients * max(1, fewest):
        raise InvalidData(
            f"{rows} rows are too few for {clients} clients with at least {max(1, fewest)} each"
        )


def iid(rows: int, clients: int, seed: int) -> list[Index]:
    """Return equal parts of rows in random order."""
    _possible(rows, clients, 1)
    return [np.sort(part) for part in np.array_split(generator(seed, 10).permutation(rows), clients)]


def dirichlet(labels: NDArray[Any], clients: int, alpha: float, seed: int, fewest: int = 10) -> list[Index]:
    """Return parts in which each label is divided by a draw from Dirichlet(alpha): below 1 few clients have most of it.

    Draws are repeated until every client has `fewest` rows.

    Raises
    ------
    InvalidData
        If there are too few rows, alpha is not positive, or 1,000 draws leave a client short.
    """
    _possible(len(labels), clients, fewest)
    if not alpha > 0:
        raise InvalidData(f"alpha is positive, not {alpha}")
    rng = generator(seed, 11)
    for _ in range(TRIES):
        owners = np.empty(len(labels), np.int64)
        for label in np.unique(labels):
            index = rng.permutation(np.flatnonzero(labels == label))
            ends = np.rint(np.cumsum(rng.dirichlet(np.full(clients, alpha))) * len(index)).astype(np.int64)
            owners[index] = np.searchsorted(ends[:-1], np.arange(len(index)), side="right")
        if np.bincount(owners, minlength=clients).min() >= fewest:
            return [np.flatnonzero(owners == client) for client in range(clients)]
    raise InvalidData(f"{TRIES} draws gave some client fewer than {fewest} rows; take a larger alpha")


def shards(labels: NDArray[Any], clients: int, seed: int, each: int = 2) -> list[Index]:
    """Return parts of `each` shards of rows sorted by label: most clients have no more labels than shards."""
    _possible(len(labels), clients * each, 1)
    rng = generator(seed, 12)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    pieces, dealt_out = np.array_split(order, clients * each), rng.permutation(clients * each)
    return [np.sort(np.concatenate([pieces[i] for i in mine])) for mine in np.split(dealt_out, clients)]


def quantity(rows: int, clients: int, alpha: float, seed: int, fewest: int = 1) -> list[Index]:
    """Return parts with equal distributions whose sizes are drawn from Dirichlet(alpha)."""
    _possible(rows, clients, fewest)
    rng = generator(seed, 13)
    parts = rng.dirichlet(np.full(clients, alpha))
    spare = rows - clients * fewest
    sizes = np.floor(parts * spare).astype(np.int64) + fewest
    sizes[: rows - int(sizes.sum())] += 1
    return _cut(rng.permutation(rows), sizes)


def natural(groups: NDArray[Any]) -> list[Index]:
    """Return the rows of each value of a column, in the order of the values: a client is a writer, a shop, a clinic."""
    _, owners = np.unique(groups, return_inverse=True)
    return [np.flatnonzero(owners == i) for i in range(int(owners.max()) + 1)]


def by_columns(columns: int, parties: int, seed: int) -> list[Index]:
    """Return a vertical split: a random part of the columns for each party."""
    return iid(columns, parties, seed)


def dealt(X: NDArray[np.float64], y: NDArray[Any], parts: list[Index]) -> dict[str, Rows]:
    """Return the clients' rows by name: client000, client001, ..."""
    return {f"client{i:03d}": Rows(X[part], y[part]) for i, part in enumerate(parts)}
