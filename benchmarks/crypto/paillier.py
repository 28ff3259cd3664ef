"""Paillier at 2048 bits: encryption, decryption, gradient, histogram."""

from typing import Any

import numpy as np

from benchmarks.crypto.peers import BITS, Peer
from benchmarks.crypto.timing import Operation, Row, compare, ratio
from vfl.crypto.histogram import Histogram, HistogramFormat
from vfl.crypto.innerproduct import Format
from vfl.crypto.packing import PaillierEvaluator, PaillierKeyHolder
from vfl.crypto.paillier import PrivateKey
from vfl.crypto.paillier_tables import TableEncryptor
from vfl.crypto.rng import SystemRng

VALUES = 2000  # sf-heu uses its threads from about this many on
SAMPLE = 1000  # rows from which the peers' gradients are extrapolated
ROWS, COLUMNS = 10_000, 20
HISTOGRAM_ROWS, FEATURES, BINS = 100_000, 20, 32


def encryption(key: PrivateKey, peers: dict[str, Peer], repeats: int) -> dict[str, Row]:
    rng, tables = SystemRng(), TableEncryptor(key, SystemRng())
    values = np.random.default_rng(1).integers(-(2**24), 2**24, VALUES)
    numbers = values.tolist()
    operations = [
        Operation("vfl, key holder, tables", lambda: tables.encrypt(numbers, rng), 1 / VALUES),
        Operation("vfl, key holder, exact", lambda: key.encrypt(numbers[:400], rng), 1 / 400),
        Operation("vfl, public key", lambda: key.public_key.encrypt(numbers[:80], rng), 1 / 80),
    ]
    for peer in peers.values():
        count = 30 if peer.name == "phe" else VALUES
        operations.append(Operation(peer.name, lambda p=peer, n=count: p.encrypt(values[:n]), 1 / count))  # type: ignore[misc]
    return compare("Paillier 2048, encrypt one value", operations, repeats)


def decryption(key: PrivateKey, peers: dict[str, Peer], repeats: int) -> dict[str, Row]:
    values = np.random.default_rng(1).integers(-(2**24), 2**24, VALUES)
    public = key.public_key
    ours = public.accept(key.encrypt(values[:400].tolist(), SystemRng()), 400)
    one = public.accept(key.encrypt([3], SystemRng()), 1)
    operations = [
        Operation("vfl", lambda: key.decrypt(ours), 1 / 400),
        Operation("vfl, a single one", lambda: key.decrypt(one)),
    ]
    for peer in peers.values():
        count = {"phe": 30, "pypaillier": 200}.get(peer.name, VALUES)
        theirs = peer.encrypt(values[:count])
        operations.append(Operation(peer.name, lambda p=peer, c=theirs: p.decrypt(c), 1 / count))  # type: ignore[misc]
    return compare("Paillier 2048, decrypt one value", operations, repeats)


def gradient(key: PrivateKey, peers: dict[str, Peer], repeats: int) -> tuple[dict[str, Row], bool]:
    generator, rng = np.random.default_rng(2), SystemRng()
    matrix, residuals = generator.uniform(-1, 1, (ROWS, COLUMNS)), generator.uniform(-1, 1, ROWS)
    format = Format(ROWS, 1.0, 24, 16)
    holder, evaluator = PaillierKeyHolder(format, key), PaillierEvaluator(format, key.public_key)
    prepared = evaluator.prepare(matrix)
    x = np.rint(matrix * 2**16).astype(np.int64)
    r = np.rint(residuals * 2**24).astype(np.int64)
    exact = True

    def ours() -> None:
        nonlocal exact
        reply, masks = evaluator.masked_products(holder.encrypt(residuals, rng), prepared, rng)
        products = evaluator.unmask_integers(holder.open_masked(reply, COLUMNS), masks)
        exact = exact and products == (x.T @ r).tolist()

    def theirs(peer: Peer) -> None:
        if peer.product is None:
            return
        opened = peer.product(peer.encrypt(r[:SAMPLE]), x[:SAMPLE])
        if [int(value) for value in peer.decrypt(opened)] != (x[:SAMPLE].T @ r[:SAMPLE]).tolist():
            raise RuntimeError(f"{peer.name} has computed something else")

    operations = [Operation("vfl, Paillier", ours, 1.0, "with fresh randomness and masks")]
    note = f"extrapolated from {SAMPLE:,} rows; neither fresh randomness nor masks"
    operations += [
        Operation(peer.name, lambda p=peer: theirs(p), ROWS / SAMPLE, note)  # type: ignore[misc]
        for peer in peers.values()
        if peer.product
    ]
    name = f"Gradient {ROWS:,} x {COLUMNS}, Paillier 2048"
    return compare(f"{name}, encrypt to decrypt", operations, repeats), exact


