"""What every comparison of two lists begins and ends with: agreement, guards, the ledger, the report.

Used by :mod:`vfl.alignment` (rows), :mod:`vfl.overlap` (counts, sums, columns, spine) and :mod:`vfl.streaming` (files).
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vfl.crypto.rng import Rng
from vfl.errors import ConfigError, MalformedMessage
from vfl.guards import allowed_peer_keys, check_enumeration, check_shapes, read_shapes, shapes_of
from vfl.identifiers import PreparedIds
from vfl.ledger import Sketch
from vfl.protocols.psi.sets import bucket
from vfl.protocols.session import Peer
from vfl.report.facts import Alignment
from vfl.session import Session

__all__ = ["Opened", "learner", "nobody", "noted", "opened", "opened_with_all", "round_trip_ms"]


SIZE, SHAPES = "padded identifiers", "identifiers look like"


@dataclass(frozen=True)
class Opened:
    """What a comparison has agreed on.

    Attributes
    ----------
    largest : int
        Most identifiers the peer may bring.
    theirs : int
        The peer's padded size, as it says.
    facts : mapping of str to str
        What the peer said about its side.
    """

    largest: int
    theirs: int
    facts: Mapping[str, str]


def learner(learns: str, session: Session, allowed: Sequence[str]) -> bool:
    """Tell whether this party learns the result.

    Raises
    ------
    ConfigError
        `learns` names no role that may learn.
    """
    if learns not in allowed:
        raise ConfigError(f"learns is {learns!r}; use one of {', '.join(allowed)}")
    return learns in ("both", session.role.value)


def opened(
    session: Session,
    operation: str,
    ids: PreparedIds,
    shared: Mapping[str, object],
    own: Mapping[str, object] | None = None,
    sketches: Iterable[Sketch] | None = None,
) -> Opened:
    """Agree on the call, compare what identifiers look like, ask the ledger; nothing of the lists has moved then.

    Parameters
    ----------
    sketches : iterable of Sketch, optional
        What the ledger is asked about instead of `ids`; none if it has been asked.

    Raises
    ------
    PolicyRefused
        By the ledger, or for a list that could be made of guesses.
    ConfigMismatch
        If the parties call differently or normalise otherwise.
    InvalidIds
        If one site has lost leading zeros.
    LocalProtocolError
        If there are several hosts; for these there is :func:`opened_with_all`.
    """
    peer = session.peer
    shapes = shapes_of(ids.keys, len(ids.recipe.names))
    (facts,) = _agreed(session, operation, ids, shared, {**(own or {}), SHAPES: shapes})
    begun = _examined(session, ids, peer, shapes, facts)
    _remembered(session, operation, ids, sketches)
    return begun


def opened_with_all(
    session: Session, operation: str, ids: PreparedIds, shared: Mapping[str, object]
) -> tuple[Opened, ...]:
    """Do as :func:`opened` with every peer; the results are in the order of the channels."""
    shapes = shapes_of(ids.keys, len(ids.recipe.names))
    told = _agreed(session, operation, ids, shared, {SHAPES: shapes})
    peers = zip(session.peers, told, strict=True)
    begun = [_examined(session, ids, peer, shapes, facts) for peer, facts in peers]
    _remembered(session, operation, ids, None)
    return tuple(begun)


def _agreed(
    session: Session,
    operation: str,
    ids: PreparedIds,
    shared: Mapping[str, object],
    own: Mapping[str, object],
) -> tuple[dict[str, str], ...]:
    recipe = {"recipe": ids.recipe, "recipe's self-test": ids.recipe.digest().hex()}
    mine = {SIZE: bucket(len(ids.keys)), **own}
    return session.call(operation, {**recipe, **shared}, mine)


def _examined(
    session: Session, ids: PreparedIds, peer: Peer, shapes: str, facts: Mapping[str, str]
) -> Opened:
    try:
        theirs, look = int(facts[SIZE]), read_shapes(facts[SHAPES])
    except (KeyError, TypeError, ValueError):
        raise MalformedMessage(f"{peer.name} describes its identifiers in an unknown way") from None
    check_shapes(read_shapes(shapes), look, session.name, peer.name)
    note = check_enumeration(ids.keys, ids.recipe, theirs, peer.name, session.policy)
    if note is not None and note not in session.facts.notes:
        session.facts.notes.append(note)
    return Opened(allowed_peer_keys(len(ids.keys), session.policy), theirs, facts)


def _remembered(
    session: Session, operation: str, ids: PreparedIds, sketches: Iterable[Sketch] | None
) -> None:
    """Ask the ledger, and let it note the list: from here on something may be learned."""
    if session.ledger is None:
        return
    for sketch in [session.ledger.sketch(ids.keys)] if sketches is None else sketches:
        for peer in session.peer_ids:
            session.ledger.check(peer, operation, sketch, session.policy)


def nobody(ids: PreparedIds, rng: Rng) -> PreparedIds:
    """Return identifiers of nobody, for a party that has none left but must not say so."""
    return replace(
        ids, keys=[rng.bytes(32)], rows=np.array([-1]), members=np.array([-1]), counts=np.array([1])
    )


def round_trip_ms(session: Session) -> float:
    """Return the larger of both parties' measurements of one round trip, the same on both sides."""
    start = time.monotonic()
    session.call("round trip", {}, {})
    own = round(1000 * (time.monotonic() - start), 1)
    (facts,) = session.call("round trip measured", {}, {"milliseconds": own})
    return max(own, float(facts["milliseconds"]))


def noted(session: Session, own_rows: int, ids: PreparedIds, theirs: int, common: int | None) -> None:
    """Put what was compared, and how many rows are common if this party knows, into the session's report."""
    facts = session.facts
    if common is not None:
        facts.alignment = Alignment(own_rows=own_rows, peer_bucket=theirs, common_rows=common)
    facts.parameters["identifier recipe"] = str(ids.recipe)
    if ids.empty or ids.repeated:
        facts.notes.append(
            f"{ids.empty} rows without an identifier and {ids.repeated} with a repeated one were left out."
        )
