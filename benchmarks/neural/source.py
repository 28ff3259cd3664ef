"""The network on shares, in two processes over mutual TLS, against a pooled network of the same width."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import vfl
from benchmarks.neural import opened
from benchmarks.neural.sets import Tables, load
from benchmarks.parties import PARTIES, configure

UNITS = 32
SEEDS = 3
"""First weights that few rows are trained from, in turn."""
LARGE = 5_000
"""Rows from which one training is enough, and the pooled network stops early, by rows that it holds out."""


def party(arguments: list[str], folder: Path, name: str) -> None:
    """Be one of the two processes: warm up, train, score held-out rows; the guest leaves figures in a file."""
    role, work, seeds = arguments[0], Path(arguments[1]), int(arguments[2])
    tables = load(folder, name)
    values = tables.guest if role == "guest" else tables.host
    train, test = np.flatnonzero(~tables.test), np.flatnonzero(tables.test)
    y = tables.y if role == "guest" else None

    def fit(rows: Any, **parameters: Any) -> vfl.NeuralClassifier:
        network = vfl.NeuralClassifier(hidden_units=UNITS, **parameters)
        return network.fit(values[rows], None if y is None else y[rows])

    with vfl.connect(work / f"{role}.toml") as session:
        fit(train[:300], epochs=2)  # compiles
        start, used, before = time.monotonic(), time.process_time(), sum(session.channel.bytes.values())
        trained = [fit(train) for _ in range(seeds)]
        seconds, processor = time.monotonic() - start, time.process_time() - used
        sent = sum(session.channel.bytes.values()) - before
        found = [fitted.predict_proba(values[test]) for fitted in trained]
    if role == "guest":
        steps = sum(fitted.n_steps_ for fitted in trained)
        figures = {
            "values": [tables.measure(probabilities) for probabilities in found],
            "steps": trained[0].n_steps_,
            "step_seconds": round(seconds / steps, 3),
            "guest_processor_seconds": round(processor / steps, 3),
            "bytes_per_step": sent // steps,
            "seconds": round(seconds, 1),
        }
        (work / "result.json").write_text(json.dumps(figures))


def pooled(tables: Tables) -> list[float]:
    """Return the figure of usual networks of the same width on all columns, from several first weights."""
    train, columns = ~tables.test, tables.pooled
    found = []
    for seed in range(SEEDS):
        network = MLPClassifier(
            (UNITS,), max_iter=1000, early_stopping=bool(train.sum() > LARGE), random_state=seed
        )
        fitted = make_pipeline(StandardScaler(), network).fit(columns[train], tables.y[train])
        found.append(tables.measure(fitted.predict_proba(columns[tables.test])))
    return found


def run(data: Path, name: str, attack: bool, seeds: int | None) -> dict[str, Any]:
    """Train over two processes, so many times or as the number of rows suggests; return the figures."""
    tables = load(data, name)
    seeds = seeds or (1 if (~tables.test).sum() > LARGE else SEEDS)
    with tempfile.TemporaryDirectory() as folder:
        configure(Path(folder))
        command = [sys.executable, "-m", "benchmarks.neural", "--data", str(data), "--set", name]
        processes = [subprocess.Popen([*command, "--role", role, folder, str(seeds)]) for role in PARTIES]
        codes = [process.wait() for process in processes]
        if any(codes):
            sys.exit(f"a party failed: exit codes {codes}")
        found = json.loads((Path(folder) / "result.json").read_text())
    values, usual, figure = found.pop("values"), pooled(tables), tables.figure
    return {
        figure: round(float(np.mean(values)), 4),
        f"{figure}_spread": round(max(values) - min(values), 4),
        f"pooled_{figure}": round(float(np.mean(usual)), 4),
        f"pooled_{figure}_spread": round(max(usual) - min(usual), 4),
        **found,
        "set": name,
        "mode": "source",
        "rows": int((~tables.test).sum()),
        "columns": [tables.guest.shape[1], tables.host.shape[1]],
        "hidden_units": UNITS,
        **(opened.attack(tables) if attack else {}),
    }
