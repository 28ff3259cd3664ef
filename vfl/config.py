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

# A guest with several hosts has [[peers]] instead, once for each; a host has one peer, the guest.

[policy]
accept_leakage = []             # e.g. ["score", "gradient"]: see docs/leakage.md
columns = []                    # columns that may be used; nothing else may

[run]
output = "runs"
"""

import difflib
import enum
import os
import re
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import msgspec

from vfl.crypto.signatures import IdentityKey, certificate_public_bytes
from vfl.errors import ConfigError, InvalidKey
from vfl.protocols.wire import OPT_IN, Role

__all__ = [
    "Config",
    "PartyConfig",
    "PeerConfig",
    "PolicyConfig",
    "RunConfig",
    "Section",
    "decode_toml",
    "load_config",
]

T = TypeVar("T", bound="Section")
PARTIES = (Role.GUEST, Role.HOST)
"""The roles that a party of a two-party session may have."""
Name = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=30 * 86_400)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of a TOML file; keys that it does not declare are mistakes."""


class PartyConfig(Section, frozen=True):
    """Who this party is; paths are relative to the file."""

    name: Name
    role: Role
    key: str
    certificate: str


class PeerConfig(Section, frozen=True):
    """Who the other party is, where it is reached and how long it may be silent (seconds)."""

    name: Name
    certificate: str
    listen: str | None = None
    connect: str | None = None
    wait_seconds: Seconds = 300.0
    silence_seconds: Seconds = 20.0
    stall_seconds: Seconds = 600.0


class PolicyConfig(Section, frozen=True):
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
    max_size_ratio : int
        Most identifiers the peer may bring for each of this party's.
    max_domain_share : float
        Largest share of all telephone numbers or dates of this party's form that the peer may bring.
    max_queries : int
        Most alignments, counts and sums with one peer in 30 days.
    minimum_difference : int
        In how many rows two lists compared with one peer must differ at least, if they are not the same.
    approved_lists : tuple of str
        Lists that may differ in fewer, by the name that the refusal gives.
    ledger : str
        The file that remembers them: see :mod:`vfl.ledger`.
    """

    accept_leakage: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    minimum_intersection: Annotated[int, msgspec.Meta(ge=1)] = 10
    max_peer_keys: Annotated[int, msgspec.Meta(ge=1)] = 10_000_000
    max_size_ratio: Annotated[int, msgspec.Meta(ge=1)] = 2000
    max_domain_share: Annotated[float, msgspec.Meta(gt=0)] = 0.25
    max_queries: Annotated[int, msgspec.Meta(ge=1)] = 50
    minimum_difference: Annotated[int, msgspec.Meta(ge=1)] = 10
    approved_lists: tuple[str, ...] = ()
    ledger: str = "ledger.sqlite"


class RunConfig(Section, frozen=True):
    """Where reports and audit logs go, and how much is shown (0: nothing, 1: progress)."""

    output: str = "runs"
    verbose: Annotated[int, msgspec.Meta(ge=0, le=1)] = 1


class _File(Section, frozen=True):
    party: PartyConfig
    peer: PeerConfig | None = None
    peers: tuple[PeerConfig, ...] = ()
    policy: PolicyConfig = PolicyConfig()
    run: RunConfig = RunConfig()


@dataclass(frozen=True)
class Config:
    """A whole configuration file and the folder that its paths are relative to.

    Attributes
    ----------
    peers : tuple of PeerConfig
        One; at a guest one or several.
    """

    party: PartyConfig
    peers: tuple[PeerConfig, ...]
    policy: PolicyConfig
    run: RunConfig
    folder: Path

    @property
    def peer(self) -> PeerConfig:
        """The only peer.

        Raises
        ------
        ConfigError
            If there are several.
        """
        if len(self.peers) != 1:
            raise ConfigError(f"{self.party.name} has {len(self.peers)} peers: {self.peer_names}; name one")
        return self.peers[0]

    @property
    def peer_names(self) -> str:
        """The peers' names, for people."""
        return ", ".join(peer.name for peer in self.peers)

    def path(self, name: str) -> Path:
        """Return a path of the file relative to its folder."""
        return self.folder / name

    def identity(self) -> IdentityKey:
        """Load this party's private key.

        Raises
        ------
        ConfigError
            If the file is missing, a symbolic link, readable by others or not a key.
        """
        path = self.path(self.party.key)
        _check_private(path)
        pem = _read(path, "party.key", "only its owner can run vfl")
        try:
            return IdentityKey.from_pem(pem)
        except InvalidKey as error:
            raise ConfigError(f"party.key: {path}: {error}; make one with `vfl init`") from None

    def pinned(self, peer: PeerConfig | None = None) -> bytes:
        """Return the pinned certificate (PEM) of the only peer, or of one of several."""
        peer = peer or self.peer
        what = "peer.certificate" if len(self.peers) == 1 else f"certificate of {peer.name}"
        return self._certificate(what, peer.certificate, "pin it with `vfl trust`")

    def certificate(self) -> bytes:
        """Return this party's certificate (PEM)."""
        return self._certificate("party.certificate", self.party.certificate, "make one with `vfl init`")

    def pinned_key(self, peer: PeerConfig | None = None) -> bytes:
        """Return the pinned public key (SubjectPublicKeyInfo, DER) of the only peer, or of one of several."""
        return certificate_public_bytes(self.pinned(peer))

    def _certificate(self, what: str, name: str, remedy: str) -> bytes:
        pem = _read(self.path(name), what, remedy)
        try:
            certificate_public_bytes(pem)
        except InvalidKey as error:
            raise ConfigError(f"{what}: {self.path(name)}: {error}; {remedy}") from None
        return pem


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read a party's configuration.

    Raises
    ------
    ConfigError
        Naming the file, the line, the key and the nearest valid name.
    """
    file = decode_toml(Path(path), _File)
    if file.party.role not in PARTIES:
        raise ConfigError(f"{path}: party.role is guest (holds the labels) or host (holds more columns)")
    peers = _peers(path, file)
    unknown = sorted(set(file.policy.accept_leakage) - {str(leak) for leak in OPT_IN})
    if unknown:
        raise ConfigError(
            f"{path}: policy.accept_leakage names {', '.join(unknown)}; possible are {', '.join(sorted(OPT_IN))}"
        )
    return Config(file.party, peers, file.policy, file.run, Path(path).resolve().parent)


def _peers(path: str | os.PathLike[str], file: _File) -> tuple[PeerConfig, ...]:
    """Return the peers, who all differ in name and address; a host has one."""
    if (file.peer is None) == (not file.peers):
        raise ConfigError(f"{path}: needs one section [peer], or [[peers]] once for each host of a guest")
    peers = file.peers if file.peer is None else (file.peer,)
    if len(peers) > 1 and file.party.role is Role.HOST:
        raise ConfigError(
            f"{path}: [[peers]] names {len(peers)}; a host has one peer, the guest, to whom all hosts connect"
        )
    for place, peer in enumerate(peers):
        section = "[peer]" if file.peer else f"[[peers]] of {peer.name}"
        earlier = peers[:place]
        if file.party.name == peer.name:
            raise ConfigError(f"{path}: party.name and peer.name are both {peer.name}; the parties differ")
        if peer.name in [other.name for other in earlier]:
            raise ConfigError(f"{path}: [[peers]] names {peer.name} twice")
        if (peer.listen is None) == (peer.connect is None):
            raise ConfigError(f"{path}: {section} needs exactly one of listen and connect")
        if (peer.listen, peer.connect) in [(other.listen, other.connect) for other in earlier]:
            raise ConfigError(
                f"{path}: {section} has an address of another peer; each peer has a port of its own"
            )
    return peers


def decode_toml(path: Path, kind: type[T]) -> T:
    """Decode a TOML file into a struct.

    Raises
    ------
    ConfigError
        If the file is missing, is not TOML or does not fit the struct.
    """
    try:
        text = _read(path, "configuration", "check the path").decode("utf-8-sig")
        return msgspec.convert(tomllib.loads(text), kind)
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: the file is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_explain(str(error), _failing(str(error), text), kind)}") from None


_TOML_WORDS = {
    "object": "table", "array": "list", "str": "text", "int": "integer", "float": "number", "bool": "truth value"
}  # fmt: skip


def _explain(error: str, text: str, kind: type[Section]) -> str:
    """Add the line to msgspec's message, and the valid names to that about an unknown key or value."""
    reason, _, place = error.partition(" - at ")
    dotted = re.sub(r"\[.*?\]", "", place.strip("`")).removeprefix("$").strip(".")
    key = re.search(r"(unknown|required) field `([^`]+)`", reason)
    where = f"[{dotted}]" if dotted else "the top level"
    if key and key[1] == "required":
        return f"line {_line(text, dotted)}: {key[2]} is missing in {where}"
    if key:
        line = _line(text, f"{dotted}.{key[2]}".strip("."))
        return f"line {line}: unknown key {key[2]!r} in {where}; {_nearest(key[2], _fields(_type(kind, dotted)))}"
    value = re.fullmatch(r"Invalid enum value '?(.*?)'?", reason)
    if value:
        reason = f"unknown value {value[1]!r}; {_nearest(value[1], _values(_type(kind, dotted)))}"
    for word, plain in _TOML_WORDS.items():
        reason = re.sub(rf"(?<=[` ]){word}(?=[` ])", plain, reason)
    return f"line {_line(text, dotted)}: {dotted}: {reason[0].lower()}{reason[1:].replace('`', '')}"


