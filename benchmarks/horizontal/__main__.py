"""Horizontal learning on scikit-learn's digits; the last line is one JSON object.

    python -m benchmarks.horizontal --experiment skew|compression|poison|async|devices|resume [--seeds K] [--peers]

skew         ten clients, Dirichlet 0.1: rounds to 90 % by method, with stragglers, and local accuracy when personalised
compression  the same: points lost by codecs, and their part of the bytes
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
import time
from typing import Any

from benchmarks.environments import FLOWER, Unavailable
from benchmarks.horizontal.devices import devices
from benchmarks.horizontal.experiments import EXPERIMENTS


def with_flower(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of devices, beside Flower's if asked for."""
    missing = {"flower_rounds_per_second": None, "ratio_to_flower": None}
    if not options.peers:
        return missing | devices(options.seeds)
    try:
        return devices(options.seeds, flower=FLOWER.interpreter(options.flower_python))
    except Unavailable as error:
        return missing | devices(options.seeds) | {"flower": {"reason": str(error)}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiment", choices=["devices", *sorted(EXPERIMENTS)], required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="with devices: Flower's simulation too")
    parser.add_argument("--flower-python", help=f"Flower's interpreter (also {FLOWER.variable})")
    options = parser.parse_args()
    began = time.perf_counter()
    figures: dict[str, Any] = {"experiment": options.experiment, "seeds": options.seeds}
    if options.experiment == "devices":
        figures |= with_flower(options)
    else:
        figures |= EXPERIMENTS[options.experiment](options.seeds)
    figures["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
