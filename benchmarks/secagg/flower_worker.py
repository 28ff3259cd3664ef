"""Flower's SecAgg+ functions, called as its mod and its workflow call them; run by Flower's interpreter, not ours.

    python flower_worker.py CLIENTS NEIGHBOURS THRESHOLD PARAMS LOST BITS

One client's part is run with `PAIRS` of its pair masks and scaled to all; of the server's part each kind of step is
timed and multiplied by how often it happens. The last line is JSON.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

COMMON = "flwr.common.secure_aggregation"
shamir = importlib.import_module(f"{COMMON}.crypto.shamir")
symmetric = importlib.import_module(f"{COMMON}.crypto.symmetric_encryption")
arithmetic = importlib.import_module(f"{COMMON}.ndarrays_arithmetic")
quantize = importlib.import_module(f"{COMMON}.quantization").quantize
pseudo_rand_gen = importlib.import_module(f"{COMMON}.secaggplus_utils").pseudo_rand_gen
generate_key_pairs = importlib.import_module("flwr.supercore.primitives.asymmetric").generate_key_pairs
ndarray_to_bytes = importlib.import_module("flwr.common").ndarray_to_bytes

MOD = 1 << 32  # Flower's default
PAIRS = 12  # pair masks that are really made: they are all alike


def timed(work: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Return the least time of a call, and its result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


def main() -> None:
    clients, neighbours, threshold, params, lost, bits = (int(text) for text in sys.argv[1:])
    values = [np.random.default_rng(1).uniform(-1, 1, params)]
    keys, (own, _) = timed(lambda: (generate_key_pairs(), generate_key_pairs())[0])
    others = [generate_key_pairs()[1] for _ in range(min(neighbours, PAIRS))]
    scale = neighbours / len(others)
    shares, (pieces, _) = timed(
        lambda: [shamir.create_shares(os.urandom(32), threshold, neighbours + 1) for _ in range(2)]
    )
    sealing, _ = timed(
        lambda: [
            symmetric.decrypt(k, symmetric.encrypt(k, bytes(140)))
            for k in (symmetric.generate_shared_key(own, o) for o in others)
        ]
    )
    prepare, vector = timed(
        lambda: arithmetic.factor_combine(
            1 << bits, quantize(arithmetic.parameters_multiply(values, 1.0), 1.0, 1 << bits)
        ),
        2,
    )
    shapes = [array.shape for array in vector]
    mask, stream = timed(lambda: pseudo_rand_gen(os.urandom(32), MOD, shapes), 3)
    agree, _ = timed(lambda: [symmetric.generate_shared_key(own, o) for o in others])
    add, masked = timed(lambda: arithmetic.parameters_addition(vector, stream), 3)
    finish, raw = timed(lambda: [ndarray_to_bytes(a) for a in arithmetic.parameters_mod(masked, MOD)], 2)
    client = keys + shares + scale * (sealing + agree) + prepare + (neighbours + 1) * (mask + add) + finish
    combine, _ = timed(lambda: shamir.combine_shares(pieces[:threshold]), 2)
    alive = clients - lost
    near = neighbours * alive / clients  # surviving neighbours of a lost client
    server = (alive + lost) * combine + alive * add + (alive + lost * near) * (mask + add)
    print(
        json.dumps(
            {
                "client_seconds": client,
                "server_seconds": server,
                "bytes_per_param": sum(map(len, raw)) / params,
                "mask_seconds": mask + add,
                "combine_seconds": combine,
            }
        )
    )


if __name__ == "__main__":
    main()
