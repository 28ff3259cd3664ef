"""The training loop: :func:`federate`.

    result = vfl.federate(
        MLPClassifier((32,)), clients, rounds=20, held_out=test,
        strategy=Scaffold(), aggregation=Secure(bound=5.0), checkpoint="run.ckpt",
    )
    result.estimator.predict(X);  result.history[-1].accuracy, .up, .seconds, .epsilon

Parameters of :func:`federate`
------------------------------
model : estimator of scikit-learn, module of PyTorch or Model
    See :mod:`.models` and :mod:`.pytorch`; inside ``vfl.join`` a Model, since no client knows all labels.
clients : mapping of str to Rows, or Rows
    Rows by name: a simulation in this process, over real bytes and virtual time. Or one client's own rows, inside
    ``with vfl.join(...)``: then every client is a process that makes the same call, all of them take part, and the mean
    is the secure one of :mod:`vfl.aggregation` whatever `aggregation` says; `participation`, `codec`, `world`,
    `checkpoint` and `jobs` are refused.
rounds : int
    In all, those of a checkpoint included; server steps with :class:`.participation.Buffered`.
local, strategy, participation, aggregation, codec, privacy
    See :mod:`.optimisation` and :mod:`.records`, :mod:`.participation`, :mod:`.combining`, :mod:`.communication`,
    :mod:`.privacy`.
world : World
    The devices of a simulation.
held_out : Rows, optional
    For the accuracy after each round.
start : ndarray of float64, optional
    A trained model to start from.
seed : int
    Of the start, of the order of rows, of who takes part and of the devices; never of noise or masks.
checkpoint : path, optional
    Written after every round. If it exists, the training goes on from it and ends with the same bits as without a break
    (with Central or RecordPrivacy, whose noise is drawn newly: with the same ledger).
jobs : int
    Clients that are trained at once, through joblib: threads, or what ``joblib.parallel_config`` says.
verbose : int
    1 shows a progress bar.
on_round : callable, optional
    Called with each round's record after the checkpoint is written.
view : View, optional
    Collects what the server of a simulation receives, or the models that a member sees: the transcript that
    ``vfl audit attack`` works on, :mod:`vfl.views`.

Leakage
-------
The server learns who takes part and the model; without secure aggregation also every update, from which rows can be
reconstructed. Everybody learns the models of all rounds; differential privacy bounds what follows from them.
"""

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vfl.errors import CohortTooSmall, LeakageWarning, PolicyRefused
from vfl.horizontal.asynchronous import run_buffered
from vfl.horizontal.cohort import EXCHANGES, SimulatedCohort
from vfl.horizontal.combining import Aggregation, Combined, Distinct, Gathered, Mean, SecureGroups
from vfl.horizontal.communication import Codec, Full
from vfl.horizontal.history import Federation, RoundRecord, State
from vfl.horizontal.models import Network
from vfl.horizontal.optimisation import FedAvg, Local, ServerState, Strategy
from vfl.horizontal.participation import Buffered, Participation, by_loss, by_size, uniform
from vfl.horizontal.plan import Plan, Privacy, Work, as_model
from vfl.horizontal.privacy import Central, CentralNoise, Tree, TreeTotals
from vfl.horizontal.vectors import Rows, Vector, generator, stacked
from vfl.horizontal.viewing import ServerView
from vfl.horizontal.world import World
from vfl.privacy import ClientPrivacy
from vfl.progress import Phases
from vfl.views import View

__all__ = ["federate"]

_LOCAL, _FEDAVG, _ALL, _MEAN, _FULL, _WORLD = Local(), FedAvg(), Participation(), Mean(), Full(), World()


def federate(
    model: Any,
    clients: Mapping[str, Rows] | Rows,
    *,
    rounds: int,
    local: Local = _LOCAL,
    strategy: Strategy = _FEDAVG,
    participation: Participation | Buffered = _ALL,
    aggregation: Aggregation = _MEAN,
    codec: Codec = _FULL,
    privacy: Privacy | None = None,
    world: World = _WORLD,
    held_out: Rows | None = None,
    start: Vector | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    verbose: int = 0,
    on_round: Callable[[RoundRecord], None] | None = None,
    view: View | None = None,
) -> Federation:
    """Train one model over the rows of many clients; the parameters are explained in the module's text.

    Returns
    -------
    Federation

    Raises
    ------
    PolicyRefused, CohortTooSmall
        If methods do not go together, for instance Krum, top-k or choice by loss with secure aggregation.
    InvalidData, ConfigError
        If an argument or the checkpoint cannot be used.
    TrainingDiverged
        If a client's numbers left the range of float64.
    """
    if isinstance(clients, Rows):
        from vfl.horizontal.members import federate_as_member

        _only_in_simulations(
            participation is _ALL, codec is _FULL, world is _WORLD, checkpoint is None, jobs == 1
        )
        return federate_as_member(
            model, clients, rounds, local, strategy, aggregation, privacy, held_out, start, seed, on_round,
            view,
        )  # fmt: skip
    found = as_model(model, clients)
    begin = found.initial(seed) if start is None else np.array(start, dtype=np.float64)
    plan = Plan(
        found, clients, rounds, local, strategy, participation, aggregation, codec, privacy, world, held_out, begin,
        seed,
    )  # fmt: skip
    return _run(plan, None if checkpoint is None else Path(checkpoint), jobs, verbose, on_round, view)


