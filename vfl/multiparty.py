"""Alignment of one guest with several hosts: the customers that all of them have, and nothing about any two."""

from typing import Any

from vfl.comparing import noted, opened_with_all
from vfl.identifiers import PreparedIds
from vfl.protocols.psi import multi
from vfl.protocols.psi.sets import Intersection
from vfl.protocols.wire import Role
from vfl.session import Session
from vfl.tables import number_of_rows, take_rows

__all__ = ["align_with_all"]


def align_with_all(session: Session, table: Any, ids: PreparedIds) -> Any:
    """Keep the rows whose identifier all parties of a session with several hosts have, in one random order.

    :func:`vfl.align` comes here by itself; :mod:`vfl.protocols.psi.multi` is the protocol.

    Parameters
    ----------
    session : Session
    table : table
    ids : PreparedIds
        Of `table`.

    Returns
    -------
    table of the kind that came in

    Raises
    ------
    As :func:`vfl.align`.

    Leakage
    -------
    All learn which of their own customers all others have. The guest learns each host's size within an eighth, a host
    the guest's; no two parties learn what they have in common beyond that, unless the guest works together with a host.
    """
    begun = opened_with_all(session, "align", ids, {"hosts": ", ".join(session.hosts)})
    minimum, largest = session.policy.minimum_intersection, min(each.largest for each in begun)
    reason = f"{len(session.hosts)} hosts, for which there is one protocol"
    session.facts.parameters["intersection protocol"] = f"multi: {reason}"
    with session.phases.phase("align") as progress:
        arguments = (session.rng, minimum, largest, progress)
        found: Intersection
        if session.role is Role.GUEST:
            found = session.run(multi.guest(session.channels, ids.listed, *arguments))
        else:
            found = session.run(multi.host(session.channel, ids.listed, len(session.hosts), *arguments))
        session.checkpoint()
    theirs = max(each.theirs for each in begun)
    noted(session, number_of_rows(table, session.name), ids, theirs, len(found.positions))
    return take_rows(table, ids.rows[found.positions])
