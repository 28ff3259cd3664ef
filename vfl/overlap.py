"""What two parties may want to know of their common customers short of, or beyond, who they are.

:func:`intersection_size` before a contract is signed, :func:`intersection_sum` for totals over common customers,
:func:`enrich` to get the other side's columns, :func:`spine` to work on all customers of both without either learning
which are common. Both parties call the same function; what each learns stands in the docstrings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vfl.columns import describe_columns, row_bytes, rows_from_bytes, rows_to_bytes
from vfl.comparing import learner, noted, opened
from vfl.data import features
from vfl.errors import ConfigError, InvalidData, SchemaMismatch
from vfl.identifiers import Duplicates, PreparedIds, prepare_ids
from vfl.protocols.psi import cardinality, labelled, payload
from vfl.protocols.psi import spine as spine_protocol
from vfl.protocols.wire import Leakage, Role
from vfl.session import Session, current
from vfl.tables import as_frame, columns_of, number_of_rows, take_columns, take_rows

__all__ = ["Spine", "enrich", "intersection_size", "intersection_sum", "spine"]

Nulls = Literal["error", "drop"]
OneSide = Literal["guest", "host"]
UNITS = 1 << 20  # a sum keeps multiples of 2^-20, about 10^-6
LARGEST_SUM = 1 << 58


@dataclass(frozen=True)
class _Ids:
    """How identifiers are read: the arguments that all functions here share."""

    on: str | Sequence[str]
    normalise: str | Sequence[str]
    nulls: Nulls
    duplicates: Duplicates

    def prepare(self, table: Any, session: Session) -> PreparedIds:
        if self.duplicates == "all":
            raise ConfigError('duplicates="all" is for vfl.align; use "first", "last" or "drop" here')
        return prepare_ids(
            table,
            self.on,
            normalise=self.normalise,
            nulls=self.nulls,
            duplicates=self.duplicates,
            party=session.name,
        )

    @property
    def names(self) -> tuple[str, ...]:
        return (self.on,) if isinstance(self.on, str) else tuple(self.on)


def intersection_size(
    table: Any,
    on: str | Sequence[str],
    *,
    learns: OneSide = "guest",
    normalise: str | Sequence[str] = "exact",
    nulls: Nulls = "error",
    duplicates: Duplicates = "error",
) -> int | None:
    """Count the common customers, and say nothing about who they are.

    Parameters
    ----------
    table, on, normalise, nulls, duplicates
        As for :func:`vfl.align`, without ``duplicates="all"``.
    learns : {"guest", "host"}
        The party that gets the number.

    Returns
    -------
    int or None
        The number of common identifiers; None at the other party.

    Raises
    ------
    AlignmentError
        If there are fewer than `minimum_intersection`: then the number is not told.
    PolicyRefused
        By the ledger: a count over a list that differs in few rows from an earlier one tells about those rows.

    Leakage
    -------
    The party that learns: the number of common customers. Both: the other's size within an eighth.
    """
    session = current()
    learning = learner(learns, session, ("guest", "host"))
    ids = _Ids(on, normalise, nulls, duplicates).prepare(table, session)
    begun = opened(session, "intersection_size", ids, {"learns": learns})
    role = cardinality.receiver if learning else cardinality.sender
    arguments = (ids.listed, session.rng, session.policy.minimum_intersection, begun.largest)
    with session.phases.phase("intersection size") as progress:
        found = session.run(role(session.channel, *arguments, progress))
        session.checkpoint()
    count = found.count if isinstance(found, cardinality.Cardinality) else None
    noted(session, number_of_rows(table, session.name), ids, begun.theirs, count)
    return count


def intersection_sum(
    table: Any,
    on: str | Sequence[str],
    *,
    columns: Sequence[str] = (),
    owner: OneSide,
    normalise: str | Sequence[str] = "exact",
    nulls: Nulls = "error",
    duplicates: Duplicates = "error",
) -> dict[str, float]:
    """Add up columns of one party over the common customers: turnover, visits, claims, without saying whose.

    Parameters
    ----------
    table, on, normalise, nulls, duplicates
        As for :func:`vfl.align`, without ``duplicates="all"``.
    columns : sequence of str
        At the owner: the columns to add up. Sums are exact to 2^-21 per row. Empty at the other party.
    owner : {"guest", "host"}
        The party whose columns are added up, and which gets the sums.

    Returns
    -------
    dict of str to float
        ``"rows"``: how many customers are common, and at the owner the sum of each column.

    Raises
    ------
    AlignmentError
        If fewer than `minimum_intersection` customers are common.
    PolicyRefused
        If policy.columns does not allow a column, or by the ledger.
    InvalidData
        If the sums could exceed 2^38.

    Leakage
    -------
    The owner: the sums over its own columns and the number of common customers. The other party: that number. Both:
    the other's size within an eighth.
    """
    session = current()
    owning = learner(owner, session, ("guest", "host"))
    ids = _Ids(on, normalise, nulls, duplicates).prepare(table, session)
    if owning != bool(columns):
        raise ConfigError(f"{session.name}: columns are named by the owner, and by nobody else")
    values = _scaled(table, tuple(columns), ids, session) if owning else None
    begun = opened(session, "intersection_sum", ids, {"owner": owner}, {"columns": len(columns)})
    limits = (session.rng, session.policy.minimum_intersection, begun.largest)
    with session.phases.phase("intersection sum") as progress:
        if values is not None:
            found = session.run(payload.owner(session.channel, ids.listed, values, *limits, progress))
        else:
            count = int(begun.facts["columns"])
            found = session.run(payload.counter(session.channel, ids.listed, count, *limits, progress))
        session.checkpoint()
    noted(session, number_of_rows(table, session.name), ids, begun.theirs, found.count)
    sums = {name: total / UNITS for name, total in zip(columns, found.totals, strict=True)}
    return {"rows": float(found.count), **sums}


def _scaled(table: Any, columns: tuple[str, ...], ids: PreparedIds, session: Session) -> NDArray[np.int64]:
    """Return columns of the kept rows as multiples of 2^-20."""
    session.require_columns(columns)
    chosen = take_rows(take_columns(table, columns, session.name), ids.rows, session.name)
    values = features(chosen, session.name, minimum_rows=1).values
    if float(np.abs(values).sum(axis=0).max()) >= LARGEST_SUM / UNITS:
        raise InvalidData(
            f"{session.name}: absolute values of a column add up to 2^38 or more; use larger units"
        )
    return np.rint(values * UNITS).astype(np.int64)


def enrich(
    table: Any,
    on: str | Sequence[str],
    *,
    columns: Sequence[str] = (),
    learns: OneSide = "guest",
    normalise: str | Sequence[str] = "exact",
    nulls: Nulls = "error",
    duplicates: Duplicates = "error",
) -> Any:
    """Give one party the other's columns for the common customers, and for no others.

    Parameters
    ----------
    table, on, normalise, nulls, duplicates
        As for :func:`vfl.align`, without ``duplicates="all"``.
    columns : sequence of str
        At the party that gives: the columns to hand over (numbers, Booleans, dates, text). Empty at the other.
    learns : {"guest", "host"}
        The party that gets them.

    Returns
    -------
    table or None
        At the party that learns: its common rows, in its own order, with the other's columns at their right. A name
        that it has already gets the other party's name as a suffix. None at the other party.

    Raises
    ------
    PolicyRefused
        If a configuration does not accept the leakage "payload", policy.columns does not allow a column, or by the
        ledger.
    AlignmentError
        If too few customers are common.

    Leakage
    -------
    The party that learns: which of its customers are common, and the columns of these. The other: nothing but sizes.
    """
    session = current()
    learning = learner(learns, session, ("guest", "host"))
    if learning == bool(columns):
        raise ConfigError(
            f"{session.name}: columns are named by the party that gives them, and by nobody else"
        )
    session.require_leakage(Leakage.PAYLOAD)
    ids = _Ids(on, normalise, nulls, duplicates).prepare(table, session)
    if learning:
        return _get(session, table, ids, learns)
    _give(session, table, ids, tuple(columns), learns)
    return None


def _give(session: Session, table: Any, ids: PreparedIds, columns: tuple[str, ...], learns: str) -> None:
    session.require_columns(columns)
    chosen = take_rows(take_columns(table, columns, session.name), ids.rows, session.name)
    layout = describe_columns(chosen, session.name)
    rows = rows_to_bytes(chosen, layout)
    begun = opened(session, "enrich", ids, {"learns": learns}, {"columns": layout})
    limits = (session.rng, session.policy.minimum_intersection, begun.largest)
    with session.phases.phase("enrich") as progress:
        session.run(labelled.sender(session.channel, ids.listed, rows, *limits, progress))
        session.checkpoint()


def _get(session: Session, table: Any, ids: PreparedIds, learns: str) -> Any:
    begun = opened(session, "enrich", ids, {"learns": learns}, {"columns": ""})
    limits = (session.rng, session.policy.minimum_intersection, begun.largest)
    layout = begun.facts["columns"]
    width = _row_bytes(layout, session)
    with session.phases.phase("enrich") as progress:
        found = session.run(labelled.receiver(session.channel, ids.listed, width, *limits, progress))
        session.checkpoint()
    noted(session, number_of_rows(table, session.name), ids, begun.theirs, len(found.positions))
    own = take_rows(table, ids.rows[found.positions], session.name)
    return _joined(own, rows_from_bytes(found.rows, layout), session)


def _row_bytes(layout: str, session: Session) -> int:
    try:
        return row_bytes(layout)
    except (ValueError, KeyError, TypeError):
        raise SchemaMismatch(
            f"{session.peer.name} describes columns that this version does not know"
        ) from None


def _joined(own: Any, given: dict[str, Any], session: Session) -> Any:
    import narwhals as nw

    if isinstance(own, np.ndarray):
        return np.column_stack([own, *(np.asarray(values, dtype=object) for values in given.values())])
    present = columns_of(own, session.name)
    names = [f"{name}_{session.peer.name}" if name in present else name for name in given]
    frame = as_frame(own, session.name)
    backend = frame.implementation
    extra = [
        nw.new_series(name, values, backend=backend)
        for name, values in zip(names, given.values(), strict=True)
    ]
    return frame.with_columns(*extra).to_native()


@dataclass(frozen=True)
class Spine:
    """All customers of both parties, as one of them sees them.

    Attributes
    ----------
    table : table of the kind that came in
        One row for each place of the spine. Where this party does not have the customer, numbers are 0, and other
        columns hold the first row's values: they have to be ignored, as `present` says.
    present : ndarray of float64, shape (rows,)
        1 where this party has the customer, otherwise 0: the weight of the row. Rows that both have are those of weight
        1 on both sides; no party knows which these are.
    """

    table: Any
    present: NDArray[np.float64]


def spine(
    table: Any,
    on: str | Sequence[str],
    *,
    normalise: str | Sequence[str] = "exact",
    nulls: Nulls = "error",
    duplicates: Duplicates = "error",
) -> Spine:
    """Line up all customers of both parties in one common order, and tell nobody which are common.

    A model that takes weights on both sides can be trained on it: a row counts by the product of both weights, which
    is 1 for common customers and 0 for all others.

    Parameters
    ----------
    table, on, normalise, nulls, duplicates
        As for :func:`vfl.align`, without ``duplicates="all"``.

    Returns
    -------
    Spine

    Leakage
    -------
    Both learn the size of the padded union, hence how many customers are common but for the padding, and the other's
    size within an eighth. Neither learns which of its customers the other has.
    """
    session = current()
    choice = _Ids(on, normalise, nulls, duplicates)
    ids = choice.prepare(table, session)
    begun = opened(session, "spine", ids, {})
    role = spine_protocol.guest if session.role is Role.GUEST else spine_protocol.host
    with session.phases.phase("spine") as progress:
        found = session.run(role(session.channel, ids.listed, session.rng, begun.largest, progress))
        session.checkpoint()
    noted(session, number_of_rows(table, session.name), ids, begun.theirs, None)
    present = found.positions >= 0
    rows = ids.rows[np.where(present, found.positions, 0)]
    blanked = _blanked(take_rows(table, rows, session.name), present, choice.names, session)
    return Spine(blanked, present.astype(np.float64))


def _blanked(table: Any, present: NDArray[np.bool_], identifiers: Sequence[str], session: Session) -> Any:
    """Set numbers of absent rows to 0, other columns than identifiers too where they can be."""
    import narwhals as nw

    if isinstance(table, np.ndarray):
        result = table.copy()
        result[~present] = 0
        return result
    frame = as_frame(table, session.name)
    keep = nw.new_series("present", present.tolist(), backend=frame.implementation)
    columns = []
    for column in frame.iter_columns():
        if column.dtype.is_numeric():
            columns.append(column.zip_with(keep, column * 0))
        elif column.name in identifiers and column.dtype == nw.String:
            blank = nw.new_series(column.name, [""] * len(frame), backend=frame.implementation)
            columns.append(column.zip_with(keep, blank))
    return frame.with_columns(*columns).to_native() if columns else table
