"""Horizontal learning on scikit-learn's digits; the last line is one JSON object.

    python -m benchmarks.horizontal --experiment skew|compression|poison|async|devices|resume [--seeds K] [--peers]
    python -m benchmarks.horizontal --all [--seeds K] [--first-seed N] [--peers] [--kept FOLDER] [--write-docs]

skew         ten clients, Dirichlet 0.1: rounds and bytes to 90 % by strategy, with few clients a round and with
             stragglers, and local accuracy when personalised
compression  the same: points lost by codecs, their part of the bytes, rounds and bytes to 90 %
poison       one of ten clients sends -100 times its update: points lost by rule, also under secure aggregation
async        the same skew, speeds 10 times apart: points lost by deadlines and buffers, and virtual seconds
devices      1,000 devices, 100 a round: rounds per second; with --peers beside Flower's simulation
resume       killed at round 7 of 20: whether the model is bit-identical

`ratio_to_flower` is our rounds per second over those of Flower's simulation in the same run, above 1 where we are
faster, null with a reason where it cannot run. Neither its start nor Ray's counts: both clocks start after two rounds.
A spread is median, least and most over the seeds.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.environments import FLOWER, Unavailable
from benchmarks.horizontal import table
from benchmarks.horizontal.common import Figures
from benchmarks.horizontal.devices import devices
from benchmarks.horizontal.experiments import EXPERIMENTS

NAMES = [*sorted(EXPERIMENTS), "devices"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--experiment", choices=NAMES)
    what.add_argument("--all", action="store_true", help="the tables of docs/performance_horizontal.md")
    parser.add_argument("--seeds", type=int, default=5, help="how many (5)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--peers", action="store_true", help="with devices: Flower's simulation too")
    parser.add_argument("--flower-python", help=f"Flower's interpreter (also {FLOWER.variable})")
    parser.add_argument(
        "--kept", type=Path, help="with --all: a folder that keeps figures; those in it are taken"
    )
    parser.add_argument("--write-docs", action="store_true", help="with --all: write the page")
    return parser.parse_args()


def with_flower(options: argparse.Namespace, seeds: Sequence[int]) -> Figures:
    """Return the figures of devices, beside Flower's if asked for."""
    missing: Figures = {"flower_rounds_per_second": None, "ratio_to_flower": None}
    if not options.peers:
        return missing | devices(seeds)
    try:
        return devices(seeds, flower=FLOWER.interpreter(options.flower_python))
    except Unavailable as error:
        return missing | devices(seeds) | {"flower": {"reason": str(error)}}


def figures(name: str, options: argparse.Namespace) -> Figures:
    """Run one experiment."""
    began = time.perf_counter()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    found: Figures = {"experiment": name, "seeds": options.seeds, "first_seed": options.first_seed}
    found |= with_flower(options, seeds) if name == "devices" else EXPERIMENTS[name](seeds)
    return found | {"seconds": round(time.perf_counter() - began, 1)}


def every(options: argparse.Namespace) -> dict[str, Figures]:
    """Run all experiments, but for those whose figures are kept."""
    found = {}
    for name in NAMES:
        path = options.kept / f"{name}.json" if options.kept else None
        if path is not None and path.exists():
            found[name] = json.loads(path.read_text())
            continue
        found[name] = figures(name, options)
        print(f"{name}: {found[name]['seconds']} s", file=sys.stderr)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found[name]))
    return found


def main() -> None:
    options = arguments()
    if options.experiment:
        print(json.dumps(figures(options.experiment, options)))
        return
    found = every(options)
    text = table.page(found)
    print(text)
    if options.write_docs:
        table.DOCS.write_text(text, encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
