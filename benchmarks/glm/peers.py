"""SecretFlow on the same rows, in an environment of its own and in the same run.

Its packages contradict ours, so it has its own interpreter: the one that --secretflow-python or the variable
VFL_SECRETFLOW_PYTHON names, otherwise `python` of the environment that this module makes from secretflow.txt in the
user's cache folder when it is first needed (Python 3.11 and a package index are; 2 GB).
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.glm.jobs import Job
from benchmarks.glm.pooled import tables
from vfl import metrics

VARIABLE = "VFL_SECRETFLOW_PYTHON"
HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vfl-benchmarks" / "secretflow"
INSTALL_SECONDS = 900


class Unavailable(Exception):
    """The peer cannot run here; the text says why."""


def interpreter(named: str | None) -> str:
    """Return the interpreter that has SecretFlow; make its environment if none is named.

    Raises
    ------
    Unavailable
    """
    python = named or os.environ.get(VARIABLE)
    if python is None:
        python = str(CACHE / "bin" / "python")
        if not (CACHE / "complete").exists():
            install(CACHE)
    probe = subprocess.run([python, "-c", "import secretflow"], capture_output=True, text=True)
    if probe.returncode:
        raise Unavailable(f"{python} cannot import secretflow: {(probe.stderr.splitlines() or ['?'])[-1]}")
    return python


def install(folder: Path) -> None:
    """Make the peer's environment.

    Raises
    ------
    Unavailable
    """
    base = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if base is None:
        raise Unavailable("SecretFlow 1.11.0b1 needs Python 3.11, which is not on the path")
    print(f"installing SecretFlow into {folder}", file=sys.stderr)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", "-r"]
    for command in ([base, "-m", "venv", "--clear", str(folder)], [*pip, str(HERE / "secretflow.txt")]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"SecretFlow cannot be installed: {error}") from None
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["?"])[-1]
            raise Unavailable(f"SecretFlow cannot be installed: {reason}")
    (folder / "complete").touch()


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
