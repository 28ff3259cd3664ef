"""A round in which every client is made anew from bytes before each answer."""

import pytest

from tests.cohorts import Cohort, expected, identities, names, policy, task
from tests.support import DeterministicRng
from vfl.errors import LocalProtocolError, UnexpectedMessage, VFLError
from vfl.protocols.secagg.client import Client, Contribution
from vfl.protocols.secagg.frozen import freeze, thaw
from vfl.protocols.secagg.server import Stage


class Restarted(Cohort):
    """A cohort whose clients lose their memory after each answer and keep the bytes."""

    def answer(self, name: str) -> object:  # type: ignore[override]
        given = super().answer(name)
        if given is not None and self.parts[name].answered < 5:
            self.parts[name] = self.renewed(name)
        return given

    def renewed(self, name: str) -> Contribution:
        place = self.policy.names.index(name)
        client = Client(name, identities(len(self.policy.names))[place], self.policy, DeterministicRng(place))
        return thaw(client, freeze(self.parts[name]))


@pytest.mark.parametrize("count", [3, 7, 80])
@pytest.mark.parametrize("bits", [20, 40])
def test_nothing_is_missing(count: int, bits: int) -> None:
    of = task(dimension=9, bits=bits)
    cohort = Restarted(policy(count, colluders=0), of)
    lost = {names(count)[1]: Stage.MASK} if count > 3 else {}
    ours = cohort.play(lost)
    assert cohort.refusals == {}
    assert ours.result is not None
    assert ours.result.total.tolist() == expected((i for i in range(count) if not (lost and i == 1)), of)


def test_what_was_answered_is_not_answered_again() -> None:
    cohort = Cohort(policy(3), task())
    for name in names(3):
        given = cohort.answer(name)
        assert given is not None
        cohort.round.receive(name, given)
    question = cohort.round.message(names(3)[0])
    part = Restarted.renewed(cohort, names(3)[0])  # type: ignore[arg-type]
    part.answer(question)
    again = thaw(part._client, freeze(part))
    with pytest.raises(UnexpectedMessage):
        again.answer(question)


def test_only_a_round_that_goes_on_is_kept() -> None:
    cohort = Cohort(policy(3), task())
    part = cohort.parts[names(3)[0]]
    with pytest.raises(LocalProtocolError, match="that goes on"):
        freeze(part)
    part.accept(cohort.round.invitation(names(3)[0]))
    with pytest.raises(VFLError):
        part.answer(cohort.round.invitation(names(3)[0]))
    with pytest.raises(LocalProtocolError, match="that goes on"):
        freeze(part)


def test_damaged_bytes() -> None:
    cohort = Cohort(policy(3), task())
    with pytest.raises(LocalProtocolError, match="damaged"):
        thaw(cohort.clients[names(3)[0]], b"?")
