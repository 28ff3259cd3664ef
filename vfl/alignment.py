"""Alignment: find the customers that both parties have, in one common random order."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vfl.choosing import choose
from vfl.comparing import learner, nobody, noted, opened, round_trip_ms
from vfl.errors import ConfigError, InvalidData, InvalidIds
from vfl.identifiers import Duplicates, Key, PreparedIds, held_out, prepare_ids
from vfl.ledger import Sketch
from vfl.multiparty import align_with_all
from vfl.protocols.psi import dh
from vfl.protocols.psi.multiplicity import exchange_multiplicities
from vfl.protocols.psi.sets import Intersection, bucket
from vfl.protocols.wire import Role
from vfl.session import Session, current
from vfl.tables import number_of_rows, take_rows

__all__ = ["align", "train_test_split"]


Learns = Literal["both", "guest", "host"]


def align(
    table: Any,
    on: str | Sequence[str],
    *,
    normalise: str | Sequence[str] = "exact",
    nulls: Literal["error", "drop"] = "error",
    duplicates: Duplicates = "error",
    fallback: Sequence[Key] = (),
    learns: Learns = "both",
    protocol: Literal["auto", "dh", "fast"] = "auto",
) -> Any:
    """Keep the rows whose identifier the peer, or every host, has too; all parties get them in the same, random order.

    With several hosts: the rows that all have, see :mod:`vfl.multiparty`; without the options that are for one host.

    Parameters
    ----------
    table : 2-D numpy array, pandas, polars or pyarrow table
    on : str or sequence of str
        Identifier column, or several that form one identifier. The names may differ between the parties.
    normalise : str or sequence of str
        Recipe for each column, e.g. ``"phone:DE"``: see :mod:`vfl.recipes`. The same on both sides, which is checked.
    nulls : {"error", "drop"}
        Rows without an identifier.
    duplicates : {"error", "first", "last", "drop", "all"}
        Rows that share one; ``"all"`` gives a row for every pair, as a join does. The parties may differ in it.
    fallback : sequence of Key
        Other identifiers, tried in this order on the rows not matched so far. A row then needs one of them.
    learns : {"both", "guest", "host"}
        Who learns which rows are common; the other gets None.
    protocol : {"auto", "dh", "fast"}
        ``"auto"`` chooses by the sizes and the link, and the report says why.

    Returns
    -------
    table of the kind that came in, or None

    Raises
    ------
    InvalidIds, DuplicateIds
        If this party's identifiers are unusable under the declared policy.
    AlignmentError
        If too few customers are common, or the peer brings more identifiers than allowed.
    PolicyRefused
        By the run ledger: a list that differs in a few rows from an earlier one, or too many comparisons.
    ConfigError, ConfigMismatch
        If arguments do not go together, or the parties call or normalise differently.

    Leakage
    -------
    Who learns: which of its customers the other has, or all hosts have. All: sizes within an eighth, of hosts the
    guest only. With ``duplicates="all"`` the rows per common customer; with `fallback` which identifier each matched.
    """
    session = current()
    learner(learns, session, ("both", "guest", "host"))
    chain = _Chain(session, [Key(_frozen(on), _frozen(normalise)), *fallback], nulls, duplicates)
    if len(session.hosts) > 1:
        return _aligned_with_all(table, chain, learns, protocol)
    return _aligned(table, chain, learns, protocol)


def _aligned_with_all(table: Any, chain: "_Chain", learns: str, protocol: str) -> Any:
    if len(chain.keys) > 1 or learns != "both" or protocol != "auto" or chain.duplicates == "all":
        raise ConfigError(
            'with several hosts vfl.align takes no fallback, learns="both", protocol="auto" and no duplicates="all"'
        )
    return align_with_all(chain.session, table, chain.prepared(table, 0))


def _aligned(table: Any, chain: "_Chain", learns: str, protocol: str) -> Any:
    """Try one identifier after the other on the rows that are left."""
    session = chain.session
    if learns != "both" and (len(chain.keys) > 1 or protocol == "fast" or chain.duplicates == "all"):
        raise ConfigError(f'learns="{learns}" goes with protocol "dh", without fallback and duplicates="all"')
    left, matched = np.arange(number_of_rows(table, session.name)), list[NDArray[np.int64]]()
    for number in range(len(chain.keys)):
        ids = chain.prepared(take_rows(table, left) if number else table, number)
        sketches = () if number else chain.sketches(table)
        terms = _Terms(learns, protocol, chain.duplicates, number, len(chain.keys), sketches)
        found = _one_pass(session, ids, terms)
        if found is None:
            return None
        matched.append(left[found])
        stays = np.ones(len(left), dtype=np.bool_)
        stays[found] = stays[ids.left_out] = False
        left = left[stays]
    rows = np.concatenate(matched)
    _note_total(session, number_of_rows(table, session.name), len(rows))
    return take_rows(table, rows)


@dataclass(frozen=True)
class _Terms:
    """What both parties have to agree on for one pass."""

    learns: str
    protocol: str
    duplicates: str
    number: int
    passes: int
    sketches: tuple[Sketch, ...] | None


@dataclass(frozen=True)
class _Chain:
    """The identifiers that are tried one after the other."""

    session: Session
    keys: list[Key]
    nulls: Literal["error", "drop"]
    duplicates: Duplicates

    def prepared(self, table: Any, number: int) -> PreparedIds:
        """Return the identifiers of one pass over the rows that are left."""
        key, alone, party = self.keys[number], len(self.keys) == 1, self.session.name
        if not alone and number == 0 and self.nulls == "error":
            self._check_all_rows_have_one(table)
        ids = prepare_ids(
            table,
            key.on,
            normalise=key.normalise,
            nulls=self.nulls if alone else "drop",
            duplicates=self.duplicates,
            party=party,
            at_least=1 if number == 0 else 0,
        )
        return ids if len(ids.keys) else nobody(ids, self.session.rng)

    def sketches(self, table: Any) -> tuple[Sketch, ...] | None:
        """Return one sketch of all identifiers, for the ledger; None for one identifier, which needs no other."""
        if len(self.keys) == 1 or self.session.ledger is None:
            return None
        parts = [self.session.ledger.sketch(ids.keys) for ids in self._every(table)]
        return (sum(parts[1:], parts[0]),)

    def _every(self, table: Any) -> list[PreparedIds]:
        rest: dict[str, Any] = {
            "nulls": "drop",
            "duplicates": "all",
            "party": self.session.name,
            "at_least": 0,
        }
        return [prepare_ids(table, key.on, normalise=key.normalise, **rest) for key in self.keys]

    def _check_all_rows_have_one(self, table: Any) -> None:
        have = np.unique(np.concatenate([ids.members for ids in self._every(table)]))
        lacking = number_of_rows(table, self.session.name) - len(have)
        if lacking:
            raise InvalidIds(
                f'{self.session.name}: {lacking} rows have none of the identifiers; fill them or pass nulls="drop"'
            )


def _frozen(names: str | Sequence[str]) -> str | tuple[str, ...]:
    return names if isinstance(names, str) else tuple(names)


def _one_pass(session: Session, ids: PreparedIds, terms: _Terms) -> NDArray[np.int64] | None:
    """Find the common rows by one identifier; None if this party does not learn them."""
    shared = {
        "protocol": terms.protocol,
        "learns": terms.learns,
        "identifier": f"{terms.number + 1} of {terms.passes}",
    }
    begun = opened(session, "align", ids, shared, {"duplicates": terms.duplicates}, terms.sketches)
    milliseconds = round_trip_ms(session) if terms.protocol == "auto" else 0.0
    choice = choose(terms.protocol, bucket(len(ids.keys)), begun.theirs, milliseconds, terms.learns)
    session.facts.parameters["intersection protocol"] = f"{choice.protocol}: {choice.reason}"
    role = _role(session, choice.protocol, terms.learns)
    minimum = session.policy.minimum_intersection if terms.number == 0 else 0
    keys = ids.keys if choice.protocol == "fast" else ids.listed
    with session.phases.phase("align") as progress:
        found = session.run(role(session.channel, keys, session.rng, minimum, begun.largest, progress))
        rows = None
        if isinstance(found, Intersection):
            rows = _rows(session, ids, found, {terms.duplicates, begun.facts["duplicates"]})
        session.checkpoint()
    noted(session, len(ids.keys), ids, begun.theirs, None if rows is None else len(rows))
    return rows


def _role(session: Session, protocol: str, learns: str) -> Any:
    guest = session.role is Role.GUEST
    if learns != "both":
        return dh.receiver if learns == session.role.value else dh.sender
    module: Any = dh
    if protocol == "fast":
        from vfl.protocols.psi import vole as module
    return module.guest if guest else module.host


def _rows(session: Session, ids: PreparedIds, found: Intersection, duplicates: set[str]) -> NDArray[np.int64]:
    """Return the rows of the common keys, all pairs if one of the parties keeps all its rows."""
    if "all" not in duplicates:
        return ids.rows[found.positions]
    theirs = session.run(exchange_multiplicities(session.channel, ids.counts[found.positions]))
    return ids.expanded(found.positions, theirs, outer=session.role is Role.GUEST)


def _note_total(session: Session, own: int, common: int) -> None:
    noted = session.facts.alignment
    if noted is not None:
        session.facts.alignment = replace(noted, own_rows=own, common_rows=common)


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
