"""Sessions between two parties: :func:`connect` over the network, :func:`simulate` within one process.

Both run the same calls in the same order. Inside ``with vfl.connect(...)`` the session is ambient, so that estimators
keep scikit-learn's shape. The simulation is not a second implementation: the same bytes pass through the same codec.
"""

import contextlib
import contextvars
import hashlib
import json
import os
import platform
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from vfl.config import Config, PolicyConfig, load_config
from vfl.crypto.rng import Rng, SystemRng
from vfl.crypto.signatures import IdentityKey, fingerprint
from vfl.errors import ChannelClosed, Deadlock, LocalProtocolError, PeerAborted, PolicyRefused
from vfl.metrics import ModelCurves
from vfl.progress import Phases
from vfl.protocols.channel import Channel, Party, Record, Waiting, memory_pair, run
from vfl.protocols.record import Tally, Transcript
from vfl.protocols.session import PROTOCOL_VERSION, Peer, agree, checkpoint, handshake
from vfl.protocols.wire import OPT_IN, Leakage, Role
from vfl.report.facts import Alignment

if TYPE_CHECKING:
    from vfl.ledger import Ledger

__all__ = ["Connection", "Session", "Simulation", "connect", "current", "simulate"]

T = TypeVar("T")
_open: contextvars.ContextVar[tuple["Session", ...]] = contextvars.ContextVar("vfl_sessions", default=())
_current: contextvars.ContextVar["Session | None"] = contextvars.ContextVar("vfl_session", default=None)


