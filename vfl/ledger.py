"""The run ledger: what was compared with whom, so that two runs whose lists differ in a few rows are refused.

Two alignments, or two sums, over lists that differ in one row show whether that row is common (differencing). A party
therefore remembers a sketch of every list that it compared with a peer, and refuses a list that is neither the same nor
different in at least `minimum_difference` rows, unless the configuration names that list in `approved_lists`. It also
counts: more than `max_queries` comparisons with one peer in 30 days are refused, which holds against a peer whose own
ledger was switched off.

A sketch is 65,536 sums of keyed hashes, 512 KiB whatever the list's length: rows that are added, removed or changed
move as many sums as there are rows, up to collisions. The hash (:mod:`vfl.crypto.digests`) is universal, not one-way:
the file (SQLite, mode 0600) holds its key and is as confidential as the lists. Nothing here is sent.
"""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vfl.config import PolicyConfig
from vfl.crypto.digests import Packed, digests, pack
from vfl.errors import ConfigError, PolicyRefused

__all__ = ["Ledger", "Sketch"]

PLACES = 1 << 16
PERIOD = timedelta(days=30)
_SCHEMA = """
create table if not exists secret (key blob not null);
create table if not exists lists (digest text primary key, keys integer not null, sums blob not null);
create table if not exists runs (
    started text not null, peer text not null, operation text not null, digest text not null references lists);
"""


@dataclass(frozen=True, eq=False)
class Sketch:
    """What the ledger keeps of a list of keys.

    Attributes
    ----------
    sums : ndarray of uint64, shape (65536,)
        Sums of the keys' hashes, by place.
    keys : int
        Number of keys.
    """

    sums: NDArray[np.uint64]
    keys: int

    @property
    def digest(self) -> str:
        """Name of the list, as `approved_lists` takes it: 16 hexadecimal digits."""
        return hashlib.sha256(self.sums.astype("<u8").tobytes()).hexdigest()[:16]

    def __add__(self, other: "Sketch") -> "Sketch":
        """Return the sketch of both lists together."""
        return Sketch(self.sums + other.sums, self.keys + other.keys)


class Ledger:
    """One party's memory of its comparisons.

    Parameters
    ----------
    path : Path
        The file; made if it is missing.

    Raises
    ------
    ConfigError
        If the file cannot be written, may be read by others or is no ledger.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            elif os.name == "posix" and path.stat().st_mode & 0o077:
                raise ConfigError(f"policy.ledger: {path} may be read by others; chmod 600 it")
            with self._open() as db:
                db.executescript(_SCHEMA)
                found = db.execute("select key from secret").fetchone()
                if found is None:
                    db.execute("insert into secret values (?)", (os.urandom(16),))
                    found = db.execute("select key from secret").fetchone()
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"policy.ledger: {path} is no ledger that can be written: {error}") from None
        self._key: bytes = found[0]

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self._path, timeout=30.0)
        try:
            with db:
                yield db
        finally:
            db.close()

    def sketch(self, keys: Sequence[bytes] | Packed) -> Sketch:
        """Return the sketch of a list of distinct canonical identifiers, in any order."""
        hashes = digests(keys if isinstance(keys, Packed) else pack(keys), self._key)
        sums = np.zeros(PLACES, np.uint64)
        np.add.at(sums, hashes[:, 0] & np.uint64(PLACES - 1), hashes[:, 1])
        return Sketch(sums, len(hashes))

    def check(self, peer: str, operation: str, sketch: Sketch, policy: PolicyConfig) -> None:
        """Refuse a comparison that would tell single rows apart from an earlier one, or one too many; else note it.

        Parameters
        ----------
        peer : str
            Fingerprint of the peer's identity key.
        operation : str
            What is computed.
        sketch : Sketch
            Of this party's list.
        policy : PolicyConfig

        Raises
        ------
        PolicyRefused
        """
        now = datetime.now(UTC)
        with self._open() as db:
            since = (now - PERIOD).isoformat()
            query = "select count(*) from runs where peer = ? and started > ?"
            count = int(db.execute(query, (peer, since)).fetchone()[0])
            if count >= policy.max_queries:
                raise PolicyRefused(
                    f"{count} comparisons with this peer in 30 days, policy.max_queries allows {policy.max_queries}: "
                    "many answers about one list add up; raise it if that is agreed"
                )
            if sketch.digest not in policy.approved_lists:
                self._compare(db, peer, sketch, policy.minimum_difference)
            db.execute(
                "insert or ignore into lists values (?, ?, ?)",
                (sketch.digest, sketch.keys, sketch.sums.astype("<u8").tobytes()),
            )
            db.execute(
                "insert into runs values (?, ?, ?, ?)", (now.isoformat(), peer, operation, sketch.digest)
            )

    def _compare(self, db: sqlite3.Connection, peer: str, sketch: Sketch, minimum: int) -> None:
        query = "select distinct digest, sums, started from lists natural join runs where peer = ? order by started"
        for digest, raw, started in db.execute(query, (peer,)):
            differing = int((np.frombuffer(raw, "<u8") != sketch.sums).sum())
            if 0 < differing < minimum:
                raise PolicyRefused(
                    f"this list and the one of the run of {started[:16]} with the same peer ({digest}) differ in about "
                    f"{differing} rows, at least {minimum} are required: the two results together would tell about "
                    f'single customers; use the earlier list, or have it approved: approved_lists = ["{sketch.digest}"]'
                )
