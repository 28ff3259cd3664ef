"""Time secure aggregation: ours in full, beside Flower's SecAgg+ functions and TenSEAL's CKKS on the same sizes.

    python -m benchmarks.secagg --clients N --params D --dropout P [--bits 16] [--peers]
    python -m benchmarks.secagg --all [--quick] [--peers] [--write-docs]

One round with all clients in this process, each timed for itself from its floating-point vector to its last answer,
and the aggregator likewise; every message is encoded and decoded as for a network. The lost clients are lost at the
costliest place. `client_seconds` and `bytes_per_param` (sent by a client) are medians over the clients that remain;
`..._cpu_seconds` is processor time of all threads, which other work on the machine changes less. A round on a few
numbers comes first, and the best of --repeats rounds counts.

`ratio_to_flower` is our time of a client over that of Flower's functions in the same run, `server_ratio_to_flower`
that of the server: below 1 where we are faster, null without --peers. Flower's steps are timed one by one and
multiplied by how often they happen. The last line is one JSON object.
"""

import argparse
import json
import os
from typing import Any

from benchmarks.environments import FLOWER
from benchmarks.secagg import peers, table
from benchmarks.secagg.ours import Size, run

TIMES = ("client_seconds", "server_seconds", "client_cpu_seconds", "server_cpu_seconds")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--params", type=lambda text: int(float(text)), default=10**6)
    parser.add_argument("--dropout", type=float, default=0.1, help="part of the clients that is lost (0.1)")
    parser.add_argument("--bits", type=int, default=16, help="of a value (16)")
    parser.add_argument("--colluders", type=int, default=-1, help="most that may collude (below a third)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, of which the best counts (3)")
    parser.add_argument("--peers", action="store_true", help="run the others too")
    parser.add_argument("--flower-python", help=f"Flower's interpreter (also {FLOWER.variable})")
    parser.add_argument("--all", action="store_true", help="the table of docs/performance_secagg.md")
    parser.add_argument("--quick", action="store_true", help="with --all: the small sizes alone")
    parser.add_argument("--write-docs", action="store_true", help="with --all: write it there")
    return parser.parse_args()


def measure(size: Size, repeats: int, python: str | None) -> dict[str, Any]:
    """Return the figures of one size; with Flower's interpreter also those of the others."""
    rounds = [run(size) for _ in range(repeats)]
    figures: dict[str, Any] = {
        **rounds[0],
        "exact": all(figures["exact"] for figures in rounds),
        **{name: min(figures[name] for figures in rounds) for name in TIMES},
        "ratio_to_flower": None,
        "server_ratio_to_flower": None,
    }
    if python is not None:
        try:
            theirs = peers.flower(size, figures["neighbours"], figures["threshold"], python)
        except peers.Unavailable as error:
            return figures | {"flower": {"reason": str(error)}}
        figures["ratio_to_flower"] = figures["client_seconds"] / theirs["client_seconds"]
        figures["server_ratio_to_flower"] = figures["server_seconds"] / theirs["server_seconds"]
        figures |= {"flower": theirs, "tenseal": peers.tenseal(size)}
    return figures


def main() -> None:
    options = arguments()
    python = None
    missing: dict[str, Any] = {}
    if options.peers:
        try:
            python = FLOWER.interpreter(options.flower_python)
        except peers.Unavailable as error:
            missing = {"flower": {"reason": str(error)}}
    run(Size(3, 1000, 0.0))
    if options.all:
        table.main(options, python, measure)
        return
    size = Size(options.clients, options.params, options.dropout, options.bits, options.colluders)
    figures = measure(size, options.repeats, python) | missing
    load = round(os.getloadavg()[0], 2)
    print(
        json.dumps(
            {"clients": size.clients, "params": size.params, "lost": size.lost, **figures, "load": load}
        )
    )


if __name__ == "__main__":
    main()
