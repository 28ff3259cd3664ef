"""All parties of a session within one process: :func:`simulate`. The bytes are those that a network would carry."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from vfl.config import PolicyConfig
from vfl.crypto.signatures import IdentityKey
from vfl.errors import ChannelClosed, Deadlock, LocalProtocolError, PeerAborted
from vfl.protocols.channel import MemoryChannel, Party, Record, Waiting, memory_pair
from vfl.protocols.record import Transcript
from vfl.protocols.wire import Role
from vfl.session import Session, ambient
from vfl.views import View

__all__ = ["Simulation", "simulate"]


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
        What each party collected: phases, facts, totals.
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
        """Every message in the order in which the first party, the guest, saw it; hosts have no other channels."""
        return next(iter(self._transcripts.values()))

    def view(self, party: str) -> list[Record]:
        """Return everything that was addressed to a party, in order: all that it could learn from."""
        return self.transcript.view(party)

    def view_of(self, party: str) -> View:
        """Return everything that a party sent and received, ready to be saved for ``vfl audit attack``."""
        return View.of_records(party, self._transcripts[party].records)


def simulate(
    *,
    accept_leakage: tuple[str, ...] | list[str] = (),
    minimum_intersection: int = 1,
    verbose: int = 0,
    ledger: str | os.PathLike[str] | None = None,
    policy: PolicyConfig | None = None,
    **parties: Callable[[], Any],
) -> Simulation:
    """Run the parties' functions in this process, over the same bytes that a network would carry.

    Parameters
    ----------
    accept_leakage : sequence of str
        What all parties accept, as in ``policy.accept_leakage``.
    minimum_intersection : int
        As in ``policy.minimum_intersection``.
    verbose : int
        1 shows progress.
    ledger : path, optional
        A folder in which each party keeps its run ledger; without it nothing is remembered from run to run.
    policy : PolicyConfig, optional
        Further limits of all parties; by default those of a new configuration, with all columns allowed.
    **parties : callable
        Two or more functions without arguments by party name; the first is the guest (label holder), the others are
        hosts.

    Returns
    -------
    Simulation
        ``result["bank"]`` is what that party's function returned, ``result.transcript`` all messages.

    Raises
    ------
    VFLError
        The first error of any party.
    """
    if len(parties) < 2:
        raise LocalProtocolError(f"two parties or more are needed, the guest first; have {len(parties)}")
    rules = msgspec.structs.replace(
        policy or PolicyConfig(columns=("*",)),
        accept_leakage=tuple(accept_leakage),
        minimum_intersection=minimum_intersection,
    )
    stage = _Stage(list(parties), rules, verbose, None if ledger is None else Path(ledger))
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
    """A session per party over channels in memory between the guest and each host, each run by a thread of its own."""

    def __init__(self, parties: list[str], policy: PolicyConfig, verbose: int, ledger: Path | None) -> None:
        guest, *hosts = parties
        keys = {name: IdentityKey.generate() for name in parties}
        ends: dict[str, list[MemoryChannel]] = {name: [] for name in parties}
        for name in hosts:
            near, far = memory_pair(Party(guest, Role.GUEST), Party(name, Role.HOST))
            ends[guest].append(near)
            ends[name].append(far)
        self._room = _Room(parties)
        self._errors: list[BaseException] = []
        self.results: dict[str, Any] = {}
        self.sessions: dict[str, Session] = {}
        self.transcripts = {name: Transcript() for name in parties}
        for name, channels in ends.items():
            for channel in channels:
                channel.on_change = self._room.changed
            pinned = [keys[channel.peer.name].public_bytes for channel in channels]
            self.sessions[name] = Session(
                channels, keys[name], pinned, policy, verbose, self.transcripts[name], self._room.wait
            )
            if ledger is not None:
                from vfl.ledger import Ledger

                self.sessions[name].ledger = Ledger(ledger / f"{name}.sqlite")

    def play(self, name: str, act: Callable[[], Any]) -> None:
        """Run one party's function inside its session."""
        session = self.sessions[name]
        try:
            with ambient(session):
                self.results[name] = act()
        except BaseException as error:
            self._errors.append(error)
        finally:
            for channel in session.channels:
                channel.close()
            self._room.leave(name)

    def raise_first(self) -> None:
        """Raise the error that started it all, if there is one."""
        if self._errors:
            consequences = (PeerAborted, ChannelClosed)
            raise next((e for e in self._errors if not isinstance(e, consequences)), self._errors[0])
