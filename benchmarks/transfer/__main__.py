"""Train over few common rows and compare with guest only, overlap only and joint training.

    python -m benchmarks.transfer --data DIR --overlap F [--seeds K] [--labelled N] [--label y] [--id id]
    python -m benchmarks.transfer --ftl [--rows 500] [--width 32] [--iterations 10]

DIR holds guest.csv and host.csv, with integer identifiers; rows whose identifier is divisible by 5 are held out. Of the
others, a random part F is common; the guest has its columns and labels of all of them, the host its columns.
`transfer_auc` scores held-out rows with the host's representations of them, `transfer_alone_auc` by the guest alone.
`guest_auc` (the guest's columns of all rows), `overlap_auc` (all columns of the common rows) and `joint_auc` (all
columns of all rows, which is what pooling would give) are boosted trees in the clear. `_spread` is the largest minus
the smallest over K random overlaps. With more than two classes an AUC is the mean of each class against the rest.

With --labelled only N of the common rows have a label, and no other row has one: `guest_auc` and `overlap_auc` are then
trained on N rows, `joint_auc` still on all.

With --ftl, federated transfer learning runs in two processes over mutual TLS on generated data, three times: one
iteration to warm up, one again, then one more than asked for; the difference of the last two counts.
`guest_processor_seconds` is what one party's processors worked in an iteration, which other work on the machine does
not lengthen much. `max_error` is the largest difference of a loss or a probability to the same training in the clear.
The last line printed is one JSON object.
"""

import argparse
import json
from pathlib import Path

from benchmarks.transfer import oneshot, shares


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.transfer")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--overlap", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labelled", type=int)
    parser.add_argument("--label", default="y")
    parser.add_argument("--id", default="id")
    parser.add_argument("--ftl", action="store_true")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--role", choices=["guest", "host"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        shares.party(options.role, options.folder, options)
        return
    if options.ftl:
        print(json.dumps(shares.measure(options)))
        return
    if options.data is None:
        parser.error("--data or --ftl is missing")
    if not 0 < options.overlap <= 1:
        parser.error("--overlap lies between 0 and 1")
    where = options.label, options.id
    print(json.dumps(oneshot.measure(options.data, options.overlap, options.seeds, *where, options.labelled)))


if __name__ == "__main__":
    main()
