"""Clients with unlike rows: rounds and bytes to an accuracy by strategy, and models of one's own."""

import functools
from collections.abc import Sequence

import numpy as np

import vfl
from benchmarks.horizontal.common import LOCAL, MODEL, TARGET, Figures, Reached, digits, last, spread
from vfl.horizontal import personalisation
from vfl.horizontal.optimisation import Adaptive, FedAvg, FedProx, Local, Scaffold, Strategy
from vfl.horizontal.participation import Participation
from vfl.horizontal.vectors import Rows, generator
from vfl.horizontal.world import Device, World

OTHER_STEPS = 10  # of fine-tuning
STRATEGIES: dict[str, Strategy] = {
    "fedavg": FedAvg(),
    "fedprox": FedProx(0.01),
    "scaffold": Scaffold(),
    "momentum": FedAvg(1.0, 0.5),
    "fedadam": Adaptive("adam", 0.1, tau=1e-2),
    "fedyogi": Adaptive("yogi", 0.1, tau=1e-2),
    "fedadagrad": Adaptive("adagrad", 0.3, tau=1e-2),
}


def skew(seeds: Sequence[int], rounds: int = 40) -> Figures:
    """Return what it took to the target by strategy, with stragglers too, and what personalisation adds.

    With stragglers four of ten clients, others in each seed, finish only part of their steps: FedAvg as published drops
    them, FedProx takes what they have.
    """
    reached, stragglers = Reached(TARGET), Reached(TARGET)
    final: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    for seed in seeds:
        clients, held = digits(seed, 0.1)
        run = functools.partial(
            vfl.federate, MODEL, clients, rounds=rounds, held_out=held, local=LOCAL, seed=seed
        )
        for name, strategy in STRATEGIES.items():
            found = run(strategy=strategy)
            reached.add(name, found)
            final[name].append(last(found))
        fast = Device(speed=100.0, latency=0.0, bandwidth=1e9)
        slow = [sorted(clients)[i] for i in generator(seed, 98).permutation(10)[:4]]
        world = World({n: Device(speed=20.0, latency=0.0, bandwidth=1e9) for n in slow}, fast)
        cut, part = Participation(deadline=0.6), Participation(deadline=0.6, adapt=0.5)
        for name, how, strategy in (
            ("fedavg", cut, FedAvg()), ("fedprox", part, FedProx(0.01)), ("fedavg_adaptive", part, FedAvg()),
        ):  # fmt: skip
            stragglers.add(name, run(strategy=strategy, world=world, participation=how))
    return {
        "target": TARGET,
        **reached.figures(),
        "final_accuracy": {name: spread(values) for name, values in final.items()},
        "rounds_to_target_with_stragglers": {n: spread(v) for n, v in stragglers.rounds.items()},
        "scaffold_ahead_in_every_seed": all(
            a < b for a, b in zip(reached.rounds["scaffold"], reached.rounds["fedavg"], strict=True)
        ),
        "fedprox_ahead_median": reached.median("fedprox") < reached.median("fedavg"),
        "fedprox_ahead_median_with_stragglers": stragglers.median("fedprox") < stragglers.median("fedavg"),
        "fedprox_ahead_in_every_seed_with_stragglers": all(
            a < b for a, b in zip(stragglers.rounds["fedprox"], stragglers.rounds["fedavg"], strict=True)
        ),
        "local_accuracy": personal(seeds, rounds),
    }


def personal(seeds: Sequence[int], rounds: int) -> Figures:
    """Return the mean accuracy of clients on a quarter of their own rows, by model."""
    kept: dict[str, list[float]] = {n: [] for n in ("common", "fine_tuned", "ditto", "interpolated", "alone")}
    for seed in seeds:
        clients, _ = digits(seed, 0.1)
        parts = {name: _split(rows, seed) for name, rows in clients.items()}
        common = vfl.federate(
            MODEL, {n: p[0] for n, p in parts.items()}, rounds=rounds, local=LOCAL, seed=seed
        )
        scores: dict[str, list[float]] = {name: [] for name in kept}
        for place, (train, test) in enumerate(parts.values()):
            rng, few, many = generator(seed, 97, place), Local(OTHER_STEPS, 0.1, 32), Local(200, 0.1, 32)
            tuned = personalisation.fine_tuned(MODEL, common.vector, train, few, rng)
            alone = personalisation.fine_tuned(MODEL, MODEL.initial(0), train, many, rng)
            ditto = personalisation.ditto(MODEL, alone, common.vector, train, many, 0.1, rng)
            mixed = personalisation.interpolated(common.vector, tuned, 0.5)
            for name, vector in zip(kept, (common.vector, tuned, ditto, mixed, alone), strict=True):
                scores[name].append(MODEL.accuracy(vector, test.X, test.y))
        for name, values in scores.items():
            kept[name].append(float(np.mean(values)))
    return {name: spread(values) for name, values in kept.items()}


def _split(rows: Rows, seed: int) -> tuple[Rows, Rows]:
    order = generator(seed, 96).permutation(len(rows))
    cut = max(1, len(rows) // 4)
    return rows.take(order[cut:]), rows.take(order[:cut])
