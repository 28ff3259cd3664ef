"""One-shot vertical transfer: representations of the common rows, once, from each host to the guest.

    guest                                              host
                                                       encodes its rows by what it learned from its own rows alone
                      <-- Representations --           one short vector for each common row

Everything else is local: the guest learns from its own labelled rows, from the vectors, and distils what it learned
into a model of its own columns. The same message carries the vectors of rows that are scored with the host.

Adversary: semi-honest.

Leakage
-------
The guest learns the vectors as they are (class `representation`, which both configurations have to accept). They are
fewer numbers than the host has columns, cut off and rounded to 2^-6; with as many rows of known values as there are
columns, the guest can solve for the host's columns in the span of the vectors, so they protect what was dropped and
nothing else. The host learns the number of rows; labels and everything made of them stay at the guest.

Sources: Irureta, Imaz, Lojo, Fernandez-Marques, González, Perona, "Towards Active Participant Centric Vertical
Federated Learning", arXiv 2410.17648 (APC-VFL: representations learned locally, one exchange, distillation); Sun, Xu et
al., "Communication-Efficient Vertical Federated Learning with Limited Overlapping Samples", ICCV 2023 (one-shot VFL).
"""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.protocols.channel import Channel
from vfl.protocols.wire import Array, Declaration, Leakage, Message, Role

__all__ = ["FRACTION_BITS", "guest", "host"]

FloatArray = NDArray[np.float64]
FRACTION_BITS = 6
_LARGEST = 2.0**15 - 1


class Representations(Message, frozen=True, kw_only=True):
    """A vector for each row, in units of 2^-6."""

    declaration = Declaration(
        "transfer.representations",
        Role.HOST,
        Leakage.REPRESENTATION,
        "a vector for each common row, made of the host's columns and rounded to 2^-6, to the guest",
    )
    z: Annotated[NDArray[np.int16], Array("<i2", "rows", "components")]


async def guest(host: Channel, rows: int, components: int) -> FloatArray:
    """Return the host's representations, shape (rows, components)."""
    received = await host.recv(Representations, rows=rows, components=components)
    return np.ldexp(received.z.astype(np.float64), -FRACTION_BITS)


async def host(guest: Channel, representations: FloatArray) -> None:
    """Send representations, shape (rows, components), rounded; they are cut off at 2^9."""
    rounded = np.clip(np.rint(np.ldexp(representations, FRACTION_BITS)), -_LARGEST, _LARGEST)
    await guest.send(Representations(z=rounded.astype("<i2")))
