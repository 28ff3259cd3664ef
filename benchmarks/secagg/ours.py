"""One round of ours: all clients and the aggregator in this process, each timed for itself, every message encoded."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from vfl.crypto.fixedpoint import FixedPoint
from vfl.crypto.masking import Words, zeros
from vfl.crypto.rng import SystemRng
from vfl.crypto.signatures import IdentityKey
from vfl.protocols.secagg.client import Client, Contribution, Result
from vfl.protocols.secagg.policy import Policy, Task
from vfl.protocols.secagg.server import Round, Stage
from vfl.protocols.wire import Message, decode, encode

SESSION = b"benchmark"
JOIN_BYTES = 512  # at most, of the message that opens a round and of the tags of all frames


@dataclass(frozen=True)
class Size:
    """What is summed.

    Attributes
    ----------
    clients, params : int
    dropout : float
        Part of the clients that is lost after the secrets were shared and before their vectors come: the costliest
        place.
    bits : int
        Of a value; a sum has as many more as the number of clients needs.
    colluders : int
    """

    clients: int
    params: int
    dropout: float
    bits: int = 16
    colluders: int = -1

    @property
    def lost(self) -> int:
        """Clients that are lost."""
        return int(self.clients * self.dropout)

    @property
    def encoding(self) -> FixedPoint:
        """Values lie in [-1, 1]."""
        return FixedPoint(self.bits - 1, 1.0)

    @property
    def sum_bits(self) -> int:
        """Bits of the modulus."""
        return (2 * self.clients * self.encoding.limit).bit_length()

    def policy(self, keys: list[IdentityKey]) -> Policy:
        """Return the policy of all parties."""
        pinned = {f"c{i:05d}": key.public_bytes for i, key in enumerate(keys)}
        return Policy(pinned, colluders=self.colluders, dropouts=max(self.lost, self.clients // 20))


class _Bench:
    def __init__(self, size: Size) -> None:
        self.size = size
        keys = [IdentityKey.generate() for _ in range(size.clients)]
        self.policy = size.policy(keys)
        self.task = Task(SESSION, bytes(32), size.params, size.sum_bits)
        generator = np.random.default_rng(1)
        # client i has the values from place i on: all have others, and memory holds them once
        self.floats = generator.uniform(-1, 1, size.params + size.clients)
        self.words = self._encoded(self.floats)
        self.seconds = dict.fromkeys(self.policy.names, 0.0)
        self.processor = dict.fromkeys(self.policy.names, 0.0)
        self.sent = dict.fromkeys(self.policy.names, JOIN_BYTES)
        self.server = self.server_processor = 0.0
        self.parts: dict[str, Contribution] = {}
        for i, (name, key) in enumerate(zip(self.policy.names, keys, strict=True)):
            vector = self.words[i : i + size.params]
            self.parts[name] = Client(name, key, self.policy, SystemRng()).contribution(self.task, vector)

    def _encoded(self, floats: Any) -> Words:
        words = zeros(floats.size, self.size.sum_bits)
        words[:] = self.size.encoding.encode(floats).astype(words.dtype)
        return words

    def _of_server(self, work: Callable[..., Any], *arguments: Any) -> Any:
        start, used = time.perf_counter(), time.process_time()
        try:
            return work(*arguments)
        finally:
            self.server += time.perf_counter() - start
            self.server_processor += time.process_time() - used

    def _of_client(self, name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        start, used = time.perf_counter(), time.process_time()
        try:
            return work(*arguments)
        finally:
            self.seconds[name] += time.perf_counter() - start
            self.processor[name] += time.process_time() - used

    def _asked(self, ours: Round, name: str) -> tuple[type[Message], bytes]:
        message = ours.message(name)
        return type(message), encode(message)

    def _taken(self, ours: Round, name: str, kind: type[Message], raw: bytes) -> None:
        ours.receive(name, decode(kind, raw, ours.dims(kind)))

    def _answer(self, name: str, kind: type[Message], raw: bytes) -> tuple[type[Message], bytes]:
        part = self.parts[name]
        question: Any = decode(kind, raw, part.dims(kind))
        if part.answered == 0:
            part.accept(question)
            answer: Any = part.latest
        else:
            if part.answered == 2:
                self._encoded(self.floats[: self.size.params])  # what making its words takes
            answer = part.answer(question)
        return type(answer), encode(answer)

    def finish(self, name: str, kind: type[Message], raw: bytes) -> Result:
        """Return the outcome as a client decodes it."""
        part = self.parts[name]
        outcome: Any = decode(kind, raw, part.dims(kind))
        return part.result(outcome)

    def play(self, chosen: set[str]) -> Round:
        """Run the round; the clients in `chosen` are lost."""
        ours: Round = self._of_server(Round, self.policy, self.task, 0)
        while not ours.over:
            if ours.stage is Stage.MASK:
                for name in chosen:
                    self._of_server(ours.drop, name)
            for name in sorted(ours.missing()):
                kind, raw = self._of_server(self._asked, ours, name)
                kind, raw = self._of_client(name, self._answer, name, kind, raw)
                self.sent[name] += len(raw)
                self._of_server(self._taken, ours, name, kind, raw)
        return ours


def run(size: Size) -> dict[str, Any]:
    """Return the figures of one round."""
    bench = _Bench(size)
    order = np.random.default_rng(2).permutation(size.clients)
    chosen = {bench.policy.names[i] for i in order[: size.lost]}
    ours = bench.play(chosen)
    if ours.result is None:
        raise SystemExit(str(ours.failure))
    expected = np.zeros(size.params, dtype=np.uint64)
    for i, name in enumerate(bench.policy.names):
        if name not in chosen:
            expected += bench.words[i : i + size.params]
    expected &= np.uint64((1 << size.sum_bits) - 1)
    survivors = [name for name in bench.policy.names if name not in chosen]
    for name in survivors:
        kind, raw = bench._of_server(bench._asked, ours, name)
        result = bench._of_client(name, bench.finish, name, kind, raw)
    exact = np.array_equal(ours.result.total, expected) and np.array_equal(result.total, expected)
    return {
        "exact": bool(exact and ours.result.survivors == tuple(survivors)),
        "bytes_per_param": median(bench.sent[name] for name in survivors) / size.params,
        "client_seconds": median(bench.seconds[name] for name in survivors),
        "server_seconds": bench.server,
        "client_cpu_seconds": median(bench.processor[name] for name in survivors),
        "server_cpu_seconds": bench.server_processor,
        "neighbours": bench.policy.degree[0],
        "threshold": bench.policy.degree[1],
        "sum_bits": size.sum_bits,
    }
