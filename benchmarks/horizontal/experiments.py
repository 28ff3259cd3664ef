"""The experiments; each returns figures under plain names. Accuracies are parts of 1, differences are in points."""

import functools
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import vfl
from vfl.horizontal import personalisation
from vfl.horizontal.combining import Aggregation, Mean, Robust, Secure, SecureGroups, Trusted
from vfl.horizontal.communication import Codec, Full, Quantised, RandomK, Sketched, TopK
from vfl.horizontal.history import Federation
from vfl.horizontal.models import adapted
from vfl.horizontal.optimisation import Adaptive, FedAvg, FedProx, Local, Scaffold, Strategy
from vfl.horizontal.participation import Buffered, Participation
from vfl.horizontal.partitioning import dealt, dirichlet, iid
from vfl.horizontal.robustness import (
    bulyan,
    centred_clipping,
    coordinate_median,
    geometric_median,
    krum,
    norm_clipping,
    trimmed_mean,
)
from vfl.horizontal.vectors import Rows, generator
from vfl.horizontal.world import Device, World, scaled, speeds

Figures = dict[str, Any]
TARGET = 0.9
CLASSES = range(10)
MODEL = adapted(LogisticRegression(), 64, CLASSES)
LOCAL = Local(steps=50, rate=0.3, batch=32)
OTHER_STEPS = 10  # of fine-tuning and of Ditto in each round


def digits(seed: int, alpha: float | None, clients: int = 10) -> tuple[dict[str, Rows], Rows]:
    """Return clients and 400 rows held out; alpha None deals rows out at random."""
    data = load_digits()
    X, y = data.data / 16.0, data.target
    order = generator(seed, 99).permutation(len(X))
    held, rest = order[:400], order[400:]
    parts = iid(len(rest), clients, seed) if alpha is None else dirichlet(y[rest], clients, alpha, seed)
    return dealt(X[rest], y[rest], parts), Rows(X[held], y[held])


def last(found: Federation) -> float:
    """Return the mean accuracy of the last five rounds: single ones swing under skew."""
    return float(np.mean([record.accuracy for record in found.history[-5:]]))


