"""Where clients meet the aggregator: one attendant per connection, one round at a time, deadlines on a monotonic clock.

An attendant is a role like any other: it awaits its client's messages, and that a stage is over. Over a network each
runs in a thread of its own (:meth:`Hall.serve`) while :meth:`Hall.run` watches the clock; in memory they are stepped by
hand together with the clients, without a clock, and a client is lost when its channel closes.

A client may come before a round, join while keys are still being advertised, and come back after a lost connection:
the attendant of its new connection goes on where the old one was, with the answers that have been taken. Answers are
sent again as they were; nothing is computed twice. A client that comes later waits for the next round, or gets the sum
of the one that it has missed, if that is kept (:mod:`.calls`).
"""

import threading
import time
from dataclasses import dataclass

from vfl.errors import (
    ChannelClosed,
    ChannelError,
    ConfigError,
    LocalProtocolError,
    MalformedMessage,
    RoundLost,
    VFLError,
)
from vfl.protocols.channel import Channel, Waiting, run, until
from vfl.protocols.secagg.client import OVER, Result
from vfl.protocols.secagg.messages import Invitation, Join, Outcome
from vfl.protocols.secagg.policy import Policy, Task
from vfl.protocols.secagg.server import ANSWERS, Round, Stage
from vfl.protocols.wire import Message

__all__ = ["Deadlines", "Hall", "attend"]

KEPT_BYTES = 1 << 28
"""Of sums that are kept for clients that were lost; one is kept in any case."""


@dataclass(frozen=True)
class Deadlines:
    """How long the aggregator waits, in seconds.

    Attributes
    ----------
    gather : float
        For clients to come and advertise, from the start of a round; it begins earlier once all are there that were in
        the round before or have come since.
    stage : float
        For the answers of every later stage.
    reconnect : float
        For a client whose connection was lost in a round to come back; then, or when the stage ends, it is dropped.
    """

    gather: float = 60.0
    stage: float = 120.0
    reconnect: float = 10.0


