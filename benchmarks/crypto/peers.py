"""The libraries to compare with. Each is optional: what cannot be imported does not run.

All multiply by 16-bit integers and have keys of 2048 bits. Timed work is the library's fastest documented way for
lists; conversion to its own plaintexts is included where every call needs it.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Integers = np.ndarray[Any, np.dtype[np.int64]]
BITS = 2048


@dataclass(frozen=True)
class Peer:
    """One library: encrypt a vector, decrypt it, multiply X^T r, sum by bin; None where it has no such thing."""

    name: str
    encrypt: Callable[[Integers], Any]
    decrypt: Callable[[Any], list[int]]
    product: Callable[[Any, Integers], Any] | None = None
    histogram: Callable[[Any, Integers, int], Any] | None = None
    repeat: Callable[[Any, int], Any] | None = None


def python_paillier() -> Peer:
    phe = importlib.import_module("phe")
    public, private = phe.generate_paillier_keypair(n_length=BITS)

    def product(ciphertexts: list[Any], matrix: Integers) -> list[Any]:
        columns = matrix.T.tolist()
        return [sum(c * x for c, x in zip(ciphertexts, column, strict=True)) for column in columns]

    return Peer(
        "phe",
        lambda values: [public.encrypt(value) for value in values.tolist()],
        lambda ciphertexts: [private.decrypt(c) for c in ciphertexts],
        product,
    )


def heu(scheme: str) -> Peer:
    arrays, phe = importlib.import_module("heu.numpy"), importlib.import_module("heu.phe")
    kit = arrays.setup(getattr(phe.SchemaType, scheme), BITS)
    encryptor, decryptor, evaluator = kit.encryptor(), kit.decryptor(), kit.evaluator()
    scale = phe.IntegerEncoderParams(1)

    def array(values: Integers) -> Any:
        return kit.array(np.ascontiguousarray(values), scale)

    def decrypt(ciphertexts: Any) -> list[int]:
        opened = decryptor.decrypt(ciphertexts)
        return [int(str(opened[i, 0])) for i in range(opened.rows)]

    def histogram(ciphertexts: Any, bins: Integers, size: int) -> Any:
        everyone = np.ones(len(bins), np.int8)
        return evaluator.feature_wise_bucket_sum(ciphertexts, everyone, bins.astype(np.int8), size, False)

    return Peer(
        f"sf-heu {scheme.lower()}",
        lambda values: encryptor.encrypt(array(values.reshape(-1, 1))),
        decrypt,
        lambda ciphertexts, matrix: evaluator.matmul(array(matrix.T), ciphertexts),
        histogram,
        lambda ciphertexts, times: ciphertexts[list(range(ciphertexts.rows)) * times, :],
    )


def pypaillier() -> Peer:
    paillier = importlib.import_module("paillier")
    public, private = paillier.generate_keypair(BITS)
    return Peer(
        "pypaillier",
        lambda values: paillier.encrypt_integers(public, values.tolist()),
        lambda blobs: [value for value, _ in paillier.decrypt_exact_many(private, blobs)],
    )


def available() -> dict[str, Peer]:
    """Return the peers that are installed and decrypt what they encrypt."""
    found: dict[str, Peer] = {}
    for make in (python_paillier, lambda: heu("ZPaillier"), lambda: heu("OU"), pypaillier):
        try:
            peer = make()
        except ImportError as error:
            print(f"not installed: {error.name}")
            continue
        probe = np.array([5, -7, 0])
        if [int(value) for value in peer.decrypt(peer.encrypt(probe))] != probe.tolist():
            raise RuntimeError(f"{peer.name} does not decrypt what it encrypted")
        found[peer.name] = peer
    return found