def software() -> dict[str, str]:
    """Return the versions of what takes part in a run."""
    versions = {"python": platform.python_version(), "protocol": str(PROTOCOL_VERSION)}
    for package in ("vfl", "numpy", "gmpy2", "tenseal", "cryptography", "grpcio", "rbcl"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


@dataclass
class Facts:
    """What a session collects for its report; :class:`vfl.report.facts.RunFacts` says what each means."""

    alignment: Alignment | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, ModelCurves] = field(default_factory=dict)
    history: list[tuple[int, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Session:
    """One party's side of a joint run; made by :func:`connect` and :func:`simulate`.

    Attributes
    ----------
    channel : Channel
    policy : PolicyConfig
    rng : Rng
        Source of all secret randomness.
    tally : Tally
        What crossed, by receiver, type and leakage class.
    phases : Phases
    facts : Facts
    peer : Peer
        Set by the handshake.
    folder : Path or None
        Where the audit log and the report of a run over the network go.
    ledger : Ledger or None
        Remembers what was compared with whom; a simulation has one if it is given a folder for it.
    """

    def __init__(
        self,
        channel: Channel,
        identity: IdentityKey,
        pinned: bytes,
        policy: PolicyConfig,
        verbose: int,
        tally: Tally,
        wait: Callable[[Waiting], None] | None = None,
    ) -> None:
        self.channel, self.identity, self.policy = channel, identity, policy
        self.rng: Rng = SystemRng()
        self.started = datetime.now(UTC)
        self.tally = tally
        self.facts = Facts()
        self.peer: Peer
        self.folder: Path | None = None
        self.ledger: Ledger | None = None
        self._wait, self._pinned, self._calls = wait, pinned, 0
        channel.observe(self._enforce)
        channel.observe(tally)
        traffic = channel.bytes
        self.phases = Phases(channel.me.name, lambda: (traffic["sent"], traffic["received"]), verbose)

    @property
    def name(self) -> str:
        """This party's name."""
        return self.channel.me.name

    @property
    def role(self) -> Role:
        """This party's role."""
        return self.channel.me.role

    def run(self, role: Coroutine[Waiting, None, T]) -> T:
        """Run a protocol role over the session's channel."""
        return run(role, self._wait)

    def start(self) -> None:
        """Run the handshake.

        Raises
        ------
        ConfigMismatch, PeerAuthenticationError
        """
        shared = {"minimum intersection": str(self.policy.minimum_intersection)}
        own = software() | {"accept_leakage": ",".join(sorted(self.policy.accept_leakage))}
        with self.phases.phase("handshake"):
            self.peer = self.run(handshake(self.channel, self.identity, self._pinned, shared, own, self.rng))

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of both identity keys by party name."""
        return {self.name: fingerprint(self.identity.public_bytes), self.peer.name: self.peer.fingerprint}

    @property
    def peer_id(self) -> str:
        """What the ledger knows the peer by: its key's fingerprint; its name in a simulation, where keys are new."""
        return self.peer.fingerprint if self._wait is None else self.peer.name

    def call(self, operation: str, shared: Mapping[str, object], own: Mapping[str, object]) -> dict[str, str]:
        """Agree on a call with the peer before any data moves; return the peer's own facts.

        Raises
        ------
        ConfigMismatch
            Naming every field that differs.
        """
        self._calls += 1
        fields = {"call": operation, "number of the call": str(self._calls)}
        fields |= {name: str(value) for name, value in shared.items()}
        return self.run(agree(self.channel, fields, {name: str(value) for name, value in own.items()}))

    def checkpoint(self) -> None:
        """Compare the transcript hashes with the peer."""
        self.run(checkpoint(self.channel))

    def commitment(self, schema: object) -> str:
        """Return a salted hash of a schema: it fixes the columns without showing them."""
        salt = self.rng.bytes(16)
        digest = hashlib.sha256(salt + json.dumps(schema, default=str).encode()).hexdigest()
        self.facts.parameters["schema salt"] = salt.hex()
        return digest

    def require_leakage(self, *classes: Leakage) -> None:
        """Refuse to go on unless both configurations accept these classes.

        Raises
        ------
        PolicyRefused
            Naming the party whose configuration does not accept, and what.
        """
        accepted = {
            self.name: set(self.policy.accept_leakage),
            self.peer.name: self.peer.own["accept_leakage"].split(","),
        }
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


def open_sessions() -> tuple[Session, ...]:
    """Return the sessions of all ``with vfl.connect(...)`` around this point, the outermost first."""
    return _open.get()


@contextlib.contextmanager
def ambient(session: Session) -> Iterator[Session]:
    """Make a session the ambient one; tell the peer when an error ends it."""
    token, opened = _current.set(session), _open.set((*_open.get(), session))
    try:
        session.start()
        yield session
    except BaseException as error:
        session.channel.abort(error)
        raise
    finally:
        _current.reset(token)
        _open.reset(opened)


class Connection:
    """The context manager that :func:`connect` returns."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Session:
        """Connect, shake hands, open the audit log and make the session ambient."""
        from vfl.ledger import Ledger
        from vfl.outcome import Outcome  # the report's dependencies, needed by real runs only
        from vfl.protocols.grpc import Endpoint
        from vfl.protocols.grpc import connect as dial

        config = self._config
        me = Party(config.party.name, config.party.role)
        peer = Party(config.peer.name, Role.HOST if me.role is Role.GUEST else Role.GUEST)
        identity = config.identity()
        endpoint = Endpoint(
            listen=config.peer.listen,
            connect=config.peer.connect,
            key_pem=identity.to_pem(),
            certificate_pem=config.certificate(),
            peer_certificate_pem=config.pinned(),
            wait_seconds=config.peer.wait_seconds,
            silence_seconds=config.peer.silence_seconds,
            stall_seconds=config.peer.stall_seconds,
        )
        with contextlib.ExitStack() as stack:
            channel = dial(endpoint, me, peer)
            stack.callback(channel.close)
            session = Session(
                channel, identity, config.pinned_key(), config.policy, config.run.verbose, Tally()
            )
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
        """Write the report, close the log and the connection; tell the peer about an error."""
        self._stack.__exit__(kind, error, trace)


def connect(config: str | os.PathLike[str] | Config) -> Connection:
    """Open a session with the peer that a configuration names.

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
        On entering, if the peer is not there, is somebody else or is configured otherwise.

    Examples
    --------
    >>> with vfl.connect("bank.toml"):  # doctest: +SKIP
    ...     rows = vfl.align(customers, on="phone")
    """
    loaded = config if isinstance(config, Config) else load_config(config)
    for check in (loaded.identity, loaded.certificate, loaded.pinned):
        check()
    return Connection(loaded)


class _Room:
    """Where the threads of a simulation wait for each other; notices when all do."""

    def __init__(self, parties: list[str]) -> None:
        self._condition = threading.Condition()
        self._present = set(parties)
        self._waiting: dict[str, Waiting] = {}

    def wait(self, waiting: Waiting) -> None:
        with self._condition:
            self._waiting[waiting.party] = waiting
            self._condition.notify_all()
            try:
                while not waiting.ready():
                    if self._present <= set(self._waiting) and not any(
                        w.ready() for w in self._waiting.values()
                    ):
                        raise Deadlock(
                            "; ".join(f"{w.party} waits for {w.kind}" for w in self._waiting.values())
                        )
                    self._condition.wait()
            finally:
                del self._waiting[waiting.party]

    def changed(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def leave(self, party: str) -> None:
        with self._condition:
            self._present.discard(party)
            self._condition.notify_all()


class Simulation(Mapping[str, Any]):
    """What :func:`simulate` returns: each party's result by name, and what each party saw.

    Attributes
    ----------
    sessions : dict of str to Session
        What each party collected: phases, facts, totals. Of several sessions of the guest, the one with the first host.
    """

    def __init__(
        self, results: dict[str, Any], sessions: dict[str, Session], transcripts: dict[str, Transcript]
    ) -> None:
        self._results, self.sessions, self._transcripts = results, sessions, transcripts

    def __getitem__(self, name: str) -> Any:
        """Return what the party's function returned."""
        return self._results[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the parties' names."""
        return iter(self._results)

    def __len__(self) -> int:
        """Return the number of parties."""
        return len(self._results)

    @property
    def transcript(self) -> Transcript:
        """Every message in the order in which the first party, the guest, saw it."""
        return next(iter(self._transcripts.values()))

    def view(self, party: str) -> list[Record]:
        """Return everything that was addressed to a party, in order: all that it could learn from."""
        return self.transcript.view(party)


def simulate(
    *,
    accept_leakage: tuple[str, ...] | list[str] = (),
    minimum_intersection: int = 1,
    verbose: int = 0,
    ledger: str | os.PathLike[str] | None = None,
    **parties: Callable[[], Any],
) -> Simulation:
    """Run the parties' functions in this process, over the same bytes that a network would carry.

    Parameters
    ----------
    accept_leakage : sequence of str
        What both parties accept, as in ``policy.accept_leakage``.
    minimum_intersection : int
        As in ``policy.minimum_intersection``.
    verbose : int
        1 shows progress.
    ledger : path, optional
        A folder in which each party keeps its run ledger; without it nothing is remembered from run to run.
    **parties : callable
        Functions without arguments by party name: first the guest (label holder), then one host or several. With
        several, the guest has a session with each.

    Returns
    -------
    Simulation
        ``result["bank"]`` is what that party's function returned, ``result.transcript`` all messages.

    Raises
    ------
    VFLError
        The first error of either party.
    """
    if len(parties) < 2:
        raise LocalProtocolError(f"two parties are needed, the guest first; have {len(parties)}")
    policy = PolicyConfig(
        accept_leakage=tuple(accept_leakage), columns=("*",), minimum_intersection=minimum_intersection
    )
    stage = _Stage(list(parties), policy, verbose, None if ledger is None else Path(ledger))
    threads = [
        threading.Thread(target=stage.play, args=(name, act), name=f"vfl {name}")
        for name, act in parties.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stage.raise_first()
    return Simulation({name: stage.results[name] for name in parties}, stage.sessions, stage.transcripts)


class _Stage:
    """Sessions in memory between a guest and its hosts, each party run by a thread of its own."""

    def __init__(self, parties: list[str], policy: PolicyConfig, verbose: int, ledger: Path | None) -> None:
        self._room = _Room(parties)
        self._errors: list[BaseException] = []
        self._all: dict[str, list[Session]] = {name: [] for name in parties}
        self.results: dict[str, Any] = {}
        self.transcripts = {name: Transcript() for name in parties}
        guest, keys = Party(parties[0], Role.GUEST), {name: IdentityKey.generate() for name in parties}
        for name in parties[1:]:
            for end in memory_pair(guest, Party(name, Role.HOST)):
                me, peer = end.me.name, end.peer.name
                end.on_change = self._room.changed
                session = Session(
                    end,
                    keys[me],
                    keys[peer].public_bytes,
                    policy,
                    verbose,
                    self.transcripts[me],
                    self._room.wait,
                )
                if ledger is not None:
                    from vfl.ledger import Ledger

                    session.ledger = Ledger(ledger / f"{me}.sqlite")
                self._all[me].append(session)

    @property
    def sessions(self) -> dict[str, Session]:
        """The first session of each party."""
        return {name: sessions[0] for name, sessions in self._all.items()}

    def play(self, name: str, act: Callable[[], Any]) -> None:
        """Run one party's function inside its sessions."""
        try:
            with contextlib.ExitStack() as stack:
                for session in self._all[name]:
                    stack.enter_context(ambient(session))
                self.results[name] = act()
        except BaseException as error:
            self._errors.append(error)
        finally:
            for session in self._all[name]:
                session.channel.close()
            self._room.leave(name)

    def raise_first(self) -> None:
        """Raise the error that started it all, if there is one."""
        if self._errors:
            consequences = (PeerAborted, ChannelClosed)
            raise next((e for e in self._errors if not isinstance(e, consequences)), self._errors[0])
