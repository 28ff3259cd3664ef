"""Sessions in one process: the ambient session, errors of either side, policy, lockstep, progress."""

import threading
from typing import Any

import numpy as np
import pytest

import vfl
from vfl.errors import (
    ConfigMismatch,
    Deadlock,
    InvalidData,
    LocalProtocolError,
    PeerAborted,
    PolicyRefused,
)
from vfl.protocols.wire import Leakage, message_types

IDS = np.array([[str(i)] for i in range(100)])


def align() -> Any:
    return vfl.align(IDS, on="x0")


def test_calls_outside_a_session_say_what_to_do() -> None:
    with pytest.raises(LocalProtocolError, match=r"vfl\.connect"):
        align()


def test_results_are_returned_by_party() -> None:
    result = vfl.simulate(bank=lambda: "b", retailer=lambda: 7)
    assert dict(result) == {"bank": "b", "retailer": 7}
    assert len(result) == 2
    assert result.sessions["bank"].role == "guest"
    assert result.sessions["retailer"].peer.name == "bank"


@pytest.mark.parametrize("count", [0, 1])
def test_two_parties_are_needed(count: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"have {count}"):
        vfl.simulate(**dict.fromkeys(("a", "b")[:count], align))  # type: ignore[arg-type]


@pytest.mark.parametrize("failing", ["bank", "retailer"])
def test_the_error_of_one_side_reaches_the_caller_and_stops_the_other(failing: str) -> None:
    outcome: dict[str, BaseException] = {}

    def fail() -> None:
        raise InvalidData("a table of mine is wrong")

    def work() -> None:
        try:
            align()
        except BaseException as error:
            outcome["other"] = error
            raise

    with pytest.raises(InvalidData, match="of mine"):
        vfl.simulate(
            bank=fail if failing == "bank" else work, retailer=fail if failing == "retailer" else work
        )
    assert isinstance(outcome["other"], PeerAborted)
    assert f"{failing} stopped with InvalidData" in str(outcome["other"])
    assert "of mine" not in str(outcome["other"])


def test_a_party_that_leaves_early_is_noticed() -> None:
    with pytest.raises(vfl.errors.ChannelClosed, match="retailer"):
        vfl.simulate(bank=align, retailer=lambda: None)


def test_calls_that_differ_are_named_before_data_moves() -> None:
    table = np.ones((60, 2))
    table[:30] = 0

    def guest() -> None:
        vfl.LogisticRegression(C=2.0, max_iter=3).fit(table, table[:, 0])

    def host() -> None:
        vfl.LogisticRegression(C=1.0, max_iter=4, he="paillier").fit(table)

    with pytest.raises(ConfigMismatch) as caught:
        vfl.simulate(bank=guest, shop=host)
    assert set(caught.value.differences) == {"C", "max_iter", "he"}

    with pytest.raises(ConfigMismatch, match="call"):
        vfl.simulate(
            bank=lambda: vfl.LinearRegression().fit(table, table[:, 0]),
            shop=lambda: vfl.LogisticRegression().fit(table),
        )


def test_other_row_counts_are_named() -> None:
    def guest() -> None:
        vfl.LogisticRegression().fit(np.eye(60), np.arange(60) % 2)

    with pytest.raises(ConfigMismatch, match="rows"):
        vfl.simulate(
            bank=guest,
            shop=lambda: vfl.LogisticRegression().fit(np.eye(61)),
        )


@pytest.mark.parametrize("accepted", [[], ["score"], ["gradient"]])
def test_leakage_that_is_not_accepted_is_refused_before_data_moves(accepted: list[str]) -> None:
    table = np.random.default_rng(0).normal(size=(100, 2))
    kinds: list[str] = []

    def watch(session: vfl.Session) -> None:
        session.channel.observe(lambda record: kinds.append(record.kind))

    def guest() -> None:
        watch(vfl.current())
        vfl.LogisticRegression(security="exchange").fit(table, table[:, 0] > 0)

    missing = "gradient" if accepted == ["score"] else "score"
    with pytest.raises(PolicyRefused, match=missing):
        vfl.simulate(
            bank=guest,
            shop=lambda: vfl.LogisticRegression(security="exchange").fit(table),
            accept_leakage=accepted,
        )
    assert not any(
        message_types()[kind].declaration.leakage in (Leakage.SCORE, Leakage.GRADIENT) for kind in kinds
    )


def test_both_waiting_is_a_deadlock_that_names_the_messages() -> None:
    from vfl.protocols.psi import sets

    def wait() -> None:
        session = vfl.current()
        session.run(session.channel.recv(sets.SetSize))

    with pytest.raises(Deadlock, match=r"waits for psi\.size"):
        vfl.simulate(bank=wait, shop=wait)


def test_no_thread_outlives_a_simulation() -> None:
    before = threading.active_count()
    vfl.simulate(bank=align, shop=align)
    assert threading.active_count() == before


def test_two_simulations_at_once_do_not_mix() -> None:
    results: list[Any] = []

    def one() -> None:
        results.append(vfl.simulate(bank=align, shop=align)["bank"])

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(rows) for rows in results] == [100, 100]


def test_phases_count_every_byte(capsys: pytest.CaptureFixture[str]) -> None:
    result = vfl.simulate(bank=align, shop=align, verbose=1)
    session = result.sessions["bank"]
    sent = sum(cost.sent for cost in session.phases.costs)
    agreed = result.transcript.by_kind()["session.proposal"].size // 2
    assert sent + agreed == session.channel.bytes["sent"]
    assert [cost.name for cost in session.phases.costs] == ["handshake", "align"]
    assert "bank: align:" in capsys.readouterr().err