class Hall:
    """The meeting place of one aggregator and its clients.

    Parameters
    ----------
    policy : Policy
    deadlines : Deadlines
    """

    def __init__(self, policy: Policy, deadlines: Deadlines | None = None) -> None:
        self.policy, self.deadlines = policy, deadlines or Deadlines()
        self.round: Round | None = None
        self._changed = threading.Condition()
        self._here: dict[str, Channel] = {}
        self._gone: set[str] = set()  # had no part in the latest round, and have not come since
        self._wishes: dict[str, dict[str, str]] = {}  # tasks of clients that wait for a round
        self._kept: list[tuple[dict[str, str], Invitation, Outcome]] = []
        self._keeping = False
        self._away: dict[str, float] = {}  # until when a client may come back
        self._closed = False

    # --- rounds

    def begin(self, task: Task, number: int) -> Round:
        """Open a round; clients that are here, or come while keys are advertised, take part."""
        with self._changed:
            if self.round is not None and not self.round.over:
                raise LocalProtocolError(f"round {self.round.number} is not over yet")
            self.round = Round(self.policy, task, number)
            self._away.clear()
            self._changed.notify_all()
            return self.round

    def run(self, task: Task, number: int) -> Result:
        """Run one round to its end while attendants in other threads serve the clients.

        Raises
        ------
        CohortTooSmall
            If too few clients come, or remain.
        MalformedMessage
            If a client's secrets were shared wrongly.
        """
        ours = self.begin(task, number)
        with self._changed:
            stage, end = Stage.ADVERTISE, time.monotonic() + self.deadlines.gather
            while not ours.over:
                if ours.stage is not stage:
                    stage, end = ours.stage, time.monotonic() + self.deadlines.stage
                now = time.monotonic()
                nobody_else = stage is Stage.ADVERTISE and ours.missing() <= self._gone
                self._let_go(ours, now, expired=now >= end or nobody_else)
                if ours.stage is stage and not ours.over:
                    self._changed.wait(max(0.0, min([end, *self._away.values()]) - now))
            survivors = ours.result.survivors if ours.result is not None else self.policy.names
            self._gone = set(self.policy.names) - set(survivors) - set(self._here)
            if self._keeping:
                self._keep(ours)
            self._changed.notify_all()
        if ours.result is None:
            raise ours.failure or LocalProtocolError("the round has neither a result nor a failure")
        return ours.result

    def _let_go(self, ours: Round, now: float, *, expired: bool) -> None:
        late = [name for name, until_when in self._away.items() if until_when <= now]
        for name in late:
            del self._away[name]
            ours.drop(name)
        if expired:
            ours.expire()
        if late or expired:
            self._changed.notify_all()

    # --- tasks that the clients ask for

    def wanted(self) -> Task | None:
        """Wait until enough clients have come for a task and return it; None once the hall is closed.

        It is the one that most have come for. If they do not agree, so that it is too few, the round that is run for it
        tells them, once all are there or the time to gather is over.
        """
        with self._changed:
            self._keeping, end = True, 0.0
            while not self._closed:
                asked = [task for name, task in self._wishes.items() if name in self._here]
                end = end if asked else time.monotonic() + self.deadlines.gather
                most = max(asked, key=asked.count, default={})
                together = len(asked) == len(self.policy.names) or time.monotonic() >= end
                enough = len(asked) >= self.policy.minimum
                if asked.count(most) >= self.policy.minimum or (enough and together):
                    return Task.of_fields(most)
                self._changed.wait(max(0.0, end - time.monotonic()) if enough else None)
            return None

    def _keep(self, ours: Round) -> None:
        """Keep the sum of a round for clients that were lost in it, as long as any client is here."""
        if ours.result is not None and self._here:
            fields = ours.policy.fields() | ours.task.fields()
            invitation = Invitation(number=ours.number, answered=OVER, fields=fields)
            self._kept.append((ours.task.fields(), invitation, ours.outcome()))
            while len(self._kept) > 1 and sum(o.total.size for _, _, o in self._kept) > KEPT_BYTES:
                del self._kept[0]

    def kept(self, join: Join) -> tuple[Invitation, Outcome] | None:
        """Return the sum that a client has come for, if it is there already."""
        with self._changed:
            return next(((i, o) for task, i, o in self._kept if task == join.task), None)

    def given(self, name: str) -> None:
        """Note that a client has what it came for."""
        with self._changed:
            self._wishes.pop(name, None)

    # --- the end

    def close(self) -> None:
        """End the present round, if there is one, and send everybody home."""
        with self._changed:
            self._closed = True
            if self.round is not None:
                self.round.fail(ChannelClosed("the aggregator closes"))
            self._changed.notify_all()

    # --- clients

    def serve(self, channel: Channel) -> None:
        """Attend one client over a channel that blocks, until it leaves; for a thread of its own."""
        try:
            run(attend(channel, self), self.wait)
        except ChannelError:
            pass  # it has left, which is its right
        except VFLError as error:
            channel.abort(error)

    def wait(self, waiting: Waiting) -> None:
        """Wait for what a suspended role waits for."""
        with self._changed:
            self._changed.wait_for(waiting.ready)

    def notify(self) -> None:
        """Let all look again that wait: something came over a channel in memory."""
        with self._changed:
            self._changed.notify_all()

    def arrive(self, channel: Channel) -> None:
        """Note that a client is here, in place of an earlier connection of its own."""
        with self._changed:
            self._here[channel.peer.name] = channel
            self._away.pop(channel.peer.name, None)
            self._gone.discard(channel.peer.name)

    def leave(self, channel: Channel, error: BaseException) -> None:
        """Note that a connection has ended: lost, or because of what the client sent."""
        name = channel.peer.name
        with self._changed:
            if self._here.get(name) is not channel:
                return  # it has come back already
            del self._here[name]
            self._wishes.pop(name, None)
            if not self._here:
                self._kept.clear()  # whoever comes now begins anew
            if self.round is not None and not self.round.over and not self.round.lost(name):
                if isinstance(error, ChannelError) and self.deadlines.reconnect > 0:
                    self._away[name] = time.monotonic() + self.deadlines.reconnect
                else:
                    self.round.drop(name)
            self._changed.notify_all()

    def ask(self, name: str, join: Join) -> None:
        """Note for which task a client has come.

        Raises
        ------
        MalformedMessage
            If it is none.
        """
        try:
            Task.of_fields(join.task)
        except ConfigError as error:
            raise MalformedMessage(f"{name}: {error}") from None
        with self._changed:
            self._wishes[name] = join.task
            self._changed.notify_all()

    def open_to(self, name: str, join: Join) -> bool:
        """Tell whether there is a round or a sum for a client that has sent `join`, or none will come."""
        with self._changed:
            ours = self.round
            if self._closed or self.kept(join) is not None:
                return True
            if ours is not None and join.number == ours.number:
                return not ours.lost(name) or ours.failure is not None or not self._keeping
            return ours is not None and not ours.over and not ours.lost(name)

    def enter(self, name: str, join: Join) -> Round | None:
        """Return the round that a client goes on with; None if it has to wait for the next one.

        Raises
        ------
        RoundLost
            If its round goes on, or has ended, without it.
        """
        with self._changed:
            ours = self.round
            if self._closed or ours is None:
                raise ChannelClosed("the aggregator closes")
            if join.number == ours.number:
                if ours.lost(name):
                    raise RoundLost(f"round {ours.number} goes on or has ended without {name}")
                return ours
            if ours.answered(name):  # it has lost its secrets with its memory
                ours.drop(name)
                self._changed.notify_all()
                return None
            self._wishes.pop(name, None)
            return ours

    def step(self, name: str, ours: Round, stage: Stage) -> bool:
        """Tell whether a stage is over, or will never be for this client."""
        with self._changed:
            return self._closed or ours.over or ours.stage > stage or ours.lost(name)

    def take(self, name: str, ours: Round, answer: Message) -> None:
        """Hand an answer to the round."""
        with self._changed:
            ours.receive(name, answer)
            self._changed.notify_all()

    def question(self, name: str, ours: Round) -> Message:
        """Return what the client gets next."""
        with self._changed:
            return ours.message(name)


