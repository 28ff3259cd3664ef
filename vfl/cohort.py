"""A cohort: clients with the same kind of data, and an aggregator that learns sums over them and nothing else.

Every party has a folder with its key and certificate, a configuration, and one with the certificates of all clients;
``vfl cohort init`` makes it. A client calls :func:`join`, whoever runs the aggregator :func:`aggregate`.

# silo1.toml                          # aggregator.toml
[party]                               [party]
name = "silo1"                        name = "aggregator"
role = "client"                       role = "aggregator"
key = "silo1.key"                     key = "aggregator.key"
certificate = "silo1.pem"             certificate = "aggregator.pem"

[aggregator]                          [aggregator]
name = "aggregator"                   listen = "0.0.0.0:7001"
certificate = "aggregator.pem"
connect = "hub.example:7001"

[cohort]                              [cohort]
name = "churn"                        name = "churn"
clients = "clients"                   clients = "clients"
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from vfl.config import Config, Name, PartyConfig, PolicyConfig, RunConfig, Seconds, Section, decode_toml
from vfl.crypto.signatures import certificate_public_bytes, fingerprint
from vfl.errors import ConfigError, InvalidKey, LocalProtocolError
from vfl.model import write_private
from vfl.protocols.secagg.policy import Policy
from vfl.protocols.wire import Role

if TYPE_CHECKING:
    from vfl.protocols.grpc import Endpoint

__all__ = ["AggregatorSection", "CohortConfig", "CohortFile", "CohortSection", "RoundFile", "load_cohort"]


class AggregatorSection(Section, frozen=True):
    """Where the aggregator is and how long is waited for whom, in seconds.

    A client names it, pins its certificate and connects; the aggregator itself listens, and has deadlines.

    Attributes
    ----------
    wait_seconds : float
        For the aggregator to appear, and for a round that a connection was lost in to be resumed.
    silence_seconds : float
        Without a sign of life, until the connection counts as lost.
    gather_seconds, stage_seconds, reconnect_seconds : float
        See :class:`vfl.protocols.secagg.hall.Deadlines`.
    """

    name: Name | None = None
    certificate: str | None = None
    connect: str | None = None
    listen: str | None = None
    wait_seconds: Seconds = 300.0
    silence_seconds: Seconds = 20.0
    gather_seconds: Seconds = 60.0
    stage_seconds: Seconds = 120.0
    reconnect_seconds: Seconds = 10.0


class CohortSection(Section, frozen=True):
    """Who may take part; all parties of a cohort say the same here.

    Attributes
    ----------
    name : str
        Of the cohort: no sum of one goes into another.
    clients : str
        Folder with the certificate of every client, ``<name of the client>.pem``, this party's own included.
    colluders, dropouts, minimum : int
        See :class:`vfl.protocols.secagg.policy.Policy`; -1, -1 and 0 stand for its defaults.
    """

    name: Name
    clients: str = "clients"
    colluders: Annotated[int, msgspec.Meta(ge=-1)] = -1
    dropouts: Annotated[int, msgspec.Meta(ge=-1)] = -1
    minimum: Annotated[int, msgspec.Meta(ge=0)] = 0


class CohortFile(Section, frozen=True):
    """A party's configuration file."""

    party: PartyConfig
    aggregator: AggregatorSection
    cohort: CohortSection
    run: RunConfig = RunConfig()


