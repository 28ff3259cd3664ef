"""The session: who is there, in which version, with which configuration, and that both still agree.

Box 1. Both parties send HELLO (versions, role, fresh nonce, key fingerprint, configuration), both sign the hash of
both HELLOs with the identity whose public key the other has pinned, and nothing else is sent before both signatures
have been verified. Afterwards every call starts with a PROPOSAL from both sides (:func:`agree`), so that a call that
differs is refused before any data moves, and ends with a CHECKPOINT that compares the running transcript hashes.

Signing the hash of everything both said, with the roles in it, follows SIGMA (Krawczyk, CRYPTO 2003, section 5.1:
sign both nonces; identities are pinned, so no certificate is exchanged here). Confidentiality is TLS's.

Adversary: active on the network; the peer is semi-honest. Leakage: names, versions, configuration, column counts.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from vfl.crypto.rng import Rng
from vfl.crypto.signatures import IdentityKey, fingerprint, verify
from vfl.errors import ConfigMismatch, MalformedMessage
from vfl.protocols.channel import Channel
from vfl.protocols.wire import Bounded, Bytes, Declaration, Leakage, Message, Role

__all__ = ["PROTOCOL_VERSION", "Peer", "agree", "checkpoint", "handshake"]

PROTOCOL_VERSION = 1
"""Raised with every change that makes old and new transcripts differ."""

_SIGNING_CONTEXT = "vfl session handshake"
_Fields = Annotated[dict[str, str], Bounded(64 * 1024)]


class Hello(Message, frozen=True, kw_only=True):
    """The first message of both parties."""

    declaration = Declaration(
        "session.hello",
        Role.EITHER,
        Leakage.PUBLIC,
        "name, role, versions, key fingerprint and configuration",
    )
    protocol: int
    role: Role
    name: Annotated[str, Meta(max_length=64)]
    nonce: Annotated[bytes, Bytes(32)]
    identity: Annotated[str, Meta(max_length=128)]
    shared: _Fields
    own: _Fields


class Confirm(Message, frozen=True, kw_only=True):
    """A signature on the hash of both HELLOs."""

    declaration = Declaration(
        "session.confirm", Role.EITHER, Leakage.PUBLIC, "possession of the pinned identity key"
    )
    signature: Annotated[bytes, Meta(max_length=128)]


class Proposal(Message, frozen=True, kw_only=True):
    """The call a party is about to make."""

    declaration = Declaration(
        "session.proposal",
        Role.EITHER,
        Leakage.PUBLIC,
        "the call's parameters, row and column counts, a schema commitment",
    )
    shared: _Fields
    own: _Fields


class Checkpoint(Message, frozen=True, kw_only=True):
    """Running hashes of everything sent and received so far."""

    declaration = Declaration(
        "session.checkpoint", Role.EITHER, Leakage.PUBLIC, "hashes of the common transcript"
    )
    sent: Annotated[bytes, Bytes(32)]
    received: Annotated[bytes, Bytes(32)]


@dataclass(frozen=True)
class Peer:
    """What the handshake established about the other side.

    Attributes
    ----------
    name : str
    fingerprint : str
        Of its identity key.
    own : dict of str to str
        What it said about itself (versions, accepted leakage).
    session : bytes
        Hash of both HELLOs, 32 bytes; the same on both sides and in no other session.
    """

    name: str
    fingerprint: str
    own: dict[str, str]
    session: bytes


def _compare(mine: Mapping[str, str], theirs: Mapping[str, str], me: str, peer: str) -> None:
    names = sorted(set(mine) | set(theirs))
    differences: dict[str, tuple[object, object]] = {
        name: (mine.get(name, "nothing"), theirs.get(name, "nothing"))
        for name in names
        if mine.get(name) != theirs.get(name)
    }
    if differences:
        raise ConfigMismatch(differences, me, peer)


def _digest(hellos: dict[Role, Hello]) -> bytes:
    """Hash both HELLOs in the order of their roles' names, each field with its length."""
    running = hashlib.sha256(b"vfl hellos")
    for _, hello in sorted(hellos.items()):
        parts = [str(hello.protocol), hello.role.value, hello.name, hello.nonce.hex(), hello.identity]
        for fields in (hello.shared, hello.own):
            parts += [str(len(fields)), *(text for item in sorted(fields.items()) for text in item)]
        for part in parts:
            raw = part.encode()
            running.update(len(raw).to_bytes(8, "big") + raw)
    return running.digest()


