"""Malicious clients that want the common model to be bad: flipped labels or signs, updates times a hundred.

They go into :func:`vfl.federate` as they are: what a client trains on, or what it makes of its honest update.

    world = malicious(["client003"], scaled(-100.0))
    vfl.federate(model, with_flipped_labels(clients, ["client003"], classes=10), ..., world=world)

Which rules hold: docs/attacks.md. Sources: Biggio, Nelson and Laskov, "Poisoning Attacks against Support Vector
Machines", ICML 2012 (labels); Blanchard et al., NeurIPS 2017 (one update of any length moves a mean anywhere).
"""

from collections.abc import Mapping, Sequence

from vfl.errors import InvalidData
from vfl.horizontal.vectors import Rows
from vfl.horizontal.world import Attack, Device, World, label_flipped, scaled

__all__ = ["malicious", "points_lost", "scaled", "sign_flipped", "with_flipped_labels"]


def malicious(names: Sequence[str], attack: Attack, like: Device | None = None) -> World:
    """Return a world in which these clients make `attack` of their updates; all devices are alike otherwise."""
    device = like or Device()
    return World({name: Device(**(vars(device) | {"attack": attack})) for name in names}, device)


def sign_flipped() -> Attack:
    """Return an attack that sends the honest update's opposite."""
    return scaled(-1.0)


def with_flipped_labels(clients: Mapping[str, Rows], names: Sequence[str], classes: int) -> dict[str, Rows]:
    """Return the clients' rows, with mirrored integer labels at some of them.

    Raises
    ------
    InvalidData
        If a name is no client's.
    """
    unknown = sorted(set(names) - set(clients))
    if unknown:
        raise InvalidData(f"no client is named {', '.join(unknown)}")
    return {name: label_flipped(rows, classes) if name in names else rows for name, rows in clients.items()}


def points_lost(clean: float, attacked: float) -> float:
    """Return how many points of accuracy, in hundredths, an attack has cost."""
    return 100.0 * (clean - attacked)
