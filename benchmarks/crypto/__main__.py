"""Time encrypted arithmetic, ours and other libraries' on the same operations, in one process.

    python -m benchmarks.crypto [--peers] [--write-docs] [--repeats 5]

Prints a table in Markdown and, as its last line, one JSON object; a ratio is our time over the other's, below 1
where we are faster, null without --peers or where a library is not installed (`pip install .[bench]`). Operations
take turns and the medians are taken. Libraries that would need minutes are timed on 1,000 rows and extrapolated,
which the table says.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # numpy is the floor of one thread; read when numpy is imported

import argparse
import importlib.metadata
import json
import platform
from pathlib import Path

from gmpy2 import mpz

from benchmarks.crypto import linear, paillier, peers
from benchmarks.crypto.timing import Row
from vfl.crypto.multiexp import Gmp, arithmetic

DOCS = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
LIBRARIES = ("numpy", "numba", "gmpy2", "tenseal", "phe", "sf-heu", "pypaillier")

TEXT = """# Performance

Written by `python -m benchmarks.crypto --peers --write-docs`; do not edit. The operations of a group took turns in
one process, and each figure is the median of {repeats}. A ratio is the time of vfl over the time of the other, below
1 where vfl is faster: on a shared machine the ratios keep their meaning, the times drift. Extrapolated times are
marked; they are linear in rows.

{machine}

{tables}
## Figures

`bound_bits` is the proven bound on the noise of a gradient of {noise_rows:,} rows of the largest entries,
`measured_bits` what was measured, `flooding_bits` by how many bits the flooding is wider than the bound.

```json
{figures}
```
"""


def machine() -> str:
    """Return the facts that the figures depend on, as a list in Markdown."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    vectors = "GMP" if isinstance(arithmetic(mpz(3)), Gmp) else "AVX-512 IFMA, eight numbers at a time"
    versions = []
    for library in LIBRARIES:
        try:
            versions.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{library} not installed")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return "\n".join(
        [
            f"- Processor: {model}, {platform.machine()}, {os.cpu_count()} processors",
            f"- Modular products: {vectors}",
            f"- {platform.system()}, Python {platform.python_version()}",
            f"- Load over 1, 5 and 15 minutes at the end, this benchmark's own included: {load}",
            f"- {'; '.join(versions)}",
        ]
    )


def seconds(value: float) -> str:
    """Return a time in a readable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:,.3g} {unit}" if value < 1000 * size else f"{value / size:,.0f} {unit}"
    return f"{value * 1e6:.3g} us"


def tables(rows: list[Row]) -> str:
    """Return one table for each group."""
    lines: list[str] = []
    for group in dict.fromkeys(row.group for row in rows):
        lines += [f"## {group}", "", "| | median | vfl / this | |", "|---|---|---|---|"]
        for row in rows:
            if row.group == group:
                lines.append(f"| {row.label} | {seconds(row.seconds)} | {row.ratio:.3g} | {row.note} |")
        lines.append("")
    return "\n".join(lines)


def rounded(value: float | bool | int | None) -> float | bool | int | None:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description="Time encrypted arithmetic.")
    parser.add_argument("--peers", action="store_true", help="run the other libraries too")
    parser.add_argument("--write-docs", action="store_true", help="write docs/performance.md")
    parser.add_argument("--repeats", type=int, default=5, help="how often each operation runs (5)")
    options = parser.parse_args()
    others = peers.available() if options.peers else {}
    gradient_rows, gradient = linear.lattice(others, options.repeats)
    ckks_rows, ckks = linear.ckks(others, options.repeats)
    paillier_rows, figures = paillier.run(others, options.repeats)
    result = {"gradient": gradient, "paillier": figures, "ckks": ckks, "noise": linear.noise()}
    result = {name: {key: rounded(value) for key, value in part.items()} for name, part in result.items()}
    text = TEXT.format(
        repeats=options.repeats,
        machine=machine(),
        tables=tables(gradient_rows + ckks_rows + paillier_rows),
        noise_rows=linear.NOISE_ROWS,
        figures=json.dumps(result, indent=2),
    )
    print(text)
    if options.write_docs:
        DOCS.write_text(text)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
