"""One of the two processes: reads its table, meets the other over mutual TLS, aligns, leaves the figures in a file."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import vfl
from vfl.bulkids import packed_ids
from vfl.identifiers import prepare_ids
from vfl.protocols.psi import vole
from vfl.protocols.wire import Role
from vfl.session import Session
from vfl.tables import take_rows


def peak_mib() -> float:
    """Return the largest resident size that this process had, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("the kernel does not report VmHWM")


def fast(session: Session, table: pl.DataFrame) -> pl.DataFrame:
    """Align by the fast protocol."""
    column = packed_ids(table, "id", session.name)
    keys = prepare_ids(table, "id", party=session.name).keys if column is None else column
    role = vole.guest if session.role is Role.GUEST else vole.host
    found = session.run(role(session.channel, keys, session.rng, 1, 1 << 40))
    return take_rows(table, found.positions)


def aligned(session: Session, table: pl.DataFrame, protocol: str) -> Any:
    """Return the common rows in the common order."""
    return fast(session, table) if protocol == "fast" else vfl.align(table, on="id")


def warm_up() -> pl.DataFrame:
    """Return a few rows that both parties have: aligning them loads compiled functions, once a process."""
    return pl.DataFrame({"id": [f"K{number:010d}" for number in range(100)]})


def main() -> None:
    """Run the role that the command line names: folder, role, protocol, repeats."""
    folder, role, protocol, repeats = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    table = pl.read_parquet(folder / f"{role}.parquet")
    results = []
    with vfl.connect(folder / f"{role}.toml") as session:
        aligned(session, warm_up(), protocol)
        for _ in range(repeats):
            session.checkpoint()
            before, start = sum(session.channel.bytes.values()), time.monotonic()
            rows = aligned(session, table, protocol)
            end = time.monotonic()
            traffic = sum(session.channel.bytes.values()) - before
            results.append({"start": start, "end": end, "bytes": traffic})
    np.save(folder / f"{role}.npy", rows["id"].str.slice(1).cast(pl.Int64).to_numpy())
    (folder / f"{role}.json").write_text(json.dumps({"runs": results, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
