"""Clients over channels: in memory stepped by hand, over mutual TLS as threads and as processes."""

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.channels import Identity, Task, endpoint, threads_besides
from tests.cohorts import expected, identities, names, policy, task, vector
from tests.support import DeterministicRng
from vfl.crypto.rng import SystemRng
from vfl.crypto.signatures import IdentityKey, self_signed_certificate
from vfl.errors import (
    ChannelClosed,
    CohortTooSmall,
    ConfigError,
    ConfigMismatch,
    InconsistentView,
    PeerAborted,
    PeerAuthenticationError,
    RoundLost,
    VFLError,
)
from vfl.protocols.channel import Channel, Party, memory_pair, run, run_local
from vfl.protocols.grpc import Endpoint, Hub
from vfl.protocols.record import Transcript
from vfl.protocols.secagg.calls import serve_calls
from vfl.protocols.secagg.client import Client, Contribution, Result, contribute
from vfl.protocols.secagg.hall import Deadlines, Hall, attend
from vfl.protocols.secagg.messages import Invitation, Join, Outcome
from vfl.protocols.secagg.network import Aggregator, Line, dial, take_part
from vfl.protocols.secagg.policy import Policy
from vfl.protocols.secagg.server import Round, Stage
from vfl.protocols.wire import Leakage, Message, Role

AGGREGATOR = Party("aggregator", Role.AGGREGATOR)
AT_ONCE = Deadlines(reconnect=0)
ROOT = Path(__file__).resolve().parents[2]


def part_of(rules: Policy, i: int, last_round: int = -1) -> Contribution:
    client = Client(names(i + 1)[i], identities(len(rules.names))[i], rules, DeterministicRng(i), last_round)
    return client.contribution(task(), vector(i, task()))


class Dies(Exception):
    """A client's process ends."""


class Mortal:
    """A channel whose client dies when it is about to send its n-th message."""

    def __init__(self, inner: Channel, sends: int) -> None:
        self._inner, self._left = inner, sends

    async def send(self, message: Message) -> None:
        self._left -= 1
        if self._left < 0:
            self._inner.close()
            raise Dies
        await self._inner.send(message)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def guarded(channel: Any, part: Contribution) -> Any:
    try:
        return await contribute(channel, part)
    except (VFLError, Dies) as error:
        return error
    finally:
        channel.close()


async def attended(channel: Channel, hall: Hall) -> None:
    try:
        await attend(channel, hall)
    except VFLError as error:
        channel.abort(error)


def play(count: int, dying: dict[int, int]) -> tuple[dict[str, Any], Hall, dict[str, Transcript]]:
    """Run a round in memory; client i dies instead of sending its message number dying[i]: 0 join, 1 advertise ..."""
    rules = policy(count)
    hall = Hall(rules, AT_ONCE)
    hall.begin(task(), 0)
    roles, transcripts = {}, {}
    for i, name in enumerate(rules.names):
        near, far = memory_pair(AGGREGATOR, Party(name, Role.CLIENT))
        transcripts[name] = Transcript()
        far.observe(transcripts[name])
        client: Any = Mortal(far, dying[i]) if i in dying else far
        roles[name] = guarded(client, part_of(rules, i))
        roles[f"attends {name}"] = attended(near, hall)
    return run_local(**roles), hall, transcripts


class TestInMemory:
    def test_everybody_gets_the_sum(self) -> None:
        results, hall, transcripts = play(4, {})
        for name in names(4):
            assert isinstance(results[name], Result)
            assert results[name].total.tolist() == expected(range(4), task())
            kinds = {record.kind: record.leakage for record in transcripts[name].records}
            assert {kind for kind, leak in kinds.items() if leak is Leakage.AGGREGATE} == {
                "secagg.reveal",
                "secagg.outcome",
            }
        assert hall.round is not None
        assert hall.round.result is not None

    @pytest.mark.parametrize("sends", range(6))
    @pytest.mark.parametrize("who", [0, 4])
    def test_a_client_may_die_before_any_message(self, who: int, sends: int) -> None:
        results, hall, _ = play(5, {who: sends})
        assert hall.round is not None
        members = [i for i in range(5) if i != who or sends > 3]
        assert isinstance(results[names(5)[who]], Dies)
        for i, name in enumerate(names(5)):
            if i != who:
                assert results[name].total.tolist() == expected(members, task())

    @pytest.mark.parametrize("sends", range(6))
    def test_too_many_deaths_are_told_to_the_others(self, sends: int) -> None:
        results, hall, _ = play(4, {0: sends, 1: sends})
        assert hall.round is not None
        assert isinstance(hall.round.failure, CohortTooSmall)
        for name in names(4)[2:]:
            assert isinstance(results[name], PeerAborted)
            assert "CohortTooSmall" in str(results[name])


