"""Everything beside everything as data grow: the table of docs/performance_glm.md (`--all`).

Each line is a training in one run after the other on the same machine. A training that is predicted to need more
than LIMIT_SECONDS, from the one of the same kind before it, does not run, and the table says so.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.environments import SECRETFLOW
from benchmarks.glm import peers, pooled
from benchmarks.glm.jobs import Job, Link
from benchmarks.glm.run import Failed, run

DOCS = Path(__file__).resolve().parents[2] / "docs" / "performance_glm.md"
SIZES = [
    (10_000, 5, 5),
    (10_000, 50, 50),
    (100_000, 5, 5),
    (100_000, 50, 50),
    (100_000, 250, 250),
    (1_000_000, 5, 5),
]
QUICK = [(2_000, 5, 5), (10_000, 5, 5)]
SHAPED = Link(100, 20)
LIMIT_SECONDS = 400.0
PROFILES = [("strict", None), ("exchange", "ckks"), ("exchange", "paillier")]
HEAD = (
    "| rows x columns | link | training | s | iterations | s each | MB | AUC | peak MiB |\n"
    + "|---" * 9
    + "|"
)

TEXT = """# Performance: logistic regression over two processes

Written by `python -m benchmarks.glm --all --write-docs`. Generated data, defaults, two processes over mutual TLS on
one machine, after a warm-up; LAN is the loopback, WAN 100 Mb/s with 20 ms in each direction. `s` is the training,
`s each` one pass over all rows without what is done once. SecretFlow runs {epochs} epochs, all rows in one batch, with
its own approximation of the sigmoid (0.5 + z / 8, cut off), warm; its AUC is that after these epochs, and its bytes
are not counted. HESS-LR runs on SEMI2K, where one party deals the randomness.

{machine}

{head}
{rows}

{notes}
"""


class Table:
    """The lines so far, and what each kind of training cost last time."""

    def __init__(self, named: str | None) -> None:
        self.lines: list[str] = []
        self.figures: list[dict[str, Any]] = []
        self._cost: dict[str, tuple[float, float]] = {}
        try:
            self._python: str | None = SECRETFLOW.interpreter(named)
            self.notes = ""
        except peers.Unavailable as error:
            self._python, self.notes = None, f"SecretFlow did not run: {error}"

    def size(self, job: Job) -> None:
        """Add all lines of one size."""
        coefficients: Any = None
        for wanted in links(job):
            name = wanted.security + (f", {wanted.he}" if wanted.he else "")
            figures = self._try(name + (" WAN" if wanted.link else ""), wanted, lambda w=wanted: run(w))
            if figures and wanted.security == "strict" and not wanted.link:
                coefficients = figures.pop("coefficients")
            self._line(wanted, name, figures)
        if coefficients:
            theirs = pooled.train(job, coefficients)
            self._line(job, "scikit-learn, pooled", {**theirs, "fit_seconds": theirs["seconds"]})
        if self._python:
            self._peer(job, "ss-lr", self._python)
            self._peer(job, "hess-lr", self._python)

    def _peer(self, job: Job, algorithm: str, python: str) -> None:
        name = f"SecretFlow {algorithm.upper()}"
        figures = self._try(
            name, job, lambda: peers.secretflow(job, python, algorithm=algorithm, limit=LIMIT_SECONDS)
        )
        if figures:
            figures |= {
                "fit_seconds": figures["seconds"],
                "iterations": figures["epochs"],
                "seconds_per_iteration": figures["seconds_per_epoch"],
            }
        self._line(job, name, figures)

    def _try(self, name: str, job: Job, work: Any) -> dict[str, Any] | None:
        """Train, unless the one before it says that it takes too long."""
        cells = job.rows * (job.guest_columns + job.host_columns + 20)
        seconds, before = self._cost.get(name, (0.0, cells))
        if seconds * cells / before > LIMIT_SECONDS:
            return None
        print(f"{name}: {job.rows} x ({job.guest_columns} + {job.host_columns})", file=sys.stderr)
        try:
            figures: dict[str, Any] = work()
        except (Failed, peers.Unavailable) as error:
            print(f"{name}: {error}", file=sys.stderr)
            self._cost[name] = (2 * LIMIT_SECONDS, cells)
            return None
        self._cost[name] = (figures.get("cold_seconds", 0.0) + figures["seconds"], cells)
        return figures

    def _line(self, job: Job, name: str, figures: dict[str, Any] | None) -> None:
        link = "WAN" if job.link else "LAN"
        size = f"{job.rows:,} x ({job.guest_columns} + {job.host_columns})"
        if figures is None:
            cells = [f"over {LIMIT_SECONDS:.0f}", "", "", "", "", ""]
        else:
            megabytes = figures["bytes"] / 1e6 if "bytes" in figures else None
            cells = [
                _number(figures["fit_seconds"]),
                str(figures.get("iterations", "")),
                _number(figures.get("seconds_per_iteration")),
                _number(megabytes),
                f"{figures['auc']:.4f}" if figures.get("auc") is not None else "",
                f"{figures['peak_mib']:,.0f}" if "peak_mib" in figures else "",
            ]
        self.lines.append("| " + " | ".join([size, link, name, *cells]) + " |")
        kept = {key: value for key, value in (figures or {}).items() if key != "coefficients"}
        self.figures.append({"size": size, "link": link, "training": name, **kept})
        print(self.lines[-1], file=sys.stderr)


def links(job: Job) -> Iterator[Job]:
    """Yield every profile of a size, on the loopback and, for the strict one and CKKS, on the shaped link."""
    for security, he in PROFILES:
        one = msgspec.structs.replace(job, security=security, he=he)
        yield one
        if he != "paillier":
            yield msgspec.structs.replace(one, link=SHAPED)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main(options: argparse.Namespace) -> None:
    """Fill the table; print it, and its figures as one JSON object on the last line."""
    table = Table(options.secretflow_python)
    for rows, guest, host in QUICK if options.quick else SIZES:
        table.size(
            Job(rows=rows, guest_columns=guest, host_columns=host, held_out=min(10_000, rows // 5), warm=True)
        )
    from benchmarks.crypto.__main__ import (
        machine,
    )  # sets the threads of numpy, for later imports and processes

    text = TEXT.format(machine=machine(), head=HEAD, rows="\n".join(table.lines), notes=table.notes, epochs=3)
    print(text)
    if options.write_docs:
        DOCS.write_text(text, encoding="utf-8")
    print(json.dumps({"trainings": table.figures}))
