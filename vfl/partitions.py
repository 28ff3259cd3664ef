"""Tables larger than memory, cut into partitions by a hash of the identifier and kept on disk.

Rows with one identifier are in one partition, at both parties, so that partitions can be compared one by one. Batches
are read, normalised and written through joblib: threads by default, processes or a cluster if
``joblib.parallel_config`` says so. Nothing here talks to a peer.
"""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from vfl.bulkids import all_different, packed_ids, packed_text
from vfl.crypto.digests import Packed, digests, pack
from vfl.crypto.rng import SystemRng
from vfl.errors import ConfigError, DuplicateIds, InvalidData, InvalidIds
from vfl.identifiers import Duplicates, PreparedIds, prepare_ids
from vfl.ledger import Ledger, Sketch
from vfl.progress import Update
from vfl.recipes import recipe
from vfl.tables import as_frame, take_columns

if TYPE_CHECKING:
    import polars

__all__ = ["ROWS_EACH", "Partitions", "Source", "Spec", "partition"]

Source: TypeAlias = "str | os.PathLike[str] | Iterable[Any]"
ROWS_EACH = 1_000_000
"""Rows of a partition, about: some 300 MB at work."""
BATCH = 1 << 18  # rows of a file read at a time: a row group as polars writes them
PIECE, LARGEST_BATCH = 1 << 12, 1 << 22  # more partitions take larger batches, so that files do not get tiny
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
        pieces = [pl.read_ipc(file) for file in files]
        if any(KEY in piece.columns for piece in pieces):
            pieces = [piece.with_columns(_keys(piece, self.spec).cast(pl.Binary)) for piece in pieces]
        table = pl.concat(pieces)
        if not table[ROW].is_sorted():
            table = table.sort(ROW)
        return table.drop(KEY, ROW, strict=False), _identified(_keys(table, self.spec), self.spec, party)


def _keys(table: "polars.DataFrame", spec: Spec) -> "polars.Series":
    """Return the canonical identifiers of rows: in a column of their own unless they are as the table has them."""
    import polars as pl

    return (table[KEY] if KEY in table.columns else table[spec.on[0]].cast(pl.String)).rename(KEY)


def _identified(column: "polars.Series", spec: Spec, party: str) -> PreparedIds:
    """Return identifiers from their canonical bytes, row by row."""
    import polars as pl

    normalised = recipe(spec.normalise, len(spec.on))
    nobody = np.empty(0, np.int64)
    keys = _packed(column)
    if all_different(keys, SystemRng()):
        every = np.arange(len(column))
        return PreparedIds(keys, every, normalised, 0, nobody, every, np.ones(len(column), np.int64))
    places = column.to_frame().with_row_index("place")
    groups = places.group_by(KEY, maintain_order=True).agg("place")
    sizes = groups["place"].list.len()
    if spec.duplicates == "error" and len(groups) < len(column):
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
    left_out = np.setdiff1d(np.arange(len(column)), members)
    first = members[np.cumsum(counts) - counts]
    return PreparedIds(_packed(kept[KEY]), first, normalised, 0, left_out, members, counts)


def _packed(column: "polars.Series") -> Packed:
    if str(column.dtype) == "String":
        return packed_text(column) if len(column) else pack([])
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
        Gets a folder for each partition; mode 0700. Workers may share it: one cuts, the others wait.
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
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone(folder):
        finished = _finished(folder, spec)
        return finished or _cut(source, spec, folder, party, ledger, progress)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process cuts into this folder; a process that dies gives way."""
    with (folder / "lock").open("a") as claim:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(claim, fcntl.LOCK_EX)
        yield


def _cut(
    source: Source, spec: Spec, folder: Path, party: str, ledger: Ledger | None, progress: Update
) -> Partitions:
    from joblib import Parallel, delayed

    total, rows, empty = rows_in(source), 0, 0
    sketch = None if ledger is None else ledger.sketch([])
    batches = _numbered(_batches(source, spec))
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


def _batches(source: Source, spec: Spec) -> Iterator[Any]:
    if isinstance(source, str | os.PathLike):
        yield from _read(Path(source), set(spec.on), max(BATCH, min(PIECE * spec.count, LARGEST_BATCH)))
    elif hasattr(source, "columns") or not hasattr(source, "__iter__"):
        raise ConfigError(
            "source is a path or an iterable of tables; put one table in a list, or use vfl.align"
        )
    else:
        yield from source


def _read(path: Path, text: set[str], size: int) -> Iterator["polars.DataFrame"]:
    import polars as pl

    if _is_parquet(path):
        for first in range(0, rows_in(path), size):
            yield pl.scan_parquet(path).slice(first, size).collect()
        return
    names = pl.scan_csv(path, infer_schema=False).collect_schema().names()
    overrides = {name: pl.String for name in text if name in names}
    scan = pl.scan_csv(path, schema_overrides=overrides, infer_schema_length=10_000)
    try:
        yield from scan.collect_batches(chunk_size=size, maintain_order=True)
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

    try:
        ids = _prepared(batch, spec, party)
    except InvalidIds as error:
        raise InvalidIds(f"{error} (in the batch of rows that begins with row {first})") from None
    keys = ids.keys if isinstance(ids.keys, Packed) else pack(ids.keys)
    places = (digests(keys, _HASH_KEY)[:, 0] % np.uint64(spec.count)).astype(np.uint16)
    where = np.repeat(places, ids.counts)
    order = np.argsort(where, kind="stable")  # of 16 bits: by radix
    bounds = np.searchsorted(where[order], np.arange(spec.count + 1))
    taken = ids.members[order]
    rows = batch[taken].with_columns(pl.Series(ROW, taken + first))
    if isinstance(ids.keys, list):
        each = np.repeat(np.arange(len(ids.keys)), ids.counts)[order]
        rows = rows.with_columns(pl.Series(KEY, [ids.keys[i] for i in each.tolist()], dtype=pl.Binary))
    for number in range(spec.count):
        part = folder / f"{number:05d}"
        part.mkdir(exist_ok=True, mode=0o700)
        piece = rows[bounds[number] : bounds[number + 1]]
        piece.write_ipc(part / f"{first:014d}.arrow")
    return len(batch), ids.empty, None if ledger is None else ledger.sketch(ids.keys)


def _prepared(batch: "polars.DataFrame", spec: Spec, party: str) -> PreparedIds:
    """Return a batch's identifiers; :meth:`Partitions.load` finds repeated ones, of plain columns all of them."""
    if spec.normalise == ("exact",):
        plain = packed_ids(take_columns(batch, spec.on, party), spec.on[0], party)
        if plain is not None:
            every = np.arange(len(batch), dtype=np.int64)
            alone = np.ones(len(batch), dtype=np.int64)
            return PreparedIds(plain, every, recipe("exact"), 0, np.empty(0, dtype=np.int64), every, alone)
    nulls: Any = spec.nulls
    return prepare_ids(
        batch, spec.on, normalise=spec.normalise, nulls=nulls, duplicates=_ALL, party=party, at_least=0
    )
