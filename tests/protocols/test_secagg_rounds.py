"""Secure aggregation without a network: the sum, drop-outs at every stage, what the policy requires."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.cohorts import Cohort, expected, identities, names, policy, task, vector
from tests.support import DeterministicRng
from vfl.crypto.signatures import IdentityKey
from vfl.errors import (
    CohortTooSmall,
    ConfigError,
    LocalProtocolError,
    MalformedMessage,
    PeerAuthenticationError,
    PolicyRefused,
    RoundLost,
    UnexpectedMessage,
)
from vfl.protocols.secagg.client import Client
from vfl.protocols.secagg.graph import Graph
from vfl.protocols.secagg.messages import MaskedInput, Reveal, Shares
from vfl.protocols.secagg.policy import Policy, Task
from vfl.protocols.secagg.server import Round, Stage
from vfl.protocols.wire import Message

STAGES = list(Stage)[:-1]


def sum_of(cohort: Cohort) -> list[int]:
    assert cohort.round.result is not None, cohort.round.failure
    return [int(x) for x in cohort.round.result.total]


@pytest.mark.parametrize("bits", [1, 20, 32, 33, 64])
def test_the_sum_is_exact_in_every_ring(bits: int) -> None:
    cohort = Cohort(policy(4), task(dimension=7, bits=bits))
    cohort.play()
    assert sum_of(cohort) == expected(range(4), cohort.task)
    assert cohort.round.result is not None
    assert cohort.round.result.survivors == tuple(names(4))


def losses(count: int, members: int) -> list[dict[int, Stage]]:
    """Return every way to lose so many of the clients, each at any stage."""
    return [
        dict(zip(who, when, strict=True))
        for who in itertools.combinations(range(count), members)
        for when in itertools.product(STAGES, repeat=members)
    ]


def check_loss(cohort: Cohort, lost: dict[int, Stage]) -> None:
    """Run a round with losses: it gives the right sum, or the typed error exactly when too few were left."""
    count, rules = len(cohort.policy.names), cohort.policy
    cohort.play({names(count)[i]: stage for i, stage in lost.items()})
    summed = [i for i in range(count) if lost.get(i, Stage.DONE) > Stage.MASK]
    signers = [i for i in range(count) if lost.get(i, Stage.DONE) > Stage.CONFIRM]
    tellers = [i for i in range(count) if lost.get(i, Stage.DONE) > Stage.REVEAL]
    enough = len(summed) >= rules.minimum and len(signers) >= rules.quorum
    if enough and (len(tellers) >= rules.quorum or len(tellers) == count):
        assert sum_of(cohort) == expected(summed, cohort.task)
    else:
        assert isinstance(cohort.round.failure, CohortTooSmall)
    assert cohort.refusals == {}


@pytest.mark.parametrize("lost", losses(5, 1), ids=str)
def test_any_client_may_be_lost_at_any_stage(lost: dict[int, Stage]) -> None:
    cohort = Cohort(policy(5), task())
    check_loss(cohort, lost)
    assert cohort.round.result is not None


@pytest.mark.parametrize(
    ("count", "colluders", "outcomes"),
    [
        (4, 0, {False}),  # quorum 3: one may be lost
        pytest.param(5, 0, {True}, marks=pytest.mark.slow),  # quorum 3: two may be lost
        pytest.param(6, 1, {True}, marks=pytest.mark.slow),
    ],
)
def test_any_two_clients_may_be_lost_at_any_stages(count: int, colluders: int, outcomes: set[bool]) -> None:
    seen = set()
    for lost in losses(count, 2):
        cohort = Cohort(policy(count, colluders=colluders), task(dimension=2))
        check_loss(cohort, lost)
        seen.add(cohort.round.result is not None)
    assert seen == outcomes


def test_all_are_lost_at_once() -> None:
    cohort = Cohort(policy(4), task())
    cohort.round.expire()
    assert isinstance(cohort.round.failure, CohortTooSmall)
    with pytest.raises(CohortTooSmall):
        cohort.round.message("silo000")


def test_a_ring_of_neighbours_gives_the_same_sum() -> None:
    rules = policy(80, colluders=2, dropouts=4)
    assert rules.degree[0] < 40
    cohort = Cohort(rules, task(dimension=3))
    lost = {3: Stage.SHARE, 20: Stage.MASK, 41: Stage.CONFIRM, 60: Stage.REVEAL}
    cohort.play({names(80)[i]: stage for i, stage in lost.items()})
    assert sum_of(cohort) == expected((i for i in range(80) if i not in (3, 20)), cohort.task)


def test_a_late_answer_and_a_second_one_are_not_taken() -> None:
    cohort = Cohort(policy(4), task())
    first = cohort.answer("silo000")
    late = cohort.answer("silo001")
    assert first is not None
    assert late is not None
    cohort.round.receive("silo000", first)
    with pytest.raises(UnexpectedMessage, match="silo000 sent Advertise in stage advertise"):
        cohort.round.receive("silo000", first)
    for name in ("silo002", "silo003"):
        answer = cohort.answer(name)
        assert answer is not None
        cohort.round.receive(name, answer)
    cohort.round.expire()
    with pytest.raises(RoundLost):
        cohort.round.receive("silo001", late)
    with pytest.raises(RoundLost):
        cohort.round.message("silo001")


def test_a_stranger_and_a_forged_answer_are_refused_by_the_aggregator() -> None:
    cohort = Cohort(policy(4), task())
    answer = cohort.answer("silo000")
    assert answer is not None
    with pytest.raises(PeerAuthenticationError):
        cohort.round.receive("silo001", answer)
    with pytest.raises(LocalProtocolError):
        cohort.round.receive("nobody", answer)


def tampered(cohort: Cohort, whose: str, kind: type, change: Any) -> None:
    """Let one client's answers of a type arrive changed."""
    receive = cohort.round.receive

    def changing(name: str, message: Message) -> None:
        receive(name, change(message) if name == whose and isinstance(message, kind) else message)

    cohort.round.receive = changing  # type: ignore[method-assign]


