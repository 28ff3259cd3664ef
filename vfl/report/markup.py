"""HTML and SVG by construction: whatever is not markup already is escaped, so no value can become markup."""

import html
from collections.abc import Iterable
from typing import final

__all__ = ["Markup", "join", "section", "table", "tag"]

_VOID = {"meta", "br", "line", "path", "circle", "polyline"}


@final
class Markup(str):
    """Text that is markup. Only this module and literals of the pages make it."""

    __slots__ = ()


def join(*parts: object) -> Markup:
    """Return the parts one after another, each escaped unless it is markup."""
    return Markup("".join(p if isinstance(p, Markup) else html.escape(str(p)) for p in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element.

    Parameters
    ----------
    name : str
    *children : Markup or object
        Anything but markup is shown as text.
    **attributes : object
        A trailing underscore is dropped (``class_``), others become hyphens; None leaves the attribute out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{given}>" if name in ("meta", "br") else f"<{name}{given}/>")
    return Markup(f"<{name}{given}>{join(*children)}</{name}>")


def section(title: str, *parts: object) -> Markup:
    """Return a section with a heading."""
    return tag("section", tag("h2", title), *parts)


def table(
    caption: object,
    head: Iterable[object],
    rows: Iterable[Iterable[object]],
    *,
    numeric: Iterable[int] = (),
    last: Iterable[object] = (),
) -> Markup:
    """Return a table with a caption, whose first column names the row; without rows, nothing.

    Parameters
    ----------
    caption : object
    head : iterable
        One title for each column.
    rows : iterable of iterables
    numeric : iterable of int
        Columns that align right.
    last : iterable
        A row that sums up the others, or nothing.
    """
    right = set(numeric)

    def side(column: int) -> str | None:
        return "n" if column in right else None

    def line(row: Iterable[object]) -> Markup:
        first, *others = row
        cells = [tag("td", cell, class_=side(column)) for column, cell in enumerate(others, 1)]
        return tag("tr", tag("th", first, scope="row", class_=side(0)), *cells)

    body = [line(row) for row in rows]
    if not body:
        return Markup("")
    titles = [tag("th", title, scope="col", class_=side(column)) for column, title in enumerate(head)]
    summing = list(last)
    parts = [
        tag("caption", caption),
        tag("thead", tag("tr", *titles)),
        tag("tbody", *body),
        tag("tfoot", line(summing)) if summing else "",
    ]
    return tag("div", tag("table", *parts), class_="scroll")
