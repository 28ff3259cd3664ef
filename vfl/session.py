"""Sessions between a guest and one host or several: :func:`connect` here, :mod:`vfl.simulation` within one process.

All run the same calls in the same order. Inside ``with vfl.connect(...)`` the session is ambient, so that estimators
keep scikit-learn's shape. With several hosts the guest has a channel to each of them, with a handshake, a transcript
and a pinned identity of its own; hosts have no channel to each other, and each learns the others' names.
"""

import contextlib
import contextvars
import hashlib
import json
import os
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from vfl.config import Config, PeerConfig, PolicyConfig, load_config
from vfl.crypto.rng import Rng, SystemRng
from vfl.crypto.signatures import IdentityKey, fingerprint
from vfl.errors import LocalProtocolError, PolicyRefused
from vfl.metrics import ModelCurves
from vfl.progress import Phases
from vfl.protocols.channel import Channel, Party, Record, Waiting, run
from vfl.protocols.record import Tally
from vfl.protocols.session import Peer, agree, checkpoint, handshake
from vfl.protocols.wire import OPT_IN, Leakage, Role
from vfl.report.facts import Alignment
from vfl.versions import software

if TYPE_CHECKING:
    from vfl.ledger import Ledger

__all__ = ["Connection", "Session", "ambient", "connect", "current", "software"]

T = TypeVar("T")
_current: contextvars.ContextVar["Session | None"] = contextvars.ContextVar("vfl_session", default=None)


@dataclass
class Facts:
    """What a session collects for its report; :class:`vfl.report.facts.RunFacts` says what each means."""

    alignment: Alignment | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, ModelCurves] = field(default_factory=dict)
    history: list[tuple[int, float]] = field(default_factory=list)
    history_name: str = "loss"
    notes: list[str] = field(default_factory=list)


