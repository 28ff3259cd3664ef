"""An aggregator that cheats: every way to tell clients different things is refused by the clients."""

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from tests.cohorts import Cohort, expected, identities, names, policy, task, vector
from vfl.crypto.agreement import KeyPair
from vfl.crypto.masking import add_masks, reduced, unpack
from vfl.crypto.shamir import SHARE_BYTES, combine, read_share
from vfl.errors import (
    CohortTooSmall,
    ConfigMismatch,
    InconsistentView,
    LocalProtocolError,
    PeerAuthenticationError,
    RoundLost,
    UnexpectedMessage,
)
from vfl.protocols.secagg.messages import (
    Advertise,
    Agreement,
    Bundle,
    Confirmation,
    MaskedInput,
    Reveal,
    Roster,
    Survivors,
)
from vfl.protocols.secagg.server import Round, Stage
from vfl.protocols.secagg.views import KEYS, keys_statement, mask_key, pair_key
from vfl.protocols.wire import Message

NAMES = names(5)


def at(stage: Stage, count: int = 5, lose: dict[str, Stage] | None = None, **more: Any) -> Cohort:
    """Return a cohort whose round has come to a stage honestly; clients in `lose` were lost on the way."""
    cohort = Cohort(policy(count), task(), **more)
    gone = lose or {}
    while cohort.round.stage < stage:
        present = cohort.round.stage
        for name in sorted(cohort.round.missing()):
            if gone.get(name, Stage.DONE) <= present:
                cohort.round.drop(name)
        for name in sorted(cohort.round.missing()):
            answer = cohort.answer(name)
            assert answer is not None
            cohort.round.receive(name, answer)
    return cohort


def question(cohort: Cohort, kind: type[Any], name: str = "silo000") -> Any:
    message = cohort.round.message(name)
    assert isinstance(message, kind)
    return message


def without(rows: np.ndarray[Any, Any], *members: int) -> np.ndarray[Any, Any]:
    changed = rows.copy()
    changed[list(members)] = 0
    return changed


def refuses(cohort: Cohort, name: str, message: Message, error: type[Exception], text: str) -> None:
    """Check that a client refuses a message, and that nothing gets an answer from it afterwards."""
    part = cohort.parts[name]
    before, honest = part.answered, cohort.round.message(name)
    with pytest.raises(error, match=text):
        part.answer(message)
    with pytest.raises(LocalProtocolError, match="has refused"):
        part.answer(honest)
    assert part.answered == before


# --- keys


def test_exchanged_keys() -> None:
    cohort = at(Stage.SHARE)
    roster = question(cohort, Roster)
    mine = KeyPair(bytes(range(32)))
    keys = roster.keys.copy()
    keys[1] = np.frombuffer(mine.public * 2, dtype=np.uint8)
    refuses(
        cohort,
        "silo000",
        replace(roster, keys=keys),
        PeerAuthenticationError,
        "silo001 has not signed the keys",
    )


def test_exchanged_keys_of_the_client_itself() -> None:
    cohort = at(Stage.SHARE)
    roster = question(cohort, Roster)
    keys = roster.keys.copy()
    keys[0] = keys[1]
    refuses(cohort, "silo000", replace(roster, keys=keys), InconsistentView, "other keys of silo000")


def test_keys_of_another_client_under_its_own_signature() -> None:
    cohort = at(Stage.SHARE)
    roster = question(cohort, Roster)
    keys, signatures = roster.keys.copy(), roster.signatures.copy()
    keys[1], signatures[1] = keys[2], signatures[2]
    twisted = replace(roster, keys=keys, signatures=signatures)
    refuses(cohort, "silo000", twisted, PeerAuthenticationError, "silo001 has not signed")


def test_a_key_of_small_order_that_a_colluder_has_signed() -> None:
    cohort = at(Stage.SHARE)
    roster = question(cohort, Roster)
    zero = bytes(32)
    statement = keys_statement(cohort.round._context, 1, zero, zero)
    keys, signatures = without(roster.keys, 1), roster.signatures.copy()
    signatures[1] = np.frombuffer(identities(5)[1].sign(KEYS, statement), dtype=np.uint8)
    twisted = replace(roster, keys=keys, signatures=signatures)
    refuses(cohort, "silo000", twisted, PeerAuthenticationError, "silo001 has sent an invalid key")


