"""One of the two processes: reads its table, meets the other over mutual TLS, aligns, leaves the figures in a file."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import vfl
from vfl.bulkids import PIECE, packed_ids, parquet_ids
from vfl.identifiers import prepare_ids
from vfl.protocols.psi import vole
from vfl.protocols.psi.vole import Keys
from vfl.protocols.wire import Role
from vfl.session import Session
from vfl.tables import take_rows


def peak_mib() -> float:
    """Return the largest resident size that this process had, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("the kernel does not report VmHWM")


def intersect(session: Session, keys: Keys) -> Any:
    """Run the fast protocol."""
    role = vole.guest if session.role is Role.GUEST else vole.host
    return session.run(role(session.channel, keys, session.rng, 1, 1 << 40)).positions


def from_memory(session: Session, table: pl.DataFrame) -> pl.DataFrame:
    """Align a table."""
    column = packed_ids(table, "id", session.name)
    keys = prepare_ids(table, "id", party=session.name).keys if column is None else column
    return take_rows(table, intersect(session, keys))


def from_file(session: Session, path: Path) -> pl.DataFrame:
    """Align a Parquet file, of which at any time a piece is in memory, and the common rows in the end."""
    positions = intersect(session, parquet_ids(path, "id", session.name))
    file = pl.scan_parquet(path)
    rank = np.full(file.select(pl.len()).collect().item(), -1, dtype=np.int32)
    rank[positions] = np.arange(len(positions))
    kept = []
    for first in range(0, len(rank), PIECE):
        piece = file.slice(first, PIECE).collect().with_columns(rank=rank[first : first + PIECE])
        kept.append(piece.filter(pl.col("rank") >= 0))
    return pl.concat(kept).sort("rank").drop("rank")


def aligned(session: Session, source: pl.DataFrame | Path, protocol: str) -> pl.DataFrame:
    """Return the common rows in the common order."""
    if isinstance(source, Path):
        return from_file(session, source)
    rows: pl.DataFrame = (
        from_memory(session, source) if protocol == "fast" else vfl.align(source, on="id", protocol="dh")
    )
    return rows


def warm_up() -> pl.DataFrame:
    """Return a few rows that both parties have: aligning them loads compiled functions, once a process."""
    return pl.DataFrame({"id": [f"K{number:010d}" for number in range(100)]})


def main() -> None:
    """Run the role that the command line names: folder, role, protocol, repeats, memory or file."""
    folder, role, protocol, repeats = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    path = folder / f"{role}.parquet"
    source = path if sys.argv[5] == "file" else pl.read_parquet(path)
    results = []
    with vfl.connect(folder / f"{role}.toml") as session:
        aligned(session, warm_up(), protocol)
        for _ in range(repeats):
            session.checkpoint()
            before, start, busy = sum(session.channel.bytes.values()), time.monotonic(), time.process_time()
            rows = aligned(session, source, protocol)
            end, cpu = time.monotonic(), time.process_time() - busy
            traffic = sum(session.channel.bytes.values()) - before
            results.append({"start": start, "end": end, "bytes": traffic, "cpu": cpu})
    np.save(folder / f"{role}.npy", rows["id"].str.slice(1).cast(pl.Int64).to_numpy())
    (folder / f"{role}.json").write_text(json.dumps({"runs": results, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
