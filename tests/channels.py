"""What the tests of channels share: message types, identities, connected pairs and a way to run both roles."""

import functools
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.signatures import IdentityKey, self_signed_certificate
from vfl.errors import Deadlock, VFLError
from vfl.protocols.channel import Channel, Party, Waiting, memory_pair, run, run_local
from vfl.protocols.faults import FaultyChannel
from vfl.protocols.grpc import Endpoint, GrpcChannel, Listener, connect
from vfl.protocols.record import RecordingChannel
from vfl.protocols.wire import Array, Bytes, Declaration, Leakage, Message, Role

BANK, RETAILER = Party("bank", Role.GUEST), Party("retailer", Role.HOST)


class Blob(Message, frozen=True, kw_only=True):
    """Bytes from either side."""

    declaration = Declaration("test.blob", Role.EITHER, Leakage.PUBLIC, "test data")
    data: Annotated[bytes, Bytes("size")]


class Scores(Message, frozen=True, kw_only=True):
    """An array from the host."""

    declaration = Declaration("test.scores", Role.HOST, Leakage.SCORE, "test scores")
    z: Annotated[NDArray[np.float64], Array("<f8", "rows")]


@dataclass(frozen=True)
class Identity:
    """What one party holds and what the other pins."""

    key: bytes
    certificate: bytes


def identity(party: Party, now: datetime | None = None, days: int = 825) -> Identity:
    key = IdentityKey.generate()
    return Identity(
        key.to_pem(), self_signed_certificate(key, party.name, now=now or datetime.now(UTC), days=days)
    )


def endpoint(
    mine: Identity,
    pinned: Identity,
    *,
    listen: int | None = None,
    dial: int | None = None,
    seconds: dict[str, float] | None = None,
) -> Endpoint:
    """Return an endpoint on the loopback interface that listens on a port or dials one."""
    waits = {"wait_seconds": 20.0, "silence_seconds": 10.0, "stall_seconds": 10.0} | (seconds or {})
    return Endpoint(
        listen=None if listen is None else f"127.0.0.1:{listen}",
        connect=None if dial is None else f"127.0.0.1:{dial}",
        key_pem=mine.key,
        certificate_pem=mine.certificate,
        peer_certificate_pem=pinned.certificate,
        **waits,
    )


class Task:
    """Work in a thread; `result` waits for it and raises what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._outcome: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self._outcome = work()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._outcome


def grpc_pair(**seconds: float) -> tuple[GrpcChannel, GrpcChannel]:
    """Return the two ends of a loopback connection; the bank listens."""
    bank, retailer = identity(BANK), identity(RETAILER)
    listener = Listener(endpoint(bank, retailer, listen=0, seconds=seconds))
    accepting = Task(lambda: listener.accept(BANK, RETAILER))
    host = connect(endpoint(retailer, bank, dial=listener.port, seconds=seconds), RETAILER, BANK)
    guest: GrpcChannel = accepting.result()
    return guest, host


Role_ = Coroutine[Waiting, None, Any]


@dataclass
class Pair:
    """Two connected channels and what runs a role on each."""

    guest: Channel
    host: Channel
    threads: bool

    def run(self, guest: Role_, host: Role_) -> tuple[Any, Any]:
        """Run both roles to their ends; an error aborts its side and stands in for its result."""
        roles = {"guest": guarded(self.guest, guest), "host": guarded(self.host, host)}
        if self.threads:
            tasks = [Task(functools.partial(run, role)) for role in roles.values()]
            return tasks[0].result(), tasks[1].result()
        try:
            results = run_local(**roles)
        except Deadlock as error:
            return error, error
        return results["guest"], results["host"]

    def close(self) -> None:
        closing = [Task(self.guest.close), Task(self.host.close)]
        for task in closing:
            task.result()


async def guarded(channel: Channel, role: Role_) -> Any:
    try:
        return await role
    except VFLError as error:
        channel.abort(error)
        return error


def make_pair(kind: str, **seconds: float) -> Pair:
    """Return a pair of the kind memory, recording, faulty (without a fault) or grpc."""
    if kind == "grpc":
        return Pair(*grpc_pair(**seconds), threads=True)
    guest, host = memory_pair(BANK, RETAILER)
    if kind == "recording":
        return Pair(RecordingChannel(guest), RecordingChannel(host), threads=False)
    if kind == "faulty":
        return Pair(FaultyChannel(guest, {}), FaultyChannel(host, {}), threads=False)
    return Pair(guest, host, threads=False)


def threads_besides(before: set[threading.Thread], seconds: float = 5.0) -> set[threading.Thread]:
    """Return the threads that are still there after at most so many seconds, except those of before."""
    deadline = time.monotonic() + seconds
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left