async def attend(client: Channel, hall: Hall) -> None:
    """Serve one client, round after round, until it closes the channel."""
    try:
        hall.arrive(client)
        while True:
            await _serve_round(client, hall, await client.recv(Join))
    except BaseException as error:
        hall.leave(client, error)
        if not isinstance(error, ChannelClosed):
            raise


async def _serve_round(client: Channel, hall: Hall, join: Join) -> None:
    name, ours = client.peer.name, None
    hall.ask(name, join)
    while ours is None:
        await until(client.me.name, f"a round for {name}", lambda: hall.open_to(name, join))
        kept = hall.kept(join)
        if kept is not None:
            hall.given(name)
            for message in kept:
                await client.send(message)
            return
        ours = hall.enter(name, join)
    invitation = ours.invitation(name)
    ahead = join.answered - invitation.answered if join.number == ours.number else 0
    if ahead not in (0, 1):
        raise MalformedMessage(
            f"{name} counts {join.answered} answers, {invitation.answered} have been taken"
        )
    await client.send(invitation)
    asked = invitation.answered == 0 or ahead == 1  # the next answer needs no question first
    for stage in list(Stage)[invitation.answered :]:
        if not asked:
            await _stage_over(client, hall, ours, Stage(stage - 1))
            await client.send(hall.question(name, ours))
        asked = False
        if stage is not Stage.DONE:
            kind = ANSWERS[stage]
            hall.take(name, ours, await client.recv(kind, **ours.dims(kind)))


async def _stage_over(client: Channel, hall: Hall, ours: Round, stage: Stage) -> None:
    name = client.peer.name
    what = f"the end of stage {stage.name.lower()} for {name}"
    await until(client.me.name, what, lambda: hall.step(name, ours, stage))
