"""Taking part in a cohort: :func:`join` at each client, :func:`aggregate` at the aggregator.

Inside ``with vfl.join("silo1.toml")`` the membership is ambient, so that :func:`vfl.secure_sum` and its kin need
nothing but the data. All clients make the same calls in the same order; the aggregator runs whatever the policy's
minimum of them ask for, and holds no data, no model and no key that opens anything but a sum.
"""

import contextlib
import contextvars
import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from vfl.audit import AuditHeader, AuditLog
from vfl.cohort import CohortConfig, RoundFile, load_cohort
from vfl.crypto.masking import Words
from vfl.crypto.rng import Rng, SystemRng
from vfl.errors import ConfigError, LocalProtocolError
from vfl.protocols.channel import Channel, Record
from vfl.protocols.secagg.client import Client, Contribution, Result
from vfl.protocols.secagg.policy import Policy, Task
from vfl.protocols.wire import Role
from vfl.versions import software

if TYPE_CHECKING:
    from vfl.protocols.secagg.calls import Report

__all__ = ["Membership", "aggregate", "join", "joined", "member"]

_current: contextvars.ContextVar["Membership | None"] = contextvars.ContextVar("vfl_membership", default=None)


class Membership:
    """One client's side of a cohort; made by :func:`join` and :func:`vfl.simulate_cohort`.

    Parameters
    ----------
    client : Client
    session : str
        Name of the cohort and of the run.
    take_part : callable
        Runs one round.

    Attributes
    ----------
    survivors : tuple of str
        Whose data are in the latest result.
    """

    def __init__(self, client: Client, session: str, take_part: Callable[[Contribution], Result]) -> None:
        self._client, self._session, self._take_part = client, session.encode(), take_part
        self._calls = 0
        self.survivors: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """This client's name."""
        return self._client.name

    @property
    def policy(self) -> Policy:
        """What this client insists on."""
        return self._client.policy

    @property
    def rng(self) -> Rng:
        """Source of this client's secret randomness."""
        return self._client.rng

    def total(self, words: Words, bits: int, call: str) -> Result:
        """Return the sum of all clients' residues modulo 2^bits.

        Parameters
        ----------
        words : ndarray of uint32 or uint64, shape (dimension,)
        bits : int
        call : str
            What is summed and how it is encoded: clients that say different things have no sum in common.

        Raises
        ------
        ConfigMismatch
            If most other clients make another call; the text names the difference.
        CohortTooSmall, PeerError, ChannelError
            If there is no sum.
        """
        text = f"call {self._calls + 1}: {call}"
        model = hashlib.sha256(text.encode()).digest()
        task = Task(self._session, model, words.size, bits, _shortened(text))
        result = self._take_part(self._client.contribution(task, words))
        self._calls += 1
        self.survivors = result.survivors
        return result


def _shortened(text: str) -> str:
    return text if len(text) <= 255 else f"{text[:252]}..."


def member() -> Membership:
    """Return the ambient membership.

    Raises
    ------
    LocalProtocolError
        Outside ``with vfl.join(...)`` and :func:`vfl.simulate_cohort`.
    """
    found = _current.get()
    if found is None:
        raise LocalProtocolError(
            "no cohort: call this inside `with vfl.join(...)` or `vfl.simulate_cohort(...)`"
        )
    return found


@contextlib.contextmanager
def joined(membership: Membership) -> Iterator[Membership]:
    """Make a membership the ambient one."""
    token = _current.set(membership)
    try:
        yield membership
    finally:
        _current.reset(token)


