"""The libraries to compare with, each in an environment of its own: they need versions that exclude each other."""

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parents[2] / ".venv-peers"
REQUIREMENTS = {"spu": ["spu==0.9.3b0", "numpy<2"], "openmined": ["openmined-psi==2.0.4"]}
SAMPLE = 100_000  # rows that openmined-psi gets; its time grows linearly and is scaled


def interpreter(name: str) -> Path:
    """Return the Python of a peer's environment, which is made if it is missing (Python 3.11 for spu)."""
    home = FOLDER / name
    python = home / "bin" / "python"
    if not python.exists():
        print(f"installing {', '.join(REQUIREMENTS[name])} into {home}", file=sys.stderr)
        venv.create(home, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]], check=True)
    return python


def script(name: str) -> str:
    return str(Path(__file__).with_name(name))


def spu(folder: Path, protocol: str, port: int, repeats: int) -> dict[str, Any]:
    """Run SecretFlow's in-memory intersection in two processes; both get the result."""
    command = [str(interpreter("spu")), script("spu_rank.py"), str(folder), protocol, str(port), str(repeats)]
    ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)]
    printed = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise RuntimeError(f"spu failed: {printed}")
    both = [json.loads(text.splitlines()[-1]) for text in printed]
    starts, ends = (np.array([told[field] for told in both]) for field in ("starts", "ends"))
    seconds = float(np.median(ends.max(axis=0) - starts.min(axis=0)))
    return {"seconds": seconds, "matched": both[0]["matched"], "bytes": both[0]["loopback_bytes"]}


def openmined(folder: Path, rows: int) -> dict[str, Any]:
    """Run openmined-psi's client and server, one after the other, on a sample; scale the time to all rows."""
    sample = min(rows, SAMPLE)
    command = [str(interpreter("openmined")), script("openmined_pair.py"), str(folder), str(sample)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    told: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return {**told, "sample": sample, "seconds": told["seconds"] * rows / sample}
