"""Alignment: find the customers that both parties have, in one common random order."""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from vfl.errors import InvalidData
from vfl.identifiers import PreparedIds, held_out, prepare_ids
from vfl.protocols.psi import dh
from vfl.protocols.wire import Role
from vfl.report.facts import Alignment
from vfl.session import Session, current
from vfl.tables import number_of_rows, take_rows

__all__ = ["align", "train_test_split"]


def align(
    table: Any,
    on: str | Sequence[str],
    *,
    normalise: str | Sequence[str] = "exact",
    nulls: Literal["error", "drop"] = "error",
    duplicates: Literal["error", "first"] = "error",
) -> Any:
    """Keep the rows whose identifier the peer has too; both parties get them in the same, random order.

    Parameters
    ----------
    table : 2-D numpy array, pandas, polars or pyarrow table
        One row per customer.
    on : str or sequence of str
        Identifier column, or several that form one identifier. The names may differ between the parties.
    normalise : str or sequence of str
        Recipe for each column: ``"exact"``, ``"casefold"``, ``"email"``, ``"phone:DE"`` (default country), ``"date"``;
        see :mod:`vfl.recipes`. It must be the same on both sides, which is checked.
    nulls : {"error", "drop"}
        What happens to rows without an identifier.
    duplicates : {"error", "first"}
        What happens when several rows have the same identifier.

    Returns
    -------
    table of the kind that came in

    Raises
    ------
    InvalidIds, DuplicateIds
        If this party's identifiers are unusable under the declared policy.
    AlignmentError
        If too few customers are common, or the peer brings more identifiers than allowed.
    ConfigMismatch
        If the parties normalise differently.

    Leakage
    -------
    Each party learns which of its own customers the other has, and the size of the other's set within an eighth.
    """
    session = current()
    ids = prepare_ids(table, on, normalise=normalise, nulls=nulls, duplicates=duplicates, party=session.name)
    recipe = {"recipe": ids.recipe, "recipe's self-test": ids.recipe.digest().hex()}
    session.call("align", {"protocol": "dh", **recipe}, {})
    policy, role = session.policy, dh.guest if session.role is Role.GUEST else dh.host
    with session.phases.phase("align") as progress:
        found = session.run(
            role(
                session.channel,
                ids.keys,
                session.rng,
                policy.minimum_intersection,
                policy.max_peer_keys,
                progress,
            )
        )
        session.checkpoint()
    _note(session, number_of_rows(table, session.name), ids, found)
    return take_rows(table, ids.rows[found.positions])


def _note(session: Session, own_rows: int, ids: PreparedIds, found: dh.Intersection) -> None:
    """Put what was learned into the session's report."""
    facts = session.facts
    facts.alignment = Alignment(
        own_rows=own_rows, peer_bucket=found.peer_bucket, common_rows=len(found.positions)
    )
    facts.parameters["identifier recipe"] = str(ids.recipe)
    if ids.empty or ids.repeated:
        facts.notes.append(
            f"{ids.empty} rows without an identifier and {ids.repeated} with a repeated one were left out."
        )


def train_test_split(
    rows: Any,
    on: str | Sequence[str],
    *,
    normalise: str | Sequence[str] = "exact",
    test_size: float = 0.25,
    salt: str = "",
) -> tuple[Any, Any]:
    """Hold out the same customers on both sides, and the same ones in every later run.

    A row is held out if a hash of its identifier lies below `test_size`; see :func:`vfl.identifiers.held_out`. So a
    customer that was held out once does not slip into a later training.

    Parameters
    ----------
    rows : table as returned by :func:`align`
    on, normalise
        As for :func:`align`.
    test_size : float
        Share in (0, 1) that is held out, about.
    salt : str
        Another text holds out others.

    Returns
    -------
    train, test : tables of the kind that came in

    Raises
    ------
    InvalidData
        If one part would be empty.
    ConfigMismatch
        If the parties split otherwise, or not the same rows.

    Leakage
    -------
    Nothing: a hash of the chosen positions, which both know, is compared.
    """
    session = current()
    chosen = held_out(rows, on, share=test_size, normalise=normalise, salt=salt, party=session.name)
    if chosen.all() or not chosen.any():
        raise InvalidData(
            f"{session.name}: test_size {test_size:g} of {len(chosen)} rows leaves {int(chosen.sum())} to evaluate and "
            f"{int((~chosen).sum())} to train; choose another test_size"
        )
    split = {"test_size": test_size, "salt": salt, "rows": len(chosen)}
    session.call("train_test_split", {**split, "held out": hashlib.sha256(chosen.tobytes()).hexdigest()}, {})
    return take_rows(rows, np.flatnonzero(~chosen)), take_rows(rows, np.flatnonzero(chosen))
