"""Encrypted gradients X^T [[r]] of 100,000 rows and 50 columns: the lattice engine, CKKS, and the noise."""

import time
from typing import Any

import numpy as np
import tenseal

from benchmarks.crypto.peers import Peer
from benchmarks.crypto.timing import Operation, Row, compare, ratio
from vfl.crypto.ckks import CKKSEvaluator, CKKSKeyHolder
from vfl.crypto.fresh import ReceivedCiphertexts
from vfl.crypto.innerproduct import Format
from vfl.crypto.lattice import GRADIENT, Matrix, PublicKey, SecretKey, noise_report
from vfl.crypto.rng import SystemRng

ROWS, COLUMNS = 100_000, 50
SAMPLE = 1000  # rows from which phe and sf-heu are extrapolated
TENSEAL_ROWS, TENSEAL_COLUMNS = 4096, 5
NOISE_ROWS = 1_000_000

Figures = dict[str, float | bool | int | None]


class Gradient:
    """One exchange under the lattice scheme, both sides, every message serialised and parsed again."""

    def __init__(self, matrix: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        self.rng = SystemRng()
        self.secret = SecretKey(GRADIENT, self.rng)
        self.public = PublicKey(GRADIENT, self.secret.public.to_bytes())
        self.prepare(matrix)  # compiles
        start = time.perf_counter()
        self.matrix = self.prepare(matrix)
        self.prepare_seconds = time.perf_counter() - start
        self.up = self.down = 0

    def prepare(self, matrix: np.ndarray[Any, np.dtype[np.float64]]) -> Matrix:
        return Matrix(GRADIENT, np.rint(matrix * 2**15).astype(np.int32), 1 << 15)

    def products(self, residuals: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
        layout, rng = self.matrix.layout, self.rng
        sent = self.secret.encrypt(layout.pack_rows(GRADIENT.residues(residuals)), rng).to_bytes()
        vector = self.public.accept(ReceivedCiphertexts(sent), layout.chunks)
        positions = layout.column_positions
        reply, masks = self.public.rerandomise(self.matrix.backward(vector), positions, rng)
        returned = reply.to_bytes()
        opened = self.secret.open(ReceivedCiphertexts(returned), layout.groups, positions)
        self.up, self.down = len(sent), len(returned)
        primes = np.array(GRADIENT.plain, np.uint32)
        shares = (layout.unpack_columns(opened) + (primes - layout.unpack_columns(masks))) % primes
        return GRADIENT.lift(shares)


def lattice(peers: dict[str, Peer], repeats: int) -> tuple[list[Row], Figures]:
    generator = np.random.default_rng(4)
    matrix = generator.uniform(-1, 1, (ROWS, COLUMNS))
    residuals = generator.integers(-(2**23), 2**23, ROWS)
    gradient = Gradient(matrix)
    integers = np.rint(matrix * 2**15).astype(np.int64)
    expected = integers.T @ residuals
    exact = True

    def ours() -> None:
        nonlocal exact
        exact = exact and gradient.products(residuals).tolist() == expected.tolist()

    def theirs(peer: Peer) -> None:
        if peer.product:
            peer.decrypt(peer.product(peer.encrypt(residuals[:SAMPLE]), integers[:SAMPLE]))

    floats = residuals.astype(np.float64)
    operations = [
        Operation("vfl, lattice", ours, 1.0, "exact, fresh, masked; messages parsed again"),
        Operation("numpy, plaintext, one thread", lambda: matrix.T @ floats),
    ]
    for name in ("phe", "sf-heu ou"):
        if name in peers:
            run: Any = lambda p=peers[name]: theirs(p)  # noqa: E731
            note = f"extrapolated from {SAMPLE:,} rows"
            operations.append(Operation(name, run, ROWS / SAMPLE, note))
    rows = compare(f"Gradient {ROWS:,} x {COLUMNS}, encrypt to decrypt", operations, repeats)
    return list(rows.values()), {
        "exact": exact,
        "seconds": rows["vfl, lattice"].seconds,
        "ratio_to_numpy": ratio(rows, "numpy, plaintext, one thread"),
        "ratio_to_phe": ratio(rows, "phe"),
        "ratio_to_heu_ou": ratio(rows, "sf-heu ou"),
        "bytes_up_per_row": gradient.up / ROWS,
        "bytes_down_per_feature": gradient.down / COLUMNS,
        "prepare_seconds": gradient.prepare_seconds,
    }


def ckks(peers: dict[str, Peer], repeats: int) -> tuple[list[Row], Figures]:
    generator, rng = np.random.default_rng(5), SystemRng()
    matrix, residuals = generator.uniform(-1, 1, (ROWS, COLUMNS)), generator.uniform(-1, 1, ROWS)
    format = Format(ROWS, 1.0)
    holder = CKKSKeyHolder(format, rng)
    evaluator = CKKSEvaluator.from_public(format, holder.public_bytes)
    prepared, expected = evaluator.prepare(matrix), matrix.T @ residuals
    error = 0.0

    def ours() -> None:
        nonlocal error
        sent = ReceivedCiphertexts(holder.encrypt(residuals, rng).to_bytes())
        reply, masks = evaluator.masked_products(sent, prepared, rng)
        opened = holder.open_masked(ReceivedCiphertexts(reply.to_bytes()), COLUMNS)
        found = evaluator.unmask(opened, masks)
        error = max(error, float(np.abs(found - expected).max() / np.abs(expected).max()))

    operations = [Operation("vfl, CKKS", ours, 1.0, "fresh; masks uniform modulo q, 40 bits of flooding")]
    if peers:
        context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40, 60])
        context.global_scale = 2.0**40
        context.generate_galois_keys()
        vector = residuals[:TENSEAL_ROWS].tolist()
        columns = [matrix[:TENSEAL_ROWS, j].tolist() for j in range(TENSEAL_COLUMNS)]

        def vectors() -> None:
            encrypted = tenseal.ckks_vector(context, vector)
            for column in columns:
                encrypted.dot(column).decrypt()

        share = ROWS / TENSEAL_ROWS * COLUMNS / TENSEAL_COLUMNS
        note = f"extrapolated from {TENSEAL_ROWS:,} x {TENSEAL_COLUMNS}; neither fresh randomness nor masks"
        operations.append(Operation("TenSEAL vectors", vectors, share, note))
    rows = compare(f"Gradient {ROWS:,} x {COLUMNS}, CKKS, both parties", operations, repeats)
    return list(rows.values()), {"seconds": rows["vfl, CKKS"].seconds, "relative_error": error}


def noise() -> Figures:
    """Measure the worst case of a million rows; `flooding_bits` are what covers the bound, not the measurement."""
    report = noise_report(NOISE_ROWS, SystemRng())
    return {
        "bound_bits": report.bound_bits,
        "measured_bits": report.measured_bits,
        "flooding_bits": report.flooding_bits,
    }
