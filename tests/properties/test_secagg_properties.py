"""The round as a state machine under any order of events, and the mathematics under any input."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.cohorts import Cohort, expected, names, policy, task
from tests.support import DeterministicRng
from vfl.crypto.fixedpoint import FixedPoint
from vfl.crypto.masking import add_masks, pack, reduced, unpack, zeros
from vfl.crypto.shamir import combine, correct, read_share, split
from vfl.crypto.weighted import WeightedEncoding
from vfl.errors import CohortTooSmall, RoundLost, UnexpectedMessage
from vfl.protocols.secagg.messages import Confirmation
from vfl.protocols.secagg.server import Stage
from vfl.protocols.wire import Message

COUNT = 5
CLIENTS = st.sampled_from(names(COUNT))


class Rounds(RuleBasedStateMachine):
    """Clients answer, vanish, repeat themselves and come back in any order; stages expire at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.cohort = Cohort(policy(COUNT, colluders=0), task(dimension=3))
        self.round = self.cohort.round
        self.given: dict[str, Message] = {}
        self.summed: set[str] = set()

    @precondition(lambda self: not self.round.over)
    @rule(name=CLIENTS)
    def answers(self, name: str) -> None:
        if name not in self.round.missing():
            return
        stage = self.round.stage
        answer = self.cohort.answer(name)
        assert answer is not None, self.cohort.refusals
        self.round.receive(name, answer)
        self.given[name] = answer
        if stage is Stage.MASK:
            self.summed.add(name)

    @rule(name=CLIENTS)
    def repeats_itself(self, name: str) -> None:
        if name in self.given:
            with pytest.raises((UnexpectedMessage, RoundLost)):
                self.round.receive(name, self.given[name])

    @rule(name=CLIENTS)
    def talks_nonsense(self, name: str) -> None:
        if self.round.stage is not Stage.CONFIRM:
            with pytest.raises((UnexpectedMessage, RoundLost)):
                self.round.receive(name, Confirmation(signature=bytes(64)))

    @rule(name=CLIENTS)
    def comes_back(self, name: str) -> None:
        part = self.cohort.parts[name]
        if part.number >= 0 and not self.round.lost(name) and self.round.failure is None:
            invitation = self.round.invitation(name)
            assert invitation.answered == part.answered
            before = part.latest
            part.accept(invitation)
            assert part.latest is before

    @precondition(lambda self: not self.round.over)
    @rule(name=CLIENTS)
    def vanishes(self, name: str) -> None:
        self.round.drop(name)
        assert self.round.lost(name)

    @precondition(lambda self: not self.round.over)
    @rule()
    def time_is_up(self) -> None:
        stage = self.round.stage
        self.round.expire()
        assert self.round.over or self.round.stage > stage

    @invariant()
    def a_result_is_right_and_a_failure_typed(self) -> None:
        result, failure = self.round.result, self.round.failure
        assert result is None or failure is None
        if result is not None:
            assert set(result.survivors) == self.summed
            assert len(result.survivors) >= self.cohort.policy.minimum
            members = (int(name[4:]) for name in result.survivors)
            assert result.total.tolist() == expected(members, self.cohort.task)
        assert failure is None or isinstance(failure, CohortTooSmall)
        assert (self.round.missing() == set()) == self.round.over

    def teardown(self) -> None:
        for _ in Stage:
            self.round.expire()
        assert self.round.over


TestRounds = Rounds.TestCase
TestRounds.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


@given(
    st.integers(1, 64).flatmap(
        lambda b: st.tuples(st.just(b), st.lists(st.integers(0, (1 << b) - 1), max_size=70))
    )
)
def test_packing_is_the_bits_one_after_the_other(case: tuple[int, list[int]]) -> None:
    bits, values = case
    words = zeros(len(values), bits)
    words[:] = np.array(values, dtype=np.uint64).astype(words.dtype)
    packed = pack(words, bits)
    assert int.from_bytes(packed.tobytes(), "little") == sum(v << i * bits for i, v in enumerate(values))
    assert unpack(packed, len(values), bits).tolist() == values


@given(st.integers(0, 300), st.integers(1, 64), st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=40)
def test_masks_cancel(size: int, bits: int, plus: int, minus: int) -> None:
    rng = DeterministicRng(size)
    keys = [rng.bytes(32) for _ in range(plus + minus)]
    total = zeros(size, bits)
    add_masks(total, keys[:plus], keys[plus:])
    add_masks(total, keys[plus:], keys[:plus])
    assert not reduced(total, bits).any()


@given(st.data())
@settings(max_examples=60)
def test_shares_give_the_secret_and_wrong_ones_are_found(data: Any) -> None:
    count = data.draw(st.integers(1, 14))
    threshold = data.draw(st.integers(1, count))
    points = data.draw(st.lists(st.integers(1, 1 << 20), min_size=count, max_size=count, unique=True))
    secret = data.draw(st.binary(min_size=32, max_size=32))
    shares = split(secret, threshold, points, DeterministicRng(count))
    held = {x: read_share(raw) for x, raw in zip(points, shares, strict=True)}
    some = data.draw(st.lists(st.sampled_from(points), min_size=threshold, unique=True))
    assert combine({x: held[x] for x in some}, threshold) == secret
    wrong = data.draw(st.lists(st.sampled_from(points), max_size=(count - threshold) // 2, unique=True))
    spoilt = held | {x: held[x] + 1 + data.draw(st.integers(0, 1 << 200)) for x in wrong}
    assert correct(spoilt, threshold) == (secret, frozenset(wrong))


@given(st.data())
@settings(max_examples=60)
def test_sums_of_weighted_vectors_are_exact_but_for_rounding(data: Any) -> None:
    parties = data.draw(st.integers(1, 12))
    largest = data.draw(st.sampled_from([1, 2, 1000, 10**9]))
    encoding = WeightedEncoding(FixedPoint(data.draw(st.integers(4, 30)), 4.0), parties, largest)
    finite = st.floats(-4, 4)
    rows = data.draw(st.lists(st.lists(finite, min_size=3, max_size=3), min_size=1, max_size=parties))
    weights = [data.draw(st.integers(1, largest)) for _ in rows]
    total = zeros(encoding.size(3), encoding.bits)
    for row, weight in zip(rows, weights, strict=True):
        total += encoding.encode(np.array(row), weight)
    values, weight = encoding.decode(total)
    assert weight == sum(weights)
    exact = np.array(rows).T @ np.array(weights, dtype=float)
    step = largest * 2.0 ** -(encoding.values.fraction_bits + 1)
    assert np.all(np.abs(values - exact) <= len(rows) * step * (1 + 1e-9) + 1e-6 * np.abs(exact))
