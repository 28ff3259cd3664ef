"""Pads that two parties draw alike: RFC 7748's agreement, and what is refused."""

import pytest

from tests.support import DeterministicRng
from vfl.crypto.pads import PadKey
from vfl.crypto.ring import RING
from vfl.errors import InvalidKey


def test_both_draw_the_same_and_a_third_party_another() -> None:
    first, second, third = (PadKey(DeterministicRng(seed)) for seed in (1, 2, 3))
    one, two = first.agree(second.public_bytes), second.agree(first.public_bytes)
    for shape in ((5, 2), (3,), (1000, 1)):
        drawn = RING.uniform(one, *shape)
        assert (drawn == RING.uniform(two, *shape)).all()
        assert len(set(drawn.reshape(-1).tolist())) > drawn.size // 2
    assert first.agree(third.public_bytes).bytes(16) != first.agree(second.public_bytes).bytes(16)


def test_keys_of_small_order_and_ones_own_are_refused() -> None:
    key = PadKey(DeterministicRng(1))
    for public in (bytes(32), b"\x01" + bytes(31), bytes(31), key.public_bytes):  # RFC 7748, section 6.1
        with pytest.raises(InvalidKey):
            key.agree(public)