def _only_in_simulations(*left_open: bool) -> None:
    names = ("participation", "codec", "world", "checkpoint", "jobs")
    given = [name for name, is_open in zip(names, left_open, strict=True) if not is_open]
    if given:
        raise PolicyRefused(f"inside vfl.join all clients send whole updates: leave {', '.join(given)} away")


def _run(
    plan: Plan,
    path: Path | None,
    jobs: int,
    verbose: int,
    on_round: Callable[[RoundRecord], None] | None,
    view: View | None,
) -> Federation:
    _warn_of_few_rows(plan)
    state = State(ServerState.start(plan.start))
    if path is not None:
        plan.check_checkpoint()
        state = State.load(path, plan.digest) if path.exists() else state
    training = _Training(plan, state, jobs, None if view is None else ServerView(view, plan))
    with Phases("federation", lambda: (state.up, state.down), verbose).phase("train") as update:
        for number in range(len(state.records) + 1, plan.rounds + 1):
            training.round(number)
            if path is not None:
                state.save(path, plan.digest)
            update(number, plan.rounds)
            if on_round is not None:
                on_round(state.records[-1])
    if training.seen is not None:
        training.seen.model(plan.rounds + 1, state.server.vector)
    delta = getattr(plan.privacy, "delta", None)
    return Federation(plan.model, state.server.vector.copy(), list(state.records), delta, state.ledger)