def _failing(error: str, text: str) -> str:
    """Blank what stands before the [[section]] that an error is in, so that keys of earlier ones are not taken."""
    place = re.search(r" - at `\$\.(\w+)\[(\d+)\]", error)
    if place is None:
        return text
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(rf"\s*\[\[\s*{place[1]}\s*\]\]", line)]
    start = starts[int(place[2])] if starts else 0
    return "\n".join([""] * start + lines[start:])


def _nearest(name: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"valid are {', '.join(valid)}"


def _type(kind: Any, dotted: str) -> Any:
    """Return the declared type of a key; one that may be left out counts as its struct."""
    for part in filter(None, dotted.split(".")):
        kind = next(f.type for f in msgspec.structs.fields(kind) if f.name == part)
        kind = next((t for t in get_args(kind) if hasattr(t, "__struct_fields__")), kind)
    return kind


def _fields(kind: Any) -> list[str]:
    return [f.name for f in msgspec.structs.fields(kind)]


def _values(kind: Any) -> list[str]:
    """Return the values that an enumeration, a Literal or a union with one allows."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [str(member.value) for member in kind if kind is not Role or member in PARTIES]
    return [text for arg in get_args(kind) for text in ([arg] if isinstance(arg, str) else _values(arg))]


def _line(text: str, dotted: str) -> int:
    """Return the line of a key, or of the innermost table around it that is written down."""
    section, best, longest = "", 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+([^\]]+)\]+", line)
        key = re.match(r"\s*([\w.\"' -]+?)\s*=", line)
        if header:
            section = found = _bare(header[1])
        elif key:
            found = f"{section}.{_bare(key[1])}".strip(".")
        else:
            continue
        shared = min(len(found), len(dotted))
        if f"{dotted}."[: shared + 1] == f"{found}."[: shared + 1] and shared > longest:
            best, longest = number, shared
    return best


def _bare(key: str) -> str:
    return re.sub(r"[\s\"']", "", key)


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
