"""Identifiers: a table's columns as canonical keys, with the policy on nulls and duplicates.

What a key is made of, :mod:`vfl.recipes` says. Everything here is local and reveals nothing to a peer. Errors
give counts and row numbers, never a value.
"""

import datetime
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.rng import SystemRng
from vfl.errors import ConfigError, DuplicateIds, InvalidIds
from vfl.recipes import LONGEST, Recipe, canonical_value, joined, recipe
from vfl.tables import Table, as_frame, columns_of, listed, number_of_rows, take_columns

if TYPE_CHECKING:
    from vfl.crypto.digests import Packed  # compiled functions, loaded when they are needed

__all__ = ["Duplicates", "Key", "PreparedIds", "Recipe", "held_out", "prepare_ids", "recipe"]

# 4915112345678.0 or 4.91511E+12: an identifier that a spreadsheet or a null in its column made a float.
QUICK = 20_000  # rows: below, the compiled functions are not worth loading
FLOAT = re.compile(r"[0-9]+\.0+|[0-9]+([.,][0-9]+)?[eE]\+[0-9]+|[0-9]+[.,][0-9]+[eE][0-9]+")


@dataclass(frozen=True, eq=False)
class PreparedIds:
    """Normalised identifiers of a table.

    Attributes
    ----------
    keys : list of bytes, or Packed
        Canonical identifiers, all different.
    rows : ndarray of int64, shape (len(keys),)
        Row of the table that each key stands for, counted from 0; the first one under ``duplicates="all"``.
    recipe : Recipe
        How they were normalised.
    empty : int
        Rows left out because their identifier was empty.
    left_out : ndarray of int64
        Rows left out because their identifier stood in another row too.
    members : ndarray of int64, shape (rows kept,)
        Rows of the first key, then those of the second, and so on.
    counts : ndarray of int64, shape (len(keys),)
        How many each key has; 1 except under ``duplicates="all"``.
    """

    keys: "list[bytes] | Packed"
    rows: NDArray[np.int64]
    recipe: Recipe
    empty: int
    left_out: NDArray[np.int64]
    members: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def repeated(self) -> int:
        """Number of rows left out because their identifier stood in another row too."""
        return len(self.left_out)

    @property
    def listed(self) -> list[bytes]:
        """The canonical identifiers as a list."""
        return self.keys if isinstance(self.keys, list) else [self.keys[i] for i in range(len(self.keys))]

    def expanded(
        self, chosen: NDArray[np.int64], theirs: NDArray[np.int64], *, outer: bool
    ) -> NDArray[np.int64]:
        """Return the rows of all pairs of own and peer's rows of the chosen keys, key by key.

        Parameters
        ----------
        chosen : ndarray of int64
            Positions of common keys.
        theirs : ndarray of int64
            The peer's rows for each.
        outer : bool
            True: each own row stands as often as the peer has rows, before the next; the peer does the other.
        """
        starts = np.cumsum(self.counts) - self.counts
        parts = []
        for key, times in zip(chosen.tolist(), theirs.tolist(), strict=True):
            rows = self.members[starts[key] : starts[key] + self.counts[key]]
            parts.append(np.repeat(rows, times) if outer else np.tile(rows, times))
        return np.concatenate([np.empty(0, np.int64), *parts])


@dataclass(frozen=True)
class Key:
    """One way to identify a customer: columns, and the recipes that write them alike.

    Attributes
    ----------
    on : str or tuple of str
    normalise : str or tuple of str
    """

    on: str | tuple[str, ...]
    normalise: str | tuple[str, ...] = "exact"


Duplicates = Literal["error", "first", "last", "drop", "all"]
"""What happens to rows that share an identifier: see :func:`prepare_ids`."""