def histogram(key: PrivateKey, peers: dict[str, Peer], repeats: int) -> tuple[dict[str, Row], bool]:
    generator, distinct = np.random.default_rng(3), 2000
    bins = generator.integers(0, BINS, (HISTOGRAM_ROWS, FEATURES))
    gradients, hessians = generator.uniform(-1, 1, distinct), generator.uniform(0, 0.25, distinct)
    times = HISTOGRAM_ROWS // distinct  # a sum costs the same whatever is in it
    layout = Histogram(HistogramFormat(HISTOGRAM_ROWS), key.public_key)
    once = key.public_key.accept(key.encrypt(layout.encode(gradients, hessians), SystemRng()), distinct)
    rows = type(once).concatenate(key.public_key, [once] * times)
    found = layout.decode(key.decrypt(layout.sums(rows, bins, BINS)), FEATURES, BINS)
    exact = all(
        np.array_equal(sums, by_bin(np.tile(np.rint(np.ldexp(values, 24)), times), bins) / 2**24)
        for sums, values in zip(found, (gradients, hessians), strict=True)
    )
    operations = [Operation("vfl", lambda: layout.sums(rows, bins, BINS), 1.0, "and joined for return")]
    values = np.arange(distinct)
    for peer in peers.values():
        if peer.histogram and peer.repeat:
            cipher = peer.repeat(peer.encrypt(values), times)
            run: Any = lambda p=peer, c=cipher: p.histogram(c, bins, BINS)  # noqa: E731
            operations.append(Operation(peer.name, run))
    name = f"Encrypted histogram, {HISTOGRAM_ROWS:,} rows x {FEATURES} features x {BINS} bins"
    return compare(name, operations, repeats), exact


def by_bin(values: np.ndarray[Any, np.dtype[np.float64]], bins: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
    return np.array([np.bincount(column, values, BINS) for column in bins.T])


def run(peers: dict[str, Peer], repeats: int) -> tuple[list[Row], dict[str, float | bool | None]]:
    """Return the lines of the table and the figures, and fail if a result is not exact."""
    key, heu = PrivateKey.generate(SystemRng(), BITS), "sf-heu zpaillier"
    encrypted, decrypted = encryption(key, peers, repeats), decryption(key, peers, repeats)
    multiplied, products_exact = gradient(key, peers, repeats)
    summed, sums_exact = histogram(key, peers, repeats)
    if not (products_exact and sums_exact):
        raise RuntimeError("a Paillier result is not exact")
    rows = [row for group in (encrypted, decrypted, multiplied, summed) for row in group.values()]
    return rows, {
        "encrypt_ratio_phe": ratio(encrypted, "phe"),
        "encrypt_ratio_heu": ratio(encrypted, heu),
        "decrypt_ratio_phe": ratio(decrypted, "phe"),
        "gradient_ratio_phe": ratio(multiplied, "phe"),
        "gradient_ratio_heu": ratio(multiplied, heu),
        "histogram_ratio_heu": ratio(summed, heu),
    }
