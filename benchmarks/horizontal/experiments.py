"""The other experiments; each returns figures under plain names. Accuracies are parts of 1, differences in points."""

import functools
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import vfl
from benchmarks.horizontal.common import LOCAL, MODEL, TARGET, Figures, Reached, digits, last, points, spread
from benchmarks.horizontal.skew import skew
from vfl.horizontal.combining import Aggregation, Mean, Robust, Secure, SecureGroups, Trusted
from vfl.horizontal.communication import Codec, Full, Quantised, RandomK, Sketched, TopK
from vfl.horizontal.history import Federation
from vfl.horizontal.optimisation import Local, Scaffold
from vfl.horizontal.participation import Buffered, Participation
from vfl.horizontal.robustness import (
    bulyan,
    centred_clipping,
    coordinate_median,
    geometric_median,
    krum,
    norm_clipping,
    trimmed_mean,
)
from vfl.horizontal.world import Device, World, scaled, speeds

# --- compression


def compression(seeds: Sequence[int], rounds: int = 100, only: str = "") -> Figures:
    """Return points lost, the part of the bytes, and what it took to the target, of each codec.

    The whole update ("full") has 4 bytes a coordinate.
    """
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
    reached = Reached(TARGET)
    for seed in seeds:
        clients, held = digits(seed, 0.1)
        run = functools.partial(
            vfl.federate, MODEL, clients, rounds=rounds, held_out=held, local=Local(20, 0.1, 32), seed=seed
        )
        whole = run(codec=Full())
        reached.add("full", whole)
        for name, codec in codecs.items():
            found = run(codec=codec)
            lost[name].append(last(whole) - last(found))
            part[name] = found.history[-1].up / whole.history[-1].up
            reached.add(name, found)
    return {
        "target": TARGET,
        **reached.figures(),
        "part_of_bytes": part,
        "times_fewer": {name: 1 / value for name, value in part.items()},
        "points_lost": {name: points(values) for name, values in lost.items()},
    }


# --- poison

AVERAGED = 20  # rounds whose accuracy counts


def poison(seeds: Sequence[int], rounds: int = 200) -> Figures:
    """Return points lost to one of ten clients that sends 100 times its update with the sign flipped, by rule.

    One step of half a client's rows a round, as the rules' papers have it: Krum goes on with the update of one client
    alone, and many local steps would fit its rows. The secure mean runs a fifth of the rounds: it is as lost as the
    plain one.
    """
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
    for seed in seeds:
        clients, held = digits(seed, None)
        few = Local(1, 0.7, 64)
        run = functools.partial(vfl.federate, MODEL, clients, held_out=held, local=few, seed=seed)
        bad = World({sorted(clients)[seed % 10]: Device(attack=scaled(-100.0))})
        clean = last(run(rounds=rounds), AVERAGED)
        ways: dict[str, Aggregation] = {"mean": Mean()} | {n: Robust(rule) for n, rule in rules.items()}
        ways["fltrust"] = Trusted(held.take(np.arange(100)))
        ways["secure_mean"], ways["secure_groups"] = Secure(1e3), SecureGroups(bound=1e3, count=3)
        for name, way in ways.items():
            some = max(1, rounds // 5) if name == "secure_mean" else rounds
            lost.setdefault(name, []).append(
                clean - last(run(aggregation=way, world=bad, rounds=some), AVERAGED)
            )
    rules_lost = [values for name, values in lost.items() if name not in ("mean", "secure_mean")]
    return {
        "points_lost": {name: points(values) for name, values in lost.items()},
        "mean_collapses": min(lost["mean"]) > 0.2 and min(lost["secure_mean"]) > 0.2,
        "every_robust_rule_within_2_points_median": all(statistics.median(v) <= 0.02 for v in rules_lost),
        "every_robust_rule_within_2_points_every_seed": all(max(v) <= 0.02 for v in rules_lost),
    }


# --- asynchronous


def asynchronous(seeds: Sequence[int], rounds: int = 40) -> Figures:
    """Return points lost by deadlines and by buffers to waiting for all, speeds 10 times apart; and the seconds.

    All use as many local updates. Five clients at work of ten: with all at work the fast ones, whose rows are not like
    those of others, would have most of the say.
    """
    lost: dict[str, list[float]] = {"deadline": [], "asynchronous": []}
    seconds: dict[str, list[float]] = {"synchronous": [], "deadline": [], "asynchronous": []}
    for seed in seeds:
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


def resume(seeds: Sequence[int]) -> Figures:
    """Kill a process at round 7 of 20, go on, and compare the model's bits with those of a run without a break."""
    same = []
    for seed in seeds:
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


EXPERIMENTS: dict[str, Callable[[Sequence[int]], Figures]] = {
    "skew": skew,
    "compression": compression,
    "poison": poison,
    "async": asynchronous,
    "resume": resume,
}
