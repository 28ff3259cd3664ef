"""A whole cohort within one process: :func:`simulate_cohort`, over the bytes that a network would carry."""

import contextvars
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vfl.crypto.rng import SystemRng
from vfl.crypto.signatures import IdentityKey
from vfl.errors import LocalProtocolError, PeerAborted
from vfl.membership import Membership, joined
from vfl.protocols.channel import Channel, Party, Record, Waiting, memory_pair
from vfl.protocols.record import Transcript
from vfl.protocols.secagg.calls import serve_calls
from vfl.protocols.secagg.client import Client
from vfl.protocols.secagg.hall import Deadlines, Hall
from vfl.protocols.secagg.network import Line
from vfl.protocols.secagg.policy import Policy
from vfl.protocols.wire import Role
from vfl.views import View

__all__ = ["CohortSimulation", "simulate_cohort"]

AGGREGATOR = Party("aggregator", Role.AGGREGATOR)
AT_ONCE = Deadlines(gather=5.0, stage=60.0, reconnect=0.0)


class _Lost(BaseException):
    """A client's process ends."""


class CohortSimulation(Mapping[str, Any]):
    """What :func:`simulate_cohort` returns: each client's result by name; None for one that was lost.

    Attributes
    ----------
    transcripts : dict of str to Transcript
        All messages between each client and the aggregator.
    """

    def __init__(self, results: dict[str, Any], transcripts: dict[str, Transcript]) -> None:
        self._results, self.transcripts = results, transcripts

    def view_of(self, party: str) -> View:
        """Return everything that a client, or "aggregator", sent and received, ready for ``vfl audit attack``."""
        if party in self.transcripts:
            return View.of_records(party, self.transcripts[party].records)
        if party != AGGREGATOR.name:
            raise LocalProtocolError(f"nobody is named {party}")
        view = View(party)
        for (
            name,
            transcript,
        ) in self.transcripts.items():  # client by client: their order among each other is not kept
            for record in transcript.records:
                view.add("received" if record.direction == "sent" else "sent", name, record.message)
        return view

    def __getitem__(self, name: str) -> Any:
        """Return what the client's function returned."""
        return self._results[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the clients' names."""
        return iter(self._results)

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self._results)


def simulate_cohort(
    clients: Mapping[str, Callable[[], Any]],
    *,
    colluders: int = -1,
    minimum: int = 0,
    lost: Mapping[str, int] | None = None,
) -> CohortSimulation:
    """Run the clients' functions, each in a thread, with an aggregator between them.

    Parameters
    ----------
    clients : mapping of str to callable
        Three or more functions without arguments by name.
    colluders, minimum : int
        As in :class:`vfl.protocols.secagg.policy.Policy`.
    lost : mapping of str to int, optional
        Clients that die in a call, by its number from 1: after their secrets are shared, before their vector is sent.

    Returns
    -------
    CohortSimulation
        ``result["silo1"]`` is what that client's function returned.

    Raises
    ------
    VFLError
        The first error of any client.
    """
    stage = _Stage(list(clients), colluders, minimum, lost or {})
    threads = []
    for name, act in clients.items():
        context = contextvars.copy_context()
        work = threading.Thread(target=context.run, args=(stage.play, name, act), name=f"vfl {name}")
        threads.append(work)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stage.close()
    stage.raise_first()
    return CohortSimulation({name: stage.results.get(name) for name in clients}, stage.transcripts)


class _Stage:
    def __init__(self, names: list[str], colluders: int, minimum: int, lost: Mapping[str, int]) -> None:
        unknown = sorted(set(lost) - set(names))
        if unknown:
            raise LocalProtocolError(f"no client is named {', '.join(unknown)}")
        keys = {name: IdentityKey.generate() for name in names}
        pinned = {name: key.public_bytes for name, key in keys.items()}
        policy = Policy(pinned, colluders=colluders, minimum=minimum)
        self._clients = {name: Client(name, keys[name], policy, SystemRng()) for name in names}
        self._hall, self._lost = Hall(policy, AT_ONCE), lost
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self.results: dict[str, Any] = {}
        self.transcripts = {name: Transcript() for name in names}
        self._start(serve_calls, self._hall, itertools.count().__next__, lambda *what: None)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="vfl aggregator", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _connect(self, name: str) -> Channel:
        near, far = memory_pair(AGGREGATOR, Party(name, Role.CLIENT))
        far.observe(self.transcripts[name])
        if name in self._lost:
            far.observe(_dies_in(self._lost[name]))
        near.on_change = far.on_change = self._hall.notify
        self._start(self._hall.serve, near)
        return far

    def _wait(self, waiting: Waiting) -> None:
        self._hall.wait(waiting)

    def play(self, name: str, act: Callable[[], Any]) -> None:
        """Run one client's function as a member of the cohort."""
        try:
            with Line(lambda: self._connect(name), 60.0, self._wait) as line:
                line.open()
                with joined(Membership(self._clients[name], "simulation", line.take_part)):
                    self.results[name] = act()
        except _Lost:
            pass
        except BaseException as error:
            self._errors.append(error)

    def close(self) -> None:
        """Let the aggregator go home."""
        self._hall.close()
        for thread in self._threads:
            thread.join()

    def raise_first(self) -> None:
        """Raise the error that started it all, if there is one."""
        if self._errors:
            raise next((e for e in self._errors if not isinstance(e, PeerAborted)), self._errors[0])


def _dies_in(call: int) -> Callable[[Record], None]:
    """Return an observer that ends its client instead of letting its masked vector leave in one call."""
    vectors = itertools.count(1)

    def observe(record: Record) -> None:
        if record.kind == "secagg.masked" and record.direction == "sent" and next(vectors) == call:
            raise _Lost

    return observe
