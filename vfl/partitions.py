"""Tables larger than memory, cut into partitions by a hash of the identifier and kept on disk.

Rows with one identifier are in one partition, at both parties, so that partitions can be compared one by one. Batches
are read, normalised and written through joblib: threads by default, processes or a cluster if
``joblib.parallel_config`` says so. Nothing here talks to a peer.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from vfl.crypto.digests import Packed, digests, pack
from vfl.errors import ConfigError, DuplicateIds, InvalidData, InvalidIds
from vfl.identifiers import Duplicates, PreparedIds, prepare_ids
from vfl.ledger import Ledger, Sketch
from vfl.progress import Update
from vfl.recipes import recipe
from vfl.tables import as_frame

if TYPE_CHECKING:
    import polars

__all__ = ["ROWS_EACH", "Partitions", "Source", "Spec", "partition"]

Source: TypeAlias = "str | os.PathLike[str] | Iterable[Any]"
ROWS_EACH = 1_000_000
"""Rows of a partition, about: some 300 MB at work."""
BATCH = 250_000  # rows read at a time
KEY, ROW = "vfl key", "vfl row"
_HASH_KEY = b"vfl partitions 1"  # public: the hash spreads identifiers, it hides nothing
_DONE, _SKETCH = "partitions.json", "sketch.npy"
_ALL: Duplicates = "all"


@dataclass(frozen=True)
class Spec:
    """How a table is read and cut; equal at a restart, or the folder is refused.

    Attributes
    ----------
    on, normalise : tuple of str
    nulls : {"error", "drop"}
    duplicates : str
    count : int
        Number of partitions.
    """

    on: tuple[str, ...]
    normalise: tuple[str, ...]
    nulls: str
    duplicates: str
    count: int


@dataclass(frozen=True)
class Partitions:
    """A table on disk.

    Attributes
    ----------
    folder : Path
    spec : Spec
    rows : int
        Rows of the source.
    empty : int
        Rows without an identifier, left out.
    sketch : Sketch or None
        For the run ledger, if the party has one.
    """

    folder: Path
    spec: Spec
    rows: int
    empty: int
    sketch: Sketch | None

    def load(self, number: int, party: str) -> tuple["polars.DataFrame", PreparedIds]:
        """Return one partition's rows and their identifiers, under the policy on repeated ones.

        Raises
        ------
        DuplicateIds
            Repeated identifiers under ``duplicates="error"``.
        """
        import polars as pl

        files = sorted((self.folder / f"{number:05d}").glob("*.arrow"))
        if not files:
            raise InvalidData(
                f"{self.folder}: partition {number} is missing; remove the folder and start again"
            )
        table = pl.concat([pl.read_ipc(file) for file in files]).sort(ROW)
        return table.drop(KEY, ROW), _identified(table, self.spec, party)


def _identified(table: "polars.DataFrame", spec: Spec, party: str) -> PreparedIds:
    """Return the identifiers of rows that carry their canonical bytes."""
    import polars as pl

    normalised = recipe(spec.normalise, len(spec.on))
    nobody = np.empty(0, np.int64)
    if table[KEY].n_unique() == len(table):
        every = np.arange(len(table))
        return PreparedIds(
            _packed(table[KEY]), every, normalised, 0, nobody, every, np.ones(len(table), np.int64)
        )
    places = table.select(KEY).with_row_index("place")
    groups = places.group_by(KEY, maintain_order=True).agg("place")
    sizes = groups["place"].list.len()
    if spec.duplicates == "error" and len(groups) < len(table):
        raise DuplicateIds(
            f"{party}: {int(sizes.filter(sizes > 1).sum())} rows share {int((sizes > 1).sum())} identifiers after "
            'normalisation; keep one row per customer or pass duplicates="first" (or "last", "drop", "all")'
        )
    kept = {
        "drop": groups.filter(sizes == 1),
        "first": groups.with_columns(pl.col("place").list.head(1)),
        "last": groups.with_columns(pl.col("place").list.tail(1)),
    }.get(spec.duplicates, groups)
    members = kept["place"].explode().to_numpy().astype(np.int64)
    counts = kept["place"].list.len().to_numpy().astype(np.int64)
    left_out = np.setdiff1d(np.arange(len(table)), members)
    first = members[np.cumsum(counts) - counts]
    return PreparedIds(_packed(kept[KEY]), first, normalised, 0, left_out, members, counts)


def _packed(column: "polars.Series") -> Packed:
    ends = np.zeros(len(column) + 1, dtype=np.int64)
    np.cumsum(column.bin.size().to_numpy(), out=ends[1:])
    return Packed(np.frombuffer(b"".join(column.to_list()), dtype=np.uint8), ends)


def partition(
    source: Source, spec: Spec, folder: Path, party: str, ledger: Ledger | None, progress: Update
) -> Partitions:
    """Cut a table into partitions on disk, or return those that an earlier run has finished.

    Parameters
    ----------
    source : path or iterable of tables
        A Parquet or CSV file, or tables of any kind with the same columns.
    spec : Spec
    folder : Path
        Gets a folder for each partition; mode 0700.
    party : str
        For error texts.
    ledger : Ledger or None
    progress : callable
        (rows done, rows in all or 0).

    Raises
    ------
    InvalidIds
        Unusable identifiers; rows are counted from 0 within a batch, whose first row is named.
    ConfigError
        If the folder holds partitions made otherwise.
    """
    from joblib import Parallel, delayed

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    finished = _finished(folder, spec)
    if finished is not None:
        return finished
    total, rows, empty = rows_in(source), 0, 0
    sketch = None if ledger is None else ledger.sketch([])
    batches = _numbered(_batches(source, set(spec.on)))
    jobs = (delayed(_spill)(batch, first, spec, folder, party, ledger) for batch, first in batches)
    workers = Parallel(n_jobs=-1, prefer="threads", return_as="generator", pre_dispatch="n_jobs")
    for read, without, part in workers(jobs):
        rows, empty = rows + read, empty + without
        sketch = part if sketch is None or part is None else sketch + part
        progress(rows, max(total, rows))
    if rows == empty:
        raise InvalidIds(f"{party}: no row has an identifier")
    if sketch is not None:
        np.save(folder / _SKETCH, sketch.sums)
    told = {"spec": asdict(spec), "rows": rows, "empty": empty, "keys": 0 if sketch is None else sketch.keys}
    (folder / _DONE).write_text(json.dumps(told))
    return Partitions(folder, spec, rows, empty, sketch)


def rows_in(source: Source) -> int:
    """Return the number of rows of a file, 0 for an iterable: it is not known before it ends."""
    import polars as pl

    if not isinstance(source, str | os.PathLike):
        return 0
    path = Path(source)
    scan = pl.scan_parquet(path) if _is_parquet(path) else pl.scan_csv(path, infer_schema=False)
    return int(scan.select(pl.len()).collect().item())


def _is_parquet(path: Path) -> bool:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    name = path.name.lower()
    if not name.endswith((".parquet", ".csv", ".csv.gz")):
        raise ConfigError(f"{path}: the suffix is none of .csv, .csv.gz and .parquet")
    return name.endswith(".parquet")


def _finished(folder: Path, spec: Spec) -> Partitions | None:
    marker = folder / _DONE
    if not marker.is_file():
        for part in folder.glob("[0-9]*/*.arrow"):  # of a run that was cut off
            part.unlink()
        return None
    told = json.loads(marker.read_text())
    wanted = json.loads(json.dumps(asdict(spec)))
    if told["spec"] != wanted:
        names = [name for name in wanted if told["spec"][name] != wanted[name]]
        raise ConfigError(
            f"{folder} was made with other {', '.join(names)}; name another folder or remove it"
        )
    kept = folder / _SKETCH
    sketch = Sketch(np.load(kept, allow_pickle=False), told["keys"]) if kept.is_file() else None
    return Partitions(folder, spec, told["rows"], told["empty"], sketch)


def _batches(source: Source, text: set[str]) -> Iterator[Any]:
    if isinstance(source, str | os.PathLike):
        yield from _read(Path(source), text)
    elif hasattr(source, "columns") or not hasattr(source, "__iter__"):
        raise ConfigError(
            "source is a path or an iterable of tables; put one table in a list, or use vfl.align"
        )
    else:
        yield from source


def _read(path: Path, text: set[str]) -> Iterator["polars.DataFrame"]:
    import polars as pl

    if _is_parquet(path):
        for first in range(0, rows_in(path), BATCH):
            yield pl.scan_parquet(path).slice(first, BATCH).collect()
        return
    names = pl.scan_csv(path, infer_schema=False).collect_schema().names()
    overrides = {name: pl.String for name in text if name in names}
    scan = pl.scan_csv(path, schema_overrides=overrides, infer_schema_length=10_000)
    try:
        yield from scan.collect_batches(chunk_size=BATCH, maintain_order=True)
    except pl.exceptions.PolarsError:  # its text quotes the field at fault
        raise InvalidData(f"{path}: not readable as CSV, or a column changes its type") from None


def _numbered(batches: Iterator[Any]) -> Iterator[tuple[Any, int]]:
    first = 0
    for batch in batches:
        frame = as_frame(batch, "this party").to_polars()
        yield frame, first
        first += len(frame)


def _spill(
    batch: "polars.DataFrame", first: int, spec: Spec, folder: Path, party: str, ledger: Ledger | None
) -> tuple[int, int, Sketch | None]:
    """Write the rows of a batch into their partitions; return how many there were, how many without identifier."""
    import polars as pl

    nulls: Any = spec.nulls
    try:
        ids = prepare_ids(
            batch, spec.on, normalise=spec.normalise, nulls=nulls, duplicates=_ALL, party=party, at_least=0
        )
    except InvalidIds as error:
        raise InvalidIds(f"{error} (in the batch of rows that begins with row {first})") from None
    keys = ids.keys if isinstance(ids.keys, Packed) else pack(ids.keys)
    places = (digests(keys, _HASH_KEY)[:, 0] % np.uint64(spec.count)).astype(np.int64)
    rows = batch[ids.members].with_columns(_key_column(batch, ids, spec), pl.Series(ROW, ids.members + first))
    where = np.repeat(places, ids.counts)
    order = np.argsort(where, kind="stable")
    bounds = np.searchsorted(where[order], np.arange(spec.count + 1))
    rows = rows[order]
    for number in range(spec.count):
        part = folder / f"{number:05d}"
        part.mkdir(exist_ok=True, mode=0o700)
        piece = rows[bounds[number] : bounds[number + 1]]
        piece.write_ipc(part / f"{first:014d}.arrow", compression="lz4")
    return len(batch), ids.empty, None if ledger is None else ledger.sketch(ids.keys)


def _key_column(batch: "polars.DataFrame", ids: PreparedIds, spec: Spec) -> "polars.Series":
    """Return the canonical identifier of every row in `ids.members`."""
    import polars as pl

    if not isinstance(ids.keys, list):  # plain text or integers as they stand
        return batch[spec.on[0]].cast(pl.String).cast(pl.Binary).rename(KEY)
    each = np.repeat(np.arange(len(ids.keys)), ids.counts)
    return pl.Series(KEY, [ids.keys[i] for i in each.tolist()], dtype=pl.Binary)
