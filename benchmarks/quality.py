"""Train over two processes and mutual TLS, and compare with the guest's columns alone and with pooled data.

    python -m benchmarks.quality [--data DIR] [--he ckks|paillier] [--security strict|exchange] [--label y] [--id id]

Training is strict, or the gradient exchange if its encryption is named. DIR holds guest.csv and host.csv; without it
the German Credit data of the package are used. Rows whose identifier is an integer divisible by 5 are held out; other
identifiers are held out when a hash of them is. The last line printed is one JSON object. `seconds` covers alignment,
training and scoring in both processes, without their start; `bytes` is everything that crossed, both ways.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import vfl
from benchmarks.parties import LEAKAGE, PARTIES, configure
from vfl import metrics
from vfl.datasets import german_credit
from vfl.identifiers import prepare_ids


def held_out(ids: list[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Choose a fifth of the rows by identifier alone."""

    def number(value: str) -> int:
        return int(value) if value.isdecimal() else hashlib.sha256(value.encode()).digest()[0]

    return np.array([number(value) % 5 == 0 for value in ids])


def read(path: Path, id_column: str) -> pl.DataFrame:
    """Read a table with its identifiers as text."""
    table = vfl.read_table(path, text=[id_column])
    if not isinstance(table, pl.DataFrame):
        raise TypeError("read_table returns polars frames")
    return table


def party(role: str, folder: Path, options: argparse.Namespace) -> None:
    """Be one of the two processes; leave the figures in a file."""
    table = read(options.data / f"{role}.csv", options.id)
    with vfl.connect(folder / f"{role}.toml") as session:
        start = time.monotonic()
        rows = vfl.align(table, on=options.id)
        test = held_out(rows[options.id].to_list())
        features = rows.drop(options.id, *([options.label] if role == "guest" else []))
        model = vfl.LogisticRegression(security=options.security, he=options.he)
        if role == "host":
            model.fit(features.filter(~test))
            model.predict_proba(features.filter(test))
            return
        y = rows[options.label].to_numpy()
        model.fit(features.filter(~test), y[~test])
        probabilities = model.predict_proba(features.filter(test))[:, 1]
        seconds = time.monotonic() - start
        truth = (y[test] == model.classes_[1]).astype(int)
        figures = vfl.record_metrics("joint", truth, probabilities)
        traffic = session.channel.bytes
        result = {
            "auc": figures["auc"],
            "ks": figures["ks"],
            "log_loss": figures["log_loss"],
            "seconds": seconds,
            "bytes": traffic["sent"] + traffic["received"],
            "epochs": model.n_iter_,
            "rows": len(rows),
        }
        (folder / "result.json").write_text(json.dumps(result))


def write_german_credit(folder: Path) -> Path:
    """Write the tables of the demo, identified by telephone numbers in one notation; return the folder."""
    parties = german_credit()
    for role, table in (("guest", parties.bank.rename({"default": "y"})), ("host", parties.retailer)):
        keys = prepare_ids(table, "phone", normalise="phone:DE", party=role).keys
        table.with_columns(id=pl.Series([key.decode() for key in keys])).drop("phone").write_csv(
            folder / f"{role}.csv"
        )
    return folder


def references(options: argparse.Namespace) -> dict[str, float]:
    """Train scikit-learn on the guest's columns and on pooled columns, over the same rows."""
    guest, host = (read(options.data / f"{role}.csv", options.id) for role in PARTIES)
    pooled = guest.join(host, on=options.id, suffix="_host").sort(options.id)
    test, y = held_out(pooled[options.id].to_list()), pooled[options.label].to_numpy()
    truth = (y == np.unique(y)[1]).astype(int)
    columns = {
        "guest_auc": [name for name in guest.columns if name not in (options.id, options.label)],
        "pooled_auc": [name for name in pooled.columns if name not in (options.id, options.label)],
    }
    figures = {}
    for name, used in columns.items():
        values = pooled.select(used).to_numpy()
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
        model.fit(values[~test], truth[~test])
        figures[name] = metrics.roc_auc(truth[test], model.predict_proba(values[test])[:, 1])
    return figures


def main() -> None:
    """Run both processes and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--security", choices=["strict", "exchange"])
    parser.add_argument("--he", choices=["auto", "lattice", "ckks", "paillier"], default="auto")
    parser.add_argument("--label", default="y")
    parser.add_argument("--id", default="id")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--role", choices=list(PARTIES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.security is None:
        options.security = "exchange" if options.he in ("ckks", "paillier") else "strict"
    if options.role:
        party(options.role, options.folder, options)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configure(folder, leakage=LEAKAGE[options.security], verbose=int(options.verbose))
        if options.data is None:
            options.data = write_german_credit(folder)
        arguments = [*sys.argv[1:], "--data", str(options.data), "--folder", name, "--role"]
        command = [sys.executable, "-m", "benchmarks.quality", *arguments]
        processes = [subprocess.Popen([*command, role], env=os.environ) for role in PARTIES]
        codes = [process.wait() for process in processes]
        if any(codes):
            sys.exit(f"a party failed: exit codes {codes}")
        result = json.loads((folder / "result.json").read_text())
        figures = {**result, **references(options), "security": options.security, "he": options.he}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