@contextlib.contextmanager
def join(config: str | os.PathLike[str], run: str = "") -> Iterator[Membership]:
    """Take part in a cohort.

    The connection is opened with the first call, kept, and replaced when it is lost: a round that was under way is
    resumed. A client that was lost for longer, even killed and started again, gets the sums that it has missed and goes
    on with the others. The number of the latest round is kept in ``<name>.round`` beside the configuration: no round is
    answered twice, whatever happens to this process. Every message that leaves is in the audit log, in ``run.output``.

    Parameters
    ----------
    config : path
        A client's file as :mod:`vfl.cohort` describes it.
    run : str
        Any name, the same at all clients: sums of different runs never mix.

    Yields
    ------
    Membership

    Raises
    ------
    ConfigError
        If the file is wrong.
    LocalProtocolError
        If another process takes part under this name.

    Examples
    --------
    >>> with vfl.join("silo1.toml"):  # doctest: +SKIP
    ...     total = vfl.secure_sum(values, bound=1000.0)
    """
    from vfl.protocols.secagg.network import Line, dial

    loaded = load_cohort(config, Role.CLIENT)
    if len(run) > 64:
        raise ConfigError(f"the name of a run has at most 64 characters, not {len(run)}")
    aggregator, policy, rng = str(loaded.aggregator.name), loaded.policy(), SystemRng()
    endpoint = loaded.endpoint(loaded.aggregator_certificate())
    with contextlib.ExitStack() as stack:
        ledger = stack.enter_context(contextlib.closing(RoundFile(loaded.own.path(f"{loaded.name}.round"))))
        client = Client(loaded.name, loaded.own.identity(), policy, rng, ledger.last, ledger.keep)
        session = f"{loaded.cohort.name}/{run}"
        observe = stack.enter_context(_logged(loaded, session))

        def connected() -> Channel:
            return dial(endpoint, loaded.name, aggregator, rng, [observe])

        line = stack.enter_context(Line(connected, loaded.aggregator.wait_seconds))
        yield stack.enter_context(joined(Membership(client, session, line.take_part)))


@contextlib.contextmanager
def _logged(config: CohortConfig, session: str) -> Iterator[Callable[[Record], None]]:
    """Open an audit log; the value observes a channel."""
    started = datetime.now(UTC)
    folder = config.own.path(config.own.run.output)
    folder.mkdir(parents=True, exist_ok=True)
    rules = repr(sorted(config.policy().fields().items())).encode()
    header = AuditHeader(
        session=session,
        party=config.name,
        peer=str(config.aggregator.name),
        versions=software(),
        config_digest=hashlib.sha256(rules).hexdigest(),
        columns=[],
    )
    path = folder / f"{started:%Y%m%d-%H%M%S-%f}-{config.name}" / "audit.jsonl"
    log = AuditLog.create(path, header, config.own.identity())

    def observe(record: Record) -> None:
        if record.direction == "sent":
            log.observe(record)

    outcome = "done"
    try:
        yield observe
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        log.close({"outcome": outcome})


def aggregate(config: str | os.PathLike[str], report: "Report | None" = None) -> None:
    """Be the aggregator of a cohort until interrupted: run every round that its clients agree on.

    Parameters
    ----------
    config : path
        The aggregator's file as :mod:`vfl.cohort` describes it.
    report : callable, optional
        Called with the task, the number, and the result or the failure of each round.

    Raises
    ------
    ConfigError
        If the file is wrong, or its address cannot be listened on.
    LocalProtocolError
        If another process is the aggregator of this folder.

    Leakage
    -------
    The aggregator learns the sums, who takes part and when; see docs/protocols/secagg.md.
    """
    from vfl.protocols.secagg.calls import serve_calls
    from vfl.protocols.secagg.hall import Deadlines
    from vfl.protocols.secagg.network import Aggregator

    loaded = load_cohort(config, Role.AGGREGATOR)
    times = loaded.aggregator
    deadlines = Deadlines(times.gather_seconds, times.stage_seconds, times.reconnect_seconds)
    endpoints = {name: loaded.endpoint(pem) for name, pem in loaded.certificates.items()}
    with contextlib.closing(RoundFile(loaded.own.path(f"{loaded.name}.round"))) as ledger:
        hub = Aggregator(loaded.name, endpoints, loaded.policy(), SystemRng(), deadlines)
        with hub:
            serve_calls(hub.hall, ledger.next, report or _ignored)


def _ignored(*what: Any) -> None:
    """Report nothing."""
