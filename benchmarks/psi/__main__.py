"""Intersect two tables over two processes and mutual TLS on loopback, until both hold the aligned rows.

    python -m benchmarks.psi --rows N [--host-rows M] [--protocol dh|fast] [--peers] [--parquet] [--repeats K]

Half of the smaller set is common. Identifiers are texts of eleven characters; both tables have two more columns. The
clock starts when both processes hold their tables, the session is open and compiled functions are loaded, and ends
when the later one holds its aligned rows; normalising and hashing identifiers and taking the rows are within. With
--parquet the tables are streamed from files, twice, and reading is within too. `cpu_seconds` is the processor time of
both parties, which says more than `seconds` on a busy machine.

With --peers, SecretFlow's RR22 (fast) in two processes over its own loopback link without TLS, and openmined-psi
without any link, run on the same identifiers in memory, in environments of their own under .venv-peers, made at the
first use. openmined-psi gets 100,000 rows at most, and its time is scaled.
Figures are medians over the repeats. The last line printed is one JSON object.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.psi import peers
from benchmarks.quality import PARTIES, configure
from vfl.cli.demo import free_address


def write_tables(folder: Path, rows: int, host_rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Write both tables, as Parquet for us and as text for the peers; return the common numbers, ascending."""
    rng = np.random.default_rng(7)
    common = min(rows, host_rows) // 2
    for role, first, count in (("guest", 0, rows), ("host", rows - common, host_rows)):
        numbers = rng.permutation(np.arange(first, first + count))
        ids = pl.Series("id", numbers).cast(pl.String).str.zfill(10)
        table = pl.DataFrame({"id": "K" + ids, "a": rng.normal(size=count), "b": rng.normal(size=count)})
        table.write_parquet(folder / f"{role}.parquet")
        table.select("id").write_csv(folder / f"{role}.txt", include_header=False)
    return np.arange(rows - common, rows)


def ours(
    folder: Path, protocol: str, repeats: int, source: str
) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
    """Run both parties; return the figures and the numbers that each of them holds."""
    configure(folder, argparse.Namespace(verbose=False, security="strict"))
    command = [sys.executable, "-m", "benchmarks.psi.party", str(folder)]
    processes = [subprocess.Popen([*command, role, protocol, str(repeats), source]) for role in PARTIES]
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit(f"a party failed: exit codes {codes}")
    both = [json.loads((folder / f"{role}.json").read_text()) for role in PARTIES]
    runs = list(zip(*(party["runs"] for party in both), strict=True))
    figures = {
        "seconds": statistics.median(
            max(r["end"] for r in run) - min(r["start"] for r in run) for run in runs
        ),
        "cpu_seconds": statistics.median(sum(r["cpu"] for r in run) for run in runs),
        "bytes": max(run[0]["bytes"] for run in runs),
        "peak_mib": max(party["peak_mib"] for party in both),
    }
    return figures, [np.load(folder / f"{role}.npy") for role in PARTIES]


def main() -> None:
    """Run what the command line asks for and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--host-rows", type=int)
    parser.add_argument("--protocol", choices=["dh", "fast"], default="fast")
    parser.add_argument("--parquet", action="store_true", help="stream the tables from files (fast only)")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--repeats", type=int)
    options = parser.parse_args()
    host_rows = options.host_rows or options.rows
    repeats = options.repeats or (
        3 if options.rows + host_rows <= 2_000_000 and options.protocol == "fast" else 1
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common = write_tables(folder, options.rows, host_rows)
        figures, held = ours(folder, options.protocol, repeats, "file" if options.parquet else "memory")
        correct = np.array_equal(held[0], held[1]) and np.array_equal(np.sort(held[0]), common)
        result = {"rows": options.rows, "host_rows": host_rows, "protocol": options.protocol, **figures}
        result |= {"correct": correct, "matched": len(held[0])}
        if options.peers:
            port = int(free_address().rpartition(":")[2])
            rr22 = peers.spu(folder, "RR22_FAST_PSI_2PC", port, repeats)
            mined = peers.openmined(folder, options.rows)
            result |= {f"spu_rr22_{key}": value for key, value in rr22.items()}
            result |= {f"openmined_{key}": value for key, value in mined.items()}
            result["ratio_to_spu_rr22"] = figures["seconds"] / rr22["seconds"]
            result["ratio_to_openmined"] = figures["seconds"] / mined["seconds"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
