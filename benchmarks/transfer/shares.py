"""Federated transfer learning on shares, in two processes over mutual TLS, against the same training in the clear."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import vfl
from benchmarks.parties import LEAKAGE, PARTIES, configure
from vfl.ftl import FTLClassifier, first_weights, standard

Floats = NDArray[np.float64]
COLUMNS = (13, 10)
ALL_ROWS = 2_000
SEEDS = {"guest": 1, "host": 2}


def generated(rows: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return the guest's columns of all its rows, the host's of the common ones, which come first, and labels."""
    rng = np.random.default_rng(3)
    cause = rng.normal(size=(max(rows, ALL_ROWS), 5))
    guest, host = (
        np.tanh(cause @ rng.normal(size=(5, k))) + 0.5 * rng.normal(size=(len(cause), k)) for k in COLUMNS
    )
    return guest, host[:rows], (cause[:, 0] + 0.5 * cause[:, 1] ** 2 > 0.3).astype(np.int64)


def model(options: argparse.Namespace, role: str, iterations: int) -> FTLClassifier:
    return FTLClassifier(width=options.width, max_iter=iterations, random_state=SEEDS[role])


def party(role: str, folder: Path, options: argparse.Namespace) -> None:
    """Be one of the two processes: train three times, one iteration first; the guest leaves figures in a file."""
    guest, host, y = generated(options.rows)
    n = options.rows
    with vfl.connect(folder / f"{role}.toml") as session:
        seconds, work = [], []
        for iterations in (1, 1, options.iterations + 1):  # the first compiles and warms up
            start, used, before = time.monotonic(), time.process_time(), dict(session.channel.bytes)
            fitted = model(options, role, iterations)
            if role == "guest":
                fitted.fit(guest[:n], y[:n], rest=guest[n:], rest_y=y[n:])
            else:
                fitted.fit(host)
            seconds.append(time.monotonic() - start)
            work.append(time.process_time() - used)
        sent = sum(session.channel.bytes.values()) - sum(before.values())
        scores = fitted.joint_predict_proba(guest[:n] if role == "guest" else host)
    if scores is not None:
        result = {
            "seconds": (seconds[2] - seconds[1]) / options.iterations,
            "processor": (work[2] - work[1]) / options.iterations,
            "bytes": sent // (options.iterations + 1),
            "losses": fitted.loss_curve_,
            "scores": scores[:, 1].tolist(),
        }
        (folder / "result.json").write_text(json.dumps(result))


def clear(options: argparse.Namespace) -> tuple[Floats, Floats]:
    """Return losses and probabilities of the same training in the clear, by back-propagation."""
    guest, host, labels = generated(options.rows)
    n, like = options.rows, model(options, "guest", options.iterations + 1)
    x, z = (standard(values, values.mean(axis=0), values.std(axis=0)) for values in (guest, host))
    y = np.where(labels == 1, 1.0, -1.0)
    weights = [
        first_weights(m.shape[1], options.width, SEEDS[role]) for m, role in ((x, "guest"), (z, "host"))
    ]
    velocities, losses = [np.zeros_like(w) for w in weights], []
    for _ in range(like.max_iter):
        u, v = np.tanh(x @ weights[0]), np.tanh(z @ weights[1])
        phi = y @ u / len(y)
        scores, apart = v @ phi, v - u[:n]
        taylor = np.log(2) - y[:n] * scores / 2 + scores**2 / 8
        losses.append(taylor.mean() + like.gamma * (apart**2).sum() / n)
        by_score = (scores / 4 - y[:n] / 2) / n
        by_v = np.outer(by_score, phi) + 2 * like.gamma * apart / n
        by_u = np.outer(y, by_score @ v) / len(y)
        by_u[:n] -= 2 * like.gamma * apart / n
        gradients = [x.T @ (by_u * (1 - u**2)), z.T @ (by_v * (1 - v**2))]
        for w, velocity, gradient in zip(weights, velocities, gradients, strict=True):
            velocity *= like.momentum
            velocity -= like.learning_rate * (gradient + like.alpha * w)
            w += velocity
    phi = y @ np.tanh(x @ weights[0]) / len(y)
    return np.array(losses), 1 / (1 + np.exp(-np.tanh(z @ weights[1]) @ phi))


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Train over two processes and compare losses and probabilities with the training in the clear."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configure(folder, leakage=LEAKAGE["exchange"])
        command = [sys.executable, "-m", "benchmarks.transfer", "--ftl", "--rows", str(options.rows)]
        command += ["--width", str(options.width), "--iterations", str(options.iterations), "--folder", name]
        processes = [subprocess.Popen([*command, "--role", role]) for role in PARTIES]
        codes = [process.wait() for process in processes]
        if any(codes):
            raise RuntimeError(f"a party ended with exit codes {codes}")
        found = json.loads((folder / "result.json").read_text())
    losses, scores = clear(options)
    errors = [np.abs(losses - found["losses"]).max(), np.abs(scores - found["scores"]).max()]
    return {
        "seconds_per_iteration": round(found["seconds"], 3),
        "guest_processor_seconds": round(found["processor"], 3),
        "max_error": float(f"{max(errors):.2e}"),
        "bytes_per_iteration": found["bytes"],
        "rows": options.rows,
        "width": options.width,
        "iterations": options.iterations + 1,
        "first_loss": round(float(losses[0]), 4),
        "last_loss": round(float(losses[-1]), 4),
    }