def with_wrong_shares(message: Reveal) -> Reveal:
    shares = message.shares.copy()
    shares[:, -1] ^= 1
    return Reveal(seed=message.seed, shares=shares)


def test_wrong_shares_of_one_client_are_found_and_corrected() -> None:
    cohort = Cohort(policy(7, colluders=0), task())  # threshold 4
    tampered(cohort, "silo001", Reveal, with_wrong_shares)
    cohort.play({"silo000": Stage.MASK})
    assert sum_of(cohort) == expected(range(1, 7), cohort.task)


def test_too_many_wrong_shares_are_an_error() -> None:
    cohort = Cohort(policy(5, colluders=0), task())  # threshold 3 of 4 shares
    tampered(cohort, "silo001", Reveal, with_wrong_shares)
    cohort.play({"silo000": Stage.MASK})
    assert isinstance(cohort.round.failure, MalformedMessage)


def test_a_wrong_seed_is_put_right_from_the_shares() -> None:
    cohort = Cohort(policy(5), task())
    tampered(cohort, "silo002", Reveal, lambda m: Reveal(seed=bytes(32), shares=m.shares))
    cohort.play()
    assert sum_of(cohort) == expected(range(5), cohort.task)


def test_shares_that_belong_to_no_commitment_name_their_owner() -> None:
    cohort = Cohort(policy(5), task())
    tampered(cohort, "silo002", Shares, lambda m: Shares(sealed=m.sealed, commitment=bytes(32)))
    cohort.play()
    assert isinstance(cohort.round.failure, MalformedMessage)
    assert "silo002 has shared another secret" in str(cohort.round.failure)