# --- over the network


def certified(key: IdentityKey, name: str) -> Identity:
    return Identity(key.to_pem(), self_signed_certificate(key, name, now=datetime.now(UTC)))


HUB_KEY = IdentityKey.generate()


class Net:
    """An aggregator on a free port, and what its clients need to reach it."""

    def __init__(self, rules: Policy, deadlines: Deadlines, **seconds: float) -> None:
        self.rules, self.seconds = rules, seconds
        self.mine = certified(HUB_KEY, "aggregator")
        keys = identities(len(rules.names))
        self.theirs = {name: certified(keys[i], name) for i, name in enumerate(rules.names)}
        endpoints = {
            name: endpoint(self.mine, pinned, listen=0, seconds=seconds)
            for name, pinned in self.theirs.items()
        }
        self.aggregator = Aggregator("aggregator", endpoints, rules, SystemRng(), deadlines)

    def endpoint(self, name: str) -> Endpoint:
        return endpoint(self.theirs[name], self.mine, dial=self.aggregator.port, seconds=self.seconds)

    def dial(self, name: str) -> Channel:
        return dial(self.endpoint(name), name, "aggregator", SystemRng())

    def client(self, i: int, part: Contribution | None = None) -> Task:
        name = self.rules.names[i]
        ours = part or part_of(self.rules, i)
        return Task(lambda: take_part(lambda: self.dial(name), ours, 20.0))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not threads_besides(before)


