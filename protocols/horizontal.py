"""The messages of a training over the rows of several clients, as :func:`vfl.federate` simulates and records them.

Under secure aggregation an update travels as :mod:`vfl.protocols.secagg` has it, and there is no :class:`Update`.
"""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.protocols.wire import Array, Bytes, Declaration, Leakage, Message, Role

__all__ = ["GlobalModel", "Update"]


class GlobalModel(Message, frozen=True, kw_only=True):
    """The common model that a round starts from; the last one is the result."""

    declaration = Declaration(
        "horizontal.model", Role.AGGREGATOR, Leakage.AGGREGATE, "a model made of the rows of all clients"
    )
    number: int
    vector: Annotated[NDArray[np.float64], Array("<f8", "numbers")]


class Update(Message, frozen=True, kw_only=True):
    """What a client's training has changed, in the codec's bytes, and how many rows it has.

    `seed` is the round's, from which a codec draws the places that it keeps.
    """

    declaration = Declaration(
        "horizontal.update",
        Role.CLIENT,
        Leakage.GRADIENT,
        "the client's gradient, from which its rows can be reconstructed",
    )
    number: int
    rows: int
    seed: int
    raw: Annotated[bytes, Bytes("update_bytes")]