class Session:
    """One party's side of a joint run; made by :func:`connect` and :func:`vfl.simulate`.

    Attributes
    ----------
    channels : tuple of Channel
        One; at a guest one for each host, in the order of its configuration.
    policy : PolicyConfig
    rng : Rng
        Source of all secret randomness.
    tally : Tally
        What crossed, by receiver, type and leakage class.
    phases : Phases
    facts : Facts
    peers : tuple of Peer
        What the handshakes found, in the order of the channels.
    folder : Path or None
        Where the audit log and the report of a run over the network go.
    ledger : Ledger or None
        Remembers what was compared with whom; a simulation has one if it is given a folder for it.
    """

    def __init__(
        self,
        channels: Sequence[Channel],
        identity: IdentityKey,
        pinned: Sequence[bytes],
        policy: PolicyConfig,
        verbose: int,
        tally: Tally,
        wait: Callable[[Waiting], None] | None = None,
    ) -> None:
        self.channels, self.identity, self.policy = tuple(channels), identity, policy
        self.rng: Rng = SystemRng()
        self.started = datetime.now(UTC)
        self.tally = tally
        self.facts = Facts()
        self.peers: tuple[Peer, ...] = ()
        self.folder: Path | None = None
        self.ledger: Ledger | None = None
        self._wait, self._pinned, self._calls = wait, tuple(pinned), 0
        self._failed = ""
        for channel in self.channels:
            channel.observe(self._enforce)
            channel.observe(tally)
        self.phases = Phases(self.name, self._traffic, verbose)

    @property
    def channel(self) -> Channel:
        """The channel to the only peer.

        Raises
        ------
        LocalProtocolError
            If there are several.
        """
        self._only_one_peer()
        return self.channels[0]

    @property
    def peer(self) -> Peer:
        """The only peer, as the handshake found it; the error is that of :attr:`channel`."""
        self._only_one_peer()
        return self.peers[0]

    @property
    def name(self) -> str:
        """This party's name."""
        return self.channels[0].me.name

    @property
    def role(self) -> Role:
        """This party's role."""
        return self.channels[0].me.role

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of all hosts, in the guest's order; the other hosts' are known from what the guest said."""
        if self.role is Role.GUEST:
            return tuple(channel.peer.name for channel in self.channels)
        return tuple(self.peer.own.get("hosts", self.name).split(","))

    @property
    def peer_names(self) -> str:
        """The peers' names, for people."""
        return ", ".join(channel.peer.name for channel in self.channels)

    @property
    def identifier(self) -> str:
        """The session's identifier in hex; with several hosts one for each pair, in the order of the channels."""
        return ", ".join(peer.session.hex() for peer in self.peers)

    def _only_one_peer(self) -> None:
        if len(self.channels) != 1:
            raise LocalProtocolError(
                f"{self.name} has {len(self.channels)} hosts ({self.peer_names}); this works with one host only"
            )

    def _traffic(self) -> tuple[int, int]:
        totals = [channel.bytes for channel in self.channels]
        return sum(total["sent"] for total in totals), sum(total["received"] for total in totals)

    def run(self, role: Coroutine[Waiting, None, T]) -> T:
        """Run a protocol role over the session's channels."""
        return run(role, self._wait)

    def start(self) -> None:
        """Run the handshake with every peer.

        Raises
        ------
        ConfigMismatch, PeerAuthenticationError
        """
        shared = {"minimum intersection": str(self.policy.minimum_intersection)}
        own = software() | {"accept_leakage": ",".join(sorted(self.policy.accept_leakage))}
        if len(self.channels) > 1:
            own["hosts"] = ",".join(self.hosts)
        with self.phases.phase("handshake"):
            for channel, pinned in zip(self.channels, self._pinned, strict=True):
                found = self.run(handshake(channel, self.identity, pinned, shared, own, self.rng))
                self.peers += (found,)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the identity keys by party name: this party's and its peers'."""
        own = {self.name: fingerprint(self.identity.public_bytes)}
        return own | {peer.name: peer.fingerprint for peer in self.peers}

    @property
    def peer_ids(self) -> tuple[str, ...]:
        """What the ledger knows the peers by: fingerprints; names in a simulation, whose keys are new every time."""
        return tuple(peer.fingerprint if self._wait is None else peer.name for peer in self.peers)

    def call(
        self, operation: str, shared: Mapping[str, object], own: Mapping[str, object]
    ) -> tuple[dict[str, str], ...]:
        """Agree on a call with every peer before any data moves; return each peer's own facts.

        Returns
        -------
        tuple of dict of str to str
            In the order of the channels.

        Raises
        ------
        ConfigMismatch
            Naming every field that differs, and the parties.
        """
        self._calls += 1
        fields = {"call": operation, "number of the call": str(self._calls)}
        fields |= {name: str(value) for name, value in shared.items()}
        told = {name: str(value) for name, value in own.items()}
        return tuple(self.run(agree(channel, fields, told)) for channel in self.channels)

    def checkpoint(self) -> None:
        """Compare the transcript hashes with every peer."""
        for channel in self.channels:
            self.run(checkpoint(channel))

    def abort(self, error: BaseException) -> None:
        """Tell every peer the type of the error that stops this party, then close the channels."""
        if not self._failed:
            self._failed = type(error).__name__
            for channel in self.channels:
                channel.abort(error)

    @contextlib.contextmanager
    def joint(self) -> Iterator[None]:
        """End the session if what runs inside fails, so that no party goes on with another call than its peers.

        Raises
        ------
        LocalProtocolError
            If the session has ended by an error before.
        """
        if self._failed:
            raise LocalProtocolError(
                f"the session of {self.name} with {self.peer_names} has ended with {self._failed}: connect again"
            )
        try:
            yield
        except BaseException as error:
            self.abort(error)
            raise

    def commitment(self, schema: object) -> str:
        """Return a salted hash of a schema: it fixes the columns without showing them."""
        salt = self.rng.bytes(16)
        digest = hashlib.sha256(salt + json.dumps(schema, default=str).encode()).hexdigest()
        self.facts.parameters["schema salt"] = salt.hex()
        return digest

    def require_leakage(self, *classes: Leakage) -> None:
        """Refuse to go on unless the configurations of this party and its peers accept these classes.

        Raises
        ------
        PolicyRefused
            Naming the party whose configuration does not accept, and what.
        """
        accepted = {self.name: list(self.policy.accept_leakage)}
        accepted |= {peer.name: peer.own["accept_leakage"].split(",") for peer in self.peers}
        for party, names in accepted.items():
            missing = [str(leak) for leak in classes if str(leak) not in names]
            if missing:
                raise PolicyRefused(
                    f"{party} does not accept the leakage {', '.join(missing)} that this protocol has; docs/leakage.md "
                    f"says what it means; to accept it, name it in accept_leakage of {party}'s configuration"
                )

    def require_columns(self, names: tuple[str, ...]) -> None:
        """Refuse columns that the policy does not allow.

        Raises
        ------
        PolicyRefused
        """
        denied = (
            [] if "*" in self.policy.columns else [name for name in names if name not in self.policy.columns]
        )
        if denied:
            raise PolicyRefused(
                f"{self.name}: policy.columns does not allow {', '.join(denied)}; have them approved and add them there"
            )

    def _enforce(self, record: Record) -> None:
        """Stop a message of a leakage class that this party's policy does not accept."""
        if record.leakage in OPT_IN and str(record.leakage) not in self.policy.accept_leakage:
            raise PolicyRefused(
                f"{self.name}: {record.kind} has leakage {record.leakage}, which is not accepted"
            )