def prepare_ids(
    table: Table,
    on: str | Sequence[str],
    *,
    normalise: str | Sequence[str] = "exact",
    nulls: Literal["error", "drop"] = "error",
    duplicates: Duplicates = "error",
    party: str,
    at_least: int = 1,
) -> PreparedIds:
    """Return the normalised identifiers of `table`.

    Parameters
    ----------
    table : table
    on : str or sequence of str
        Identifier column, or several that identify a customer together, in the same order at both parties.
    normalise : str or sequence of str
        Recipe for all columns, or one for each.
    nulls : {"error", "drop"}
        What to do with rows whose identifier is null or empty in any column.
    duplicates : {"error", "first", "last", "drop", "all"}
        What to do with rows that share an identifier after normalisation: refuse, keep the first or the last of them,
        leave all of them out, or keep all of them.
    party : str
        For error texts.
    at_least : int
        Fewest identifiers that must remain.

    Raises
    ------
    InvalidIds
        Empty identifiers under ``nulls="error"``; floats; mixed types; integers where zeros or a plus may
        have been lost; values that do not read as the recipe says; more than 1,024 bytes; none left.
    DuplicateIds
        Repeated identifiers under ``duplicates="error"``.
    SchemaMismatch, ConfigError
        `table` lacks a column; a recipe or policy is unknown.
    """
    _check_policy("nulls", nulls, ("error", "drop"))
    _check_policy("duplicates", duplicates, get_args(Duplicates))
    if (quick := _quickly(table, on, normalise, party)) is not None:
        return quick
    chosen, keys = _keys(table, on, normalise, party)
    kept = [row for row, key in enumerate(keys) if key]
    empty = len(keys) - len(kept)
    if empty and nulls == "error":
        rows = _rows([row for row, key in enumerate(keys) if not key])
        raise InvalidIds(f'{party}: {empty} identifiers are empty ({rows}); fill them or pass nulls="drop"')
    if len(kept) < at_least:
        raise InvalidIds(f"{party}: no row has an identifier in {_named(on)}")
    groups = _grouped(keys, kept, duplicates, chosen, party)
    if len(groups) < at_least:
        raise InvalidIds(f"{party}: every identifier in {_named(on)} is repeated, and those rows are dropped")
    members = np.array([row for rows in groups.values() for row in rows], dtype=np.int64)
    counts = np.array([len(rows) for rows in groups.values()], dtype=np.int64)
    first = members[np.cumsum(counts) - counts]
    left_out = np.setdiff1d(np.array(kept, dtype=np.int64), members)
    return PreparedIds(list(groups), first, chosen, empty, left_out, members, counts)


def _grouped(
    keys: list[bytes], kept: list[int], duplicates: str, chosen: Recipe, party: str
) -> dict[bytes, list[int]]:
    """Return the rows of each identifier, in the order of first appearance, under the policy."""
    groups: dict[bytes, list[int]] = {}
    for row in kept:
        groups.setdefault(keys[row], []).append(row)
    if len(groups) < len(kept) and duplicates == "error":
        _refuse_duplicates(groups, chosen, party)
    return _kept(groups, duplicates)


def _quickly(
    table: Table, on: str | Sequence[str], normalise: str | Sequence[str], party: str
) -> PreparedIds | None:
    """Return the identifiers of a long column that needs no second look; None for any other."""
    single = on if isinstance(on, str) else on[0] if len(on) == 1 else None
    if (
        single is None
        or normalise not in ("exact", ["exact"], ("exact",))
        or number_of_rows(table, party) < QUICK
    ):
        return None
    from vfl.bulkids import all_different, packed_ids  # compiled functions, for long columns alone

    take_columns(table, [single], party)
    column = packed_ids(table, single, party)
    if column is None or not all_different(column, SystemRng()):
        return None
    rows = np.arange(len(column), dtype=np.int64)
    nobody = np.empty(0, dtype=np.int64)
    return PreparedIds(column, rows, recipe("exact"), 0, nobody, rows, np.ones(len(column), dtype=np.int64))


def _kept(groups: dict[bytes, list[int]], duplicates: str) -> dict[bytes, list[int]]:
    """Return the rows that stay of each identifier."""
    if duplicates == "drop":
        return {key: rows for key, rows in groups.items() if len(rows) == 1}
    part = {"first": slice(1), "last": slice(-1, None)}.get(duplicates, slice(None))
    return {key: rows[part] for key, rows in groups.items()}


