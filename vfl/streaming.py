"""Alignment of tables larger than memory: partition by partition, resumable, on one machine or many.

Both parties cut their tables by the same hash of the identifier (:mod:`vfl.partitions`) and compare them partition by
partition over one session. A partition that both have finished is not compared again at a restart. On a cluster, pairs
of workers share the partitions, each pair with a session of its own: docs/scale.md.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vfl.comparing import nobody, noted, opened
from vfl.errors import ConfigError, MalformedMessage
from vfl.guards import allowed_peer_keys
from vfl.identifiers import Duplicates, PreparedIds
from vfl.partitions import ROWS_EACH, Partitions, Source, Spec, partition, rows_in
from vfl.protocols.psi import dh
from vfl.protocols.psi.multiplicity import exchange_multiplicities
from vfl.protocols.psi.sets import Intersection
from vfl.protocols.wire import Role
from vfl.recipes import recipe
from vfl.session import Session, current

__all__ = ["AlignedFiles", "align_files"]

MOST = 10_000  # partitions: each gets a file from every batch


@dataclass(frozen=True)
class AlignedFiles:
    """What :func:`align_files` leaves behind.

    Attributes
    ----------
    files : tuple of Path
        Parquet files, one per partition, with the common rows in the common order: read one after the other, they are
        the same customers at both parties.
    rows : int
        Number of common rows in them.
    """

    files: tuple[Path, ...]
    rows: int


def align_files(
    source: Source,
    on: str | Sequence[str],
    output: str | os.PathLike[str],
    *,
    work: str | os.PathLike[str],
    normalise: str | Sequence[str] = "exact",
    nulls: Literal["error", "drop"] = "error",
    duplicates: Duplicates = "error",
    partitions: int | None = None,
    worker: tuple[int, int] = (0, 1),
    protocol: Literal["fast", "dh"] = "fast",
) -> AlignedFiles:
    """Align a table that does not fit into memory; both parties get the common rows in the same order, as files.

    Parameters
    ----------
    source : path or iterable of tables
        A Parquet or CSV file, or tables of any kind that are read one after the other.
    on, normalise, nulls, duplicates
        As for :func:`vfl.align`.
    output : path
        A folder for the aligned rows, ``part-00000.parquet`` and so on.
    work : path
        A folder for the partitions and what is finished. Run the same call again to go on after an interruption.
    partitions : int, optional
        At most 10,000; by default one for a million rows, or 16 for an iterable. The larger wish of both counts.
    worker : (int, int)
        Which of how many workers this one is: it takes every so many-th partition. The same at both parties.
    protocol : {"fast", "dh"}

    Returns
    -------
    AlignedFiles
        Of this worker's partitions.

    Raises
    ------
    As :func:`vfl.align`, and ConfigError if `work` was made with other parameters.

    Leakage
    -------
    As for :func:`vfl.align`, for each partition: hence also the sizes of the other's partitions within an eighth.
    `minimum_intersection` counts over a worker's partitions, and can refuse only the last of them.
    """
    session, folder, (number, workers) = current(), Path(work), worker
    if not 0 <= number < workers:
        raise ConfigError(f"worker {number} of {workers} does not exist; they are counted from 0")
    wish = partitions or _partitions_for(source)
    (agreed,) = session.call("align_files", {"workers": workers, "worker": number}, {"partitions": wish})
    spec = Spec(
        (on,) if isinstance(on, str) else tuple(on),
        recipe(normalise, 1 if isinstance(on, str) else len(on)).names,
        nulls,
        duplicates,
        _count(wish, int(agreed["partitions"])),
    )
    with session.phases.phase("partition") as progress:
        cut = partition(source, spec, folder / "rows", session.name, session.ledger, progress)
    return _Run(session, cut, Path(output), folder, protocol, worker).all()


def _partitions_for(source: Source) -> int:
    rows = rows_in(source)
    return max(1, round(rows / ROWS_EACH)) if rows else 16


def _count(wish: int, theirs: int) -> int:
    if not 1 <= wish <= MOST or not 1 <= theirs <= MOST:
        raise ConfigError(f"{wish} partitions here and {theirs} at the peer; possible are 1 to {MOST:,}")
    return max(wish, theirs)


def _module(protocol: str) -> Any:
    if protocol == "dh":
        return dh
    from vfl.protocols.psi import vole

    return vole


_Loaded: TypeAlias = tuple[Any, PreparedIds]


@dataclass(frozen=True)
class _Run:
    """One worker's way through its partitions."""

    session: Session
    cut: Partitions
    output: Path
    work: Path
    protocol: str
    worker: tuple[int, int]

    def all(self) -> AlignedFiles:
        """Compare the partitions that are not finished at both."""
        session, (number, workers) = self.session, self.worker
        self.output.mkdir(parents=True, exist_ok=True)
        mine = range(number, self.cut.spec.count, workers)
        if not len(mine):
            return AlignedFiles((), 0)
        first = self._load(number)
        sample = self._somebody(first[1])
        done = {place: self._finished(place) for place in mine}
        shared = {"protocol": self.protocol, "partitions": self.cut.spec.count}
        own = {"finished": json.dumps(list(done.values())), "duplicates": self.cut.spec.duplicates}
        sketches = [self.cut.sketch] if self.cut.sketch else []
        begun = opened(session, "align partitions", sample, shared, own, sketches)
        theirs = self._told(begun.facts["finished"], mine)
        policies = {self.cut.spec.duplicates, begun.facts["duplicates"]}
        wanted = [place for place in mine if done[place] is None or done[place] != theirs[place]]
        rows = {place: int(self._state(place)["rows"]) for place in mine if place not in wanted}
        with session.phases.phase("align partitions") as progress:
            minimum = session.policy.minimum_intersection - sum(rows.values())
            for place, found in self._each(wanted, first, policies, minimum) if wanted else ():
                rows[place] = found
                progress(len(rows), len(mine))
        files = tuple(self._file(place) for place in mine)
        noted(session, self.cut.rows, sample, begun.theirs * len(mine), sum(rows.values()))
        return AlignedFiles(files, sum(rows.values()))

    def _told(self, text: str, mine: range) -> dict[int, str | None]:
        """Return the names of the runs in which the peer finished each partition."""
        try:
            return dict(zip(mine, json.loads(text), strict=True))
        except (TypeError, ValueError):
            raise MalformedMessage(f"{self.session.peer.name} does not say which partitions it has") from None

    def _each(
        self, wanted: list[int], first: _Loaded, policies: set[str], minimum: int
    ) -> Iterator[tuple[int, int]]:
        """Compare partitions one after the other; yield each and its number of common rows, and keep these.

        Meanwhile another thread reads the next partition and writes the one before, at most three being in memory.
        """
        with ThreadPoolExecutor(1) as disk:
            ready = wanted[:1] == [self.worker[0]]
            coming = [disk.submit(lambda: first if ready else self._load(wanted[0]))]
            written: list[Future[None]] = []
            for step, place in enumerate(wanted, start=1):
                table, ids = coming.pop().result()
                coming = [disk.submit(self._load, after) for after in wanted[step : step + 1]]
                found = self._compare(ids, policies, max(0, minimum) if step == len(wanted) else 0)
                minimum -= len(found)
                for before in written:
                    before.result()
                written = [disk.submit(self._keep, place, table, found, self._name())]
                yield place, len(found)
            for before in written:
                before.result()

    def _load(self, place: int) -> _Loaded:
        return self.cut.load(place, self.session.name)

    def _somebody(self, ids: PreparedIds) -> PreparedIds:
        return ids if len(ids.keys) else nobody(ids, self.session.rng)

    def _compare(self, ids: PreparedIds, policies: set[str], minimum: int) -> NDArray[np.int64]:
        """Compare one partition; return its common rows."""
        session, ids = self.session, self._somebody(ids)
        positions = self._positions(ids, minimum)
        rows = ids.rows[positions]
        if "all" in policies:
            theirs = session.run(exchange_multiplicities(session.channel, ids.counts[positions]))
            rows = ids.expanded(positions, theirs, outer=session.role is Role.GUEST)
        session.checkpoint()
        return rows

    def _name(self) -> str:
        """Return a name of what has passed so far; it is the same at the peer."""
        return hashlib.sha256(b"".join(sorted(self.session.channel.digests()))).hexdigest()[:16]

    def _keep(self, place: int, table: Any, rows: NDArray[np.int64], name: str) -> None:
        """Write the common rows of a partition, then that it is finished."""
        file, state = self._file(place), self._state_file(place)
        table[rows].write_parquet(file.with_suffix(".new"))
        os.replace(file.with_suffix(".new"), file)
        state.with_suffix(".new").write_text(json.dumps({"name": name, "rows": len(rows)}))
        os.replace(state.with_suffix(".new"), state)

    def _positions(self, ids: PreparedIds, minimum: int) -> NDArray[np.int64]:
        session, module = self.session, _module(self.protocol)
        role = module.guest if session.role is Role.GUEST else module.host
        keys = ids.listed if self.protocol == "dh" else ids.keys
        largest = allowed_peer_keys(len(ids.keys), session.policy)
        found: Intersection = session.run(role(session.channel, keys, session.rng, minimum, largest))
        return found.positions

    def _file(self, place: int) -> Path:
        return self.output / f"part-{place:05d}.parquet"

    def _state_file(self, place: int) -> Path:
        return self.work / f"done-{place:05d}.json"

    def _state(self, place: int) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._state_file(place).read_text())
        return state

    def _finished(self, place: int) -> str | None:
        """Return the name of the run that finished a partition here; it is the same at the peer."""
        if not self._state_file(place).is_file() or not self._file(place).is_file():
            return None
        return str(self._state(place)["name"])