def current() -> Session:
    """Return the ambient session.

    Raises
    ------
    LocalProtocolError
        Outside ``with vfl.connect(...)`` and :func:`simulate`.
    """
    session = _current.get()
    if session is None:
        raise LocalProtocolError(
            "no session: call this inside `with vfl.connect(...)` or `vfl.simulate(...)`"
        )
    return session


@contextlib.contextmanager
def ambient(session: Session) -> Iterator[Session]:
    """Make a session the ambient one; tell the peers when an error ends it."""
    token = _current.set(session)
    try:
        session.start()
        yield session
    except BaseException as error:
        session.abort(error)
        raise
    finally:
        _current.reset(token)


class Connection:
    """The context manager that :func:`connect` returns."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Session:
        """Connect, shake hands, open the audit log and make the session ambient."""
        from vfl.ledger import Ledger
        from vfl.outcome import Outcome  # the report's dependencies, needed by real runs only

        config = self._config
        with contextlib.ExitStack() as stack:
            channels = _channels(config)
            for channel in channels:
                stack.callback(channel.close)
            pinned = [config.pinned_key(peer) for peer in config.peers]
            session = Session(channels, config.identity(), pinned, config.policy, config.run.verbose, Tally())
            session.ledger = Ledger(config.path(config.policy.ledger))
            outcome = Outcome(session, config.path(config.run.output))
            stack.enter_context(outcome)  # ends after the last message, which may be an abort
            stack.enter_context(ambient(session))
            outcome.open()
            self._stack = stack.pop_all()
        return session

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the report, close the log and the connections; tell the peers about an error."""
        self._stack.__exit__(kind, error, trace)


def connect(config: str | os.PathLike[str] | Config) -> Connection:
    """Open a session with the peer, or the peers, that a configuration names.

    Parameters
    ----------
    config : path or Config
        A TOML file as :mod:`vfl.config` describes it.

    Returns
    -------
    Connection
        A context manager; its value is the :class:`Session`, which is ambient inside.

    Raises
    ------
    ConfigError
        At once, if the file is wrong.
    ChannelTimeout, PeerAuthenticationError, ConfigMismatch
        On entering, if a peer is not there, is somebody else or is configured otherwise.

    Examples
    --------
    >>> with vfl.connect("bank.toml"):  # doctest: +SKIP
    ...     rows = vfl.align(customers, on="phone")
    """
    loaded = config if isinstance(config, Config) else load_config(config)
    for check in (loaded.identity, loaded.certificate):
        check()
    for peer in loaded.peers:
        loaded.pinned(peer)
    return Connection(loaded)


def _channels(config: Config) -> list[Channel]:
    """Connect to every peer, to several at the same time: each waits for this party no longer than it has to."""
    if len(config.peers) == 1:
        return [_channel(config, config.peer)]
    done: queue.SimpleQueue[tuple[int, Channel | BaseException]] = queue.SimpleQueue()

    def work(place: int, peer: PeerConfig) -> None:
        try:
            done.put((place, _channel(config, peer)))
        except BaseException as error:
            done.put((place, error))

    for item in enumerate(config.peers):
        threading.Thread(target=work, args=item, name="vfl connects", daemon=True).start()
    outcomes = [end for _, end in sorted((done.get() for _ in config.peers), key=lambda item: item[0])]
    channels = [end for end in outcomes if isinstance(end, Channel)]
    for end in outcomes:
        if isinstance(end, BaseException):
            for channel in channels:
                channel.abort(end)
            raise end
    return channels


def _channel(config: Config, peer: PeerConfig) -> Channel:
    from vfl.protocols.grpc import Endpoint
    from vfl.protocols.grpc import connect as dial

    me = Party(config.party.name, config.party.role)
    other = Party(peer.name, Role.HOST if me.role is Role.GUEST else Role.GUEST)
    endpoint = Endpoint(
        listen=peer.listen,
        connect=peer.connect,
        key_pem=config.identity().to_pem(),
        certificate_pem=config.certificate(),
        peer_certificate_pem=config.pinned(peer),
        wait_seconds=peer.wait_seconds,
        silence_seconds=peer.silence_seconds,
        stall_seconds=peer.stall_seconds,
    )
    return dial(endpoint, me, other)
