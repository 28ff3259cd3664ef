"""Alignment: find the customers that both parties have, in one common random order."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from vfl.identifiers import PreparedIds, prepare_ids
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


def train_test_split(rows: Any, test_size: float = 0.25) -> tuple[Any, Any]:
    """Split aligned rows in the same way on both sides.

    Aligned rows are in a random order that both share, so the last ones are a random sample; nothing is sent but a
    check that both sides split alike.

    Parameters
    ----------
    rows : table as returned by :func:`align`
    test_size : float
        Fraction in (0, 1) that is held out.

    Returns
    -------
    train, test : tables of the kind that came in

    Raises
    ------
    ConfigMismatch
        If the parties have different numbers of rows or fractions.
    """
    if not 0 < test_size < 1:
        raise ValueError(f"test_size must lie in (0, 1), not {test_size}")
    session = current()
    count = number_of_rows(rows, session.name)
    session.call("train_test_split", {"rows": count, "test_size": test_size}, {})
    cut = count - round(count * test_size)
    return take_rows(rows, np.arange(cut)), take_rows(rows, np.arange(cut, count))
