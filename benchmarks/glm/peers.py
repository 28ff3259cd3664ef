"""SecretFlow on the same rows, in an environment of its own and in the same run.

Its packages contradict ours, so it has its own interpreter, see :mod:`benchmarks.environments` (2 GB, Python 3.11).
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environments import Unavailable
from benchmarks.glm.jobs import Job
from benchmarks.glm.pooled import tables
from vfl import metrics

__all__ = ["Unavailable", "secretflow"]

HERE = Path(__file__).resolve().parent


def secretflow(
    job: Job, python: str, *, algorithm: str = "ss-lr", epochs: int = 3, limit: float = 1800
) -> dict[str, Any]:
    """Train SecretFlow's logistic regression on a job's training rows; return its figures.

    Raises
    ------
    Unavailable
        If it fails or needs more than `limit` seconds.
    """
    values, y, test, own = tables(job)
    truth = y == np.unique(y)[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "rows.npz", guest=values[:, :own], host=values[:, own:], y=truth, test=test)
        del values
        command = [python, str(HERE / "secretflow_worker.py"), algorithm, str(epochs), name]
        with (folder / "log").open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                raise Unavailable(f"not finished within {limit:.0f} s") from None
            finally:
                _end(process)
        if not (folder / "result.json").exists():
            lines = (folder / "log").read_text(errors="replace").strip().splitlines() or ["?"]
            raise Unavailable(f"failed: {lines[-1][:300]}")
        figures: dict[str, Any] = json.loads((folder / "result.json").read_text())
    predicted = np.array(figures.pop("predicted"))
    figures["auc"] = metrics.roc_auc(truth[test].astype(int), predicted) if len(predicted) else None
    return figures


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the peer and every process that it started; it has a group of its own."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, sign)
            process.wait(20)
