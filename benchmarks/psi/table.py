"""Everything beside everything as tables grow: docs/performance_psi.md (`--all`).

Each line is one run; all runs of a size and link follow each other on the same machine. A run that is predicted to
take more than LIMIT_SECONDS, from the one of the same kind before it, is left out, and the table says so.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.psi import peers
from benchmarks.psi.jobs import WAN, Case, Figures, ours, write_tables

DOCS = Path(__file__).resolve().parents[2] / "docs" / "performance_psi.md"
SIZES = [10**4, 10**5, 10**6, 10**7]
UNBALANCED = [(10**5, 100), (10**6, 1000), (10**7, 10**4)]
QUICK = [1000, 10_000], [(2000, 40)]
LIMIT_SECONDS = 150.0
SPU = {"spu RR22": "RR22_FAST_PSI_2PC", "spu KKRT": "KKRT_PSI_2PC", "spu ECDH": "ECDH_PSI_2PC"}
FILES, OPENMINED = "vfl fast, files", "openmined-psi"

TEXT = """# Performance: intersection over two processes

Written by `python -m benchmarks.psi --all --write-docs`. Half of the smaller table is common; identifiers are texts of
eleven characters. Times are from both tables at hand to both parties holding the aligned rows: `vfl.align` over mutual
TLS, or `vfl.align_files` from Parquet to Parquet ("files"). LAN is the loopback, WAN 100 Mb/s and 20 ms in each
direction. SecretFlow's `spu` intersects lists in memory over its own link without TLS; its bytes are all that its
processes wrote. openmined-psi runs both sides in one process without any link, {sample:,} rows at most, scaled. MB is
both directions together; MiB the larger party's peak, before the clock starts included; `load` the load average of
the machine when a run began: with other work on it, times of one size and link compare, others less. Left out: what
would take more than {limit:.0f} s.

{machine}

| guest x host | link | | s | MB | MiB | load |
|---|---|---|---|---|---|---|
{rows}

{conclusions}
"""


class Table:
    """The lines so far, and what each kind of run took last time."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.figures: list[Figures] = []
        self._last: dict[str, tuple[float, int]] = {}

    def size(self, folder: Path, case: Case) -> None:
        """Add all lines of one size and link."""
        for name, work in _kinds(folder, case):
            rows = case.rows + case.host_rows
            cost = min(rows, 2 * peers.SAMPLE) if name == OPENMINED else rows
            self._line(name, case, self._try(f"{name} {case.link}", cost, work))

    def _try(self, kind: str, cost: int, work: Callable[[], Figures]) -> Figures | None:
        """Run, unless the last run of the kind says that it takes too long."""
        seconds, before = self._last.get(kind, (0.0, cost))
        if seconds * cost / before > LIMIT_SECONDS:
            return None
        load = os.getloadavg()[0]
        try:
            figures = {"load": load, **work()}
        except peers.Unavailable as error:
            print(f"{kind}: {error}", file=sys.stderr)
            self._last[kind] = (2 * LIMIT_SECONDS, cost)
            return None
        scale = figures["sample"] / figures["rows"] if "sample" in figures else 1.0
        self._last[kind] = (figures["seconds"] * scale, cost)
        return figures

    def _line(self, name: str, case: Case, figures: Figures | None) -> None:
        link = "WAN" if case.link else "LAN"
        size = f"{case.rows:,} x {case.host_rows:,}"
        cells = ["left out", "", "", ""] if figures is None else _cells(figures)
        self.lines.append("| " + " | ".join([size, link, name, *cells]) + " |")
        print(self.lines[-1], file=sys.stderr)
        if figures is not None:
            if not figures.get("correct", True):
                raise RuntimeError(f"{name} at {size} found other rows than the common ones")
            told = {"rows": case.rows, "host_rows": case.host_rows, "link": link, "kind": name}
            self.figures.append({**told, **figures})

    def conclusions(self) -> Figures:
        """Return how the time of files grows on the loopback, and how it compares at a million rows."""
        times = {
            each["rows"]: each["seconds"]
            for each in self.figures
            if (each["kind"], each["link"]) == (FILES, "LAN") and each["rows"] == each["host_rows"]
        }
        rows = np.log(np.array(list(times)))
        exponent = float(np.polyfit(rows, np.log(np.array(list(times.values()))), 1)[0])
        largest = max(times)
        return {
            "exponent": exponent,
            "largest_rows": largest,
            "ratio_to_a_tenth": times[largest] / times.get(largest // 10, float("nan")),
        }


def _kinds(folder: Path, case: Case) -> Iterator[tuple[str, Callable[[], Figures]]]:
    """Yield what runs on one size and link; openmined-psi has no link and gets balanced tables only."""
    large = max(case.rows, case.host_rows) > 10**6
    if not large:
        yield "vfl fast", partial(ours, folder, case)
    yield FILES, partial(ours, folder, case._replace(streamed=True))
    yield "vfl dh", partial(ours, folder, case._replace(protocol="dh"))
    for name, protocol in SPU.items():
        yield name, partial(peers.spu, folder, protocol, case.link)
    if case.link is None and case.rows == case.host_rows:
        yield OPENMINED, partial(peers.openmined, folder, case.rows)


def _cells(figures: Figures) -> list[str]:
    megabytes = _three(figures["bytes"] / 1e6) if "bytes" in figures else ""
    peak = f"{figures['peak_mib']:,.0f}" if "peak_mib" in figures else ""
    scaled = " (scaled)" if figures.get("sample", 0) < figures.get("rows", 0) else ""
    return [_three(figures["seconds"]) + scaled, megabytes, peak, f"{figures['load']:.1f}"]


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def machine() -> str:
    """Return the facts of the machine; in a process of its own, since that module sets numpy's threads."""
    program = "from benchmarks.crypto.__main__ import machine; print(machine())"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()


def page(table: Table, found: Figures) -> str:
    """Return the page on all runs so far."""
    words = (
        f"Time of files on the loopback grows with rows to the power of {found['exponent']:.2f}; "
        f"{found['largest_rows']:,} rows take {found['ratio_to_a_tenth']:.1f} times as long as a tenth of them."
    )
    rows = "\n".join(table.lines)
    return TEXT.format(
        machine=machine(), rows=rows, conclusions=words, sample=peers.SAMPLE, limit=LIMIT_SECONDS
    )


def main(*, quick: bool, write: bool) -> None:
    """Fill the table; print it, and its figures as one JSON object on the last line."""
    table = Table()
    balanced, unbalanced = QUICK if quick else (SIZES, UNBALANCED)
    for rows, host_rows in [*((size, size) for size in balanced), *unbalanced]:
        with tempfile.TemporaryDirectory() as name:
            write_tables(Path(name), Case(rows, host_rows), text=True)
            for link in (None, WAN):
                table.size(Path(name), Case(rows, host_rows, link=link))
        if write and rows > balanced[0]:
            DOCS.write_text(page(table, table.conclusions()), encoding="utf-8")
    found = table.conclusions()
    print(page(table, found))
    print(json.dumps({"runs": table.figures, **found}))
