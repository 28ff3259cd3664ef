"""FedBuff over virtual time: clients start from the latest model, and the server steps when its buffer is full."""

import heapq
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from vfl.errors import InvalidData
from vfl.horizontal.history import RoundRecord, State
from vfl.horizontal.optimisation import ServerState
from vfl.horizontal.participation import Buffered
from vfl.horizontal.plan import Plan
from vfl.horizontal.vectors import Vector, generator
from vfl.horizontal.viewing import ServerView

__all__ = ["run_buffered"]

FRUITLESS = 10_000


class _Clock:
    """Clients at work, by the moment in which they are done."""

    def __init__(self, plan: Plan, state: State, seen: ServerView | None) -> None:
        self._plan, self._state, self._seen = plan, state, seen
        self._queue: list[tuple[float, int, str, int, ServerState, bool]] = []
        self._starts = dict.fromkeys(plan.names, 0)
        self.now, self.started, self.version = 0.0, 0, 0
        self.up = self.down = 0

    def fill(self, concurrency: int) -> None:
        """Start idle clients, those first that have begun least often, until so many are at work."""
        busy = {entry[2] for entry in self._queue}
        for _ in range(FRUITLESS):
            idle = [name for name in self._plan.names if name not in busy]
            if len(busy) >= concurrency or not idle:
                return
            fewest = min(self._starts[name] for name in idle)
            first = [name for name in idle if self._starts[name] == fewest]
            name = first[int(generator(self._plan.seed, 35, self.started).integers(len(first)))]
            if self._start(name):
                busy.add(name)
        raise InvalidData(f"{FRUITLESS} clients in a row were not available")

    def _start(self, name: str) -> bool:
        plan = self._plan
        there, lost = plan.world.fate(name, plan.seed, self.started, plan.places[name])
        self.started += 1
        self._starts[name] += 1
        if not there:
            return False
        self.down += plan.down
        up = 4 * plan.model.size  # replaced by the real bytes when it is done; moves the clock only
        done = self.now + plan.world.device(name).seconds(plan.local.steps, plan.down, up)
        entry = (done, self.started, name, self.version, self._state.server, lost)
        heapq.heappush(self._queue, entry)
        return True

    def next(self) -> tuple[str, Vector, int] | None:
        """Let the next client finish: its name, update and staleness; None if it was lost."""
        plan, state = self._plan, self._state
        self.now, number, name, version, server, lost = heapq.heappop(self._queue)
        plan.charge(name, state.ledger)
        if lost:
            return None
        work = plan.work(name, server, number, None, state.memories.get(name))
        if work.memory is not None:
            state.memories[name] = work.memory
        self.up += work.up
        if self._seen is not None:
            self._seen.model(number, server.vector)
            self._seen.updates(number, {name: work})
        return name, plan.restored(work.update, number), self.version - version


def run_buffered(plan: Plan, state: State, seen: ServerView | None = None) -> Iterator[None]:
    """Make one server step each time the iterator is advanced.

    An update counts by its staleness and by its client's rows over the mean number (equal ones are the paper's).

    Raises
    ------
    InvalidData
        If no client is ever available or all are lost.
    """
    how = plan.participation
    if not isinstance(how, Buffered):
        raise InvalidData("this takes participation=Buffered(...)")
    clock = _Clock(plan, state, seen)
    mean_rows = float(np.mean([len(rows) for rows in plan.clients.values()]))
    total = sum(len(rows) for rows in plan.clients.values())
    while True:
        buffer: list[tuple[str, Vector, int]] = []
        for _ in range(FRUITLESS):
            clock.fill(how.concurrency)
            if (found := clock.next()) is not None:
                buffer.append(found)
            if len(buffer) == how.size:
                break
        else:
            raise InvalidData(f"{FRUITLESS} clients did not fill a buffer of {how.size}")
        names = [name for name, _, _ in buffer]
        updates = [update * (len(plan.clients[name]) / mean_rows) for name, update, _ in buffer]
        mean = how.mean(updates, [age for _, _, age in buffer])
        part = sum(len(plan.clients[name]) for name in set(names)) / total
        state.server = plan.strategy.step(state.server, mean, part)
        clock.version += 1
        record = RoundRecord(clock.version, clock.now, clock.up, clock.down, tuple(names), ())
        spent = plan.record_epsilon(names, state.ledger)
        state.records.append(
            replace(record, accuracy=plan.accuracy(state.server.vector), record_epsilon=spent)
        )
        yield
