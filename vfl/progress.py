"""Progress on the terminal: a bar per phase with bytes and time left, plain lines when there is no terminal."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["PhaseCost", "Phases", "readable_bytes"]

Update = Callable[[int, int], None]


@dataclass(frozen=True)
class PhaseCost:
    """What one phase took: seconds by a monotonic clock, bytes of frames sent and received."""

    name: str
    seconds: float
    sent: int
    received: int


def readable_bytes(count: int) -> str:
    """Return a size with a unit, e.g. ``"3.2 MB"``."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


class Phases:
    """Measure and show the phases of a session.

    Parameters
    ----------
    party : str
    traffic : callable
        () -> (bytes sent, bytes received) so far.
    verbose : int
        0 shows nothing.
    """

    def __init__(self, party: str, traffic: Callable[[], tuple[int, int]], verbose: int) -> None:
        self._party, self._traffic, self._verbose = party, traffic, verbose
        self._console = Console(stderr=True)
        self.costs: list[PhaseCost] = []

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[Update]:
        """Measure a phase; the value is called with (steps done, steps in all)."""
        start, (sent, received) = time.monotonic(), self._traffic()
        with self._bar(name) as update:
            yield update
        now_sent, now_received = self._traffic()
        cost = PhaseCost(name, time.monotonic() - start, now_sent - sent, now_received - received)
        self.costs.append(cost)
        if self._verbose:
            self._console.print(
                f"{self._party}: {name}: {cost.seconds:.1f} s, sent {readable_bytes(cost.sent)}, "
                f"received {readable_bytes(cost.received)}",
                highlight=False,
            )

    @contextlib.contextmanager
    def _bar(self, name: str) -> Iterator[Update]:
        if not self._verbose or not self._console.is_terminal:
            yield lambda done, total: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[traffic]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(f"{self._party}: {name}", total=None, traffic="")

            def update(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total, traffic=readable_bytes(sum(self._traffic())))

            yield update