async def handshake(
    peer: Channel,
    identity: IdentityKey,
    pinned: bytes,
    shared: Mapping[str, str],
    own: Mapping[str, str],
    rng: Rng,
) -> Peer:
    """Run box 1 with the peer; both parties call the same function.

    Parameters
    ----------
    peer : Channel
    identity : IdentityKey
        This party's signing key.
    pinned : bytes
        The peer's public key as pinned beforehand (SubjectPublicKeyInfo, DER).
    shared : mapping of str to str
        Configuration that must be equal on both sides.
    own : mapping of str to str
        What this party tells about itself.
    rng : Rng

    Returns
    -------
    Peer

    Raises
    ------
    ConfigMismatch
        Naming every field in which the parties differ.
    PeerAuthenticationError
        If the peer does not hold the pinned identity.
    """
    mine = Hello(
        protocol=PROTOCOL_VERSION,
        role=peer.me.role,
        name=peer.me.name,
        nonce=rng.bytes(32),
        identity=fingerprint(identity.public_bytes),
        shared=dict(shared),
        own=dict(own),
    )
    await peer.send(mine)
    theirs = await peer.recv(Hello)
    _compare(
        {"protocol version": str(mine.protocol)}, {"protocol version": str(theirs.protocol)}, *_names(peer)
    )
    if theirs.role is not peer.peer.role:
        raise ConfigMismatch({"role": (mine.role.value, theirs.role.value)}, *_names(peer))
    _compare({"peer name": peer.peer.name}, {"peer name": theirs.name}, *_names(peer))
    _compare(mine.shared, theirs.shared, *_names(peer))
    session = _digest({mine.role: mine, theirs.role: theirs})
    await peer.send(Confirm(signature=identity.sign(_SIGNING_CONTEXT, mine.role.value.encode() + session)))
    confirm = await peer.recv(Confirm)
    verify(pinned, _SIGNING_CONTEXT, theirs.role.value.encode() + session, confirm.signature)
    peer.bind(session)
    return Peer(theirs.name, fingerprint(pinned), theirs.own, session)


def _names(channel: Channel) -> tuple[str, str]:
    return channel.me.name, channel.peer.name


async def agree(peer: Channel, shared: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Compare the call both are about to make; return what the peer said about itself.

    Parameters
    ----------
    peer : Channel
    shared : mapping of str to str
        The call and every parameter that must be equal (operation, rows, protocol settings).
    own : mapping of str to str
        Public facts about this party's side (its number of columns, a commitment to its schema).

    Raises
    ------
    ConfigMismatch
        Naming every field in which the calls differ; no data has moved.
    """
    await peer.send(Proposal(shared=dict(shared), own=dict(own)))
    theirs = await peer.recv(Proposal)
    _compare(shared, theirs.shared, *_names(peer))
    return theirs.own


async def checkpoint(peer: Channel) -> None:
    """Compare the running transcript hashes with the peer.

    Raises
    ------
    MalformedMessage
        If the parties did not see the same messages.
    """
    sent, received = peer.digests()
    await peer.send(Checkpoint(sent=sent, received=received))
    theirs = await peer.recv(Checkpoint)
    if (theirs.sent, theirs.received) != (received, sent):
        raise MalformedMessage(
            f"{peer.peer.name} and {peer.me.name} have seen different messages: stop and compare logs"
        )
