"""The messages of secure aggregation. All sizes follow from the policy and the task; a client that is absent has zeros.

Rows stand for clients in the order of their names ("clients"), or for a client's neighbours in ascending order
("neighbours").
"""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.agreement import KEY_BYTES, SEAL_BYTES
from vfl.crypto.shamir import SHARE_BYTES
from vfl.crypto.signatures import SIGNATURE_BYTES
from vfl.protocols.wire import Array, Bounded, Bytes, Declaration, Leakage, Message, Role

__all__ = [
    "SEALED_BYTES", "Advertise", "Agreement", "Bundle", "Confirmation", "Invitation", "Join", "MaskedInput", "Outcome",
    "Reveal", "Roster", "Shares", "Survivors",
]  # fmt: skip

SEALED_BYTES = 2 * SHARE_BYTES + SEAL_BYTES
"""Two shares, sealed."""

_AGGREGATOR, _CLIENT = Role.AGGREGATOR, Role.CLIENT
Octets = NDArray[np.uint8]
Present = Annotated[Octets, Array("|u1", "clients")]
Signatures = Annotated[Octets, Array("|u1", "clients", SIGNATURE_BYTES)]


class Join(Message, frozen=True, kw_only=True):
    """A client is there, for which task; after a lost connection, in which round and after how many answers."""

    declaration = Declaration(
        "secagg.join", _CLIENT, Leakage.CONTROL, "that the client is there, for what, and how far it has come"
    )
    number: int
    answered: int
    task: Annotated[dict[str, str], Bounded(2048)]


class Invitation(Message, frozen=True, kw_only=True):
    """A round, how many answers of this client's are known (-1: it is over), and the aggregator's policy and task."""

    declaration = Declaration(
        "secagg.invitation", _AGGREGATOR, Leakage.PUBLIC, "the round's number, the agreed policy and task"
    )
    number: int
    answered: int
    fields: Annotated[dict[str, str], Bounded(4096)]


class Advertise(Message, frozen=True, kw_only=True):
    """Two public keys for this round, signed with the client's identity."""

    declaration = Declaration("secagg.advertise", _CLIENT, Leakage.PUBLIC, "two fresh public keys")
    sealing_key: Annotated[bytes, Bytes(KEY_BYTES)]
    masking_key: Annotated[bytes, Bytes(KEY_BYTES)]
    signature: Annotated[bytes, Bytes(SIGNATURE_BYTES)]


class Roster(Message, frozen=True, kw_only=True):
    """The keys of all clients that take part."""

    declaration = Declaration("secagg.roster", _AGGREGATOR, Leakage.PUBLIC, "who takes part, and their keys")
    present: Present
    keys: Annotated[Octets, Array("|u1", "clients", 2 * KEY_BYTES)]
    signatures: Signatures


class Shares(Message, frozen=True, kw_only=True):
    """For each neighbour a share of the seed and of the masking key, sealed; a hash of the seed."""

    declaration = Declaration("secagg.shares", _CLIENT, Leakage.CIPHERTEXT, "nothing but their number")
    sealed: Annotated[Octets, Array("|u1", "neighbours", SEALED_BYTES)]
    commitment: Annotated[bytes, Bytes(32)]


class Bundle(Message, frozen=True, kw_only=True):
    """What the neighbours have sealed for this client, and who has sealed anything."""

    declaration = Declaration(
        "secagg.bundle",
        _AGGREGATOR,
        Leakage.CIPHERTEXT,
        "who has shared; shares of the neighbours' secrets, fewer than the threshold of each",
    )
    present: Present
    sealed: Annotated[Octets, Array("|u1", "neighbours", SEALED_BYTES)]


class MaskedInput(Message, frozen=True, kw_only=True):
    """The masked vector, and a signature on who was there when it was masked."""

    declaration = Declaration(
        "secagg.masked", _CLIENT, Leakage.UNIFORM, "nothing: residues masked by a seed that is not known yet"
    )
    vector: Annotated[Octets, Array("|u1", "packed")]
    signature: Annotated[bytes, Bytes(SIGNATURE_BYTES)]


class Survivors(Message, frozen=True, kw_only=True):
    """Whose vectors have come, with their signatures."""

    declaration = Declaration("secagg.survivors", _AGGREGATOR, Leakage.PUBLIC, "whose vectors are summed")
    present: Present
    signatures: Signatures


class Confirmation(Message, frozen=True, kw_only=True):
    """The client's signature on the one set of survivors."""

    declaration = Declaration(
        "secagg.confirmation", _CLIENT, Leakage.PUBLIC, "that the client has seen this set of survivors"
    )
    signature: Annotated[bytes, Bytes(SIGNATURE_BYTES)]


class Agreement(Message, frozen=True, kw_only=True):
    """Who has signed the set of survivors."""

    declaration = Declaration(
        "secagg.agreement", _AGGREGATOR, Leakage.PUBLIC, "who has confirmed the survivors"
    )
    present: Present
    signatures: Signatures


class Reveal(Message, frozen=True, kw_only=True):
    """The client's own seed; per neighbour a share of its seed if it survived, of its masking key if not."""

    declaration = Declaration(
        "secagg.reveal",
        _CLIENT,
        Leakage.AGGREGATE,
        "with those of the others, the sum of the survivors' vectors, and no part of it",
    )
    seed: Annotated[bytes, Bytes(KEY_BYTES)]
    shares: Annotated[Octets, Array("|u1", "neighbours", SHARE_BYTES)]


class Outcome(Message, frozen=True, kw_only=True):
    """The sum, and of whose vectors."""

    declaration = Declaration(
        "secagg.outcome", _AGGREGATOR, Leakage.AGGREGATE, "the sum of the survivors' vectors"
    )
    present: Present
    total: Annotated[Octets, Array("|u1", "packed")]
