"""Line charts as inline SVG in the colours of the page that holds them: no script and no picture file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vfl.report.markup import Markup, join, tag

__all__ = ["Axis", "Series", "legend", "line_chart", "ticks"]

WIDTH, HEIGHT = 310, 260
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 40


@dataclass(frozen=True)
class Axis:
    """The label of an axis and the range that it shows."""

    label: str
    low: float
    high: float

    def share(self, value: float) -> float:
        """Return where a value lies: 0 at the low end, 1 at the high end."""
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Series:
    """A named line through points (x, y); `style` is its class in the page's style sheet."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    marked: bool = False


def ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers between two bounds, for example 0, 0.2, ..., 1."""
    rough = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = next(rough * factor for factor in (1, 2, 2.5, 5, 10, 20) if (high - low) / (rough * factor) <= 5)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def line_chart(name: str, series: Sequence[Series], x: Axis, y: Axis) -> Markup:
    """Return an SVG element.

    Parameters
    ----------
    name : str
        What it shows, for those who do not see it.
    series : sequence of Series
        Drawn in this order. The points lie within the axes.
    x, y : Axis
    """
    return tag(
        "svg",
        tag("title", name),
        _grid(x, y),
        *(_line(line, x, y) for line in series),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )


def legend(series: Sequence[Series]) -> Markup:
    """Return a list that shows each series' line beside its name."""
    return tag(
        "ul",
        *(
            tag(
                "li",
                tag(
                    "svg",
                    tag("line", x1=1, y1=6, x2=27, y2=6, class_=f"line {line.style}"),
                    viewBox="0 0 28 12",
                    aria_hidden="true",
                ),
                line.name,
            )
            for line in series
        ),
        class_="legend",
    )


def _across(x: Axis, value: float) -> float:
    return round(LEFT + (WIDTH - LEFT - RIGHT) * x.share(value), 1)


def _up(y: Axis, value: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y.share(value), 1)


def _line(line: Series, x: Axis, y: Axis) -> Markup:
    at = [(_across(x, a), _up(y, b)) for a, b in line.points]
    dots = [tag("circle", cx=a, cy=b, r=2.6, class_=f"dot {line.style}") for a, b in at if line.marked]
    path = " ".join(f"{a:g},{b:g}" for a, b in at)
    return join(tag("polyline", points=path, class_=f"line {line.style}"), *dots)


def _grid(x: Axis, y: Axis) -> Markup:
    left, right, top, bottom = LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    parts = []
    for value in ticks(y.low, y.high):
        at = _up(y, value)
        parts.append(tag("line", x1=left, x2=right, y1=at, y2=at, class_="grid"))
        parts.append(tag("text", f"{value:g}", x=left - 7, y=at + 4, text_anchor="end"))
    for value in ticks(x.low, x.high):
        at = _across(x, value)
        parts.append(tag("line", x1=at, x2=at, y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(tag("text", f"{value:g}", x=at, y=bottom + 17, text_anchor="middle"))
    parts.append(tag("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
    parts.append(
        tag("text", x.label, x=(left + right) / 2, y=HEIGHT - 6, text_anchor="middle", class_="label")
    )
    middle = (top + bottom) / 2
    turned = f"rotate(-90 13 {middle:g})"
    parts.append(tag("text", y.label, x=13, y=middle, text_anchor="middle", class_="label", transform=turned))
    return join(*parts)