@dataclass(frozen=True)
class CohortConfig:
    """A party's configuration of a cohort.

    Attributes
    ----------
    own : Config
        This party's files.
    certificates : dict of str to bytes
        Of all clients, PEM.
    """

    own: Config
    aggregator: AggregatorSection
    cohort: CohortSection
    certificates: dict[str, bytes]

    @property
    def name(self) -> str:
        """This party's name."""
        return self.own.party.name

    def policy(self) -> Policy:
        """Return what this party insists on.

        Raises
        ------
        ConfigError
            If there are too few clients, or the numbers contradict each other.
        """
        pinned = {name: certificate_public_bytes(pem) for name, pem in self.certificates.items()}
        numbers = self.cohort
        return Policy(pinned, numbers.colluders, numbers.dropouts, numbers.minimum)

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprint of every client's identity key."""
        return {name: fingerprint(certificate_public_bytes(pem)) for name, pem in self.certificates.items()}

    def endpoint(self, peer_pem: bytes) -> "Endpoint":
        """Return the endpoint towards the holder of a certificate."""
        from vfl.protocols.grpc import Endpoint

        return Endpoint(
            listen=self.aggregator.listen,
            connect=self.aggregator.connect,
            key_pem=self.own.identity().to_pem(),
            certificate_pem=self.own.certificate(),
            peer_certificate_pem=peer_pem,
            wait_seconds=self.aggregator.wait_seconds,
            silence_seconds=self.aggregator.silence_seconds,
            stall_seconds=max(600.0, self.aggregator.wait_seconds),
        )

    def aggregator_certificate(self) -> bytes:
        """Return the pinned certificate of the aggregator, PEM."""
        return _certificate(self.own.path(str(self.aggregator.certificate)), "aggregator.certificate")


def load_cohort(path: str | os.PathLike[str], role: Role) -> CohortConfig:
    """Read a party's configuration of a cohort and the certificates of its clients.

    Raises
    ------
    ConfigError
        If the file is not that of a party of this role, or a certificate is missing or damaged.
    """
    file = decode_toml(Path(path), CohortFile)
    if file.party.role is not role:
        raise ConfigError(f"{path}: party.role is {file.party.role}, for this it has to be {role}")
    hub = file.aggregator
    if role is Role.AGGREGATOR and (hub.listen is None or hub.connect is not None):
        raise ConfigError(f"{path}: the aggregator has aggregator.listen and no aggregator.connect")
    if role is Role.CLIENT and (None in (hub.name, hub.certificate, hub.connect) or hub.listen is not None):
        raise ConfigError(
            f"{path}: [aggregator] of a client has name, certificate and connect, and no listen"
        )
    own = Config(file.party, (), PolicyConfig(), file.run, Path(path).resolve().parent)
    folder = own.path(file.cohort.clients)
    found = {pem.stem: _certificate(pem, "cohort.clients") for pem in sorted(folder.glob("*.pem"))}
    if role is Role.CLIENT and file.party.name not in found:
        raise ConfigError(
            f"cohort.clients: {folder} has no {file.party.name}.pem: it holds every client's certificate"
        )
    return CohortConfig(own, hub, file.cohort, found)


def _certificate(path: Path, what: str) -> bytes:
    try:
        pem = path.read_bytes()
        certificate_public_bytes(pem)
    except (OSError, InvalidKey) as error:
        raise ConfigError(f"{what}: {path} is no certificate that can be read: {error}") from None
    return pem


class RoundFile:
    """The number of the last round that a party has taken part in, in a file that one process at a time may use.

    Parameters
    ----------
    path : Path
        Made with mode 0600 by the first :meth:`keep`.

    Raises
    ------
    LocalProtocolError
        If another process uses it.
    ConfigError
        If the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        import fcntl

        self._path = path
        self._lock = os.open(path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise LocalProtocolError(
                f"another process takes part with {path}: a party has one at a time"
            ) from None
        self.last = self._read()

    def _read(self) -> int:
        try:
            return int(self._path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return -1
        except ValueError:
            raise ConfigError(
                f"{self._path} does not hold the number of a round; it must not be lost: write the largest that the "
                "other parties have"
            ) from None

    def keep(self, number: int) -> None:
        """Put a number into the file; it is on the disk when this returns."""
        write_private(self._path, f"{number}\n".encode("ascii"))
        self.last = number

    def next(self) -> int:
        """Keep and return the next number."""
        self.keep(self.last + 1)
        return self.last

    def close(self) -> None:
        """Let another process use the file."""
        os.close(self._lock)
