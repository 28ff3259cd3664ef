"""Medians of operations that take turns, so that whatever else the machine does meets all of them alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Operation:
    """Something to time, and by what its time is multiplied: one over the items done, or rows it stands for."""

    label: str
    run: Callable[[], object]
    factor: float = 1.0
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table: the median in seconds, after the factor."""

    group: str
    label: str
    seconds: float
    ratio: float
    note: str


def compare(group: str, operations: list[Operation], repeats: int) -> dict[str, Row]:
    """Run all operations in turn, `repeats` times after a warm-up of the first; ratios are to the first, ours."""
    operations[0].run()
    seconds: dict[str, list[float]] = {operation.label: [] for operation in operations}
    for _ in range(repeats):
        for operation in operations:
            start = time.perf_counter()
            operation.run()
            seconds[operation.label].append((time.perf_counter() - start) * operation.factor)
    medians = {label: statistics.median(times) for label, times in seconds.items()}
    ours = medians[operations[0].label]
    return {
        each.label: Row(group, each.label, medians[each.label], ours / medians[each.label], each.note)
        for each in operations
    }


def ratio(rows: dict[str, Row], label: str) -> float | None:
    """Return our time over another's, None if it did not run."""
    return rows[label].ratio if label in rows else None
