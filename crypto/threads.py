"""Threads that kernels share: they run without the interpreter lock, on pieces of their arrays."""

import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

__all__ = ["run"]

_NAME = "vfl-kernel"


def run(task: Callable[[int, int], object], count: int, threads: int | None) -> None:
    """Call `task` (start, stop) on pieces of range(`count`), one per thread; None means all processors."""
    pieces = min(count, threads or len(os.sched_getaffinity(0)))
    if pieces <= 1 or threading.current_thread().name.startswith(_NAME):
        task(0, count)
        return
    edges = [count * piece // pieces for piece in range(pieces + 1)]
    others = [_pool().submit(task, *edge) for edge in itertools.pairwise(edges[1:])]
    try:
        task(*edges[:2])
    finally:
        wait(others)
    for other in others:
        other.result()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads that kernels share."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), _NAME)


os.register_at_fork(after_in_child=_pool.cache_clear)
