"""The table of docs/performance_secagg.md: 3 to 1,000 clients, 10^5 to 10^7 numbers, 0 to 30 % of the clients lost."""

import argparse
import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.secagg.ours import Size

DOCS = Path(__file__).resolve().parents[2] / "docs" / "performance_secagg.md"
CLIENTS, PARAMS, DROPOUTS = (3, 10, 100, 1000), (10**5, 10**6, 10**7), (0.0, 0.1, 0.3)
MOST = 10**9  # numbers of all clients together: more than that takes over ten minutes
QUICK = 2 * 10**7

TEXT = """# Performance of secure aggregation

Written by `python -m benchmarks.secagg --all --peers --write-docs`; do not edit. One round over values of 16 bits,
with all clients and the aggregator in one process, each timed for itself; every message is encoded and decoded. The
clients that are lost are lost after their secrets were shared, which is the costliest place. Up to 10 clients the best
of three rounds, above one round. *bytes* are what one client sends in all; *CPU* is processor time in seconds, all
threads together, which other work on the machine changes less than the time that passes. With 1,000 clients 50 may
collude with the aggregator, otherwise any number below a third may.

{machine}

| clients | numbers | lost | exact | bytes a number | client, s | CPU | / Flower | aggregator, s | CPU | / Flower |
|---|---|---|---|---|---|---|---|---|---|---|
{rows}

**Flower** is its SecAgg+ functions, of the wheel, called as its mod and its workflow call them, with as many neighbours
and the same threshold: each step is timed in the same run and multiplied by how often it happens. A ratio is our time
over theirs, below 1 where we are faster: on a shared machine ratios keep their meaning, times drift. Flower sends
{flower_bytes:.2f} bytes a number. **TenSEAL** CKKS (N = 8192, 40 bits of precision, one key) takes {tenseal_bytes:.1f}
bytes a number and {tenseal_client:.2f} s of a client for 10^6 numbers, and shows the sum, or any part of it, to the
holder of the key.

Sizes that are not in the table were not run.
"""


def machine() -> str:
    """Return the facts that the figures depend on, as a list in Markdown."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"- Processor: {model}, {platform.machine()}, {os.cpu_count()} processors\n"
        f"- {platform.system()}, Python {platform.python_version()}, numpy {version('numpy')}, "
        f"numba {version('numba')}, cryptography {version('cryptography')}\n"
        f"- Load over 1, 5 and 15 minutes at the end, this benchmark's own included: {load}"
    )


def sizes(quick: bool) -> list[Size]:
    """Return all sizes whose numbers are not too many; three clients cannot lose one."""
    return [
        Size(clients, params, dropout, colluders=50 if clients == 1000 else -1)
        for clients in CLIENTS
        for params in PARAMS
        for dropout in (DROPOUTS if clients > 3 else DROPOUTS[:1])
        if clients * params <= (QUICK if quick else MOST)
    ]


def times(figures: dict[str, Any], who: str, ratio: str) -> list[str]:
    """Return seconds, processor seconds and the ratio to Flower's."""
    found = (figures[f"{who}_seconds"], figures[f"{who}_cpu_seconds"], figures[ratio])
    return ["-" if value is None else f"{value:.3g}" for value in found]


def row(size: Size, figures: dict[str, Any]) -> str:
    """Return one line of the table."""
    cells = [
        f"{size.clients:,}",
        f"{size.params:,}",
        f"{size.lost}",
        "yes" if figures["exact"] else "NO",
        f"{figures['bytes_per_param']:.3f}",
        *times(figures, "client", "ratio_to_flower"),
        *times(figures, "server", "server_ratio_to_flower"),
    ]
    return f"| {' | '.join(cells)} |"


def page(results: list[tuple[Size, dict[str, Any]]]) -> str | None:
    """Return the page, once there is a peer to compare with at 10^6 numbers."""
    flower = next((f["flower"] for _, f in results if "client_seconds" in f.get("flower", {})), None)
    million = next((f["tenseal"] for s, f in results if s.params == 10**6 and "tenseal" in f), None)
    if flower is None or million is None:
        return None
    ordered = sorted(results, key=lambda item: (item[0].clients, item[0].params, item[0].dropout))
    return TEXT.format(
        machine=machine(),
        rows="\n".join(row(size, figures) for size, figures in ordered),
        flower_bytes=flower["bytes_per_param"],
        tenseal_bytes=million["bytes_per_param"],
        tenseal_client=million["client_seconds"],
    )


def main(
    options: argparse.Namespace,
    python: str | None,
    measure: Callable[[Size, int, str | None], dict[str, Any]],
) -> None:
    """Measure all sizes, the small ones first, print the table, and write it after each if that was asked for."""
    results: list[tuple[Size, dict[str, Any]]] = []
    for size in sorted(sizes(options.quick), key=lambda size: size.clients * size.params):
        figures = measure(size, 3 if size.clients <= 10 else 1, python)
        results.append((size, figures))
        print(row(size, figures), flush=True)
        text = page(results)
        if options.write_docs and text is not None:
            DOCS.write_text(text, encoding="utf-8")
    print(json.dumps({"exact": all(figures["exact"] for _, figures in results), "sizes": len(results)}))