class TestPolicy:
    def test_two_are_too_few(self) -> None:
        with pytest.raises(ConfigError, match="3 to 16,384 clients, not 2"):
            policy(2)

    @pytest.mark.parametrize(
        ("count", "colluders", "quorum"), [(3, 0, 2), (4, 1, 3), (5, 1, 4), (10, 3, 7), (100, 33, 67)]
    )
    def test_defaults_stand_a_third_of_colluders(self, count: int, colluders: int, quorum: int) -> None:
        rules = policy(count)
        assert (rules.colluders, rules.quorum) == (colluders, quorum)
        assert 3 * colluders < count
        assert 2 * quorum > count + colluders  # no two sets of survivors find a quorum each
        assert rules.minimum == max(3, quorum)
        assert rules.minimum >= colluders + 2  # colluders that know their own parts know no other's

    @pytest.mark.parametrize(
        "numbers", [{"colluders": 3}, {"colluders": -2}, {"dropouts": 5}, {"minimum": 6}]
    )
    def test_numbers_that_contradict_each_other(self, numbers: dict[str, int]) -> None:
        with pytest.raises(ConfigError):
            policy(5, **numbers)

    def test_one_key_for_two_clients(self) -> None:
        key = IdentityKey.generate().public_bytes
        with pytest.raises(ConfigError, match="same identity key"):
            Policy({"a": key, "b": key, "c": identities(1)[0].public_bytes})

    @pytest.mark.parametrize(
        "wrong",
        [{"session": b""}, {"model_hash": b"x"}, {"dimension": 0}, {"bits": 65}, {"encoding": "x" * 256}],
    )
    def test_tasks_that_cannot_be(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            replace(Task(session=b"s", model_hash=bytes(32), dimension=1, bits=8), **wrong)

    def test_a_client_needs_its_own_identity(self) -> None:
        with pytest.raises(LocalProtocolError):
            Client("silo000", identities(3)[1], policy(3), DeterministicRng(0))

    def test_no_round_number_is_taken_twice(self) -> None:
        cohort = Cohort(policy(3), task(), number=4)
        cohort.play()
        client = cohort.clients["silo000"]
        for number in (4, 3):
            again = client.contribution(cohort.task, vector(0, cohort.task))
            with pytest.raises(PolicyRefused, match=f"takes no round {number}"):
                again.accept(Round(cohort.policy, cohort.task, number).invitation("silo000"))

    @pytest.mark.parametrize(
        "wrong", [np.zeros(4, np.uint32), np.zeros(5, np.int64), np.zeros((5, 1), np.uint32)]
    )
    def test_vectors_that_do_not_fit(self, wrong: Any) -> None:
        with pytest.raises(LocalProtocolError, match="takes 5 unsigned residues"):
            Client("silo000", identities(3)[0], policy(3), DeterministicRng(0)).contribution(task(), wrong)


class TestGraph:
    def test_everyone_is_a_neighbour_up_to_64(self) -> None:
        assert policy(64, colluders=0, dropouts=0).degree[0] == 63
        assert policy(65, colluders=0, dropouts=0).degree[0] < 32

    def test_it_is_regular_symmetric_and_of_this_round_alone(self) -> None:
        rules = policy(80, colluders=2, dropouts=4)
        one, other = rules.graph(task(), 0), rules.graph(task(), 1)
        edges = {(i, int(j)) for i, row in enumerate(one.neighbours) for j in row}
        assert all((j, i) in edges and i != j for i, j in edges)
        assert one.degree == rules.degree[0]
        assert len(edges) == 80 * one.degree
        assert not np.array_equal(one.neighbours, other.neighbours)
        assert np.array_equal(one.neighbours, rules.graph(task(), 0).neighbours)

    @pytest.mark.parametrize(
        "numbers", [(100, 10, 10), (1000, 100, 100), (1000, 333, 100), (10000, 500, 500)]
    )
    def test_parameters_meet_their_bounds(self, numbers: tuple[int, int, int]) -> None:
        from scipy.stats import hypergeom

        clients, colluders, dropouts = numbers
        found = Graph.parameters(*numbers)
        assert found is not None
        degree, threshold = found
        half = degree // 2

        def privacy(t: int) -> float:
            return float(2 * (clients - colluders) * hypergeom.sf(t - half - 1, clients - 1, colluders, half))

        assert privacy(threshold) <= 2.0**-40 < privacy(threshold - 1)
        fails = clients * hypergeom.cdf(threshold - 1, clients - 1, clients - 1 - dropouts, degree)
        assert fails <= 2.0**-20

    def test_no_ring_where_it_saves_little(self) -> None:
        assert Graph.parameters(100, 33, 10) is None

    def test_survivors_stay_connected_whoever_is_declared_dead(self) -> None:
        """The argument of the docstring, tried: clients that reveal anything all lie in one component."""
        rules = policy(80, colluders=2, dropouts=4)
        graph = rules.graph(task(), 0)
        degree, threshold = rules.degree
        for seed in range(200):
            rng = np.random.default_rng(seed)
            dead = rng.random(80) < rng.uniform(0.2, 0.7)
            able = {i for i in range(80) if not dead[i] and (~dead[graph.neighbours[i]]).sum() >= threshold}
            components = _components({i for i in range(80) if not dead[i]}, graph)
            assert sum(bool(component & able) for component in components) <= 1
        assert degree // 2 < threshold


def _components(nodes: set[int], graph: Graph) -> list[set[int]]:
    found, left = [], set(nodes)
    while left:
        component, todo = set(), [left.pop()]
        while todo:
            node = todo.pop()
            component.add(node)
            near = set(graph.neighbours[node].tolist()) & left
            left -= near
            todo += near
        found.append(component)
    return found


def test_bytes_per_residue_are_at_the_floor() -> None:
    from vfl.protocols.wire import encode

    big = task(dimension=10_000, bits=23)
    cohort = Cohort(policy(5), big)
    cohort.play()
    sent = sum(len(encode(part.latest)) for part in cohort.parts.values() if part.latest is not None)
    masked = MaskedInput(vector=np.zeros(28_750, np.uint8), signature=bytes(64))
    assert len(encode(masked)) <= 28_750 + 100
    assert sent < 5 * 400