def held_out(
    table: Table,
    on: str | Sequence[str],
    *,
    share: float,
    normalise: str | Sequence[str] = "exact",
    salt: str = "",
    party: str,
) -> NDArray[np.bool_]:
    """Choose rows to hold out by their identifiers, so that both parties hold out the same customers.

    A row is held out if SHA-256 of `salt` and its canonical identifier, as a fraction of 2^256, lies below
    `share`: the choice depends neither on the order of the rows nor on who else is in the table.

    Parameters
    ----------
    table, on, normalise, party
        As in :func:`prepare_ids`.
    share : float
        Expected share of the rows to hold out, between 0 and 1.
    salt : str
        Another text gives another choice.

    Returns
    -------
    ndarray of bool, shape (rows,)
        True for the rows held out.

    Raises
    ------
    InvalidIds
        As in :func:`prepare_ids`, and for an empty identifier.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"the share to hold out must lie between 0 and 1, not {share}")
    _, keys = _keys(table, on, normalise, party)
    empty = [row for row, key in enumerate(keys) if not key]
    if empty:
        raise InvalidIds(f"{party}: {len(empty)} identifiers are empty ({_rows(empty)}); drop those rows")
    start = hashlib.sha256(joined([b"vfl held out 1", salt.encode()])).digest()
    digests = (hashlib.sha256(start + key).digest() for key in keys)
    return np.array([int.from_bytes(digest, "big") < share * 2.0**256 for digest in digests], dtype=bool)


def _keys(
    table: Table, on: str | Sequence[str], normalise: str | Sequence[str], party: str
) -> tuple[Recipe, list[bytes]]:
    """Return the recipe and a canonical identifier per row; b"" where one is null or empty."""
    columns = [on] if isinstance(on, str) else list(on)
    chosen = recipe(normalise, len(columns))
    parts = [
        _canonical_column(table, column, name, party)
        for column, name in zip(columns, chosen.names, strict=True)
    ]
    if len(parts) == 1:
        return chosen, parts[0]
    keys = [joined(row) if all(row) else b"" for row in zip(*parts, strict=True)]
    long = [row for row, key in enumerate(keys) if len(key) > LONGEST]
    if long:
        raise InvalidIds(f"{party}: {len(long)} identifiers exceed {LONGEST} bytes ({_rows(long)})")
    return chosen, keys


def _canonical_column(table: Table, column: str, name: str, party: str) -> list[bytes]:
    texts = _texts(table, column, name, party)
    floats = [row for row, text in enumerate(texts) if FLOAT.fullmatch(text.strip())]
    if floats:
        raise InvalidIds(
            f"{party}: {len(floats)} values of {column!r} are numbers with a decimal point or exponent "
            f"({_rows(floats)}), so digits may be lost; export the column again as text"
        )
    keys, unreadable = [], []
    for row, text in enumerate(texts):
        try:
            keys.append(canonical_value(name, text))
        except ValueError:
            unreadable.append(row)
    if unreadable:
        raise InvalidIds(
            f"{party}: {len(unreadable)} values of {column!r} do not read as {name!r} or exceed {LONGEST} "
            f"bytes ({_rows(unreadable)}); correct or drop those rows, or agree on another recipe"
        )
    return keys


def _texts(table: Table, column: str, name: str, party: str) -> list[str]:
    """Return the column as strings, "" for null, after checking that its type suits the recipe."""
    values = _values(table, column, party)
    kinds = {_kind(value) for value in values if value is not None}
    where = f"{party}: column {column!r}"
    if len(kinds) > 1:
        raise InvalidIds(f"{where} mixes {' and '.join(sorted(kinds))}; write all of it as text")
    kind = kinds.pop() if kinds else "text"
    rule = name.partition(":")[0]
    if kind == "floats":
        raise InvalidIds(
            f"{where} holds floats, so digits may be lost (nulls turn integers into floats); read it as "
            f"text: read_table(path, text=[{column!r}])"
        )
    if kind == "integers" and rule not in ("exact", "casefold"):
        raise InvalidIds(
            f"{where} holds integers, so a leading zero or plus is lost; read it as text: "
            f"read_table(path, text=[{column!r}])"
        )
    if (kind == "dates") != (rule == "date") and kind != "text":
        raise InvalidIds(f"{where} holds {kind}, which recipe {name!r} does not take")
    if kind not in ("text", "integers", "dates"):
        raise InvalidIds(f"{where} holds {kind}; identifiers are text or integers")
    return ["" if value is None else str(value) for value in values]


def _values(table: Table, column: str, party: str) -> list[object]:
    """Return the column as Python objects, None for null."""
    chosen = take_columns(table, [column], party)
    if isinstance(chosen, np.ndarray):
        objects: list[object] = chosen[:, 0].tolist()
        missing = [bool(mask) for mask in np.ma.getmaskarray(chosen[:, 0])]
    else:
        series = as_frame(chosen, party)[columns_of(chosen, party)[0]]
        objects, missing = series.to_list(), series.is_null().to_list()
    return [None if null else _date_only(value) for value, null in zip(objects, missing, strict=True)]


def _date_only(value: object) -> object:
    """Return the date of a midnight without time zone, as pandas and some databases store dates."""
    if isinstance(value, datetime.datetime) and value.tzinfo is None and value.time() == datetime.time():
        return value.date()
    return value


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool | np.bool_):
        return "Booleans"
    if isinstance(value, int | np.integer):
        return "integers"
    if isinstance(value, float | np.floating):
        return "floats"
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return "dates"
    return f"{type(value).__name__} values"


def _check_policy(field: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{field} is {value!r}; use one of {listed(allowed)}")


def _refuse_duplicates(groups: dict[bytes, list[int]], chosen: Recipe, party: str) -> None:
    shared = [rows for rows in groups.values() if len(rows) > 1]
    later = sorted(row for rows in shared for row in rows[1:])
    raise DuplicateIds(
        f"{party}: {sum(map(len, shared))} rows share {len(shared)} identifiers after normalisation as {chosen} "
        f'(repeated in {_rows(later)}); keep one row per customer or pass duplicates="first" (or "last", "drop", "all")'
    )


def _rows(rows: list[int]) -> str:
    shown = ", ".join(str(row) for row in rows[:5])
    return f"row{'s' if len(rows) > 1 else ''} {shown}{', ...' if len(rows) > 5 else ''}, counted from 0"


def _named(on: str | Sequence[str]) -> str:
    return listed([on] if isinstance(on, str) else list(on))