def spread(values: list[float]) -> Figures:
    """Return median, least and largest."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "each": values}


def points(values: list[float]) -> Figures:
    """Return differences in points."""
    return spread([round(100 * value, 2) for value in values])


# --- skew


def skew(seeds: int, rounds: int = 40) -> Figures:
    """Return rounds to the target by method, with stragglers too, and what personalisation adds.

    A run that does not get there counts one round more than it had. With stragglers four of ten clients, others in each
    seed, finish only part of their steps: FedAvg as published drops them, FedProx takes what they have.
    """
    strategies: dict[str, Strategy] = {
        "fedavg": FedAvg(),
        "fedprox": FedProx(0.01),
        "scaffold": Scaffold(),
        "momentum": FedAvg(1.0, 0.5),
        "fedadam": Adaptive("adam", 0.1, tau=1e-2),
        "fedyogi": Adaptive("yogi", 0.1, tau=1e-2),
        "fedadagrad": Adaptive("adagrad", 0.3, tau=1e-2),
    }
    reached: dict[str, list[float]] = {name: [] for name in strategies}
    final: dict[str, list[float]] = {name: [] for name in strategies}
    stragglers: dict[str, list[float]] = {"fedavg": [], "fedprox": [], "fedavg_adaptive": []}
    for seed in range(seeds):
        clients, held = digits(seed, 0.1)
        run = functools.partial(
            vfl.federate, MODEL, clients, rounds=rounds, held_out=held, local=LOCAL, seed=seed
        )
        for name, strategy in strategies.items():
            found = run(strategy=strategy)
            reached[name].append(found.rounds_to(TARGET) or rounds + 1)
            final[name].append(last(found))
        fast = Device(speed=100.0, latency=0.0, bandwidth=1e9)
        slow = [sorted(clients)[i] for i in generator(seed, 98).permutation(10)[:4]]
        world = World({n: Device(speed=20.0, latency=0.0, bandwidth=1e9) for n in slow}, fast)
        cut, part = Participation(deadline=0.6), Participation(deadline=0.6, adapt=0.5)
        for name, how, strategy in (
            ("fedavg", cut, FedAvg()), ("fedprox", part, FedProx(0.01)), ("fedavg_adaptive", part, FedAvg()),
        ):  # fmt: skip
            found = run(strategy=strategy, world=world, participation=how)
            stragglers[name].append(found.rounds_to(TARGET) or rounds + 1)
    return {
        "target": TARGET,
        "rounds_to_target": {name: spread(values) for name, values in reached.items()},
        "final_accuracy": {name: spread(values) for name, values in final.items()},
        "rounds_to_target_with_stragglers": {name: spread(values) for name, values in stragglers.items()},
        "scaffold_ahead_in_every_seed": all(
            a < b for a, b in zip(reached["scaffold"], reached["fedavg"], strict=True)
        ),
        "fedprox_ahead_median": statistics.median(reached["fedprox"]) < statistics.median(reached["fedavg"]),
        "fedprox_ahead_median_with_stragglers": statistics.median(stragglers["fedprox"])
        < statistics.median(stragglers["fedavg"]),
        "local_accuracy": personal(seeds, rounds),
    }


def personal(seeds: int, rounds: int) -> Figures:
    """Return the mean accuracy of clients on a quarter of their own rows, by model."""
    kept: dict[str, list[float]] = {n: [] for n in ("common", "fine_tuned", "ditto", "interpolated", "alone")}
    for seed in range(seeds):
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


# --- compression


def compression(seeds: int, rounds: int = 100, only: str = "") -> Figures:
    """Return points lost and the part of the bytes of each codec; the whole update has 4 bytes a coordinate."""
    codecs: dict[str, Codec] = {
        "random_k": RandomK(1 / 32),
        "top_k": TopK(1 / 48),
        "one_bit": Quantised(1),
        "four_bits": Quantised(4),
        "sketch": Sketched(5, 26, 20),
    }
    codecs = {name: codec for name, codec in codecs.items() if only in ("", name)}
    lost: dict[str, list[float]] = {name: [] for name in codecs}
    part: dict[str, float] = {}
    for seed in range(seeds):
        clients, held = digits(seed, 0.1)
        run = functools.partial(
            vfl.federate, MODEL, clients, rounds=rounds, held_out=held, local=Local(20, 0.1, 32), seed=seed
        )
        whole = run(codec=Full())
        for name, codec in codecs.items():
            found = run(codec=codec)
            lost[name].append(last(whole) - last(found))
            part[name] = found.history[-1].up / whole.history[-1].up
    return {
        "part_of_bytes": part,
        "times_fewer": {name: 1 / value for name, value in part.items()},
        "points_lost": {name: points(values) for name, values in lost.items()},
    }


# --- poison


def poison(seeds: int, rounds: int = 60) -> Figures:
    """Return points lost to one of ten clients that sends 100 times its update with the sign flipped, by rule."""
    rules: dict[str, Callable[[Any], Any]] = {
        "krum": functools.partial(krum, byzantine=1),
        "multi_krum": functools.partial(krum, byzantine=1, chosen=5),
        "bulyan": functools.partial(bulyan, byzantine=1),
        "trimmed_mean": functools.partial(trimmed_mean, byzantine=1),
        "median": coordinate_median,
        "geometric_median": geometric_median,
        "norm_clipping": norm_clipping,
        "centred_clipping": centred_clipping,
    }
    lost: dict[str, list[float]] = {}
    for seed in range(seeds):
        clients, held = digits(seed, None)
        few = Local(10, 0.1, 32)  # Krum goes on with one client's update: the fewer steps, the less is lost
        run = functools.partial(
            vfl.federate, MODEL, clients, rounds=rounds, held_out=held, local=few, seed=seed
        )
        bad = World({sorted(clients)[seed % 10]: Device(attack=scaled(-100.0))})
        clean = last(run())
        ways: dict[str, Aggregation] = {"mean": Mean()} | {n: Robust(rule) for n, rule in rules.items()}
        ways["fltrust"] = Trusted(held.take(np.arange(100)))
        ways["secure_mean"], ways["secure_groups"] = Secure(1e3), SecureGroups(bound=1e3, count=3)
        for name, way in ways.items():
            lost.setdefault(name, []).append(clean - last(run(aggregation=way, world=bad)))
    rules_lost = [values for name, values in lost.items() if name not in ("mean", "secure_mean")]
    return {
        "points_lost": {name: points(values) for name, values in lost.items()},
        "mean_collapses": min(lost["mean"]) > 0.2 and min(lost["secure_mean"]) > 0.2,
        "every_robust_rule_within_2_points_median": all(statistics.median(v) <= 0.02 for v in rules_lost),
        "every_robust_rule_within_2_points_every_seed": all(max(v) <= 0.02 for v in rules_lost),
    }


# --- asynchronous


def asynchronous(seeds: int, rounds: int = 40) -> Figures:
    """Return points lost by deadlines and by buffers to waiting for all, speeds 10 times apart; and the seconds.

    All use as many local updates. Five clients at work of ten: with all at work the fast ones, whose rows are not like
    those of others, would have most of the say.
    """
    lost: dict[str, list[float]] = {"deadline": [], "asynchronous": []}
    seconds: dict[str, list[float]] = {"synchronous": [], "deadline": [], "asynchronous": []}
    for seed in range(seeds):
        clients, held = digits(seed, 0.1)
        world = speeds(sorted(clients), 10.0, seed, Device(speed=50.0))
        run = functools.partial(
            vfl.federate, MODEL, clients, held_out=held, local=LOCAL, seed=seed, world=world
        )
        waiting = run(rounds=rounds)
        found = {
            "deadline": run(rounds=rounds, participation=Participation(deadline=3.0, adapt=2.5)),
            "asynchronous": run(rounds=rounds, participation=Buffered(10, 5)),
        }
        seconds["synchronous"].append(waiting.history[-1].seconds)
        for name, training in found.items():
            lost[name].append(last(waiting) - last(training))
            seconds[name].append(training.history[-1].seconds)
    return {
        "points_lost": {name: points(values) for name, values in lost.items()},
        "virtual_seconds": {name: spread(values) for name, values in seconds.items()},
    }


# --- resume


def training(checkpoint: Path | None, seed: int, kill_at: int = 0, rounds: int = 20) -> Federation:
    """Train with SCAFFOLD and partial participation; die by SIGKILL after a round if asked to."""
    clients, held = digits(seed, 0.1)

    def die(record: Any) -> None:
        if record.number == kill_at:
            signal.raise_signal(signal.SIGKILL)

    return vfl.federate(
        MODEL, clients, rounds=rounds, local=LOCAL, strategy=Scaffold(), held_out=held, seed=seed,
        participation=Participation(6), checkpoint=checkpoint, on_round=die,
    )  # fmt: skip


def resume(seeds: int) -> Figures:
    """Kill a process at round 7 of 20, go on, and compare the model's bits with those of a run without a break."""
    same = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.ckpt"
            code = (
                "from pathlib import Path; from benchmarks.horizontal.experiments import training; "
                f"training(Path({str(path)!r}), {seed}, kill_at=7)"
            )
            died = subprocess.run([sys.executable, "-c", code], check=False)
            if died.returncode != -signal.SIGKILL:
                raise RuntimeError(f"the process was to be killed and ended with {died.returncode}")
            resumed, whole = training(path, seed), training(None, seed)
        same.append(resumed.vector.tobytes() == whole.vector.tobytes() and len(resumed.history) == 20)
    return {"killed_at_round": 7, "rounds": 20, "bit_identical": all(same)}


EXPERIMENTS: dict[str, Callable[[int], Figures]] = {
    "skew": skew,
    "compression": compression,
    "poison": poison,
    "async": asynchronous,
    "resume": resume,
}
