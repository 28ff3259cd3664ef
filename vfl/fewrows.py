"""Tables of a party, and what its peer states: what the estimators of transfer and of networks check."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl import data
from vfl.errors import InvalidData, MalformedMessage

__all__ = ["LARGEST_COLUMNS", "all_labels", "all_rows", "known_columns", "no_labels", "stated"]

FloatArray = NDArray[np.float64]
LARGEST_COLUMNS = 10_000
"""That a peer may state, and scores."""


def known_columns(table: Any, expected: tuple[str, ...], party: str) -> FloatArray:
    """Return the values of a table that has the expected columns in their order.

    Raises
    ------
    SchemaMismatch, InvalidData, MissingValues
    """
    features = data.features(table, party, minimum_rows=1)
    data.same_columns(features.names, expected, party)
    return features.values


def no_labels(party: str, *given: Any) -> None:
    """Refuse labels of a host.

    Raises
    ------
    InvalidData
    """
    if any(labels is not None for labels in given):
        raise InvalidData(f"{party} is the host: labels belong to the guest; leave them out")


def all_rows(common: data.FeatureMatrix, rest: Any, party: str) -> FloatArray:
    """Return the common rows and, below, the party's other ones."""
    if rest is None:
        return common.values
    return np.vstack([common.values, known_columns(rest, common.names, party)])


def all_labels(
    y: Any, rest_y: Any, rows: tuple[int, int], party: str, *, least: int, most_classes: int = 2
) -> data.Labels:
    """Return all labels of a guest, those of common rows first.

    Parameters
    ----------
    y, rest_y : array-like, or None
        Labels of the common rows and of the others.
    rows : tuple of int
        How many there are of each.
    party : str
    least : int
        Common rows of each class at least.
    most_classes : int

    Raises
    ------
    InvalidData, MissingValues
    """
    if y is None or (rest_y is None) != (rows[1] == 0):
        raise InvalidData(f"{party} is the guest: pass labels as y, and those of rest as rest_y")
    common = data.labels(y, party, rows=rows[0], most_classes=most_classes)
    if np.bincount(common.encoded.astype(np.int64)).min() < least:
        raise InvalidData(
            f"{party}: the common rows have fewer than {least} rows of a class: too few to learn from"
        )
    if rest_y is None:
        return common
    both = data.labels(np.concatenate([np.asarray(y), np.asarray(rest_y)]), party, rows=sum(rows),
                       most_classes=most_classes)  # fmt: skip
    if len(both.classes) != len(common.classes):
        raise InvalidData(f"{party}: a class of the other rows has no common row: leave its rows out")
    return both


def stated(said: Mapping[str, str], name: str, largest: int, party: str, what: str = "") -> int:
    """Return a number from 1 to `largest` that the peer `party` stated under `name`; `what` is the words for it.

    Raises
    ------
    MalformedMessage
        If it is no plausible one.
    """
    text = said.get(name, "")
    digits = text.isascii() and text.isdecimal() and len(text) <= len(str(largest))
    if not digits or not 1 <= int(text) <= largest:
        raise MalformedMessage(f"{party} did not state a plausible {what or f'number of {name}'}")
    return int(text)
