"""Others on the same sizes in the same run: Flower's SecAgg+ functions, and sums of TenSEAL's CKKS vectors.

Flower runs in an environment of its own, see :mod:`benchmarks.environments`.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environments import Unavailable, output
from benchmarks.secagg.ours import Size

__all__ = ["Unavailable", "flower", "tenseal"]

HERE = Path(__file__).resolve().parent
CHUNKS = 12  # of CKKS that are really encrypted


def flower(size: Size, neighbours: int, threshold: int, python: str) -> dict[str, Any]:
    """Return the figures of Flower's functions, with as many neighbours as ours.

    Raises
    ------
    Unavailable
    """
    numbers = (size.clients, neighbours, threshold, size.params, size.lost, size.bits)
    printed = output("Flower", [python, str(HERE / "flower_worker.py"), *map(str, numbers)])
    figures: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return figures


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
