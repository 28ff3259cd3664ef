"""Base transfers and their extension: who gets which key, what is refused, and that the choice does not show."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import DeterministicRng
from vfl.crypto.gf128 import scale_add
from vfl.crypto.group import hash_to_group
from vfl.crypto.ot import COUNT, BaseReceiver, BaseSender, ExtendedReceiver, ExtendedSender
from vfl.errors import InvalidPoint

SESSION = bytes(64)


def bits(count: int, seed: int) -> NDArray[np.uint8]:
    return np.frombuffer(DeterministicRng(seed).bytes(count), dtype=np.uint8) & np.uint8(1)


def extended(seed: int = 1) -> tuple[ExtendedReceiver, ExtendedSender]:
    delta = bits(COUNT, seed)
    sender = BaseSender(DeterministicRng(seed + 1))
    receiver = BaseReceiver(delta, SESSION, DeterministicRng(seed + 2))
    keys = sender.keys(receiver.message, SESSION)
    return ExtendedReceiver(keys), ExtendedSender(delta, receiver.keys(sender.message))


class TestBase:
    def test_receiver_gets_the_chosen_keys_and_no_other(self) -> None:
        choices = bits(COUNT, 1)
        sender, receiver = (
            BaseSender(DeterministicRng(2)),
            BaseReceiver(choices, SESSION, DeterministicRng(3)),
        )
        both, chosen = sender.keys(receiver.message, SESSION), receiver.keys(sender.message)
        assert np.array_equal(both[np.arange(COUNT), choices], chosen)
        every = {key.tobytes() for key in both.reshape(-1, 16)}
        assert len(every) == 2 * COUNT

    def test_keys_are_bound_to_the_session(self) -> None:
        sender = BaseSender(DeterministicRng(2))
        receiver = BaseReceiver(bits(COUNT, 1), SESSION, DeterministicRng(3))
        one, other = sender.keys(receiver.message, SESSION), sender.keys(receiver.message, b"\1" * 64)
        assert not (one == other).all(axis=2).any()

    def test_a_repeated_element_gives_other_keys_at_its_other_place(self) -> None:
        """What reusing the sender's element over the batch without separation would get wrong."""
        sender = BaseSender(DeterministicRng(2))
        message = BaseReceiver(bits(COUNT, 1), SESSION, DeterministicRng(3)).message.copy()
        message[1] = message[0]
        keys = sender.keys(message, SESSION)
        assert not (keys[0] == keys[1]).all(axis=1).any()

    def test_choices_do_not_show_in_the_elements(self) -> None:
        """Both elements of a transfer are random ones: the low bits of either are balanced for either choice."""
        message = BaseReceiver(bits(COUNT, 5), SESSION, DeterministicRng(6)).message
        ones = np.unpackbits(message[:, :, 1:31].reshape(COUNT * 2, -1), axis=1).mean(axis=1)
        assert abs(ones[0::2].mean() - 0.5) < 0.02
        assert abs(ones[1::2].mean() - 0.5) < 0.02

    @pytest.mark.parametrize("deviate", ["identity", "not canonical"])
    def test_bad_elements_are_refused(self, deviate: str) -> None:
        sender, receiver = (
            BaseSender(DeterministicRng(2)),
            BaseReceiver(bits(COUNT, 1), SESSION, DeterministicRng(3)),
        )
        message = receiver.message.copy()
        message[5, 1] = 0 if deviate == "identity" else 255
        if deviate == "identity":  # the encoding of the identity is an element; what it gives is checked
            first = bytes(32)
            with pytest.raises(InvalidPoint):
                receiver.keys(first)
        else:
            with pytest.raises(InvalidPoint, match="canonical"):
                sender.keys(message, SESSION)

    def test_another_first_message_gives_other_keys(self) -> None:
        receiver = BaseReceiver(bits(COUNT, 1), SESSION, DeterministicRng(3))
        sender = BaseSender(DeterministicRng(2))
        other = hash_to_group([b"x"], b"test").tobytes()
        assert not (receiver.keys(sender.message) == receiver.keys(other)).all(axis=1).any()


class TestExtension:
    @pytest.mark.parametrize("count", [1, 8, 1001])
    def test_receiver_gets_the_pad_of_its_choice(self, count: int) -> None:
        receiver, sender = extended()
        choices = bits(count, 9)
        message, _, mine = receiver.extend(b"", choices, 1)
        _, both = sender.extend(message, 0, count, 1)
        assert np.array_equal(both[choices, np.arange(count)], mine)
        assert len(np.unique(both.reshape(-1, 2), axis=0)) == 2 * count

    def test_streams_differ_by_delta_times_the_multipliers(self) -> None:
        receiver, sender = extended()
        data = DeterministicRng(4).bytes(160)
        message, mine, _ = receiver.extend(data, bits(3, 1), 1)
        theirs, _ = sender.extend(message, 160, 3, 1)
        delta = np.unpackbits(sender.delta.view(np.uint8).ravel(), bitorder="little")
        assert np.array_equal(mine ^ theirs, delta[:, None] * np.frombuffer(data, np.uint8))

    def test_runs_have_streams_of_their_own(self) -> None:
        receiver, _ = extended()
        one, other = (receiver.extend(bytes(64), bits(64, 1), run) for run in (1, 2))
        assert not (one[0] == other[0]).all(axis=1).any()
        assert not (one[2] == other[2]).all(axis=1).any()

    def test_the_message_is_balanced_whatever_the_data_are(self) -> None:
        receiver, _ = extended()
        message, *_ = receiver.extend(bytes(4096), bits(8, 1), 1)
        assert abs(np.unpackbits(message).mean() - 0.5) < 0.01

    def test_pads_under_one_correlation_are_unrelated(self) -> None:
        _, sender = extended()
        other = np.zeros((1, 2), dtype=np.uint64)
        scale_add(other, sender.delta, np.array([[1, 0]], dtype=np.uint64))
        assert np.array_equal(other, sender.delta)
        _, pads = sender.extend(np.zeros((COUNT, 8), dtype=np.uint8), 0, 64, 1)
        assert not (pads[0] ^ pads[1] == sender.delta).all(axis=1).any()
