"""What an alignment is checked for before anything is sent: sizes, guessing, identifiers that were damaged at one site.

All of it uses counts and shapes; no identifier is shown or sent.
"""

import json
import struct
import warnings
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from vfl.config import PolicyConfig
from vfl.crypto.digests import Packed, pack
from vfl.errors import InvalidIds, LeakageWarning, PolicyRefused
from vfl.protocols.psi.sets import bucket
from vfl.recipes import Recipe

__all__ = [
    "Shape",
    "allowed_peer_keys",
    "check_enumeration",
    "check_shapes",
    "domain_size",
    "read_shapes",
    "shape_of",
    "shapes_of",
]

SAMPLE = 20_000
GUESSABLE = 10**11
"""Identifiers that could exist: below, a list that brings a good part of them is within reach of a laptop."""
CERTAIN = 14  # expected numbers with a leading zero from which none at all is no accident: e^-14 < 10^-6
FEWEST = 10  # identifiers from which their form can be seen
PUBLIC_FORMS = ("phone", "date")
"""Recipes whose identifiers anybody can list; with customer numbers, few of them may make many look like all."""
OUT_OF_PROPORTION = 16  # times as many as this party has


@dataclass(frozen=True)
class Shape:
    """What identifiers look like, told to the peer so that both notice when one site has lost digits.

    Attributes
    ----------
    digits : {"all", "some", "none"}
        How many identifiers consist of digits.
    width : int
        Their common number of digits; 0 if it varies.
    zeros : int
        -log2 of the share of numbers that begin with a zero, rounded up; -1 if none does.
    least : int
        The largest power of two that is no more than their number.
    """

    digits: str
    width: int
    zeros: int
    least: int


def shape_of(keys: Sequence[bytes] | Packed) -> Shape:
    """Return the shape of canonical identifiers."""
    column = keys if isinstance(keys, Packed) else pack(keys)
    starts, widths = column.ends[:-1], np.diff(column.ends)
    other = np.concatenate([[0], np.cumsum((column.data < 48) | (column.data > 57))])
    numbers = (other[column.ends[1:]] == other[starts]) & (widths > 0)
    digits = "all" if numbers.all() else "some" if numbers.any() else "none"
    seen, total = np.unique(widths[numbers]), int(numbers.sum())
    leading = int((column.data[starts[numbers & (widths > 1)]] == 48).sum())
    zeros = (-(-total // leading) - 1).bit_length() if leading else -1
    return Shape(digits, int(seen[0]) if len(seen) == 1 else 0, zeros, 1 << max(0, total.bit_length() - 1))


def shapes_of(keys: Sequence[bytes] | Packed, columns: int) -> str:
    """Return the shapes of identifiers that consist of so many columns, as a proposal carries them."""
    parts = [keys] if columns == 1 else zip(*(_parted(key) for key in keys), strict=True)
    return json.dumps([astuple(shape_of(part)) for part in parts])


def _parted(key: bytes) -> list[bytes]:
    """Return the columns that :func:`vfl.recipes.joined` put together; a key of nobody counts as one column."""
    parts, place = list[bytes](), 0
    while place < len(key):
        (width,) = struct.unpack_from(">I", key, place)
        parts.append(key[place + 4 : place + 4 + width])
        place += 4 + width
    return parts


def read_shapes(text: str) -> list[Shape]:
    """Return what :func:`shapes_of` wrote; ValueError or TypeError for anything else."""
    return [Shape(str(digits), *map(int, numbers)) for digits, *numbers in json.loads(text)]


def check_shapes(mine: Sequence[Shape], theirs: Sequence[Shape], me: str, peer: str) -> None:
    """Refuse numbers of which some have leading zeros here, and none there though many would be expected to.

    That is so if all numbers here have one width and those there do not; or if widths vary here and the share of zeros
    here, among as many numbers as there, leaves a chance below 10^-6 for none.

    Parameters
    ----------
    mine, theirs : sequence of Shape
        Of each column, at both parties.
    me, peer : str

    Raises
    ------
    InvalidIds
        Naming the party whose identifiers have lost their zeros.
    """
    for own, other in zip(mine, theirs, strict=False):
        _check_column(own, other, me, peer)


def _check_column(mine: Shape, other: Shape, me: str, peer: str) -> None:
    for full, short, loser in ((mine, other, peer), (other, mine, me)):
        if full.digits != "all" or short.digits != "all" or full.zeros < 0 or short.zeros >= 0:
            continue
        narrower, expected = short.width != full.width, short.least / 2.0**full.zeros
        if narrower if full.width else expected > CERTAIN:
            length = f"{full.width} digits and " if full.width else ""
            raise InvalidIds(
                f"{loser}: the identifiers are numbers without leading zeros, the other side's have {length}leading "
                f"zeros: {loser} read them as numbers and lost the zeros; read the column as text: "
                "read_table(path, text=[...])"
            )


def allowed_peer_keys(own: int, policy: PolicyConfig) -> int:
    """Return how many identifiers the peer may bring against `own` of this party's, padding included."""
    return min(bucket(policy.max_peer_keys), max(64, policy.max_size_ratio * bucket(own)))


def domain_size(keys: Sequence[bytes] | Packed) -> float:
    """Estimate how many identifiers of this form there could be.

    For each length that occurs, the product over the places of how many different characters stand there (of 10 if all
    are digits, and enough different ones); of a sample of 20,000 keys. A lower estimate: what the sample does not show
    is not counted.
    """
    by_length: dict[int, list[bytes]] = {}
    for place in range(0, len(keys), max(1, len(keys) // SAMPLE)):
        key = keys[place]
        by_length.setdefault(len(key), []).append(key)
    total = 0.0
    for group in by_length.values():
        product = 1.0
        for characters in zip(*group, strict=True):
            seen = set(characters)
            enough = 5 if len(group) >= 100 else 2
            product *= 10 if seen <= set(b"0123456789") and len(seen) > enough else len(seen)
        total += product
    return total


def check_enumeration(
    keys: Sequence[bytes] | Packed, recipe: Recipe, peer_bucket: int, peer: str, policy: PolicyConfig
) -> str | None:
    """Return a note if the peer could try out identifiers of this form; warn or refuse if its list is long enough to.

    Parameters
    ----------
    keys : sequence of bytes, or Packed
        This party's canonical identifiers.
    recipe : Recipe
        What they are.
    peer_bucket : int
        The peer's padded set size.
    peer : str
    policy : PolicyConfig

    Returns
    -------
    str or None
        For the report.

    Raises
    ------
    PolicyRefused
        Telephone numbers or dates, of which the peer brings a share above `max_domain_share` and 16 times as many as
        this party.
    """
    size = domain_size(keys) if len(keys) >= FEWEST else 0.0
    if not 0 < size <= GUESSABLE:
        return None
    text = (
        f"Identifiers of this form can be guessed: there are about {size:.0e}, and {peer} brought up to "
        f"{peer_bucket:,}. A list of guesses shows which of them are customers here"
    )
    public = all(name.partition(":")[0] in PUBLIC_FORMS for name in recipe.names)
    if public and peer_bucket > max(policy.max_domain_share * size, OUT_OF_PROPORTION * bucket(len(keys))):
        raise PolicyRefused(
            f"{peer} brings up to {peer_bucket:,} of about {size:.0e} identifiers of this form ({recipe}): it could be "
            "trying them out; if such a list is expected, raise policy.max_domain_share"
        )
    if peer_bucket * 4 >= size and peer_bucket > 4 * bucket(len(keys)):
        warnings.warn(f"{text}; this list covers a good part of them", LeakageWarning, stacklevel=3)
    return f"{text}."
