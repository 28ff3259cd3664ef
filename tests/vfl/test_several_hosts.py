"""One guest and several hosts: a channel, a handshake and a transcript for each pair, in one process and over TLS."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vfl
from tests.several import HOSTS, PEER, at_once, connected, make_parties, vfl_command
from vfl import audit
from vfl.cli.init import Created
from vfl.config import load_config
from vfl.errors import (
    ChannelTimeout,
    ConfigError,
    ConfigMismatch,
    Deadlock,
    InvalidData,
    LocalProtocolError,
    PeerAborted,
    PeerAuthenticationError,
    PolicyRefused,
)
from vfl.protocols.psi.sets import SetSize
from vfl.protocols.wire import Leakage


def ask(name: str = "survey", **shared: Any) -> Callable[[], Any]:
    """Return a function that makes one call and returns what the peers said."""

    def act() -> Any:
        session = vfl.current()
        return session.call(name, shared, {"I am": session.name})

    return act


def everybody(act: Callable[[], Any]) -> dict[str, Any]:
    return dict.fromkeys(("bank", *HOSTS), act)


def test_the_guest_has_a_channel_to_each_host_and_hosts_have_one_to_the_guest() -> None:
    result = vfl.simulate(**everybody(ask()))
    assert result["bank"] == ({"I am": "retailer"}, {"I am": "insurer"})
    assert result["retailer"] == result["insurer"] == ({"I am": "bank"},)
    bank = result.sessions["bank"]
    assert [channel.peer.name for channel in bank.channels] == list(HOSTS)
    assert [peer.name for peer in bank.peers] == list(HOSTS)
    assert set(bank.fingerprints) == {"bank", *HOSTS}
    assert set(result.sessions["insurer"].fingerprints) == {"bank", "insurer"}
    for session in result.sessions.values():
        assert session.hosts == HOSTS  # hosts are told of each other


def test_each_pair_has_a_session_and_a_running_hash_of_its_own() -> None:
    result = vfl.simulate(**everybody(ask()))
    bank = result.sessions["bank"]
    assert len({peer.session for peer in bank.peers}) == 2
    assert bank.identifier == ", ".join(result.sessions[name].identifier for name in HOSTS)
    for channel in bank.channels:
        assert channel.digests() == result.sessions[channel.peer.name].channel.digests()[::-1]


def test_the_transcript_knows_every_pair() -> None:
    result = vfl.simulate(**everybody(ask()))
    pairs = {(row["sender"], row["recipient"]) for row in result.transcript.leakage_table()}
    assert pairs == {pair for name in HOSTS for pair in (("bank", name), (name, "bank"))}
    assert {record.party for record in result.view("insurer")} == {"bank"}  # as the guest sent it
    tally = result.sessions["bank"].tally.by_leakage("bank")
    assert tally[Leakage.PUBLIC].count == 2 * 3  # hello, confirm and proposal of two hosts
    assert sum(cost.sent for cost in result.sessions["bank"].phases.costs) == sum(
        record.size
        for record in result.transcript.records
        if record.direction == "sent" and record.kind != "session.proposal"
    )


@pytest.mark.parametrize("odd", ["bank", *HOSTS])
def test_a_call_that_differs_names_the_parties(odd: str) -> None:
    acts = everybody(ask(rows=10)) | {odd: ask(rows=11)}
    with pytest.raises(ConfigMismatch) as caught:
        vfl.simulate(**acts)
    assert set(caught.value.differences) == {"rows"}
    assert odd in str(caught.value)
    assert "bank" in str(caught.value)


@pytest.mark.parametrize("failing", ["bank", *HOSTS])
def test_the_error_of_one_party_stops_all_others(failing: str) -> None:
    outcome: dict[str, BaseException] = {}

    def wait(name: str) -> None:
        try:
            vfl.current().checkpoint()
            vfl.current().checkpoint()
        except BaseException as error:
            outcome[name] = error
            raise

    def fail() -> None:
        raise InvalidData("mine")

    acts: dict[str, Any] = {
        name: fail if name == failing else functools.partial(wait, name) for name in ("bank", *HOSTS)
    }
    with pytest.raises(InvalidData, match="mine"):
        vfl.simulate(**acts)
    assert len(outcome) == 2
    for name, error in outcome.items():
        assert isinstance(error, PeerAborted), error
        guilty = f"{failing} stopped with InvalidData"
        assert (guilty if "bank" in (failing, name) else "bank stopped with PeerAborted") in str(error)


def test_everybody_waiting_is_a_deadlock_that_names_all() -> None:
    def wait() -> None:
        session = vfl.current()
        session.run(session.channels[-1].recv(SetSize))

    with pytest.raises(Deadlock) as caught:
        vfl.simulate(**everybody(wait))
    for name in ("bank", *HOSTS):
        assert f"{name} waits for psi.size" in str(caught.value)


def test_what_works_with_one_host_only_says_so() -> None:
    with pytest.raises(LocalProtocolError, match=r"bank has 2 hosts \(retailer, insurer\)"):
        vfl.simulate(**everybody(lambda: vfl.current().channel))
    with pytest.raises(LocalProtocolError, match="one host only"):
        vfl.simulate(**everybody(lambda: vfl.intersection_size(np.array([["a"], ["b"]]), on="x0")))


def test_leakage_that_one_host_does_not_accept_is_refused_with_its_name() -> None:
    def act() -> None:
        vfl.current().require_leakage(Leakage.SCORE)

    def cautious() -> None:
        session = vfl.current()
        session.policy = vfl.config.PolicyConfig()
        act()

    import vfl.config

    with pytest.raises(PolicyRefused, match="insurer does not accept the leakage score"):
        vfl.simulate(bank=act, retailer=act, insurer=cautious, accept_leakage=["score"])


# --- over the network


@pytest.fixture
def parties(tmp_path: Path) -> dict[str, Created]:
    return make_parties(tmp_path)


def test_a_run_over_the_network_leaves_a_log_and_a_report_of_every_pair(parties: dict[str, Created]) -> None:
    def act(session: vfl.Session) -> Any:
        session.call("survey", {}, {})
        session.checkpoint()
        return session.folder, session.identifier

    outcome = at_once({name: connected(party, act) for name, party in parties.items()})
    folder, identifier = outcome["bank"]
    summary = audit.verify(
        folder / "audit.jsonl", load_config(parties["bank"].config).identity().public_bytes
    )
    assert summary.header.peer == "retailer, insurer"
    assert summary.header.session == identifier == ", ".join(outcome[name][1] for name in HOSTS)
    assert summary.totals["session.checkpoint", "public"][0] == 2
    lines = (folder / "audit.jsonl").read_text()
    assert all(f'"peer":"{name}"' in lines for name in HOSTS)
    page = (folder / "report.html").read_text()
    assert "retailer" in page
    assert "insurer" in page
    assert load_config(parties["bank"].config).pinned(load_config(parties["bank"].config).peers[1]) == (
        parties["insurer"].certificate.read_bytes()
    )


def test_all_three_align_over_the_network_and_their_ledgers_remember(parties: dict[str, Created]) -> None:
    lists: dict[str, Any] = {"retailer": range(20, 90), "insurer": [*range(0, 50), *range(200, 230)]}

    def aligned(bank: range) -> dict[str, Any]:
        def act(held: Any) -> Callable[[vfl.Session], Any]:
            return lambda session: (vfl.align(np.array([[f"c{i}"] for i in held]), on="x0"), session)

        held = lists | {"bank": bank}
        return at_once({name: connected(party, act(held[name])) for name, party in parties.items()})

    outcome = aligned(range(60))
    bank = outcome["bank"][0][:, 0].tolist()
    assert sorted(bank) == sorted(f"c{i}" for i in range(20, 50))
    for name in HOSTS:
        assert outcome[name][0][:, 0].tolist() == bank
        assert outcome[name][1].facts.alignment.common_rows == 30
    page = (outcome["bank"][1].folder / "report.html").read_text()
    assert "multi: 2 hosts" in page
    refused = aligned(range(59))
    assert isinstance(refused["bank"], PolicyRefused)
    assert "differ in about 1 rows" in str(refused["bank"])
    for name in HOSTS:
        assert isinstance(refused[name], PeerAborted)


def test_check_shows_every_host(parties: dict[str, Created], capsys: pytest.CaptureFixture[str]) -> None:
    outcome = at_once(
        {name: functools.partial(vfl_command, "check", party.config) for name, party in parties.items()}
    )
    assert outcome == dict.fromkeys(parties, 0)
    shown = capsys.readouterr().out
    assert "bank and retailer and insurer agree" in shown
    assert "insurer and bank agree" in shown
    assert "address of insurer" in shown


def test_a_host_that_does_not_come_is_named_and_the_other_is_told(parties: dict[str, Created]) -> None:
    config = parties["bank"].config
    config.write_text(config.read_text().replace("listen =", "wait_seconds = 1.5\nlisten ="))
    outcome = at_once({name: connected(parties[name], lambda session: None) for name in ("bank", "retailer")})
    assert isinstance(outcome["bank"], ChannelTimeout)
    assert "insurer" in str(outcome["bank"])
    assert isinstance(outcome["retailer"], PeerAborted)
    assert "bank stopped with ChannelTimeout" in str(outcome["retailer"])


def test_hosts_in_each_others_place_are_refused(parties: dict[str, Created]) -> None:
    """Each port takes one certificate: insurer's port refuses the retailer before a message is read."""
    addresses = {name: load_config(parties[name].config).peer.connect for name in HOSTS}
    for name, other in (HOSTS, HOSTS[::-1]):
        config = parties[name].config
        config.write_text(
            config.read_text()
            .replace(str(addresses[name]), str(addresses[other]))
            .replace("wait_seconds = 300.0", "wait_seconds = 5.0")
        )
    config = parties["bank"].config
    config.write_text(config.read_text().replace("listen =", "wait_seconds = 3\nlisten ="))
    outcome = at_once({name: connected(party, lambda session: None) for name, party in parties.items()})
    assert isinstance(outcome["bank"], ChannelTimeout)
    for name in HOSTS:
        assert isinstance(outcome[name], PeerAuthenticationError | ChannelTimeout), outcome[name]


