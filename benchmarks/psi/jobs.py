"""One comparison to run: its tables, and both parties in processes of their own, over the loopback or a shaped link."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from benchmarks.glm.jobs import Link
from benchmarks.glm.link import shaped
from benchmarks.parties import PARTIES, configure, free_address

__all__ = ["WAN", "Case", "Figures", "Link", "ours", "relayed", "write_tables"]

WAN = Link(100, 20)
Figures = dict[str, Any]


class Case(NamedTuple):
    """What is compared and how.

    Attributes
    ----------
    rows, host_rows : int
    protocol : {"fast", "dh"}
    streamed : bool
        From Parquet files instead of tables in memory.
    link : Link or None
        None is the loopback as it is.
    """

    rows: int
    host_rows: int
    protocol: str = "fast"
    streamed: bool = False
    link: Link | None = None

    @property
    def common(self) -> int:
        """Rows that both have: half of the smaller table."""
        return min(self.rows, self.host_rows) // 2

    @property
    def numbers(self) -> Any:
        """The numbers of the common rows, ascending."""
        return np.arange(self.rows - self.common, self.rows)


def write_tables(folder: Path, case: Case, *, text: bool) -> None:
    """Write both tables, as Parquet for us and, if asked for, as text for the other libraries."""
    rng = np.random.default_rng(7)
    sizes = {"guest": (0, case.rows), "host": (case.rows - case.common, case.host_rows)}
    for role, (first, count) in sizes.items():
        numbers = rng.permutation(np.arange(first, first + count))
        ids = pl.Series("id", numbers).cast(pl.String).str.zfill(10)
        table = pl.DataFrame({"id": "K" + ids, "a": rng.normal(size=count), "b": rng.normal(size=count)})
        table.write_parquet(folder / f"{role}.parquet")
        if text:
            table.select("id").write_csv(folder / f"{role}.txt", include_header=False)


@contextlib.contextmanager
def relayed(link: Link | None, target: tuple[str, int]) -> Iterator[tuple[str, int]]:
    """Yield the address at which `target` is reached over the link."""
    if link is None:
        yield target
    else:
        with shaped(link, target) as address:
            yield address


def ours(folder: Path, case: Case) -> Figures:
    """Compare the tables once; return the figures, and whether both hold exactly the common rows in one order."""
    target = free_address()
    command = [sys.executable, "-m", "benchmarks.psi.party", str(folder)]
    source = "file" if case.streamed else "memory"
    load = os.getloadavg()[0]
    with relayed(case.link, target) as address:
        configure(folder, listen=target, connect=address)
        processes = [subprocess.Popen([*command, role, case.protocol, source]) for role in PARTIES]
        codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError(f"a party failed: exit codes {codes}")
    both = [json.loads((folder / f"{role}.json").read_text()) for role in PARTIES]
    held = [np.load(folder / f"{role}.npy") for role in PARTIES]
    return {
        "seconds": max(party["end"] for party in both) - min(party["start"] for party in both),
        "cpu_seconds": sum(party["cpu"] for party in both),
        "bytes": max(party["bytes"] for party in both),
        "peak_mib": max(party["peak_mib"] for party in both),
        "correct": bool(np.array_equal(held[0], held[1]) and np.array_equal(np.sort(held[0]), case.numbers)),
        "matched": len(held[0]),
        "load": load,
    }
