"""Paillier keys for tests: primes from the vectors, so that no test waits and small keys stay here."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from gmpy2 import mpz

from vfl.crypto.paillier import PrivateKey

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "paillier.json").read_text())


def primes(bits: int) -> tuple[mpz, mpz]:
    pair = VECTORS["keys"][str(bits)]
    return mpz(pair["p"], 16), mpz(pair["q"], 16)


@cache
def private_key(bits: int) -> PrivateKey:
    """Return the key whose modulus has `bits` bits: 512, 1024 or 2048."""
    return PrivateKey(*primes(bits))