def test_keys_of_an_earlier_round() -> None:
    old = question(at(Stage.SHARE, number=0), Roster)
    cohort = at(Stage.SHARE, number=1)
    roster = question(cohort, Roster)
    keys, signatures = roster.keys.copy(), roster.signatures.copy()
    keys[1], signatures[1] = old.keys[1], old.signatures[1]
    twisted = replace(roster, keys=keys, signatures=signatures)
    refuses(cohort, "silo000", twisted, PeerAuthenticationError, "silo001 has not signed")


# --- model, round, policy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "11" * 32),
        ("colluders", "0"),
        ("minimum", "3"),
        ("dimension", "6"),
        ("bits", "21"),
        ("session", "00"),
    ],
)
def test_an_invitation_that_differs_names_the_field(field: str, value: str) -> None:
    cohort = Cohort(policy(5), task())
    invitation = cohort.round.invitation("silo000")
    twisted = replace(invitation, fields=invitation.fields | {field: value})
    with pytest.raises(ConfigMismatch, match=f"{field}: silo000 has .*, the aggregator has '{value}'"):
        cohort.parts["silo000"].accept(twisted)


def merged(one: Cohort, other: Cohort, members: list[int]) -> Roster:
    """Return a roster with the keys of some clients from another round's."""
    a, b = question(one, Roster), question(other, Roster)
    keys, signatures = a.keys.copy(), a.signatures.copy()
    keys[members], signatures[members] = b.keys[members], b.signatures[members]
    roster: Roster = replace(a, keys=keys, signatures=signatures)
    return roster


def test_another_model_for_some_clients() -> None:
    """The split view: two groups are invited over different models and then put together."""
    cohort, other = at(Stage.SHARE), Cohort(policy(5), task(model=b"m" * 32))
    for name in NAMES:
        answer = other.answer(name)
        assert answer is not None
        other.round.receive(name, answer)
    twisted = merged(cohort, other, [3, 4])
    refuses(cohort, "silo000", twisted, PeerAuthenticationError, "silo003 has not signed .* over this model")


def test_another_round_for_some_clients() -> None:
    cohort, other = at(Stage.SHARE, number=7), at(Stage.SHARE, number=8)
    refuses(cohort, "silo000", merged(cohort, other, [4]), PeerAuthenticationError, "silo004 has not signed")


# --- the cohort


@pytest.mark.parametrize(
    ("stage", "kind"), [(Stage.SHARE, Roster), (Stage.MASK, Bundle), (Stage.CONFIRM, Survivors)]
)
def test_a_cohort_that_shrinks_below_the_minimum(stage: Stage, kind: type[Any]) -> None:
    cohort = at(stage)
    message = question(cohort, kind)
    twisted = replace(message, present=without(message.present, 3, 4))
    refuses(cohort, "silo000", twisted, CohortTooSmall, "3 clients .*, silo000 requires 4 of 5")


def test_a_cohort_of_nobody_else() -> None:
    cohort = at(Stage.SHARE)
    roster = question(cohort, Roster)
    twisted = replace(roster, present=without(roster.present, 1, 2, 3, 4))
    refuses(cohort, "silo000", twisted, CohortTooSmall, "1 clients take part")


@pytest.mark.parametrize(
    ("stage", "kind"), [(Stage.SHARE, Roster), (Stage.MASK, Bundle), (Stage.CONFIRM, Survivors)]
)
def test_a_client_declared_dead_answers_no_more(stage: Stage, kind: type[Any]) -> None:
    cohort = at(stage)
    message = question(cohort, kind)
    twisted = replace(message, present=without(message.present, 0))
    refuses(cohort, "silo000", twisted, RoundLost, "goes on without silo000")


@pytest.mark.parametrize(("stage", "kind"), [(Stage.MASK, Bundle), (Stage.CONFIRM, Survivors)])
def test_the_dead_do_not_come_back(stage: Stage, kind: type[Any]) -> None:
    cohort = at(stage, lose={"silo004": Stage(stage - 2)})
    message = question(cohort, kind)
    assert message.present.tolist() == [1, 1, 1, 1, 0]
    twisted = replace(message, present=np.ones(5, dtype=np.uint8))
    refuses(cohort, "silo000", twisted, InconsistentView, "not there before")


def test_whoever_has_sent_no_vector_cannot_be_made_a_survivor() -> None:
    cohort = at(Stage.CONFIRM, lose={"silo004": Stage.MASK})
    message = question(cohort, Survivors)
    twisted = replace(message, present=np.ones(5, dtype=np.uint8))
    refuses(cohort, "silo000", twisted, PeerAuthenticationError, "silo004 has not signed that it masked")


