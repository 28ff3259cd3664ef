"""Train a neural network across two parties and compare it with a pooled network of the same width.

    python -m benchmarks.neural --data DIR [--set default_credit|vehicle|digits] [--mode source|split] [--attack]
                                [--seeds K]

DIR holds guest.csv and host.csv with integer identifiers, the guest's with labels y; or it holds folders of that kind,
of which `--set` names one (default_credit without it). The digits, in left and right halves, come with scikit-learn.
Rows whose identifier is divisible by 5 are held out. `--mode source` trains vfl.NeuralClassifier on shares in two
processes over mutual TLS, `--mode split` vfl.SplitClassifier; `--attack` adds attacks. The last line printed is one
JSON object with `auc` (two classes) or `accuracy`, that of a pooled network as `pooled_auc` or `pooled_accuracy`, and
`step_seconds`; of sets of few rows, means over three first weights (K, if given), with
`_spread`: the largest minus the smallest.
"""

import argparse
import importlib
import json
from pathlib import Path

from benchmarks.neural.sets import SETS


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.neural", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--set", metavar="|".join(SETS))
    parser.add_argument("--mode", choices=["source", "split"], default="source")
    parser.add_argument("--attack", action="store_true")
    parser.add_argument("--seeds", type=int, help="trainings, from other first weights each")
    options, others = parser.parse_known_args()
    if others and others[0] != "--role":
        parser.error(f"unknown arguments: {' '.join(others)}")
    mode = importlib.import_module(f"benchmarks.neural.{options.mode}")
    if others:  # one of the two processes that `run` starts
        mode.party(others[1:], options.data, options.set)
        return
    folder, name = find(parser, options.data, options.set)
    if options.seeds is not None and options.seeds < 1:
        parser.error("--seeds takes a positive number")
    print(json.dumps(mode.run(folder, name, options.attack, options.seeds)))


def find(parser: argparse.ArgumentParser, folder: Path | None, name: str | None) -> tuple[Path, str]:
    """Return the folder of the tables and the name of the set."""
    if name == "digits" or (name is None and folder is not None and folder.name == "digits"):
        return folder or Path(), "digits"
    if folder is None:
        parser.error("--data is missing")
    if (folder / "guest.csv").exists():
        return folder, name or folder.resolve().name
    inside = folder / (name or SETS[0])
    if not (inside / "guest.csv").exists():
        parser.error(f"{folder} holds neither guest.csv nor {inside.name}/guest.csv")
    return inside, inside.name


if __name__ == "__main__":
    main()
