"""ristretto255: the vectors of RFC 9496 and RFC 9380, the group laws, and what must be refused."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rbcl import _sodium  # type: ignore[import-untyped,unused-ignore]

from tests.support import DeterministicRng
from vfl.crypto import group
from vfl.crypto.group import (
    ORDER,
    check_points,
    expand_message_xmd,
    hash_to_group,
    invert_scalars,
    multiply,
    random_scalars,
)
from vfl.errors import InvalidPoint

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "ristretto255.json").read_text()
)
INVALID = [(kind, encoding) for kind, encodings in VECTORS["invalid"].items() for encoding in encodings]
IDENTITY = np.zeros((1, 32), dtype=np.uint8)
GENERATOR = VECTORS["multiples"][1]
DST = b"vfl tests"


def rows(*encodings: str) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex("".join(encodings)), dtype=np.uint8).reshape(len(encodings), -1)


def scalar(value: int) -> bytes:
    return value.to_bytes(32, "little")


def elements(count: int) -> NDArray[np.uint8]:
    return hash_to_group([b"element %d" % index for index in range(count)], DST)


@pytest.mark.parametrize("factor", range(1, 16))
def test_multiples_of_the_generator(factor: int) -> None:
    product = multiply(rows(GENERATOR), scalar(factor))
    assert product.tobytes().hex() == VECTORS["multiples"][factor]


def test_multiples_are_accepted_and_multiply_row_by_row() -> None:
    multiples = rows(*VECTORS["multiples"][1:])
    np.testing.assert_array_equal(check_points(multiples, "multiples"), multiples)
    factors = np.frombuffer(b"".join(map(scalar, range(1, 16))), dtype=np.uint8).reshape(15, 32)
    np.testing.assert_array_equal(multiply(rows(*[GENERATOR] * 15), factors), multiples)


@pytest.mark.parametrize(("kind", "encoding"), INVALID)
def test_invalid_encodings_are_refused(kind: str, encoding: str) -> None:
    points = np.concatenate([elements(3), rows(encoding)])
    with pytest.raises(InvalidPoint, match="blinded elements: element 3 of 4 is not a canonical encoding"):
        check_points(points, "blinded elements")
    with pytest.raises(InvalidPoint, match="element 3 of 4 "):
        multiply(points, scalar(5))


@pytest.mark.parametrize("vector", VECTORS["hash_to_element"], ids=lambda vector: vector["element"][:8])
def test_uniform_bytes_to_element(vector: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    uniform = bytes.fromhex(vector["uniform_bytes"])
    monkeypatch.setattr(group, "expand_message_xmd", lambda message, dst, size: uniform)
    assert hash_to_group([b""], DST).tobytes().hex() == vector["element"]


@pytest.mark.parametrize("case", VECTORS["expand_message_xmd"]["cases"])
def test_expand_message_xmd(case: dict[str, Any]) -> None:
    dst = VECTORS["expand_message_xmd"]["dst"].encode()
    assert expand_message_xmd(case["message"].encode(), dst, case["size"]).hex() == case["uniform_bytes"]


def test_expand_message_xmd_limits() -> None:
    assert len(expand_message_xmd(b"", bytes(255), 255 * 64)) == 255 * 64
    with pytest.raises(ValueError, match="at most"):
        expand_message_xmd(b"", bytes(256), 32)
    with pytest.raises(ValueError, match="at most"):
        expand_message_xmd(b"", b"", 255 * 64 + 1)


def test_hash_to_group_separates_messages_and_domains() -> None:
    hashed = [hash_to_group([b"a", b"b"], dst) for dst in (b"one", b"two")]
    assert len({point.tobytes() for points in hashed for point in points}) == 4


def test_products_commute_and_invert_over_several_blocks() -> None:
    """More rows than a block has, so that a wrong offset in a later block shows."""
    count, rng = 2 * group._BLOCK_ROWS + 5, DeterministicRng(1)
    points, (a, b) = elements(count), (random_scalars(rng, count) for _ in range(2))
    np.testing.assert_array_equal(multiply(multiply(points, a), b), multiply(multiply(points, b), a))
    np.testing.assert_array_equal(multiply(multiply(points, a), invert_scalars(a)), points)


def test_every_block_computes_the_same_as_single_rows() -> None:
    count = group._BLOCK_ROWS + 3
    points, scalars = elements(count), random_scalars(DeterministicRng(2), count)
    products = multiply(points, scalars)
    for row in (0, 1, group._BLOCK_ROWS - 1, group._BLOCK_ROWS, count - 1):
        np.testing.assert_array_equal(
            products[row], multiply(points[row : row + 1], scalars[row].tobytes())[0]
        )


def test_one_core_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    points, factor = elements(2 * group._BLOCK_ROWS), scalar(12345)
    products = multiply(points, factor)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    np.testing.assert_array_equal(multiply(points, factor), products)


def test_arrays_that_are_not_contiguous_are_read_row_by_row() -> None:
    points, scalars = elements(6), random_scalars(DeterministicRng(3), 6)
    products = multiply(points, scalars)
    np.testing.assert_array_equal(multiply(points[::2], scalars[::2]), products[::2])
    fortran = np.asfortranarray(points)
    np.testing.assert_array_equal(check_points(fortran, "elements"), points)
    np.testing.assert_array_equal(invert_scalars(scalars[::-1]), invert_scalars(scalars)[::-1])


@pytest.mark.parametrize("count", [1, 2, 17])
def test_inverses_match_integers(count: int) -> None:
    scalars = random_scalars(DeterministicRng(4), count)
    inverses = invert_scalars(scalars)
    for given, inverse in zip(scalars, inverses, strict=True):
        expected = pow(int.from_bytes(given.tobytes(), "little"), -1, ORDER)
        assert int.from_bytes(inverse.tobytes(), "little") == expected


def test_random_scalars_are_reduced_and_differ() -> None:
    scalars = random_scalars(DeterministicRng(5), 500)
    values = [int.from_bytes(row.tobytes(), "little") for row in scalars]
    assert len(set(values)) == 500
    assert max(values) < ORDER
    assert np.mean(values) == pytest.approx(ORDER / 2, rel=0.1)  # standard error 2.6 %


def test_random_scalar_is_the_wide_integer_modulo_the_order() -> None:
    wide = DeterministicRng(6).bytes(64)
    drawn = random_scalars(DeterministicRng(6), 1).tobytes()
    assert int.from_bytes(drawn, "little") == int.from_bytes(wide, "little") % ORDER


def test_no_rows() -> None:
    nothing = np.empty((0, 32), dtype=np.uint8)
    assert hash_to_group([], DST).shape == (0, 32)
    assert check_points(b"", "elements").shape == (0, 32)
    assert multiply(nothing, scalar(1)).shape == (0, 32)
    assert invert_scalars(random_scalars(DeterministicRng(7), 0)).shape == (0, 32)


def test_the_identity_is_refused() -> None:
    points = np.concatenate([elements(2), IDENTITY])
    with pytest.raises(InvalidPoint, match="answers: element 2 of 3 is the identity"):
        check_points(points, "answers")
    with pytest.raises(InvalidPoint, match="element 2 of 3 is the identity"):
        multiply(points, scalar(5))


def test_duplicates_are_refused() -> None:
    points = elements(5)[[0, 1, 2, 1, 0]]
    with pytest.raises(InvalidPoint, match="answers: element 3 of 5 repeats element 1"):
        check_points(points, "answers")


def test_the_lowest_bad_row_is_named() -> None:
    points = elements(4 * group._BLOCK_ROWS)
    bad = [group._BLOCK_ROWS + 7, 3 * group._BLOCK_ROWS]
    points[bad] = rows(*VECTORS["invalid"]["negative x y"][:2])
    with pytest.raises(InvalidPoint, match=f"element {bad[0]} of"):
        check_points(points, "answers")
    with pytest.raises(InvalidPoint, match=f"element {bad[0]} of"):
        multiply(points, scalar(5))


@pytest.mark.parametrize(
    "received",
    [
        bytes(31),
        bytes(33),
        bytes(65),
        np.ones((2, 31), dtype=np.uint8),
        np.ones((2, 33), dtype=np.uint8),
        np.ones(32, dtype=np.uint8),
        np.ones((2, 32), dtype=np.int64),
        np.ones((2, 2, 32), dtype=np.uint8),
    ],
    ids=["31 bytes", "33 bytes", "65 bytes", "31 wide", "33 wide", "flat", "int64", "3-d"],
)
def test_other_shapes_are_refused(received: Any) -> None:
    with pytest.raises(InvalidPoint, match="answers"):
        check_points(received, "answers")


def test_bytes_and_rows_are_the_same() -> None:
    points = elements(3)
    np.testing.assert_array_equal(check_points(points.tobytes(), "answers"), points)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (scalar(0), "scalar 0 of 1 is zero"),
        (scalar(ORDER), "not below the group order"),
        (scalar(ORDER + 1), "not below the group order"),
        (b"\xff" * 32, "not below the group order"),
        (bytes(31), "scalars"),
        (bytes(33), "scalars"),
    ],
)
def test_bad_scalars_are_refused(bad: bytes, reason: str) -> None:
    with pytest.raises(InvalidPoint, match=reason):
        multiply(elements(1), bad)
    with pytest.raises(InvalidPoint, match=reason):
        invert_scalars(np.frombuffer(bad, dtype=np.uint8).reshape(1, -1))


def test_largest_scalar_negates() -> None:
    points = elements(1)
    negated = multiply(points, scalar(ORDER - 1))
    assert not np.array_equal(negated, points)
    np.testing.assert_array_equal(multiply(negated, scalar(ORDER - 1)), points)


def test_wrong_number_of_scalars_is_refused() -> None:
    with pytest.raises(InvalidPoint, match="2 scalars for 3 elements"):
        multiply(elements(3), random_scalars(DeterministicRng(8), 2))


@pytest.mark.skipif(sys.platform == "win32", reason="a loaded library cannot be deleted there")
def test_the_import_leaves_no_unpacked_library() -> None:
    assert not Path(_sodium._name).exists()