def test_no_presence_but_zero_and_one() -> None:
    cohort = at(Stage.SHARE)
    roster = question(cohort, Roster)
    refuses(
        cohort, "silo000", replace(roster, present=2 * roster.present), InconsistentView, "not there before"
    )


# --- different rosters and views


def test_different_rosters_for_different_clients() -> None:
    """Half are told that silo004 is missing; what one half seals, the other cannot open."""
    cohort = at(Stage.SHARE)
    for name in NAMES:
        roster = question(cohort, Roster, name)
        if name in NAMES[:2]:
            roster = replace(roster, present=without(roster.present, 4))
        cohort.round.receive(name, cohort.parts[name].answer(roster))
    bundle = question(cohort, Bundle)
    twisted = replace(bundle, present=without(bundle.present, 4))
    refuses(cohort, "silo000", twisted, InconsistentView, "only 1 were sealed for this roster")


def test_different_views_under_one_roster() -> None:
    """One client is told that silo004 has shared nothing; the others check under which view it masked."""
    cohort = at(Stage.MASK)
    signatures, answers = np.zeros((5, 64), np.uint8), {}
    for i, name in enumerate(NAMES):
        bundle = question(cohort, Bundle, name)
        if i == 1:
            bundle = replace(bundle, present=without(bundle.present, 4))
        answers[name] = cohort.parts[name].answer(bundle)
        assert isinstance(answers[name], MaskedInput)
        signatures[i] = np.frombuffer(answers[name].signature, dtype=np.uint8)  # type: ignore[attr-defined]
    survivors = Survivors(present=np.ones(5, np.uint8), signatures=signatures)
    part = cohort.parts["silo000"]
    with pytest.raises(
        PeerAuthenticationError, match="silo001 has not signed that it masked among the same clients"
    ):
        part.answer(survivors)


def test_shares_changed_on_the_way_are_left_out() -> None:
    cohort = at(Stage.MASK)
    bundle = question(cohort, Bundle)
    sealed = bundle.sealed.copy()
    sealed[0] ^= 1
    assert isinstance(cohort.parts["silo000"].answer(replace(bundle, sealed=sealed)), MaskedInput)
    cohort = at(Stage.MASK)
    sealed[1] ^= 1
    refuses(cohort, "silo000", replace(bundle, sealed=sealed), InconsistentView, "sealed for this roster")


# --- dead and alive


def confirmations(cohort: Cohort, groups: list[tuple[list[str], list[int]]]) -> dict[str, bytes]:
    """Ask groups of clients to confirm survivors, each with another list of dead; return their signatures."""
    signed = {}
    for members, dead in groups:
        for name in members:
            survivors = question(cohort, Survivors, name)
            answer = cohort.parts[name].answer(replace(survivors, present=without(survivors.present, *dead)))
            assert isinstance(answer, Confirmation)
            signed[name] = answer.signature
    return signed


def agreement(signed: dict[str, bytes], count: int) -> Agreement:
    present, signatures = np.zeros(count, np.uint8), np.zeros((count, 64), np.uint8)
    for name, signature in signed.items():
        i = int(name[4:])
        present[i], signatures[i] = 1, np.frombuffer(signature, dtype=np.uint8)
    return Agreement(present=present, signatures=signatures)


def test_two_sets_of_survivors_find_no_two_quorums() -> None:
    """Half of the clients hear that silo006 is dead, the others that it lives: neither half reveals anything."""
    cohort = at(Stage.CONFIRM, count=7)
    everyone = names(7)
    groups = [(everyone[:3], [6]), (everyone[3:6], list[int]())]
    signed = confirmations(cohort, groups)
    for name in everyone[:6]:
        own = {other: signed[other] for group, _ in groups if name in group for other in group}
        with pytest.raises(CohortTooSmall, match=r"3 clients have confirmed the survivors, .* requires 5"):
            cohort.parts[name].answer(agreement(own, 7))


def test_confirmations_of_another_set_do_not_count() -> None:
    cohort = at(Stage.CONFIRM, count=7)
    everyone = names(7)
    signed = confirmations(cohort, [(everyone[:3], [6]), (everyone[3:6], [])])
    for name in everyone[:6]:
        with pytest.raises(PeerAuthenticationError, match="has not signed this set of survivors"):
            cohort.parts[name].answer(agreement(signed, 7))


