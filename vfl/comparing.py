"""What every comparison of two lists begins and ends with: agreement, guards, the ledger, the report.

Used by :mod:`vfl.alignment` (rows), :mod:`vfl.overlap` (counts, sums, columns, spine) and :mod:`vfl.streaming` (files).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vfl.crypto.rng import Rng
from vfl.errors import ConfigError
from vfl.guards import allowed_peer_keys, check_enumeration, check_shapes, shape_of
from vfl.identifiers import PreparedIds
from vfl.ledger import Sketch
from vfl.protocols.psi.sets import bucket
from vfl.protocols.session import Peer
from vfl.report.facts import Alignment
from vfl.session import Session

__all__ = ["Opened", "learner", "nobody", "noted", "opened", "opened_with_all", "round_trip_ms"]


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
    sketch: Sketch | None = None,
) -> Opened:
    """Check the ledger, agree on the call and compare what identifiers look like; nothing of theirs has moved then.

    Raises
    ------
    PolicyRefused
        By the ledger.
    ConfigMismatch
        If the parties call differently or normalise otherwise.
    InvalidIds
        If one site has lost leading zeros.
    LocalProtocolError
        If there are several hosts; for these there is :func:`opened_with_all`.
    """
    peer = session.peer
    (facts,) = _agreed(session, operation, ids, shared, own or {}, sketch)
    return _examined(session, ids, peer, facts)


def opened_with_all(
    session: Session, operation: str, ids: PreparedIds, shared: Mapping[str, object]
) -> tuple[Opened, ...]:
    """Do as :func:`opened` with every peer; the results are in the order of the channels."""
    told = _agreed(session, operation, ids, shared, {}, None)
    return tuple(
        _examined(session, ids, peer, facts) for peer, facts in zip(session.peers, told, strict=True)
    )


def _agreed(
    session: Session,
    operation: str,
    ids: PreparedIds,
    shared: Mapping[str, object],
    own: Mapping[str, object],
    sketch: Sketch | None,
) -> tuple[dict[str, str], ...]:
    if session.ledger is not None:
        whole = session.ledger.sketch(ids.keys) if sketch is None else sketch
        for peer in session.peer_ids:
            session.ledger.check(peer, operation, whole, session.policy)
    recipe = {"recipe": ids.recipe, "recipe's self-test": ids.recipe.digest().hex()}
    mine = {
        "padded identifiers": bucket(len(ids.keys)),
        "identifiers look like": shape_of(ids.keys).to_text(),
        **own,
    }
    return session.call(operation, {**recipe, **shared}, mine)


def _examined(session: Session, ids: PreparedIds, peer: Peer, facts: Mapping[str, str]) -> Opened:
    check_shapes(shape_of(ids.keys), facts, session.name, peer.name)
    theirs = int(facts["padded identifiers"])
    note = check_enumeration(ids.keys, theirs, peer.name)
    if note is not None and note not in session.facts.notes:
        session.facts.notes.append(note)
    return Opened(allowed_peer_keys(len(ids.keys), session.policy), theirs, facts)


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
