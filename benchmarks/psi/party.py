"""One of the two processes: reads its table, meets the other over mutual TLS, aligns, leaves the figures in a file."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import vfl


def peak_mib() -> float:
    """Return the largest resident size that this process had, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("the kernel does not report VmHWM")


def aligned(source: pl.DataFrame | Path, protocol: Any, folder: Path) -> pl.DataFrame | list[Path]:
    """Align a table in memory, or a file into files; return the common rows in the common order."""
    if isinstance(source, pl.DataFrame):
        rows: pl.DataFrame = vfl.align(source, on="id", protocol=protocol)
        return rows
    with tempfile.TemporaryDirectory(dir=folder) as work:
        output = Path(tempfile.mkdtemp(dir=folder))
        return list(vfl.align_files(source, on="id", output=output, work=work, protocol=protocol).files)


def numbers(found: pl.DataFrame | list[Path]) -> pl.Series:
    """Return the identifiers of common rows."""
    ids = found["id"] if isinstance(found, pl.DataFrame) else pl.read_parquet(found, columns=["id"])["id"]
    return ids.str.slice(1).cast(pl.Int64)


def warm_up() -> pl.DataFrame:
    """Return rows that both parties have, enough for all compiled functions to be loaded: once a process."""
    return pl.DataFrame({"id": [f"K{number:010d}" for number in range(3000)]})


def main() -> None:
    """Run the role that the command line names: folder, role, protocol, memory or file."""
    folder, role, protocol = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    path = folder / f"{role}.parquet"
    source = path if sys.argv[4] == "file" else pl.read_parquet(path)
    with vfl.connect(folder / f"{role}.toml") as session:
        aligned(warm_up(), protocol, folder)
        session.checkpoint()
        before, start, busy = sum(session.channel.bytes.values()), time.monotonic(), time.process_time()
        found = aligned(source, protocol, folder)
        end, cpu = time.monotonic(), time.process_time() - busy
        traffic = sum(session.channel.bytes.values()) - before
    figures = {"start": start, "end": end, "bytes": traffic, "cpu": cpu, "peak_mib": peak_mib()}
    (folder / f"{role}.json").write_text(json.dumps(figures))
    np.save(folder / f"{role}.npy", numbers(found).to_numpy())


if __name__ == "__main__":
    main()