def test_confirmations_of_the_dead_do_not_count() -> None:
    cohort = at(Stage.REVEAL, lose={"silo004": Stage.MASK})
    told = question(cohort, Agreement)
    present = told.present.copy()
    present[4] = 1
    refuses(cohort, "silo000", replace(told, present=present), InconsistentView, "did not survive")


def test_confirmations_of_an_earlier_round_do_not_count() -> None:
    old = question(at(Stage.REVEAL, number=0), Agreement)
    cohort = at(Stage.REVEAL, number=1)
    refuses(cohort, "silo000", old, PeerAuthenticationError, "this set of survivors in this round")


def test_control_both_secrets_of_one_client_unmask_its_vector() -> None:
    """What the confirmations prevent: with shares of the seed and of the masking key a vector lies open."""
    cohort = at(Stage.CONFIRM, count=5)
    graph, victim = cohort.round._graph, 2
    held = {i: cohort.parts[name]._held for i, name in enumerate(NAMES) if i != victim}
    seed, secret = (
        combine({i + 1: read_share(h[victim][k : k + SHARE_BYTES]) for i, h in held.items()}, graph.threshold)
        for k in (0, SHARE_BYTES)
    )
    assert seed is not None
    assert secret is not None
    view, keys = cohort.round._view, cohort.round._keys
    sent = cohort.parts[NAMES[victim]].latest
    assert isinstance(sent, MaskedInput)
    total = unpack(sent.vector, cohort.task.dimension, cohort.task.bits)
    pairs = {i: pair_key(KeyPair(secret).agree(keys[i, 32:].tobytes()), view, victim, i) for i in held}
    plus = [key for i, key in pairs.items() if i < victim]
    minus = [mask_key(seed, view), *(key for i, key in pairs.items() if i > victim)]
    add_masks(total, plus, minus)
    assert reduced(total, cohort.task.bits).tolist() == expected([victim], cohort.task)


def test_no_reveal_holds_both_secrets_of_anyone() -> None:
    cohort = at(Stage.REVEAL, lose={"silo004": Stage.MASK})
    held = {name: dict(cohort.parts[name]._held) for name in NAMES[:4]}
    for name in NAMES[:4]:
        answer = cohort.parts[name].answer(question(cohort, Agreement, name))
        assert isinstance(answer, Reveal)
        neighbours = cohort.round._graph.neighbours[int(name[4:])]
        for row, other in enumerate(neighbours.tolist()):
            seed, secret = held[name][other][:SHARE_BYTES], held[name][other][SHARE_BYTES:]
            assert answer.shares[row].tobytes() == (secret if other == 4 else seed)
        assert not cohort.parts[name]._held


# --- asking twice, out of order, again


@pytest.mark.parametrize("stage", [Stage.SHARE, Stage.MASK, Stage.CONFIRM, Stage.REVEAL])
def test_nothing_is_answered_twice(stage: Stage) -> None:
    cohort = at(stage)
    asked = cohort.round.message("silo000")
    part = cohort.parts["silo000"]
    part.answer(asked)
    with pytest.raises(UnexpectedMessage, match="is no question after"):
        part.answer(asked)
    with pytest.raises(LocalProtocolError):
        part.answer(asked)


def test_no_question_is_skipped() -> None:
    ahead = at(Stage.REVEAL)
    cohort = at(Stage.CONFIRM)
    refuses(
        cohort,
        "silo000",
        question(ahead, Agreement),
        UnexpectedMessage,
        "Agreement is no question after 3 answers",
    )


def test_a_second_invitation_draws_no_new_keys() -> None:
    cohort = at(Stage.SHARE)
    part = cohort.parts["silo000"]
    first = part.latest
    part.accept(cohort.round.invitation("silo000"))
    assert part.latest is first
    assert isinstance(first, Advertise)
    with pytest.raises(RoundLost):
        part.accept(Round(cohort.policy, cohort.task, 1).invitation("silo000"))


def test_the_aggregator_alone_sees_no_vector() -> None:
    """What a client sends before the survivors are agreed is the same whatever it holds, up to its masks."""
    cohort = at(Stage.CONFIRM)
    sent = cohort.parts["silo000"].latest
    assert isinstance(sent, MaskedInput)
    masked = unpack(sent.vector, 5, 20)
    assert not np.array_equal(masked, vector(0, cohort.task))
