"""The audit log: one line for every message that left this party, chained by hashes and signed at the end.

The file is JSON lines in one canonical encoding (UTF-8, keys sorted, no spaces). Every line carries ``prev``,
the hash of the line before, and ``hash``, the SHA-256 over ``prev`` (32 bytes) and the line's canonical JSON
without ``hash``. The first line names the session, what was agreed and the party's public key. The last one
counts the messages and carries the party's signature over itself without ``hash`` and ``signature``; through
``prev`` it covers everything before.

What it proves: whoever signed wrote exactly these lines in this order. A log without its last line is a run
that was killed, or a log that was cut. A party can still write a false log under its own key; the digests of
what its peer received are the check on that. The log holds sizes and digests, never what a message says.

    log = AuditLog.create(folder / "run.audit", header, identity)
    channel.observe(log.observe)  # a line is on its way to the disk before its message leaves
    ...
    head = log.close({"outcome": "done"})
    verify(folder / "run.audit", identity.public_bytes)
"""

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeAlias, final

import msgspec

from vfl.crypto import signatures
from vfl.errors import AuditError, PeerAuthenticationError
from vfl.protocols.channel import Record

__all__ = ["AuditEntry", "AuditHeader", "AuditLog", "AuditSummary", "Signer", "verify"]

SIGNATURE_CONTEXT = "vfl audit end"
GENESIS = hashlib.sha256(b"vfl audit log 1").hexdigest()
"""``prev`` of the first line; it fixes the version of the format."""

_LONGEST_LINE = 1 << 20
_SYNC_EVERY = 64


class Signer(Protocol):
    """What the log needs of a party's identity key."""

    @property
    def public_bytes(self) -> bytes:
        """Public key, SPKI DER."""

    def sign(self, context: str, message: bytes) -> bytes:
        """Return a signature that is valid for this context alone."""


