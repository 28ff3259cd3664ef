"""Columns as rows of fixed width, to be handed over: what the type and the width of each is, and the bytes of a row.

A layout is text that both sides see: for each column its name, type and bytes per row. Numbers are little-endian, dates
are days since 1970, text is UTF-8 filled up with zeros to the longest of the column. Every value has one more byte in
front, which is 0 for null.
"""

import datetime
import json
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from vfl.errors import InvalidData
from vfl.tables import Table, as_frame, columns_of

__all__ = ["describe_columns", "row_bytes", "rows_from_bytes", "rows_to_bytes"]

LONGEST_TEXT = 1024
_NUMBERS = {"float": "<f8", "integer": "<i8", "Boolean": "|u1", "date": "<i4"}


def describe_columns(table: Table, party: str) -> str:
    """Return the layout of a table's columns.

    Raises
    ------
    InvalidData
        A column is of a type that cannot be handed over, or holds text of more than 1,024 bytes.
    """
    layout = [[name, *_type(values, name, party)] for name, values in _columns(table, party)]
    return json.dumps(layout, ensure_ascii=False)


def row_bytes(layout: str) -> int:
    """Return the bytes of a row; ValueError or KeyError for a layout that is none."""
    total = 0
    for name, kind, width in json.loads(layout):
        if not isinstance(name, str) or not 0 < int(width) <= LONGEST_TEXT:
            raise ValueError("no layout")
        if kind != "text" and np.dtype(_NUMBERS[kind]).itemsize != width:
            raise ValueError("no layout")
        total += 1 + int(width)
    return total


def rows_to_bytes(table: Table, layout: str) -> NDArray[np.uint8]:
    """Return the rows, shape (rows, row bytes)."""
    parts = []
    for (_, values), (_, kind, width) in zip(_columns(table, ""), json.loads(layout), strict=True):
        known = np.array([[value is not None] for value in values], np.uint8).reshape(-1, 1)
        parts += [known, _packed(values, kind, width)]
    return np.concatenate(parts, axis=1)


def rows_from_bytes(rows: NDArray[np.uint8], layout: str) -> dict[str, list[Any]]:
    """Return the columns of rows, by name."""
    columns: dict[str, list[Any]] = {}
    place = 0
    for name, kind, width in json.loads(layout):
        known, raw = rows[:, place], np.ascontiguousarray(rows[:, place + 1 : place + 1 + width])
        values = _unpacked(raw, kind)
        columns[name] = [
            value if there else None for value, there in zip(values, known.tolist(), strict=True)
        ]
        place += 1 + width
    return columns


def _columns(table: Table, party: str) -> list[tuple[str, list[Any]]]:
    if isinstance(table, np.ndarray):
        return [(name, table[:, i].tolist()) for i, name in enumerate(columns_of(table, party))]
    frame = as_frame(table, party)
    nulls = {column.name: column.is_null().to_list() for column in frame.iter_columns()}
    return [
        (
            column.name,
            [None if null else v for v, null in zip(column.to_list(), nulls[column.name], strict=True)],
        )
        for column in (c.cast(nw.Date) if c.dtype == nw.Datetime else c for c in frame.iter_columns())
    ]


def _type(values: list[Any], name: str, party: str) -> tuple[str, int]:
    kinds = {type(value) for value in values if value is not None} or {str}
    for kind, types in (
        ("Boolean", {bool}),
        ("integer", {int}),
        ("float", {float, int}),
        ("date", {datetime.date}),
    ):
        if kinds <= types:
            if kind == "integer" and any(value is not None and abs(value) >= 1 << 63 for value in values):
                break
            return kind, np.dtype(_NUMBERS[kind]).itemsize
    longest = max((len(value.encode()) for value in values if isinstance(value, str)), default=1)
    if kinds != {str} or longest > LONGEST_TEXT:
        raise InvalidData(
            f"{party}: column {name!r} cannot be handed over: use numbers, Booleans, dates, or text of at most "
            f"{LONGEST_TEXT} bytes, one kind in a column"
        )
    return "text", max(1, longest)


def _packed(values: list[Any], kind: str, width: int) -> NDArray[np.uint8]:
    if kind == "text":
        raw = b"".join((value or "").encode().ljust(width, b"\0") for value in values)
        return np.frombuffer(raw, np.uint8).reshape(-1, width)
    if kind == "date":
        first = datetime.date(1970, 1, 1)
        values = [None if value is None else (value - first).days for value in values]
    numbers = np.array([0 if value is None else value for value in values], _NUMBERS[kind])
    return np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, width)


def _unpacked(raw: NDArray[np.uint8], kind: str) -> list[Any]:
    if kind == "text":
        return [row.tobytes().rstrip(b"\0").decode("utf-8", "replace") for row in raw]
    numbers = raw.reshape(-1).view(_NUMBERS[kind]).tolist()
    if kind == "Boolean":
        return [bool(number) for number in numbers]
    if kind == "date":
        first = datetime.date(1970, 1, 1)
        return [first + datetime.timedelta(days=number) for number in numbers]
    return list(numbers)
