"""The OPRF: the vectors of RFC 9497, agreement of both sides, independence of the blinds, refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support import DeterministicRng
from vfl.crypto import oprf
from vfl.errors import InvalidPoint

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "oprf.json").read_text())
INVALID = json.loads((Path(__file__).parents[1] / "vectors" / "ristretto255.json").read_text())["invalid"]
INPUTS = [b"", b"a", b"+49 151 1234567", "Ünï".encode(), bytes(oprf.MAX_INPUT_BYTES)]


def row(hexadecimal: str) -> NDArray[np.uint8]:
    return np.frombuffer(bytes.fromhex(hexadecimal), dtype=np.uint8).reshape(1, -1)


def key(seed: int) -> bytes:
    return oprf.random_key(DeterministicRng(seed))


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=["A.1.1.1", "A.1.1.2"])
def test_rfc_9497(vector: dict[str, str]) -> None:
    inputs, blinds = [bytes.fromhex(vector["Input"])], row(vector["Blind"])
    secret = bytes.fromhex(VECTORS["skSm"])
    blinded = oprf.blind_with(inputs, blinds)
    assert blinded.tobytes().hex() == vector["BlindedElement"]
    evaluated = oprf.evaluate(secret, blinded)
    assert evaluated.tobytes().hex() == vector["EvaluationElement"]
    assert oprf.finalize(inputs, blinds, evaluated).tobytes().hex() == vector["Output"]
    assert oprf.evaluate_directly(secret, inputs).tobytes().hex() == vector["Output"]


@pytest.mark.parametrize("tag_bytes", [1, 16, 64])
def test_both_sides_agree_on_prefixes(tag_bytes: int) -> None:
    blinds, blinded = oprf.blind(INPUTS, DeterministicRng(1))
    evaluated = oprf.evaluate(key(2), blinded.tobytes())
    received = oprf.finalize(INPUTS, blinds, evaluated.tobytes(), tag_bytes)
    own = oprf.evaluate_directly(key(2), INPUTS, tag_bytes)
    assert received.shape == (len(INPUTS), tag_bytes)
    np.testing.assert_array_equal(received, own)
    np.testing.assert_array_equal(own, oprf.evaluate_directly(key(2), INPUTS)[:, :tag_bytes])


def test_order_of_the_inputs_does_not_matter() -> None:
    np.testing.assert_array_equal(
        oprf.evaluate_directly(key(2), INPUTS[::-1]), oprf.evaluate_directly(key(2), INPUTS)[::-1]
    )


def test_inputs_and_keys_give_different_outputs() -> None:
    outputs = np.concatenate([oprf.evaluate_directly(key(seed), INPUTS, 16) for seed in (1, 2)])
    assert len({output.tobytes() for output in outputs}) == 2 * len(INPUTS)


def test_a_wrong_blind_gives_another_output() -> None:
    blinds, blinded = oprf.blind([b"a", b"b"], DeterministicRng(1))
    evaluated = oprf.evaluate(key(2), blinded)
    swapped = oprf.finalize([b"a", b"b"], blinds[::-1], evaluated)
    assert not (swapped == oprf.evaluate_directly(key(2), [b"a", b"b"])).all(axis=1).any()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), st.binary(max_size=8), st.binary(max_size=8))
def test_the_output_does_not_depend_on_the_blinds(inputs: list[bytes], one: bytes, other: bytes) -> None:
    secret = key(3)
    runs = [oprf.blind(inputs, DeterministicRng(seed)) for seed in (b"1" + one, b"2" + other)]
    sent = {element.tobytes() for _, blinded in runs for element in blinded}
    assert len(sent) == 2 * len(inputs)  # fresh blinds: equal inputs never give equal elements
    for blinds, blinded in runs:
        received = oprf.finalize(inputs, blinds, oprf.evaluate(secret, blinded), 32)
        np.testing.assert_array_equal(received, oprf.evaluate_directly(secret, inputs, 32))


def test_every_input_gets_its_own_blind() -> None:
    blinds, _ = oprf.blind([b"same"] * 50, DeterministicRng(4))
    assert len({blind.tobytes() for blind in blinds}) == 50


def test_no_inputs() -> None:
    blinds, blinded = oprf.blind([], DeterministicRng(1))
    assert oprf.finalize([], blinds, oprf.evaluate(key(2), blinded), 8).shape == (0, 8)
    assert oprf.evaluate_directly(key(2), [], 8).shape == (0, 8)


def bad_elements() -> list[tuple[str, bytes]]:
    """Two elements of which one is replaced, or a size that no list of elements has."""
    good = oprf.blind([b"a", b"b"], DeterministicRng(1))[1].tobytes()
    bad = {
        "identity": good[:32] + bytes(32),
        "duplicate": good[:32] * 2,
        "31 bytes": good[:63],
        "33 bytes": good + b"\0",
    }
    bad |= {kind: good[:32] + bytes.fromhex(encodings[0]) for kind, encodings in INVALID.items()}
    return list(bad.items())


@pytest.mark.parametrize(("kind", "received"), bad_elements(), ids=lambda value: str(value)[:24])
def test_bad_elements_are_refused_by_both_sides(kind: str, received: bytes) -> None:
    with pytest.raises(InvalidPoint, match="blinded elements"):
        oprf.evaluate(key(2), received)
    blinds, _ = oprf.blind([b"a", b"b"], DeterministicRng(1))
    with pytest.raises(InvalidPoint, match="evaluated elements"):
        oprf.finalize([b"a", b"b"], blinds, received)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_answer_of_another_length_is_refused(count: int) -> None:
    blinds, _ = oprf.blind([b"a", b"b"], DeterministicRng(1))
    _, others = oprf.blind([b"x", b"y", b"z"], DeterministicRng(2))
    with pytest.raises(InvalidPoint, match=f"evaluated elements: {count} for 2 inputs"):
        oprf.finalize([b"a", b"b"], blinds, oprf.evaluate(key(2), others[:count]))


def test_too_long_inputs_are_refused() -> None:
    long = [b"a", bytes(oprf.MAX_INPUT_BYTES + 1)]
    blinds, blinded = oprf.blind([b"a", b"b"], DeterministicRng(1))
    with pytest.raises(ValueError, match="65536 bytes"):
        oprf.blind(long, DeterministicRng(1))
    with pytest.raises(ValueError, match="65536 bytes"):
        oprf.finalize(long, blinds, blinded)
    with pytest.raises(ValueError, match="65536 bytes"):
        oprf.evaluate_directly(key(2), long)


@pytest.mark.parametrize("tag_bytes", [-1, 0, 65])
def test_tags_of_no_output_are_refused(tag_bytes: int) -> None:
    blinds, blinded = oprf.blind([b"a"], DeterministicRng(1))
    with pytest.raises(ValueError, match="1 to 64 bytes"):
        oprf.finalize([b"a"], blinds, blinded, tag_bytes)
    with pytest.raises(ValueError, match="1 to 64 bytes"):
        oprf.evaluate_directly(key(2), [b"a"], tag_bytes)


@pytest.mark.parametrize("bad", [bytes(32), bytes(31), b"\xff" * 32], ids=["zero", "short", "not reduced"])
def test_bad_keys_are_refused(bad: bytes) -> None:
    with pytest.raises(InvalidPoint, match="scalar"):
        oprf.evaluate_directly(bad, [b"a"])
