"""What a method has to see of the clients' updates, and the refusal where secure aggregation does not show it.

Secure aggregation opens one sum of three or more clients and nothing else. Methods that average compose with it.
Methods that compare clients do not; over sums of groups they do, at the price that a group counts as one.
"""

import enum
from collections.abc import Mapping
from typing import Protocol

from vfl.errors import CohortTooSmall, PolicyRefused

__all__ = ["FEWEST", "Needs", "Stating", "require_sums"]

FEWEST = 3
"""Clients of a sum that hides anything: of two, each knows the other's part by subtraction."""


class Needs(enum.Enum):
    """What the server has to see."""

    SUM = "one weighted sum over the clients"
    GROUPS = "sums over groups of three or more clients"
    CLEAR = "every client's update in the clear"


class Stating(Protocol):
    """Anything that states what it needs."""

    @property
    def needs(self) -> Needs:
        """What the server has to see."""
        ...


def require_sums(parts: Mapping[str, Stating], clients: int) -> None:
    """Refuse to run methods under secure aggregation that do not compose with it.

    Parameters
    ----------
    parts : mapping of str to object
        The methods by the name of the argument they came in.
    clients : int
        Of a sum.

    Raises
    ------
    PolicyRefused
        If a method needs updates in the clear; the text names it and a remedy.
    CohortTooSmall
        If fewer than three clients would be summed.
    """
    for name, part in parts.items():
        if part.needs is Needs.CLEAR:
            raise PolicyRefused(
                f"{name}: {type(part).__name__} needs {part.needs.value}, secure aggregation shows sums alone; take a "
                "method that averages, a common support in place of top-k, or a robust mean of groups"
            )
    if clients < FEWEST:
        raise CohortTooSmall(f"a sum of {clients} clients hides nothing; it takes at least {FEWEST}")