class TestOverTheNetwork:
    def test_a_round_and_another(self) -> None:
        net = Net(policy(3), Deadlines(gather=20, stage=20))
        clients = [
            Client(name, identities(3)[i], net.rules, SystemRng()) for i, name in enumerate(net.rules.names)
        ]
        with net.aggregator as aggregator:
            for number in (0, 1):
                tasks = [
                    net.client(i, c.contribution(task(), vector(i, task()))) for i, c in enumerate(clients)
                ]
                assert aggregator.hall.run(task(), number).total.tolist() == expected(range(3), task())
                assert [t.result().total.tolist() for t in tasks] == [expected(range(3), task())] * 3

    def test_a_client_that_is_silent_is_left_behind(self) -> None:
        net = Net(policy(4), Deadlines(gather=20, stage=1.0))
        with net.aggregator as aggregator:
            channel = net.dial("silo003")
            part = part_of(net.rules, 3)

            async def silent() -> None:
                await channel.send(Join(number=-1, answered=0, task=task().fields()))
                part.accept(await channel.recv(Invitation))
                assert part.latest is not None
                await channel.send(part.latest)

            round_ = Task(lambda: aggregator.hall.run(task(), 0))
            others = [net.client(i) for i in range(3)]
            run(silent())  # and then nothing
            assert round_.result().survivors == tuple(names(3))
            assert [t.result().total.tolist() for t in others] == [expected(range(3), task())] * 3
            channel.close()

    def test_a_round_without_enough_clients_ends_in_time(self) -> None:
        net = Net(policy(3), Deadlines(gather=0.5, stage=1.0))
        with net.aggregator as aggregator:
            waiting = net.client(0)
            start = time.monotonic()
            with pytest.raises(CohortTooSmall, match="1 clients answered in stage advertise"):
                aggregator.hall.run(task(), 0)
            assert time.monotonic() - start < 5
            with pytest.raises(PeerAborted, match="CohortTooSmall"):
                waiting.result()

    @pytest.mark.parametrize("stage", list(Stage)[:-1])
    def test_a_lost_connection_is_resumed(self, stage: Stage) -> None:
        net = Net(policy(3), Deadlines(gather=20, stage=20))
        part = part_of(net.rules, 2)
        connections: list[Channel] = []

        def connected() -> Channel:
            channel = net.dial("silo002")
            connections.append(channel)
            if len(connections) == 1:
                _break_after(channel, int(stage) + 2)
            return channel

        with net.aggregator as aggregator:
            resumed = Task(lambda: take_part(connected, part, 20.0))
            others = [net.client(i) for i in range(2)]
            assert aggregator.hall.run(task(), 0).total.tolist() == expected(range(3), task())
            for done in [resumed, *others]:
                assert done.result().total.tolist() == expected(range(3), task())
        assert len(connections) == 2

    def test_a_client_that_comes_late_waits_for_the_next_round(self) -> None:
        net = Net(policy(4), Deadlines(gather=2.0, stage=20))
        with net.aggregator as aggregator:
            early = [net.client(i) for i in range(3)]
            assert aggregator.hall.run(task(), 0).survivors == tuple(names(3))
            for done in early:
                done.result()
            late = net.client(3)
            time.sleep(0.3)
            again = [net.client(i, part_of(net.rules, i, last_round=0)) for i in range(3)]
            assert aggregator.hall.run(task(), 1).survivors == tuple(names(4))
            for done in [late, *again]:
                assert done.result().total.tolist() == expected(range(4), task())

    def test_a_client_that_comes_back_after_the_round_is_told(self) -> None:
        net = Net(policy(3, colluders=0), Deadlines(gather=1.0, stage=1.0))
        part = part_of(net.rules, 0)
        part.accept(_invitation_of_round(net.rules, 0))
        with net.aggregator as aggregator:
            others = [net.client(i) for i in (1, 2)]
            with pytest.raises(CohortTooSmall):
                aggregator.hall.run(task(), 0)
            for other in others:
                with pytest.raises(PeerAborted):
                    other.result()
            with pytest.raises((PeerAborted, RoundLost), match="RoundLost"):
                take_part(lambda: net.dial("silo000"), part, 5.0)

    def test_another_policy_is_refused_by_the_client(self) -> None:
        net = Net(policy(3), Deadlines(gather=1.0, stage=5))
        other = policy(3, minimum=3, dropouts=1)
        client = Client("silo000", identities(3)[0], other, SystemRng())
        with net.aggregator as aggregator:
            refusing = net.client(0, client.contribution(task(), vector(0, task())))
            round_ = Task(lambda: aggregator.hall.run(task(), 0))
            with pytest.raises(ConfigMismatch, match="dropouts: silo000 has '1', the aggregator has '0'"):
                refusing.result()
            with pytest.raises(CohortTooSmall):
                round_.result()

    def test_strangers_do_not_come_in(self) -> None:
        net = Net(policy(3), Deadlines(), wait_seconds=2.0)
        net.theirs["silo000"] = certified(IdentityKey.generate(), "silo000")
        with net.aggregator, pytest.raises(PeerAuthenticationError):
            net.dial("silo000")

    def test_certificates_and_policy_belong_together(self) -> None:
        rules = policy(3)
        mine = certified(HUB_KEY, "aggregator")
        pinned = {
            name: endpoint(mine, certified(IdentityKey.generate(), name), listen=0) for name in rules.names
        }
        with pytest.raises(ConfigError, match="not those of the keys that the policy pins"):
            Aggregator("aggregator", pinned, rules, SystemRng())

    def test_a_hub_takes_endpoints_of_one_address(self) -> None:
        mine, one = certified(HUB_KEY, "aggregator"), certified(identities(3)[0], "silo000")
        a, b = endpoint(mine, one, listen=0), endpoint(mine, one, listen=1)
        for endpoints, text in (
            ({}, "at least one"),
            ({"a": a, "b": b}, "one address"),
            ({"a": a, "b": a}, "same"),
        ):
            with pytest.raises(ConfigError, match=text):
                Hub(endpoints, AGGREGATOR, Role.CLIENT, lambda channel: None)

    def test_closing_sends_everybody_home(self) -> None:
        net = Net(policy(3), Deadlines())
        with net.aggregator:
            channel = net.dial("silo000")
            waiting = Task(lambda: take_part(lambda: channel, part_of(net.rules, 0), 0.0))
            time.sleep(0.2)
        with pytest.raises((ChannelClosed, PeerAborted)):
            waiting.result()


