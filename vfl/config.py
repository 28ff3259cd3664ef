"""A party's configuration: TOML, decoded into typed structs, every mistake named with its line and the nearest key.

[party]
name = "bank"
role = "guest"                  # guest: holds the labels; host: holds more columns
key = "bank.key"                # private, mode 0600
certificate = "bank.pem"

[peer]
name = "retailer"
certificate = "retailer.pem"    # pinned by `vfl trust`
listen = "0.0.0.0:7001"         # one side listens, the other has connect = "bank.example:7001"

[policy]
accept_leakage = []             # e.g. ["score", "gradient"]: see docs/leakage.md
columns = []                    # columns that may be used; nothing else may

[run]
output = "runs"
"""

import difflib
import os
import re
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from vfl.crypto.signatures import IdentityKey, certificate_public_bytes
from vfl.errors import ConfigError
from vfl.protocols.wire import OPT_IN, Role

__all__ = ["Config", "PartyConfig", "PeerConfig", "PolicyConfig", "RunConfig", "decode_toml", "load_config"]

T = TypeVar("T", bound="_Section")
Name = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class PartyConfig(_Section, frozen=True):
    """Who this party is; paths are relative to the file."""

    name: Name
    role: Role
    key: str
    certificate: str


class PeerConfig(_Section, frozen=True):
    """Who the other party is, where it is reached and how long it may be silent (seconds)."""

    name: Name
    certificate: str
    listen: str | None = None
    connect: str | None = None
    wait_seconds: Seconds = 300.0
    silence_seconds: Seconds = 20.0
    stall_seconds: Seconds = 600.0


class PolicyConfig(_Section, frozen=True):
    """What this party allows: default deny.

    Attributes
    ----------
    accept_leakage : tuple of str
        Leakage classes accepted beyond a protocol's result.
    columns : tuple of str
        Columns that may enter a model; ``"*"`` allows all.
    minimum_intersection : int
        Fewest common customers that an alignment may reveal.
    max_peer_keys : int
        Most identifiers the peer may bring to an alignment.
    """

    accept_leakage: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    minimum_intersection: Annotated[int, msgspec.Meta(ge=1)] = 10
    max_peer_keys: Annotated[int, msgspec.Meta(ge=1)] = 10_000_000


class RunConfig(_Section, frozen=True):
    """Where reports and audit logs go, and how much is shown (0: nothing, 1: progress)."""

    output: str = "runs"
    verbose: Annotated[int, msgspec.Meta(ge=0, le=1)] = 1


class _File(_Section, frozen=True):
    party: PartyConfig
    peer: PeerConfig
    policy: PolicyConfig = PolicyConfig()
    run: RunConfig = RunConfig()


@dataclass(frozen=True)
class Config:
    """A whole configuration file and the folder that its paths are relative to."""

    party: PartyConfig
    peer: PeerConfig
    policy: PolicyConfig
    run: RunConfig
    folder: Path

    def path(self, name: str) -> Path:
        """Return a path of the file relative to its folder."""
        return self.folder / name

    def identity(self) -> IdentityKey:
        """Load this party's private key.

        Raises
        ------
        ConfigError
            If the file is missing, a symbolic link or readable by others.
        """
        path = self.path(self.party.key)
        _check_private(path)
        return IdentityKey.from_pem(path.read_bytes())

    def pinned(self) -> bytes:
        """Return the peer's pinned certificate (PEM)."""
        return _read(self.path(self.peer.certificate), "peer.certificate", "pin it with `vfl trust`")

    def certificate(self) -> bytes:
        """Return this party's certificate (PEM)."""
        return _read(self.path(self.party.certificate), "party.certificate", "make one with `vfl init`")

    def pinned_key(self) -> bytes:
        """Return the peer's pinned public key (SubjectPublicKeyInfo, DER)."""
        return certificate_public_bytes(self.pinned())


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read a party's configuration.

    Raises
    ------
    ConfigError
        Naming the file, the line, the key and the nearest valid name.
    """
    file = decode_toml(Path(path), _File)
    if (file.peer.listen is None) == (file.peer.connect is None):
        raise ConfigError(f"{path}: [peer] needs exactly one of listen and connect")
    unknown = sorted(set(file.policy.accept_leakage) - {str(leak) for leak in OPT_IN})
    if unknown:
        raise ConfigError(
            f"{path}: policy.accept_leakage names {', '.join(unknown)}; possible are {', '.join(sorted(OPT_IN))}"
        )
    return Config(file.party, file.peer, file.policy, file.run, Path(path).resolve().parent)


def decode_toml(path: Path, kind: type[T]) -> T:
    """Decode a TOML file into a struct.

    Raises
    ------
    ConfigError
        If the file is missing, is not TOML or does not fit the struct.
    """
    text = _read(path, "configuration", "check the path").decode("utf-8", "replace")
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_explain(str(error), text, kind)}") from None


def _explain(error: str, text: str, kind: type[_Section]) -> str:
    """Add the line and, for an unknown key, the nearest valid name to msgspec's message."""
    unknown = re.search(r"unknown field `([^`]+)`(?: - at `\$\.?([^`]*)`)?", error)
    if unknown:
        key, section = unknown[1], unknown[2] or ""
        valid = _fields(kind, section)
        near = difflib.get_close_matches(key, valid, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"valid are {', '.join(valid)}"
        where = f"[{section}]" if section else "the top level"
        return f"line {_line(text, key, section)}: unknown key {key!r} in {where}; {hint}"
    place = re.search(r"at `\$\.?([^`]*)`", error)
    dotted = re.sub(r"\[.*?\]", "", place[1]) if place else ""
    section, _, key = dotted.rpartition(".")
    return f"line {_line(text, key, section)}: {error.split(' - at')[0]}" + (
        f" (key {dotted})" if dotted else ""
    )


def _fields(kind: Any, dotted: str) -> list[str]:
    for part in filter(None, re.sub(r"\[.*?\]", "", dotted).split(".")):
        kind = next(f.type for f in msgspec.structs.fields(kind) if f.name == part)
    return [f.name for f in msgspec.structs.fields(kind)]


def _line(text: str, key: str, section: str) -> int:
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+([^\]]+)\]+", line)
        current = header[1].strip() if header else current
        if (header and not key and current == section) or (header and current == key and not section):
            return number
        if current == section and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return 1


def _read(path: Path, what: str, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{what}: cannot read {path} ({error.strerror}); {remedy}") from None


def _check_private(path: Path) -> None:
    try:
        status = path.lstat()
    except OSError as error:
        raise ConfigError(
            f"party.key: cannot read {path} ({error.strerror}); make one with `vfl init`"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"party.key: {path} is not a regular file (symbolic links are refused)")
    if os.name == "posix" and status.st_mode & 0o077:
        raise ConfigError(
            f"party.key: {path} may be read by others (mode {status.st_mode & 0o777:04o}); chmod 600 it"
        )
