"""Others on the same sizes in the same run: Flower's SecAgg+ functions, and sums of TenSEAL's CKKS vectors.

Flower runs in an environment of its own, made from flower.txt in the user's cache folder when it is first needed, or
in the one whose interpreter --flower-python or the variable VFL_FLOWER_PYTHON names.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.glm.peers import CACHE, INSTALL_SECONDS, Unavailable
from benchmarks.secagg.ours import Size

__all__ = ["Unavailable", "flower", "interpreter", "tenseal"]

VARIABLE = "VFL_FLOWER_PYTHON"
HERE = Path(__file__).resolve().parent
CHUNKS = 12  # of CKKS that are really encrypted


def interpreter(named: str | None) -> str:
    """Return the interpreter that has Flower; make its environment if none is named.

    Raises
    ------
    Unavailable
    """
    python = named or os.environ.get(VARIABLE)
    if python is None:
        folder = CACHE.parent / "flower"
        python = str(folder / "bin" / "python")
        if not (folder / "complete").exists():
            print(f"installing Flower into {folder}", file=sys.stderr)
            _done([sys.executable, "-m", "venv", "--clear", str(folder)])
            _done([python, "-m", "pip", "install", "--quiet", "-r", str(HERE / "flower.txt")])
            (folder / "complete").touch()
    _done([python, "-c", "import flwr.common.secure_aggregation"])
    return python


def flower(size: Size, neighbours: int, threshold: int, python: str) -> dict[str, Any]:
    """Return the figures of Flower's functions, with as many neighbours as ours.

    Raises
    ------
    Unavailable
    """
    numbers = (size.clients, neighbours, threshold, size.params, size.lost, size.bits)
    printed = _done([python, str(HERE / "flower_worker.py"), *map(str, numbers)])
    figures: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return figures


def _done(command: list[str]) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"Flower cannot run: {error}") from None
    if done.returncode:
        raise Unavailable(f"Flower cannot run: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return done.stdout


def tenseal(size: Size) -> dict[str, Any]:
    """Return the figures of a sum of CKKS vectors under one key: nothing survives the key holder, nothing is masked.

    Some chunks of 4,096 numbers are encrypted and the times scaled to all.
    """
    import tenseal as ts

    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60])
    context.global_scale = 2.0**40
    generator = np.random.default_rng(3)
    chunks = -(-size.params // 4096)
    some = min(chunks, CHUNKS)
    start = time.perf_counter()
    sent = [ts.ckks_vector(context, generator.uniform(-1, 1, 4096).tolist()).serialize() for _ in range(some)]
    client = (time.perf_counter() - start) * chunks / some
    start = time.perf_counter()
    vectors = [ts.ckks_vector_from(context, raw) for raw in sent]
    total = vectors[0]
    for vector in vectors:
        total = total + vector
    server = (time.perf_counter() - start) * chunks / some * (size.clients - size.lost)
    size_bytes = sum(map(len, sent)) * chunks / some
    return {
        "client_seconds": client,
        "server_seconds": server,
        "bytes_per_param": size_bytes / size.params,
    }