class TestCalls:
    """An aggregator that runs what its clients ask for."""

    def serving(self, net: Net) -> tuple[Task, list[Any]]:
        seen: list[Any] = []
        number = itertools.count().__next__
        return Task(lambda: serve_calls(net.aggregator.hall, number, lambda *what: seen.append(what))), seen

    def test_a_client_that_comes_too_late_is_given_the_sum(self) -> None:
        net = Net(policy(4), Deadlines(gather=0.5, stage=20))
        with net.aggregator:
            served, seen = self.serving(net)
            lines = [Line(partial(net.dial, name), 20.0) for name in net.rules.names]
            early = [Task(partial(lines[i].take_part, part_of(net.rules, i))) for i in range(3)]
            assert [t.result().survivors for t in early] == [tuple(names(3))] * 3
            late = part_of(net.rules, 3)
            result = lines[3].take_part(late)
            assert result.survivors == tuple(names(3))
            assert result.total.tolist() == expected(range(3), task())
            assert (late.number, late.answered) == (-1, 0)
            another = task(dimension=7)
            again = [self.part(net, i, another) for i in range(4)]
            tasks = [Task(partial(lines[i].take_part, again[i])) for i in range(4)]
            assert [t.result().total.tolist() for t in tasks] == [expected(range(4), another)] * 4
            for line in lines:
                line.close()
        served.result()
        assert [(done.dimension, number) for done, number, _ in seen] == [(5, 0), (7, 1)]

    def part(self, net: Net, i: int, of: Any) -> Contribution:
        client = Client(names(4)[i], identities(4)[i], net.rules, SystemRng(), last_round=0)
        return client.contribution(of, vector(i, of))

    def test_sums_are_forgotten_when_everybody_has_left(self) -> None:
        net = Net(policy(3), Deadlines(gather=20, stage=20))
        with net.aggregator:
            served, seen = self.serving(net)
            for last in (-1, 0):
                done = [net.client(i, part_of(net.rules, i, last_round=last)) for i in range(3)]
                assert [t.result().total.tolist() for t in done] == [expected(range(3), task())] * 3
                deadline = time.monotonic() + 5
                while net.aggregator.hall._here and time.monotonic() < deadline:
                    time.sleep(0.01)
        served.result()
        assert [number for _, number, _ in seen] == [0, 1]

    def test_a_join_that_describes_no_task_is_refused(self) -> None:
        net = Net(policy(3), Deadlines())
        with net.aggregator:
            channel = net.dial("silo000")

            async def ask() -> None:
                await channel.send(Join(number=-1, answered=0, task={"session": "00"}))
                await channel.recv(Invitation)

            with pytest.raises(PeerAborted, match="MalformedMessage"):
                run(ask())
            channel.close()

    def test_an_outcome_over_too_few_is_refused(self) -> None:
        part = part_of(policy(4), 0)
        packed = np.zeros(part.dims(Outcome)["packed"], np.uint8)
        with pytest.raises(InconsistentView, match="fewer clients"):
            part.told(Outcome(present=np.array([1, 1, 0, 0], np.uint8), total=packed))


def _invitation_of_round(rules: Policy, number: int) -> Any:
    return Round(rules, task(), number).invitation("silo000")


def _break_after(channel: Any, sends: int) -> None:
    """Cut the connection, as a network would, instead of the n-th message."""
    put, count = channel._put, 0

    def cutting(frame: bytes) -> None:
        nonlocal count
        count += 1
        if count == sends:
            channel._stream.cancel()
            raise ChannelClosed("cut")
        put(frame)

    channel._put = cutting


@pytest.mark.slow
def test_five_silos_as_processes_one_killed_in_the_middle() -> None:
    """The sum is that of a clean run with the other four."""
    net = Net(policy(5), Deadlines(gather=60, stage=30, reconnect=0.5))
    with net.aggregator as aggregator:
        script = str(ROOT / "tests" / "silo_process.py")
        processes = []
        for i, name in enumerate(net.rules.names):
            told = {
                "key": net.theirs[name].key.decode(),
                "certificates": {n: c.certificate.decode() for n, c in net.theirs.items()},
                "aggregator": net.mine.certificate.decode(),
                "number": i,
                "port": aggregator.port,
                "killed_before": 2 if i == 3 else 9,
            }
            process = subprocess.Popen(
                [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert process.stdin is not None
            process.stdin.write(json.dumps(told) + "\n")
            process.stdin.flush()
            processes.append(process)
        result = aggregator.hall.run(task(), 0)
        printed = [process.communicate(timeout=60)[0] for process in processes]
    assert result.survivors == tuple(names(5)[i] for i in (0, 1, 2, 4))
    assert result.total.tolist() == expected([0, 1, 2, 4], task())
    assert [process.returncode for process in processes] == [0, 0, 0, -9, 0]
    assert all(json.loads(out) == result.total.tolist() for i, out in enumerate(printed) if i != 3)
