"""ristretto255 in vector registers: the same bytes as libsodium, for all inputs that either takes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import DeterministicRng
from vfl.crypto import group, oprf, ristretto_field
from vfl.crypto.group import ORDER, check_points, hash_and_multiply, hash_to_group, multiply, random_scalars
from vfl.errors import InvalidPoint

pytestmark = pytest.mark.skipif(
    not ristretto_field.available(), reason="this processor has no vectors of 52-bit products"
)
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "ristretto255.json").read_text())
MESSAGES = [b"message %d" % i for i in range(203)]  # no multiple of eight
RNG = DeterministicRng(8)
EDGES = [1, 2, 7, 8, 9, 15, 16, ORDER - 1, ORDER - 2, 2**252 - 1, 2**252, (ORDER - 1) // 2, 0x8888 << 200]


def scalars(*values: int) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(v.to_bytes(32, "little") for v in values), np.uint8).reshape(-1, 32)


def by_both(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[], NDArray[np.uint8]]
) -> list[NDArray[np.uint8]]:
    found = []
    for rows in (1, 10**9):
        monkeypatch.setattr(group, "_LANES_FROM", rows)
        found.append(work())
    return found


def test_hashes_are_those_of_libsodium(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes, sodium = by_both(monkeypatch, lambda: hash_to_group(MESSAGES, b"dst"))
    np.testing.assert_array_equal(lanes, sodium)


def test_products_are_those_of_libsodium(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = np.concatenate([scalars(*EDGES), random_scalars(RNG, len(MESSAGES) - len(EDGES))])
    points = hash_to_group(MESSAGES, b"dst")
    lanes, sodium = by_both(monkeypatch, lambda: multiply(points, factors))
    np.testing.assert_array_equal(lanes, sodium)
    lanes, sodium = by_both(monkeypatch, lambda: hash_and_multiply(MESSAGES, b"dst", factors))
    np.testing.assert_array_equal(lanes, sodium)


@pytest.mark.parametrize("factor", EDGES)
def test_one_scalar_for_all(factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points, raw = hash_to_group(MESSAGES[:11], b"dst"), factor.to_bytes(32, "little")
    lanes, sodium = by_both(monkeypatch, lambda: multiply(points, raw))
    np.testing.assert_array_equal(lanes, sodium)


def test_multiples_of_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "_LANES_FROM", 1)
    generator = np.frombuffer(bytes.fromhex(VECTORS["multiples"][1] * 15), np.uint8).reshape(15, 32)
    products = multiply(generator, scalars(*range(1, 16)))
    assert [row.tobytes().hex() for row in products] == VECTORS["multiples"][1:16]


@pytest.mark.parametrize("vector", VECTORS["hash_to_element"], ids=lambda vector: vector["element"][:8])
def test_uniform_bytes_to_element(vector: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    uniform = bytes.fromhex(vector["uniform_bytes"])
    monkeypatch.setattr(group, "_LANES_FROM", 1)
    monkeypatch.setattr(group, "expand_message_xmd", lambda message, dst, size: uniform)
    assert hash_to_group([b""], b"dst").tobytes().hex() == vector["element"]


@pytest.mark.parametrize("encoding", [e for encodings in VECTORS["invalid"].values() for e in encodings])
def test_invalid_encodings_are_refused(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    points = hash_to_group(MESSAGES[:20], b"dst").copy()
    points[13] = np.frombuffer(bytes.fromhex(encoding), np.uint8)
    monkeypatch.setattr(group, "_LANES_FROM", 1)
    with pytest.raises(InvalidPoint, match="element 13 of 20"):
        check_points(points, "x")
    with pytest.raises(InvalidPoint, match="element 13 of 20"):
        multiply(points, (5).to_bytes(32, "little"))


def test_the_identity_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    points = hash_to_group(MESSAGES[:20], b"dst").copy()
    points[19] = 0
    monkeypatch.setattr(group, "_LANES_FROM", 1)
    with pytest.raises(InvalidPoint, match="element 19 of 20 is the identity"):
        multiply(points, (5).to_bytes(32, "little"))


def test_random_bytes_are_valid_for_both_or_for_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.frombuffer(RNG.bytes(32 * 64), np.uint8).reshape(-1, 32).copy()
    rows[:, 31] &= 127
    rows[:, 0] &= 254

    def valid() -> NDArray[np.uint8]:
        marks = []
        for row in rows:
            try:
                multiply(row[None], (3).to_bytes(32, "little"))
            except InvalidPoint:
                marks.append(0)
            else:
                marks.append(1)
        return np.array(marks, np.uint8)

    lanes, sodium = by_both(monkeypatch, valid)
    np.testing.assert_array_equal(lanes, sodium)
    assert 0 < sodium.sum() < 64


def test_the_oprf_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def tags() -> NDArray[np.uint8]:
        rng = DeterministicRng(3)
        key = oprf.random_key(rng)
        blinds, blinded = oprf.blind(MESSAGES, rng)
        found = oprf.finalize(MESSAGES, blinds, oprf.evaluate(key, blinded))
        np.testing.assert_array_equal(found, oprf.evaluate_directly(key, MESSAGES))
        return found

    lanes, sodium = by_both(monkeypatch, tags)
    np.testing.assert_array_equal(lanes, sodium)
