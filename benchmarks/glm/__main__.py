"""Train generalised linear models over two processes and mutual TLS, beside scikit-learn and SecretFlow.

    python -m benchmarks.glm --data DIR [--model logistic|poisson|multinomial] [--security strict|exchange] [--label y]
    python -m benchmarks.glm --rows N --guest-columns A --host-columns B [--iterations K] [--peers]
    python -m benchmarks.glm --all [--quick] [--write-docs]

DIR holds guest.csv and host.csv; rows whose identifier is divisible by 5 are held out. `seconds` covers alignment,
training and scoring there, `fit_seconds` the training alone. Without DIR the data are generated, a training on a few
rows comes first, and `seconds` is the training; `seconds_per_iteration` leaves out what is done once (keys, whitening,
encoding). `peak_mib` is the larger of the two processes' own peaks. With --peers SecretFlow's SS-LR on CHEETAH trains
on the same rows in the same run, all rows in one batch, warm; `ratio_to_secretflow` is our iteration over its epoch,
below 1 where we are faster, null with a reason where it cannot run. `pooled` is scikit-learn on all columns. The link
is the loopback, or --megabits and --delay-ms (one way) are imitated. The last line is one JSON object.
"""

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from benchmarks.environments import SECRETFLOW
from benchmarks.glm import peers, pooled, table
from benchmarks.glm.jobs import Job, Link
from benchmarks.glm.run import Failed, run

HELD_OUT = 10_000  # generated rows beyond those trained on, at most a fifth of them


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", choices=["logistic", "poisson", "multinomial"], default="logistic")
    parser.add_argument("--security", choices=["strict", "exchange"], default="strict")
    parser.add_argument("--he", help="encryption of the exchange profile: ckks or paillier")
    parser.add_argument("--label", default="y")
    parser.add_argument("--id", default="id")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--guest-columns", type=int, default=10)
    parser.add_argument("--host-columns", type=int, default=10)
    parser.add_argument("--iterations", type=int, help="so many passes over all rows, whatever the loss does")
    parser.add_argument("--megabits", type=float, help="imitate a link of so many megabits per second")
    parser.add_argument("--delay-ms", type=float, default=20.0, help="its delay in each direction (20)")
    parser.add_argument("--peers", action="store_true", help="train with SecretFlow too")
    parser.add_argument(
        "--secretflow-python", help=f"its interpreter (also the variable {SECRETFLOW.variable})"
    )
    parser.add_argument("--all", action="store_true", help="the table of docs/performance_glm.md")
    parser.add_argument("--quick", action="store_true", help="with --all: the small sizes alone")
    parser.add_argument("--write-docs", action="store_true", help="with --all: write it there")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    if sum([options.data is not None, options.rows is not None, options.all]) != 1:
        parser.error("one of --data, --rows and --all is needed")
    return options


def job(options: argparse.Namespace) -> Job:
    """Return the training that the options describe."""
    common: dict[str, Any] = {
        "model": options.model,
        "security": options.security,
        "he": options.he,
        "iterations": options.iterations,
        "verbose": options.verbose,
        "link": Link(options.megabits, options.delay_ms) if options.megabits else None,
    }
    if options.data is not None:
        return Job(**common, data=str(options.data.resolve()), label=options.label, id=options.id)
    return Job(
        **common,
        rows=options.rows,
        guest_columns=options.guest_columns,
        host_columns=options.host_columns,
        held_out=min(HELD_OUT, options.rows // 5),
        warm=True,
    )


def with_peer(wanted: Job, ours: dict[str, Any], named: str | None) -> dict[str, Any]:
    """Return the ratio to SecretFlow, or null and why."""
    try:
        theirs = peers.secretflow(wanted, SECRETFLOW.interpreter(named))
    except peers.Unavailable as error:
        return {"ratio_to_secretflow": None, "secretflow": {"reason": str(error)}}
    ratio = ours["seconds_per_iteration"] / theirs["seconds_per_epoch"]
    return {"ratio_to_secretflow": ratio, "secretflow": theirs}


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended on the way out
    options = arguments()
    if options.all:
        table.main(options)
        return
    wanted = job(options)
    try:
        figures = run(wanted)
    except Failed as error:
        sys.exit(str(error))
    coefficients = figures.pop("coefficients")
    result = {"security": options.security, **figures}
    if wanted.data is None:
        result |= {"rows": wanted.rows, "total_seconds": result["seconds"], "seconds": result["fit_seconds"]}
    else:
        result["pooled"] = pooled.train(wanted, coefficients)
    if options.peers:
        result |= with_peer(wanted, figures, options.secretflow_python)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
