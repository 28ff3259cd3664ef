"""Intersect two tables over two processes and mutual TLS on loopback, until both hold the aligned rows.

    python -m benchmarks.psi --rows N [--host-rows M] [--protocol dh|fast] [--parquet] [--wan] [--peers] [--repeats K]
    python -m benchmarks.psi --all [--quick] [--write-docs]

Half of the smaller table is common. Identifiers are texts of eleven characters; both tables have two more columns.
The clock starts when both processes hold their tables, the session is open and compiled functions are loaded, and ends
when the later one has its aligned rows: `vfl.align`, with all its checks. With --parquet it is `vfl.align_files`, from
a Parquet file to Parquet files, reading and writing included. --wan puts a relay between the two that lets through
100 Mb/s after 20 ms in each direction.

With --peers, SecretFlow's RR22 (fast) in two processes over its own link without TLS, and openmined-psi without any
link, run on the same identifiers in memory, in environments of their own, made at the first use.
openmined-psi gets 100,000 rows at most, and its time is scaled.

All take turns, and `seconds` are the least of the repeats: on a shared machine the ratios keep their meaning. `load` is
the machine's load average before the run that counts, `cpu_seconds` the processor time of both parties. The last line
printed is one JSON object.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.psi import peers, table
from benchmarks.psi.jobs import WAN, Case, Figures, ours, write_tables


def least(runs: list[Figures]) -> Figures:
    """Return the run that took the least time, correct only if all were."""
    best = min(runs, key=lambda run: run["seconds"])
    return {**best, "correct": all(run["correct"] for run in runs)} if "correct" in best else best


def compare(folder: Path, case: Case, repeats: int, *, others: bool) -> Figures:
    """Run a case, and the other libraries if asked for; return all figures."""
    write_tables(folder, case, text=others)
    runs, rr22 = list[Figures](), list[Figures]()
    result: Figures = {"rows": case.rows, "host_rows": case.host_rows, "protocol": case.protocol}
    try:
        for _ in range(repeats):
            runs.append(ours(folder, case))
            if others:
                rr22.append(peers.spu(folder, "RR22_FAST_PSI_2PC", case.link))
        mined = peers.openmined(folder, min(case.rows, case.host_rows)) if others else {}
    except peers.Unavailable as error:
        print(error, file=sys.stderr)
        return {**result, **least(runs), "unavailable": str(error)}
    result |= least(runs)
    if others:
        best = least(rr22)
        result |= {f"spu_rr22_{key}": value for key, value in best.items() if key not in ("start", "end")}
        result |= {f"openmined_{key}": value for key, value in mined.items()}
        result["ratio_to_spu_rr22"] = result["seconds"] / best["seconds"]
        result["ratio_to_openmined"] = result["seconds"] / mined["seconds"]
    return result


def main() -> None:
    """Run what the command line asks for and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--rows", type=int)
    what.add_argument("--all", action="store_true", help="the table of docs/performance_psi.md")
    parser.add_argument("--host-rows", type=int)
    parser.add_argument("--protocol", choices=["dh", "fast"], default="fast")
    parser.add_argument("--parquet", action="store_true", help="from files to files")
    parser.add_argument("--wan", action="store_true", help="100 Mb/s, 20 ms each way")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--quick", action="store_true", help="with --all: few rows")
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args()
    if options.all:
        table.main(quick=options.quick, write=options.write_docs)
        return
    link = WAN if options.wan else None
    case = Case(options.rows, options.host_rows or options.rows, options.protocol, options.parquet, link)
    work = (case.rows + case.host_rows) * (10 if case.protocol == "dh" else 1)
    repeats = options.repeats or (3 if work <= 2_000_000 else 1)
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(compare(Path(name), case, repeats, others=options.peers)))


if __name__ == "__main__":
    main()
