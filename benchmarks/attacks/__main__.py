"""Attacks and defences on real small data, on what the server has received; the last line is one JSON object.

    python -m benchmarks.attacks [--attack NAME] [--seeds K]

inversion   single rows of devices from the server's view, without and with secure aggregation (digits)
few         the same under secure aggregation of ever more devices with one row each: where it starts to hide
membership  who was in the training, without and with differential privacy at epsilon 3 (German credit)
likeness    a class's typical row from the model (digits)
poison      one of ten clients sends its update times -100, by rule (digits)
backdoor    a mark that one of ten clients has planted, by rule (digits)

Each figure has median, least and most over the seeds.
"""

import argparse
import json
import time
from typing import Any

from threadpoolctl import threadpool_limits

from benchmarks.attacks.experiments import EXPERIMENTS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--attack", choices=sorted(EXPERIMENTS))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    figures: dict[str, Any] = {"seeds": options.seeds}
    began = time.perf_counter()
    threadpool_limits(1)  # small matrices: threads would wait for each other
    for name in [options.attack] if options.attack else EXPERIMENTS:
        figures[name] = EXPERIMENTS[name](options.seeds)
        if options.attack is None:
            print(json.dumps({name: figures[name]}), flush=True)
    figures["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
