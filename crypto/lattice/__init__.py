"""Lattice encryption for linear algebra: symmetric-key BFV with coefficient packing; see :mod:`.scheme`.

Importing this package imports numba; the kernels are compiled at first use and cached on disk.
"""

from vfl.crypto.lattice.packing import Layout, Matrix, NoiseReport, Slots, noise_report
from vfl.crypto.lattice.params import GRADIENT, SHARES, SLOTS, Parameters
from vfl.crypto.lattice.scheme import Ciphertexts, PublicKey, SecretKey
from vfl.crypto.lattice.wire import FreshProducts, FreshVector, products_bytes, vector_bytes

__all__ = [
    "GRADIENT",
    "SHARES",
    "SLOTS",
    "Ciphertexts",
    "FreshProducts",
    "FreshVector",
    "Layout",
    "Matrix",
    "NoiseReport",
    "Parameters",
    "PublicKey",
    "SecretKey",
    "Slots",
    "noise_report",
    "products_bytes",
    "vector_bytes",
]