@dataclass(frozen=True, kw_only=True)
class AuditHeader:
    """What holds for a whole session.

    Attributes
    ----------
    session : str
        Identifier of the session, as both parties know it.
    party, peer : str
    versions : dict of str to str
        Software to version.
    config_digest : str
        Digest of the agreed configuration, hex.
    columns : list of str
        The columns of this party that its policy allows to be used.
    """

    session: str
    party: str
    peer: str
    versions: dict[str, str]
    config_digest: str
    columns: list[str]


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One outgoing message.

    Attributes
    ----------
    peer : str
        Who it goes to.
    message, leakage : str
        Name of the message type on the wire, and its leakage class.
    shape : dict of str to int
        Dimensions of the bulk fields.
    size : int
        Bytes of the frame; ``bytes`` in the file.
    digest : str
        SHA-256 of the frame, hex.
    """

    peer: str
    message: str
    leakage: str
    shape: dict[str, int]
    size: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class AuditSummary:
    """What a verified log says.

    Attributes
    ----------
    header : AuditHeader
    public_bytes : bytes
        The key that signed, SPKI DER.
    started, ended : str
        Times of the first and the last line by the party's own clock, UTC.
    messages, size : int
        Outgoing messages and their bytes.
    totals : dict of (str, str) to (int, int)
        (message type, leakage class) to (messages, bytes).
    summary : dict of str to str or int
        What the party wrote when it closed the log.
    head : str
        Hash of the last line, hex: it stands for the whole log.
    """

    header: AuditHeader
    public_bytes: bytes
    started: str
    ended: str
    messages: int
    size: int
    totals: dict[tuple[str, str], tuple[int, int]]
    summary: dict[str, str | int]
    head: str


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    seq: int
    time: str
    prev: str
    hash: str = ""


class _Header(_Line, frozen=True, kw_only=True, tag="header"):
    session: str
    party: str
    peer: str
    versions: dict[str, str]
    config_digest: str
    columns: list[str]
    public_key: str


class _Message(_Line, frozen=True, kw_only=True, tag="message"):
    party: str
    peer: str
    message: str
    leakage: str
    shape: dict[str, int]
    size: int = msgspec.field(name="bytes")
    digest: str


class _End(_Line, frozen=True, kw_only=True, tag="end"):
    count: int
    summary: dict[str, str | int]
    signature: str = ""


_AnyLine: TypeAlias = _Header | _Message | _End
_decode = msgspec.json.Decoder(_AnyLine).decode


def _canonical(line: _Line, *without: str) -> bytes:
    fields = msgspec.to_builtins(line)
    return msgspec.json.encode({k: v for k, v in fields.items() if k not in without}, order="sorted")


def _chain(line: _Line) -> str:
    return hashlib.sha256(bytes.fromhex(line.prev) + _canonical(line, "hash")).hexdigest()


@final
class AuditLog:
    """The log of one session while it is written, from :meth:`create`; threads may share it.

    A log that is left without :meth:`close` fails verification, as it should: nobody vouched for it.
    """

    def __init__(
        self, path: Path, descriptor: int, party: str, key: Signer, clock: Callable[[], float]
    ) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        self._party, self._key, self._clock = party, key, clock
        self._seq, self._count, self._head = 0, 0, GENESIS
        self._lock = threading.Lock()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        header: AuditHeader,
        key: Signer,
        *,
        clock: Callable[[], float] = time.time,
    ) -> "AuditLog":
        """Start a log in a new file of mode 0600.

        Parameters
        ----------
        path : path
            Must not exist. Its folder is made with mode 0700; one that exists must not be open to others.
        header : AuditHeader
        key : Signer
            This party's identity key.
        clock : callable
            Seconds since 1970, for the time of each line.

        Raises
        ------
        AuditError
            If the file exists or is a symbolic link, its folder is open to others, or the disk refuses.
        """
        path = Path(path)
        log = cls(path, _open_new(path), header.party, key, clock)
        try:
            log._write(_Header, **vars(header), public_key=key.public_bytes.hex())
            log._sync()
        except AuditError:
            path.unlink()  # nothing was sent under it, and the next try needs the name
            raise
        return log

    @property
    def head(self) -> str:
        """Hash of the last line written, hex."""
        return self._head

    def append(self, entry: AuditEntry) -> None:
        """Write one line; to be called before the message leaves.

        Raises
        ------
        AuditError
            If the log is closed or the disk refuses (full, for one): the message must not be sent then.
        """
        with self._lock:
            self._write(_Message, party=self._party, **vars(entry))
            self._count += 1
            if self._count % _SYNC_EVERY == 0:
                self._sync()

    def observe(self, record: Record) -> None:
        """Append a message that is about to leave: an observer for :class:`vfl.protocols.channel.Channel`."""
        if record.direction == "sent":
            self.append(
                AuditEntry(
                    peer=record.peer,
                    message=record.kind,
                    leakage=record.leakage.value,
                    shape=record.shape,
                    size=record.size,
                    digest=record.digest,
                )
            )

    def close(self, summary: Mapping[str, str | int]) -> str:
        """Write the signed last line, flush the file to the disk and return the head hash.

        Parameters
        ----------
        summary : dict of str to str or int
            The outcome in the party's own words, for example ``{"outcome": "done", "common_rows": 612}``.
        """
        with self._lock:
            self._write(_End, count=self._count, summary=dict(summary))
            self._sync()
            self._release()
        return self._head

    def _write(self, kind: type[_AnyLine], **values: Any) -> None:
        if self._descriptor is None:
            raise AuditError(f"{self.path}: the audit log is closed, so nothing may be sent any more")
        line = kind(seq=self._seq, time=_iso(self._clock()), prev=self._head, **values)
        if isinstance(line, _End):
            signature = self._key.sign(SIGNATURE_CONTEXT, _canonical(line, "hash", "signature"))
            line = msgspec.structs.replace(line, signature=signature.hex())
        line = msgspec.structs.replace(line, hash=_chain(line))
        raw = _canonical(line) + b"\n"
        if len(raw) > _LONGEST_LINE:
            self._fail(f"a line of {len(raw)} bytes is longer than {_LONGEST_LINE}")
        try:
            written = os.write(self._descriptor, raw)
        except OSError as error:
            self._fail(error.strerror)
        if written < len(raw):
            self._fail(f"{written} of {len(raw)} bytes written; is the disk full?")
        self._seq, self._head = self._seq + 1, line.hash

    def _sync(self) -> None:
        if self._descriptor is not None:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                self._fail(error.strerror)

    def _fail(self, reason: str | None) -> NoReturn:
        self._release()
        raise AuditError(
            f"{self.path}: cannot write the audit log ({reason}), so nothing may be sent any more"
        ) from None

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _open_new(path: Path) -> int:
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = folder.lstat().st_mode
        if not stat.S_ISDIR(mode):
            raise AuditError(f"{folder}: the audit folder is a symbolic link; name the folder itself")
        if stat.S_IMODE(mode) & 0o077:
            raise AuditError(
                f"{folder}: the audit folder has mode {stat.S_IMODE(mode):04o} and is open to others; "
                "chmod 700 it, or name another folder"
            )
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, 0o600)
    except FileExistsError:
        raise AuditError(f"{path}: exists already; every session writes a log of its own") from None
    except OSError as error:
        raise AuditError(f"{path}: cannot create the audit log ({error.strerror})") from None


def verify(path: str | os.PathLike[str], public_bytes: bytes | None = None) -> AuditSummary:
    """Check every byte of a closed log.

    Parameters
    ----------
    path : path
    public_bytes : bytes or None
        The key that must have signed (SPKI DER). Without it the key in the log's first line is used, which
        shows that the log is whole but not whose it is: compare its fingerprint.

    Raises
    ------
    AuditError
        Naming the first line that was changed, moved, repeated, removed or cut, or that the key did not sign.
    """
    walk = _Walk(public_bytes)
    try:
        with Path(path).open("rb") as file:
            return walk.all(iter(partial(file.readline, _LONGEST_LINE), b""))
    except _Damage as damage:
        raise AuditError(f"{path}: line {walk.number}: {damage}") from None
    except OSError as error:
        raise AuditError(f"{path}: cannot read the audit log ({error.strerror})") from None


class _Damage(Exception):
    """Why the line at hand is not what it must be."""


@dataclass
class _Walk:
    """A verification under way: the line it stands at and what came before."""

    key: bytes | None
    number: int = 1
    head: str = GENESIS
    header: _Header | None = None
    end: _End | None = None
    totals: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def all(self, raws: Iterable[bytes]) -> AuditSummary:
        for raw in raws:
            if self.end is not None:
                raise _Damage("bytes follow the signed last line")
            line = self._line(raw)
            if isinstance(line, _Header):
                self._begin(line)
            elif isinstance(line, _Message):
                self._add(line)
            else:
                self._finish(line)
            self.number, self.head = self.number + 1, line.hash
        return self._summary()

    def _line(self, raw: bytes) -> _AnyLine:
        """Return the line if its bytes are canonical and continue the chain."""
        if not raw.endswith(b"\n"):
            raise _Damage("incomplete: the log is not closed, it was cut or its writer was killed")
        try:
            line: _AnyLine = _decode(raw[:-1])
        except (ValueError, RecursionError) as error:
            raise _Damage(f"not a line of an audit log ({error})") from None
        if line.prev != self.head or line.seq != self.number - 1:
            raise _Damage("does not continue the line before: lines were changed, removed, repeated or moved")
        if raw[:-1] != _canonical(line) or line.hash != _chain(line):
            raise _Damage("its bytes do not fit its hash: the line was changed")
        return line

    def _begin(self, line: _Header) -> None:
        if self.header is not None:
            raise _Damage("a second header")
        if self.key is not None and line.public_key != self.key.hex():
            raise _Damage(f"the log of {line.party} names another key than the one it is checked against")
        self.header = line

    def _add(self, line: _Message) -> None:
        self._opened()
        count, size = self.totals.get((line.message, line.leakage), (0, 0))
        self.totals[line.message, line.leakage] = count + 1, size + line.size

    def _finish(self, line: _End) -> None:
        header = self._opened()
        if line.count != self.number - 2:
            raise _Damage(f"counts {line.count} messages, the log holds {self.number - 2}")
        try:
            signatures.verify(
                bytes.fromhex(header.public_key),
                SIGNATURE_CONTEXT,
                _canonical(line, "hash", "signature"),
                bytes.fromhex(line.signature),
            )
        except (PeerAuthenticationError, ValueError):
            raise _Damage(f"the signature of {header.party} does not fit") from None
        self.end = line

    def _opened(self) -> _Header:
        if self.header is None:
            raise _Damage("the log does not begin with its header")
        return self.header

    def _summary(self) -> AuditSummary:
        header = self._opened()
        if self.end is None:
            raise _Damage("not closed: the signed last line is missing")
        return AuditSummary(
            header=AuditHeader(**{f.name: getattr(header, f.name) for f in fields(AuditHeader)}),
            public_bytes=bytes.fromhex(header.public_key),
            started=header.time,
            ended=self.end.time,
            messages=self.end.count,
            size=sum(size for _, size in self.totals.values()),
            totals=self.totals,
            summary=self.end.summary,
            head=self.head,
        )
