"""How many rows each party has for each common key, so that both can line up all pairs of them.

    each                     -- Multiplicities -->      rows per common key, in the common order

Each party learns how many rows the other has for each common customer. Runs after an intersection from which both
learned, and only if one of the parties asked for all its rows to be kept. With a rows at the guest and b at the host a
customer takes a b rows: what a join on the identifier gives.
"""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.errors import MalformedMessage
from vfl.protocols.channel import Channel
from vfl.protocols.wire import Array, Declaration, Leakage, Message, Role

__all__ = ["exchange_multiplicities"]

LARGEST = 1 << 31  # rows of the result


class Multiplicities(Message, frozen=True, kw_only=True):
    """The sender's number of rows for each common key, in the common order."""

    declaration = Declaration(
        "psi.multiplicities",
        Role.EITHER,
        Leakage.INTERSECTION,
        "how many rows the sender has for each common key",
    )
    counts: Annotated[NDArray[np.uint32], Array("<u4", "matched")]


async def exchange_multiplicities(peer: Channel, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tell the peer the rows per common key, and return the peer's, shape (matched,).

    Raises
    ------
    MalformedMessage
        If the peer has no row for a common key, or all pairs together are 2^31 rows or more.
    """
    await peer.send(Multiplicities(counts=counts.astype("<u4")))
    theirs = (await peer.recv(Multiplicities, matched=len(counts))).counts.astype(np.int64)
    if (theirs < 1).any() or float(theirs.astype(float) @ counts) >= LARGEST:
        raise MalformedMessage(f"{peer.peer.name} reports a common key without rows, or too many rows")
    return theirs
