"""The page docs/performance_horizontal.md: every experiment, as tables."""

import os
import platform
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.horizontal.common import Figures

DOCS = Path(__file__).resolve().parents[2] / "docs" / "performance_horizontal.md"
WIDTH = 120
STRATEGIES = {
    "fedavg": "`FedAvg()`",
    "fedprox": "`FedProx(0.01)`",
    "scaffold": "`Scaffold()`",
    "momentum": "`FedAvg(1.0, 0.5)`",
    "fedadam": '`Adaptive("adam", 0.1)`',
    "fedyogi": '`Adaptive("yogi", 0.1)`',
    "fedadagrad": '`Adaptive("adagrad", 0.3)`',
}
STRAGGLERS = {
    "fedavg": "`FedAvg()`, which drops them",
    "fedprox": "`FedProx(0.01)` with what they have done",
    "fedavg_adaptive": "`FedAvg()` with what they have done",
}
CODECS = {
    "full": "`Full()`",
    "random_k": "`RandomK(1/32)`",
    "top_k": "`TopK(1/48)`",
    "one_bit": "`Quantised(1)`",
    "four_bits": "`Quantised(4)`",
    "sketch": "`Sketched(5, 26, 20)`",
}

TEXT = """# Performance of horizontal learning

Written by `python -m benchmarks.horizontal --all --peers --write-docs`; do not edit. Digits of scikit-learn, 400 rows
held out, logistic regression, ten clients; skew is Dirichlet 0.1. A cell is the median over {count} seeds
(from {first}), with the least and the most. MB are of all clients together, numbers of 32 bits.

{machine}

## Rounds and bytes to {target:.0%}

{local} in a round, all clients in every round. A run of {rounds} rounds that does not get there counts
one more.

{strategies}

{stragglers}

## Fewer bytes

20 steps of rate 0.1, 100 rounds. *Points lost* are to whole updates, over the last five rounds; *part* is that of the
bytes sent.

{codecs}

## One liar of ten, -100 times its update

Rows dealt out at random, one step of 64 rows a round, 200 rounds, of which the last 20 count. Points lost to the
mean without the liar: the plain mean loses {mean}, the secure one {secure_mean}.

{rules}

## Not waiting for the slowest

Speeds ten times apart. All make as many local updates; seconds are virtual.

{waiting}

## Models of one's own

Mean accuracy of the clients on a quarter of their own rows.

{personal}

## A thousand devices

{devices}
"""


def cell(figures: Mapping[str, Any], scale: float = 1.0, digits: int = 2) -> str:
    """Return median, least and most."""
    low, middle, high = (round(figures[name] * scale, digits) for name in ("least", "median", "most"))
    return f"{middle:g} ({low:g} to {high:g})"


def lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    texts = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in texts)


def reached(figures: Figures, names: Mapping[str, str], more: Mapping[str, Mapping[str, Any]]) -> str:
    """Return rounds and bytes to the target, and further columns by name."""
    rows = [
        [
            title,
            cell(figures["rounds_to_target"][name], 1, 0),
            cell(figures["bytes_up_to_target"][name], 1e-6),
            cell(figures["bytes_down_to_target"][name], 1e-6),
            *(str(column.get(name, "")) for column in more.values()),
        ]
        for name, title in names.items()
    ]
    return lines(["", "rounds", "MB up", "MB down", *more], rows)


def stragglers(figures: Figures) -> str:
    """Return rounds to the target where some clients do not finish."""
    rounds = figures["rounds_to_target_with_stragglers"]
    rows = [[title, cell(rounds[name], 1, 0)] for name, title in STRAGGLERS.items()]
    return lines(["four of ten finish a fifth of their steps in time", "rounds"], rows)


def waiting(figures: Figures) -> str:
    """Return the table of deadlines and buffers."""
    lost = figures["points_lost"]
    rows = [
        [
            name,
            cell(seconds, 1, 1),
            cell(lost[name]) if name in lost else "",
        ]
        for name, seconds in figures["virtual_seconds"].items()
    ]
    return lines(["", "seconds", "points lost"], rows)


def devices(figures: Figures) -> str:
    """Return what the devices took, beside Flower."""
    text = (
        f"{figures['devices']:,} devices with 20 rows each, {figures['clients_per_round']} in a round, 5 steps of 10 "
        f"rows: {figures['rounds_per_second']:.3g} rounds a second, "
        f"{figures['rounds_per_second_with_failures']:.3g} where one of ten is away and one of twenty is lost. "
    )
    if figures.get("ratio_to_flower") is None:
        return textwrap.fill(text + "Flower's simulation did not run.", WIDTH)
    ratios = figures["ratio_to_flower_each"]
    return textwrap.fill(
        f"{text}Flower's simulation (Ray, one actor a processor, the same rows, steps and batches) in the same run: "
        f"{figures['flower_rounds_per_second']:.3g}. Ours over theirs, seed by seed: median "
        f"{figures['ratio_to_flower']:.3g}, from {min(ratios):.3g} to {max(ratios):.3g}; accuracies "
        f"{figures['accuracy']:.3f} and {figures['flower_accuracy']:.3f}. Both clocks start after two rounds: neither "
        "Flower's start nor Ray's is counted.",
        WIDTH,
    )


def machine() -> str:
    """Return the facts that the figures depend on, as a list in Markdown."""
    facts = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in facts if line.startswith("model name")), "unknown")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"- Processor: {model}, {platform.machine()}, {os.cpu_count()} processors\n"
        f"- {platform.system()}, Python {platform.python_version()}, numpy {version('numpy')}, "
        f"scikit-learn {version('scikit-learn')}\n"
        f"- Load over 1, 5 and 15 minutes at the end, this benchmark's own included: {load}"
    )


def page(found: Mapping[str, Figures]) -> str:
    """Return the page of all experiments."""
    skew, codecs, poison = found["skew"], found["compression"], found["poison"]
    lost = poison["points_lost"]
    rules = [[name, cell(values)] for name, values in lost.items() if name not in ("mean", "secure_mean")]
    saved = {
        "part": {"full": "1"} | {n: f"1/{times:.0f}" for n, times in codecs["times_fewer"].items()},
        "points lost": {n: cell(values) for n, values in codecs["points_lost"].items()},
    }
    final = {"final accuracy": {n: cell(v, 1, 3) for n, v in skew["final_accuracy"].items()}}
    return TEXT.format(
        count=skew["seeds"],
        first=skew["first_seed"],
        machine=machine(),
        target=skew["target"],
        local="50 steps of rate 0.3 on 32 rows",
        rounds=40,
        strategies=reached(skew, STRATEGIES, final),
        stragglers=stragglers(skew),
        codecs=reached(codecs, CODECS, saved),
        mean=f"{statistics.median(lost['mean']['each']):.0f}",
        secure_mean=f"{statistics.median(lost['secure_mean']['each']):.0f}",
        rules=lines(["rule", "points lost"], rules),
        waiting=waiting(found["async"]),
        personal=lines(
            ["model", "accuracy"], [[name, cell(v, 1, 3)] for name, v in skew["local_accuracy"].items()]
        ),
        devices=devices(found["devices"]),
    )