# --- configuration

PARTY = """\
[party]
name = "bank"
role = "guest"
key = "bank.key"
certificate = "bank.pem"
"""
FIRST, SECOND = (
    PEER.format(name=name, address=f"0.0.0.0:{port}") for name, port in zip(HOSTS, (1, 2), strict=True)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PARTY, ["needs one section [peer], or [[peers]]"]),
        (PARTY + FIRST + FIRST.replace("[[peers]]", "[peer]"), ["needs one section [peer], or [[peers]]"]),
        (PARTY.replace("guest", "host") + FIRST + SECOND, ["names 2", "a host has one peer, the guest"]),
        (PARTY + FIRST + FIRST, ["retailer twice"]),
        (PARTY + FIRST + SECOND.replace("0:2", "0:1"), ["[[peers]] of insurer", "address of another peer"]),
        (PARTY + FIRST + SECOND.replace("insurer", "bank"), ["both bank"]),
        (PARTY + FIRST + SECOND.replace("listen", "# listen"), ["of insurer needs exactly one of listen"]),
        (
            PARTY + FIRST + SECOND.replace("listen", "lisen"),
            ["line 15", "'lisen'", "[peers]", "mean listen?"],
        ),
        (PARTY + FIRST.replace("listen", "lisen") + SECOND, ["line 10", "'lisen'"]),
        (PARTY + FIRST + SECOND.replace("name =", "# name ="), ["line 12", "name is missing in [peers]"]),
        (PARTY + FIRST + SECOND + "stall_seconds = 'x'", ["line 16", "peers.stall_seconds", "got text"]),
    ],
)
def test_a_mistake_about_several_peers_is_named(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = tmp_path / "bank.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert [part for part in expected if part not in str(caught.value)] == [], str(caught.value)


def test_several_peers_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "bank.toml"
    path.write_text(PARTY + FIRST + SECOND)
    config = load_config(path)
    assert config.peer_names == "retailer, insurer"
    with pytest.raises(ConfigError, match="has 2 peers: retailer, insurer"):
        _ = config.peer
    path.write_text(PARTY + FIRST)
    assert load_config(path).peer.name == "retailer"
