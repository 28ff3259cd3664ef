"""Horizontal learning on scikit-learn's digits; the last line is one JSON object.

    python -m benchmarks.horizontal --experiment skew|compression|poison|async|devices|resume [--seeds K] [--peers]

skew         ten clients, Dirichlet 0.1: rounds to 90 % by method, with stragglers, and local accuracy when personalised
compression  the same: points lost by codecs, and their part of the bytes
poison       one of ten clients sends -100 times its update: points lost by rule, also under secure aggregation
async        the same skew, speeds 10 times apart: points lost by deadlines and buffers, and virtual seconds
devices      1,000 devices, 100 a round: rounds per second
resume       killed at round 7 of 20: whether the model is bit-identical

A spread is median, least and most over the seeds.
"""

import argparse
import importlib.util
import json
import time
from typing import Any

from benchmarks.horizontal.experiments import EXPERIMENTS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiment", choices=sorted(EXPERIMENTS), required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="with devices: Flower's simulation too")
    options = parser.parse_args()
    began = time.perf_counter()
    figures: dict[str, Any] = {"experiment": options.experiment, "seeds": options.seeds}
    figures |= EXPERIMENTS[options.experiment](options.seeds)
    if options.peers:
        present = importlib.util.find_spec("flwr") is not None
        reason = "no comparison with Flower is written yet" if present else "flwr is not installed"
        figures["flower"] = {"reason": reason}
    figures["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
