"""A channel that misbehaves on schedule: what a network or a hostile relay can do to whole frames.

The faults are deterministic: a schedule says by number, from 0, what happens to which of the frames sent over
the wrapped channel. Whatever is not named passes unchanged. For the other direction, wrap the other end.
"""

import enum
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from vfl.protocols.channel import Channel

__all__ = ["Fault", "FaultyChannel", "Kind"]


class Kind(enum.StrEnum):
    """What happens to a frame."""

    DROP = "drop"
    DUPLICATE = "duplicate"
    REORDER = "reorder"  # it arrives after the next frame
    FLIP = "flip"  # one bit changes
    TRUNCATE = "truncate"  # its first bytes alone arrive
    REPLAY = "replay"  # an earlier frame arrives in its place
    DELAY = "delay"
    CLOSE = "close"  # the connection ends in its place


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes
    ----------
    kind : Kind
    value : int
        FLIP: number of the bit from the frame's start; TRUNCATE: bytes that arrive; REPLAY: number of the
        earlier frame; DELAY: milliseconds. Unused by the others.
    """

    kind: Kind
    value: int = 0


@final
class FaultyChannel(Channel):
    """A channel that passes frames on to another one, except for the scheduled faults.

    Parameters
    ----------
    inner : Channel
    faults : mapping of int to Fault
        By number of the frame sent, from 0.
    """

    def __init__(self, inner: Channel, faults: Mapping[int, Fault]) -> None:
        super().__init__(inner.me, inner.peer)
        for number, fault in faults.items():
            if fault.kind is Kind.REPLAY and not 0 <= fault.value < number:
                raise ValueError(f"frame {number} cannot become frame {fault.value}: name an earlier one")
        self._inner, self._faults = inner, dict(faults)
        self._number = 0
        self._held: list[bytes] = []
        self._replayed = {fault.value for fault in faults.values() if fault.kind is Kind.REPLAY}
        self._kept: dict[int, bytes] = {}

    def _put(self, frame: bytes) -> None:
        number, self._number = self._number, self._number + 1
        if number in self._replayed:
            self._kept[number] = frame
        fault = self._faults.get(number)
        if fault is not None and fault.kind is Kind.REORDER:
            self._held.append(frame)
            return
        for arriving in [frame] if fault is None else self._disturb(frame, fault):
            self._inner._put(arriving)
        while self._held:
            self._inner._put(self._held.pop(0))

    def _disturb(self, frame: bytes, fault: Fault) -> list[bytes]:
        match fault.kind:
            case Kind.DUPLICATE:
                return [frame, frame]
            case Kind.FLIP:
                return [_flipped(frame, fault.value)]
            case Kind.TRUNCATE:
                return [frame[: fault.value]]
            case Kind.REPLAY:
                return [self._kept[fault.value]]
            case Kind.DELAY:
                time.sleep(fault.value / 1000)
                return [frame]
            case Kind.CLOSE:
                self._inner.close()
        return []

    async def _get(self, limit: int, kind: str) -> bytes:
        return await self._inner._get(limit, kind)

    def close(self) -> None:
        """Close the inner channel."""
        self._inner.close()


def _flipped(frame: bytes, bit: int) -> bytes:
    changed = bytearray(frame)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
