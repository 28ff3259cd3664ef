"""Secure products and arithmetic on shares against big integers, on every back end."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.paillier_keys import private_key
from tests.support import DeterministicRng
from vfl.crypto.fresh import ReceivedCiphertexts
from vfl.crypto.product import Backend, LatticeBackend
from vfl.crypto.product_paillier import PaillierBackend
from vfl.crypto.ring import RING, Ring, Share
from vfl.errors import EncodingOverflow, InvalidCiphertext
from vfl.protocols.arithmetic import Arithmetic
from vfl.protocols.channel import Channel, Party, memory_pair, run_local
from vfl.protocols.product import Masked, Vector, backward, exchange_keys, forward
from vfl.protocols.record import Transcript
from vfl.protocols.wire import Leakage, Role


def paillier(rng: DeterministicRng) -> Backend:
    return PaillierBackend(private_key(2048))


BACKENDS: dict[str, Callable[[DeterministicRng], Backend]] = {"lattice": LatticeBackend, "paillier": paillier}


class Pair:
    """Both ends of a channel with keys exchanged, and a generator for each."""

    def __init__(self, make: Callable[[DeterministicRng], Backend], largest: int = 1 << 20) -> None:
        self.largest = largest  # numbers worth a test's time
        self.transcript = Transcript()
        self.channels = memory_pair(Party("bank", Role.GUEST), Party("shop", Role.HOST))
        self.channels[0].observe(self.transcript)
        self.rngs = [DeterministicRng(seed) for seed in (1, 2)]
        self.backends = [make(rng) for rng in self.rngs]
        self.both(exchange_keys)

    def both(self, role: Callable[[Channel, Backend], Any]) -> tuple[Any, Any]:
        results = run_local(
            guest=role(self.channels[0], self.backends[0]), host=role(self.channels[1], self.backends[1])
        )
        return results["guest"], results["host"]

    def share(self, values: np.ndarray) -> tuple[Share, Share]:
        """Share integers."""
        first = RING.uniform(self.rngs[0], *values.shape)
        return first, RING.subtract(RING.integers(values), first)

    def compute(self, operation: Callable[[Arithmetic, int], Any]) -> np.ndarray:
        """Run an operation on shares at both ends and open the result."""
        guest, host = (
            Arithmetic(channel, backend, rng)
            for channel, backend, rng in zip(self.channels, self.backends, self.rngs, strict=True)
        )
        results = run_local(guest=operation(guest, 0), host=operation(host, 1))
        return RING.lift(RING.add(results["guest"], results["host"])).astype(object)


@pytest.fixture(scope="module", params=BACKENDS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(BACKENDS[request.param], 150 if request.param == "paillier" else 1 << 20)


@pytest.mark.parametrize(
    ("rows", "columns", "vectors"), [(40, (3, 5), 1), (9000, (2, 7), 1), (300, (1, 4), 3)]
)
def test_matrix_products_in_both_orientations(
    pair: Pair, rows: int, columns: tuple[int, int], vectors: int
) -> None:
    rows = min(rows, pair.largest)
    generator = np.random.default_rng(rows)
    bound = (1 << 20) - 1
    matrices = [generator.integers(-bound, bound + 1, (rows, k), dtype=np.int32) for k in columns]
    weights = [RING.lift(RING.uniform(pair.rngs[0], k, vectors)).astype(object) for k in columns]
    residual = RING.lift(RING.uniform(pair.rngs[0], rows, vectors)).astype(object)
    shares = [pair.share(w) for w in weights]
    residuals = pair.share(residual)

    def role(me: int) -> Callable[[Channel, Backend], Any]:
        async def act(peer: Channel, backend: Backend) -> tuple[Share, Share, Share]:
            own = backend.prepare(matrices[me], bound)
            other = matrices[1 - me].shape
            z = await forward(
                peer, backend, (own, shares[me][me]), (other, shares[1 - me][me]), pair.rngs[me]
            )
            return z, *await backward(peer, backend, own, other, residuals[me], pair.rngs[me])

        return act

    results = run_local(
        guest=role(0)(pair.channels[0], pair.backends[0]), host=role(1)(pair.channels[1], pair.backends[1])
    )
    guest, host = results["guest"], results["host"]
    exact = [matrix.astype(object) for matrix in matrices]
    z = sum(matrix @ w for matrix, w in zip(exact, weights, strict=True))
    np.testing.assert_array_equal(RING.add(guest[0], host[0]), RING.integers(z))
    np.testing.assert_array_equal(RING.add(guest[1], host[2]), RING.integers(exact[0].T @ residual))
    np.testing.assert_array_equal(RING.add(guest[2], host[1]), RING.integers(exact[1].T @ residual))


@pytest.mark.parametrize("length", [1, 100, 8193])
def test_products_number_by_number(pair: Pair, length: int) -> None:
    length = min(length, pair.largest)
    x, y = (RING.lift(RING.uniform(pair.rngs[0], length)).astype(object) for _ in range(2))
    xs, ys = pair.share(x), pair.share(y)
    product = pair.compute(lambda arithmetic, me: arithmetic.multiply(xs[me], ys[me]))
    np.testing.assert_array_equal(RING.integers(product), RING.integers(x * y))
    square = pair.compute(lambda arithmetic, me: arithmetic.square(xs[me]))
    np.testing.assert_array_equal(RING.integers(square), RING.integers(x * x))


@pytest.mark.parametrize("coefficients", [[5, -3, 2], [0, 27, 0, -4], [1, 2, 3, 4, 5, 6]])
def test_polynomials_in_one_round(pair: Pair, coefficients: list[int]) -> None:
    x = np.array([0, 1, -1, 12345, -(1 << 20), RING.modulus // 3], object)
    xs = pair.share(x)
    before = len(pair.transcript.records)
    value = pair.compute(lambda arithmetic, me: arithmetic.polynomial(xs[me], coefficients))
    expected = sum(c * x**k for k, c in enumerate(coefficients))
    np.testing.assert_array_equal(RING.integers(value), RING.integers(expected))
    assert len(pair.transcript.records) - before == 2  # one block: one vector, one reply


def test_truncated_products(pair: Pair) -> None:
    generator = np.random.default_rng(3)
    x, y = (generator.integers(-(1 << 24), 1 << 24, 50) for _ in range(2))
    xs, ys = pair.share(x), pair.share(y)
    product = pair.compute(lambda arithmetic, me: arithmetic.multiply(xs[me], ys[me], 16))
    assert set(product - np.array([v >> 16 for v in (x * y).tolist()], object)) <= {0, 1}


@pytest.mark.parametrize("limbs", [1, 4])
def test_sines_of_shared_angles(pair: Pair, limbs: int) -> None:
    x = np.arange(-60, 60) * 997
    xs, ring = pair.share(x), Ring(RING.primes[:limbs])
    multiplier = round(RING.modulus / (2 * np.pi * 1000))  # the angle is x/1000

    def role(me: int) -> Any:
        arithmetic = Arithmetic(pair.channels[me], pair.backends[me], pair.rngs[me])
        return arithmetic.sine(RING.turns(xs[me], multiplier), 2.0**26, limbs)

    results = run_local(guest=role(0), host=role(1))
    opened = ring.decode(ring.add(results["guest"], results["host"]), 26)
    np.testing.assert_allclose(opened, np.sin(x / 1000), atol=2.0**-12.5)


def test_a_factor_of_the_guest_alone(pair: Pair) -> None:
    x, w = np.arange(-50, 50), np.arange(100) ** 3
    xs, factor = pair.share(x), RING.integers(w)
    product = pair.compute(lambda arithmetic, me: arithmetic.times_guest(xs[me], None if me else factor))
    np.testing.assert_array_equal(product, (x * w).astype(object))


def test_nothing_but_keys_and_fresh_ciphertexts_crosses(pair: Pair) -> None:
    kinds = {(record.kind, record.leakage) for record in pair.transcript.records}
    assert kinds == {
        ("product.keys", Leakage.PUBLIC),
        ("product.vector", Leakage.CIPHERTEXT),
        ("product.masked", Leakage.CIPHERTEXT),
    }


def test_malformed_ciphertexts_are_refused(pair: Pair) -> None:
    backend, rng = pair.backends[0], pair.rngs[0]
    product = pair.backends[1].slotwise(1, 10)
    share = RING.uniform(rng, 10)[None]
    good = product.encrypt(share, rng).to_bytes()
    mine = backend.slotwise(1, 10)
    for raw in (good[:-1], bytes(len(good)), b"\xff" * len(good), good + b"0"):
        with pytest.raises(InvalidCiphertext):
            mine.evaluate(ReceivedCiphertexts(raw), share, rng)


def test_messages_take_fresh_ciphertexts_only(pair: Pair) -> None:
    channel = pair.channels[0]
    for message in (Vector(v=b"0" * 10), Masked(v=b"0" * 10)):  # type: ignore[arg-type]
        with pytest.raises(Exception, match="rerandomise"):
            run_local(guest=channel.send(message))


def test_entries_over_the_bound_are_refused(pair: Pair) -> None:
    with pytest.raises(EncodingOverflow):
        pair.backends[0].prepare(np.full((4, 2), 9, np.int32), 8)
