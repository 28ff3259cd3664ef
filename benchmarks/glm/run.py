"""Run a job in two processes and gather what they found."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.glm.jobs import Job
from benchmarks.glm.link import shaped
from benchmarks.parties import LEAKAGE, PARTIES, configure, free_address

PATIENCE_SECONDS = 30


class Failed(Exception):
    """A party's process failed; its error is on standard error."""


def run(job: Job) -> dict[str, Any]:
    """Train as both parties over mutual TLS on this machine; return the guest's figures and the largest peak.

    Raises
    ------
    Failed
    """
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder, listen = Path(name), free_address()
        connect = stack.enter_context(shaped(job.link, listen)) if job.link else listen
        (folder / "job.json").write_bytes(msgspec.json.encode(job))
        configure(
            folder,
            leakage=LEAKAGE[job.security],
            verbose=int(job.verbose),
            listen=listen,
            connect=connect,
            wait_seconds=900,
        )
        command = [sys.executable, "-m", "benchmarks.glm.party"]
        processes = [subprocess.Popen([*command, role, name], stdout=sys.stderr) for role in PARTIES]
        for process in processes:
            stack.callback(process.terminate)
        codes = _wait(processes)
        if any(codes):
            raise Failed(f"a party failed: exit codes {codes}")
        guest, host = (json.loads((folder / f"{role}.json").read_text()) for role in PARTIES)
    return {
        **{key: value for key, value in guest.items() if key != "coefficients"},
        "peak_mib": max(guest["peak_mib"], host["peak_mib"]),
        "columns": [guest["columns"], host["columns"]],
        "coefficients": (guest["coefficients"], host["coefficients"]),
    }


def _wait(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for both; where one fails, the other has a moment to say so and is ended."""
    while any(process.poll() is None for process in processes):
        time.sleep(0.05)
        if any(process.poll() for process in processes):
            for process in processes:
                try:
                    process.wait(PATIENCE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.terminate()
    return [process.wait() for process in processes]
