"""Alignment of one guest with several hosts: the customers that all of them have, and nothing about any two."""

from collections.abc import Sequence
from typing import Any, Literal

from vfl.comparing import noted, opened
from vfl.errors import ConfigError
from vfl.identifiers import Duplicates, prepare_ids
from vfl.protocols.psi import multi
from vfl.protocols.psi.sets import Intersection
from vfl.protocols.wire import Role
from vfl.session import current, open_sessions
from vfl.tables import number_of_rows, take_rows

__all__ = ["align_all"]


def align_all(
    table: Any,
    on: str | Sequence[str],
    *,
    hosts: int,
    normalise: str | Sequence[str] = "exact",
    nulls: Literal["error", "drop"] = "error",
    duplicates: Duplicates = "error",
) -> Any:
    """Keep the rows whose identifier all parties have: one guest and several hosts, in one common random order.

    The guest opens a session with each host, one inside the other, and calls this once; each host has its session with
    the guest alone::

        with vfl.connect("shop.toml"), vfl.connect("telco.toml"):
            rows = vfl.align_all(customers, on="phone", normalise="phone:DE", hosts=2)

    Parameters
    ----------
    table, on, normalise, nulls, duplicates
        As for :func:`vfl.align`, without ``duplicates="all"``.
    hosts : int
        Number of hosts, at least two, the same at all parties.

    Returns
    -------
    table of the kind that came in

    Raises
    ------
    ConfigError
        At the guest, if so many sessions are not open.
    Others as :func:`vfl.align`.

    Leakage
    -------
    All learn which of their own customers all others have. The guest learns each host's size within an eighth, a host
    the guest's; no two parties learn what they have in common beyond that, unless the guest works together with a host.
    """
    session = current()
    if hosts < 2:
        raise ConfigError(f"hosts is {hosts}; with one host use vfl.align")
    if duplicates == "all":
        raise ConfigError('duplicates="all" is for vfl.align; use "first", "last" or "drop" here')
    sessions = open_sessions() if session.role is Role.GUEST else (session,)
    if session.role is Role.GUEST and len(sessions) != hosts:
        raise ConfigError(f"{session.name} has {len(sessions)} open sessions, hosts is {hosts}")
    ids = prepare_ids(table, on, normalise=normalise, nulls=nulls, duplicates=duplicates, party=session.name)
    shared = {"hosts": hosts}
    begun = [opened(each, "align_all", ids, shared) for each in sessions]
    minimum, largest = session.policy.minimum_intersection, min(each.largest for each in begun)
    found: Intersection
    with session.phases.phase("align all") as progress:
        if session.role is Role.GUEST:
            channels = [each.channel for each in sessions]
            found = session.run(multi.guest(channels, ids.listed, session.rng, minimum, largest, progress))
        else:
            role = multi.host(session.channel, ids.listed, hosts, session.rng, minimum, largest, progress)
            found = session.run(role)
        for each in sessions:
            each.checkpoint()
    for each, agreed in zip(sessions, begun, strict=True):
        noted(each, number_of_rows(table, session.name), ids, agreed.theirs, len(found.positions))
    return take_rows(table, ids.rows[found.positions])