def _warn_of_few_rows(plan: Plan) -> None:
    """Say so if a secure sum may hold so few rows that all of them follow from it."""
    from vfl.attacks.gradient_inversion import capacity

    if not plan.aggregation.secure or plan.privacy is not None or not isinstance(plan.model, Network):
        return
    smallest = sorted(len(rows) for rows in plan.clients.values())
    parts = plan.aggregation.count if isinstance(plan.aggregation, SecureGroups) else 1
    rows, most = sum(smallest[: plan.asked // parts]), capacity(plan.model)
    if rows <= most:
        warnings.warn(
            f"a sum of {rows} rows hides whose they are, and not the rows: from {plan.model.size} numbers up to about "
            f"{most} rows can be reconstructed; have more rows in a sum, or take privacy",
            LeakageWarning,
            stacklevel=4,
        )


@dataclass
class _Training:
    """The rounds of a plan."""

    plan: Plan
    state: State
    jobs: int
    seen: ServerView | None = None
    cohort: SimulatedCohort = field(init=False)
    noise: CentralNoise | TreeTotals | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        plan = self.plan
        colluders = getattr(plan.aggregation, "colluders", -1)
        view = None if self.seen is None else self.seen.view
        self.cohort = SimulatedCohort(f"federate {plan.seed}", colluders, view)
        if isinstance(plan.privacy, Central | Tree):
            self.noise = plan.privacy.start(plan.model.size)
        self._steps = (
            run_buffered(plan, self.state, self.seen) if isinstance(plan.participation, Buffered) else None
        )

    def round(self, number: int) -> None:
        """Run one round, and write its record."""
        if self._steps is not None:
            next(self._steps)
            return
        plan = self.plan
        asked = self._chosen(number)
        if self.seen is not None:
            self.seen.model(number, self.state.server.vector)
        fates = {name: plan.world.fate(name, plan.seed, number, plan.places[name]) for name in asked}
        there = [name for name in asked if fates[name][0]]
        for name in there:
            plan.charge(name, self.state.ledger)
        works = dict(zip(there, self._works(there, number), strict=True))
        late = self._late(works)
        lost = {name for name in there if fates[name][1]} | late
        if self.seen is not None:
            self.seen.updates(number, {name: work for name, work in works.items() if name not in lost})
        combined = self._combine(works, lost, len(asked), number) if set(there) - lost else None
        if combined is not None:
            self._step(combined, works, number)
        self._record(number, asked, works, lost, combined)

    def _chosen(self, number: int) -> list[str]:
        plan = self.plan
        rng, count, how = generator(plan.seed, 33, number), plan.asked, plan.participation
        if count == len(plan.names) or not isinstance(how, Participation):
            return plan.names
        if how.by == "size":
            picked = by_size(count, [len(plan.clients[name]) for name in plan.names], rng)
        elif how.by == "loss":
            candidates = uniform(2 * count, len(plan.names), rng)
            vector = self.state.server.vector
            rows = [plan.clients[plan.names[i]] for i in candidates]
            picked = by_loss(count, [plan.model.loss(vector, r.X, r.y) for r in rows], candidates)
        else:
            picked = uniform(count, len(plan.names), rng)
        return [plan.names[i] for i in picked]

    def _works(self, names: list[str], number: int) -> list[Work]:
        state = self.state
        args = [
            (name, state.server, number, state.controls.get(name), state.memories.get(name)) for name in names
        ]
        if self.jobs == 1:
            return [self.plan.work(*arg) for arg in args]
        from joblib import Parallel, delayed

        workers = Parallel(n_jobs=self.jobs, prefer="threads")
        done: list[Work] = workers(delayed(self.plan.work)(*arg) for arg in args)
        return done

    def _seconds(self, name: str, up: int, down: int) -> float:
        exchanges = EXCHANGES if self.plan.aggregation.secure else 1
        device = self.plan.world.device(name)
        return device.seconds(self.plan.steps(name).steps, down, up, exchanges)

    def _late(self, works: dict[str, Work]) -> set[str]:
        """Return the clients that do not make the deadline; masked numbers count with 8 bytes here."""
        deadline = getattr(self.plan.participation, "deadline", math.inf)
        return {
            name
            for name, work in works.items()
            if self._seconds(name, work.up or 8 * work.update.size, self.plan.down) > deadline
        }

    def _combine(self, works: dict[str, Work], lost: set[str], asked: int, number: int) -> Combined | None:
        plan, state = self.plan, self.state
        names = list(works)
        updates = stacked([work.update for work in works.values()])
        if self.noise is not None:
            return self._noisy(names, updates, lost, asked)
        if isinstance(plan.aggregation, Distinct):
            for name, update in zip(names, updates, strict=True):
                state.histories[name] = state.histories.get(name, 0.0) + update
        gathered = Gathered(
            names=names,
            updates=updates,
            weights=np.array([len(plan.clients[name]) for name in names], dtype=np.float64),
            lost=lost,
            model=state.server.vector.tobytes(),
            histories=state.histories,
            reference=plan.reference(state.server, number),
            rng=generator(plan.seed, 34, number),
            cohort=self.cohort,
            privacy=plan.privacy if isinstance(plan.privacy, ClientPrivacy) else None,
        )
        try:
            return plan.aggregation.combine(gathered)
        except CohortTooSmall:
            if not lost and len(names) == asked:  # nobody is missing: it will never be enough
                raise
            return None

    def _noisy(self, names: list[str], updates: Vector, lost: set[str], asked: int) -> Combined:
        kept = [i for i, name in enumerate(names) if name not in lost]
        arrived = [names[i] for i in kept]
        for name in arrived:
            self.state.counts[name] = self.state.counts.get(name, 0) + 1
        noise = self.noise
        if isinstance(noise, TreeTotals):
            noise.check(self.state.counts)
        if noise is None:
            raise CohortTooSmall("no noise")
        return Combined(noise.total(updates[kept], asked, self.state.ledger) / asked, arrived)

    def _step(self, combined: Combined, works: dict[str, Work], number: int) -> None:
        plan, state = self.plan, self.state
        weights = {name: len(rows) for name, rows in plan.clients.items()}
        part = sum(weights[name] for name in combined.names) / sum(weights.values())
        state.server = plan.strategy.step(state.server, plan.restored(combined.mean, number), part)
        for name in combined.names:
            work = works[name]
            if work.memory is not None:
                state.memories[name] = work.memory
            if work.control is not None:
                state.controls[name] = state.controls.get(name, 0.0) + work.control

    def _record(
        self, number: int, asked: list[str], works: dict[str, Work], lost: set[str], combined: Combined | None
    ) -> None:
        plan, state = self.plan, self.state
        names = [] if combined is None else combined.names
        hidden_up = {} if combined is None else combined.traffic.up
        hidden_down = {} if combined is None else combined.traffic.down
        up = {name: (0 if name in lost else work.up) + hidden_up.get(name, 0) for name, work in works.items()}
        down = {name: plan.down + hidden_down.get(name, 0) for name in works}
        took = [self._seconds(name, up[name], down[name]) for name in works if name not in lost]
        deadline = getattr(plan.participation, "deadline", math.inf)
        seconds = max(took, default=0.0)
        if len(names) < len(asked) and math.isfinite(deadline):
            seconds = deadline
        record = RoundRecord(
            number=number,
            seconds=state.seconds + seconds,
            up=state.up + sum(up.values()),
            down=state.down + sum(down.values()),
            took_part=tuple(names),
            lost=tuple(sorted(set(asked) - set(names))),
            accuracy=plan.accuracy(state.server.vector),
            epsilon=self._epsilon(),
            record_epsilon=plan.record_epsilon(works, state.ledger),
        )
        state.records.append(record)

    def _epsilon(self) -> float | None:
        privacy = self.plan.privacy
        if privacy is None:
            return None
        if isinstance(privacy, ClientPrivacy):
            return privacy.epsilon
        return self.state.ledger.epsilon(privacy.delta)
