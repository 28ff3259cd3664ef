"""Attacks on the transcript of a training over the rows of several clients: the server's view, or a member's.

Gradient inversion works on what is there: each client's update if it came as it is; under secure aggregation the masked
vectors and the sums that were opened; at a member, the changes of the common model.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vfl.attacks.findings import Finding, Known, judged
from vfl.attacks.gradient_inversion import (
    capacity,
    deep_leakage,
    dense_input,
    gradient_of,
    psnr,
    recovered_label,
)
from vfl.attacks.membership import auc, loss_attack
from vfl.attacks.model_inversion import likeness, typical_row
from vfl.crypto.fixedpoint import FixedPoint
from vfl.crypto.masking import unpack
from vfl.crypto.weighted import WeightedEncoding
from vfl.errors import AuditError, ConfigError, VFLError
from vfl.horizontal.models import Network
from vfl.horizontal.optimisation import Local, local_sgd
from vfl.horizontal.vectors import Matrix, Rows, Vector
from vfl.horizontal.viewing import local_of, network_of, update_of
from vfl.protocols.horizontal import GlobalModel, Update
from vfl.protocols.secagg.messages import Invitation, MaskedInput, Outcome
from vfl.protocols.secagg.policy import Task
from vfl.views import View

__all__ = ["Change", "changes", "inverted", "on_updates", "residues_of", "task_of"]

MANY = 8
"""Rows that are searched for where there are too many to find all of them."""
EXPLAINED = 1e-6
WIDE = (-10.0, 10.0)
"""Where rows are searched for if nothing is known about them."""


@dataclass(frozen=True, eq=False)
class Change:
    """A change of the model that the party has seen.

    Attributes
    ----------
    what : {"update", "masked update", "sum", "model"}
    name : str
        For people.
    owner : str or None
        The client; None for all.
    start, update : ndarray of float64, shape (size,)
        What it starts from, and the change.
    rows : int
        Behind it; 0 if the party does not know.
    """

    what: str
    name: str
    owner: str | None
    start: Vector
    update: Vector
    rows: int


def changes(view: View, network: Network) -> Iterator[Change]:
    """Yield every change of the model in a view, in order; changes of the common model only if there is nothing else.

    Raises
    ------
    AuditError
        If the messages contradict the view's facts.
    """
    start, number, task, clients, seen = np.zeros(0), 0, None, 0, False
    models: list[GlobalModel] = []
    for entry in view.messages:
        message = entry.message
        if isinstance(message, Update | Invitation) and not models:
            raise AuditError("the transcript has no model that its updates start from")
        if isinstance(message, GlobalModel):
            if message.vector.shape != (network.size,):
                raise AuditError("a model of the transcript has another size than its network")
            start, number = message.vector, message.number
            models.append(message)
        elif isinstance(message, Update):
            seen = True
            update = update_of(view, message, network.size)
            yield Change("update", f"{entry.peer}, round {number}", entry.peer, start, update, message.rows)
        elif isinstance(message, Invitation):
            fresh = task_of(message)
            clients, task = (clients + 1 if fresh == task else 1), fresh
        elif isinstance(message, MaskedInput) and task is not None:
            seen = True
            residues = residues_of(message, task)[: network.size]
            yield Change("masked update", f"{entry.peer}, round {number}", entry.peer, start, residues, 0)
        elif isinstance(message, Outcome) and task is not None:
            if (opened := _opened(view, message, task, clients, network.size)) is not None:
                yield Change("sum", f"{clients} clients, round {number}", None, start, *opened)
            clients, task = 0, None
    for before, after in () if seen else itertools.pairwise(models):
        change = after.vector - before.vector
        yield Change("model", f"round {before.number}", None, before.vector, change, 0)


_TASK = ("session", "model", "dimension", "bits", "encoding")


def task_of(message: Invitation) -> Task:
    """Return what a round sums.

    Raises
    ------
    AuditError
        If the invitation does not say it.
    """
    try:
        return Task.of_fields({k: v for k, v in message.fields.items() if k in _TASK})
    except ConfigError:
        raise AuditError("an invitation of the transcript names no task") from None


def residues_of(message: MaskedInput, task: Task) -> Vector:
    """Return a masked vector as numbers between -1/2 and 1/2: what it says to somebody without the masks."""
    try:
        words = unpack(message.vector, task.dimension, task.bits).astype(np.float64)
    except VFLError:
        raise AuditError("a masked vector of the transcript has another size than its task") from None
    return np.asarray(words / 2.0**task.bits - 0.5)


def _opened(view: View, message: Outcome, task: Task, clients: int, size: int) -> tuple[Vector, int] | None:
    """Return the mean and the number of rows that a sum opens; None if clients added noise or sent parts."""
    kept = view.facts.get("secure")
    if not kept or task.dimension < size:
        return None
    try:
        values = FixedPoint(int(kept["fraction_bits"]), float(kept["bound"]))
        encoding = WeightedEncoding(values, clients, int(kept["largest_weight"]))
        if encoding.bits != task.bits:
            return None
        total, rows = encoding.decode(unpack(message.total, task.dimension, task.bits))
    except (KeyError, TypeError, ValueError, VFLError):
        raise AuditError("a sum of the transcript is not encoded as its facts say") from None
    return np.asarray(total[:size] / max(rows, 1)), rows


def inverted(
    network: Network, change: Change, local: Local, box: tuple[float, float] | None = None, seed: int = 0
) -> tuple[Matrix, Matrix]:
    """Return the rows and labels, as parts of 1, that gradient inversion makes of a change.

    Parameters
    ----------
    network : Network
    change : Change
        Of one row, or of a number that is not known, the division is taken; else DLG.
    local : Local
    box : tuple of float, optional
        Range of the features, if the attacker knows it.
    seed : int
    """
    gradient = gradient_of(change.update, local)
    if change.rows <= 1:
        X = np.clip(dense_input(network, gradient), *(box or (-np.inf, np.inf)))[None, :]
        return X, np.eye(network.layers[-1])[[recovered_label(network, gradient)]]
    rows = change.rows if change.rows <= 2 * capacity(network) else MANY
    found = deep_leakage(network, change.start, gradient, rows, np.random.default_rng(seed), box or WIDE)
    return found.X, found.labels


def unexplained(network: Network, change: Change, local: Local, X: Matrix, labels: Matrix) -> float:
    """Return what part of a change's squared length training on these rows does not give, at most 1."""
    rows = Rows(X, np.asarray(network.classes)[labels.argmax(axis=1)])
    whole = Local(local.steps, local.rate, 0)
    made = local_sgd(network, change.start, rows, whole, np.random.default_rng(0)) - change.start
    length = float(change.update @ change.update)
    return min(1.0, float(((made - change.update) ** 2).sum()) / length) if length > 0 else 1.0


def quality(found: Matrix, truth: Matrix, peak: float = 1.0) -> float:
    """Return the mean PSNR in dB.

    Row by row in the best order if as many were found as there are; else of each true row against their mean.
    """
    from scipy.optimize import linear_sum_assignment

    if len(found) != len(truth):
        middle = found.mean(axis=0)
        return float(np.mean([psnr(middle, row, peak) for row in truth]))
    table = np.array([[psnr(row, true, peak) for true in truth] for row in found])
    return float(table[linear_sum_assignment(-table)].mean())


def on_updates(view: View, known: Known, most: int) -> list[Finding]:
    """Run every attack that applies to a recorded training.

    Parameters
    ----------
    view : View
    known : Known
    most : int
        Changes of each kind that are inverted, from the first on.
    """
    network = network_of(view)
    if network is None or network.classes is None:
        return [
            Finding("gradient inversion", "all", "", None, None, "nothing", "takes a classifying network")
        ]
    local, findings, done = local_of(view), [], dict[str, int]()
    for change in changes(view, network):
        done[change.what] = done.get(change.what, 0) + 1
        if done[change.what] <= most:
            findings.append(_inversion(network, change, local, known))
    if not findings:
        findings.append(Finding("gradient inversion", "all", "", None, None, "nothing"))
    models = [m for m in (*view.sent(GlobalModel), *view.received(GlobalModel)) if m.number]
    if models:
        last = max(models, key=lambda message: message.number).vector
        findings += [_membership(network, last, known), _typical(network, last, known)]
    return findings


def _inversion(network: Network, change: Change, local: Local, known: Known) -> Finding:
    X, labels = inverted(network, change, local, known.box)
    name = f"{change.what} of {change.name}" if change.owner else f"{change.what}: {change.name}"
    rows = f"{change.rows} rows" if change.rows else "number of rows not known"
    truth, others = known.rows_of(change.owner), known.rows_of("")
    if truth is None:
        left = unexplained(network, change, local, X, labels)
        rng = np.random.default_rng(1)
        guess = unexplained(network, change, local, rng.random(X.shape), labels)
        verdict = judged(-left, -EXPLAINED, -0.01)
        return Finding("gradient inversion", name, "part not explained", left, guess, verdict, rows)
    low, high = known.box or (0.0, 1.0)
    reached = quality(X, truth.X, high - low)
    blank = others.X.mean(axis=0) if others is not None else np.full(X.shape[1], (low + high) / 2)
    chance = float(np.mean([psnr(blank, row, high - low) for row in truth.X]))
    verdict = judged(reached, 25.0, max(12.0, chance + 1.0))
    note = f"{rows}, {len(truth)} known"
    return Finding("gradient inversion", name, "PSNR, dB", reached, chance, verdict, note)


def _membership(network: Network, vector: Vector, known: Known) -> Finding:
    members, others = known.rows_of(None), known.rows_of("")
    if members is None or others is None:
        note = "takes known rows, of clients and of nobody"
        return Finding("membership inference", "last model", "AUC", None, 0.5, "open", note)
    found = auc(loss_attack(network, vector, members), loss_attack(network, vector, others))
    note = f"{len(members)} members, {len(others)} others"
    chance = (
        (len(members) + len(others) + 1) / (12 * len(members) * len(others))
    ) ** 0.5  # its standard deviation
    verdict = judged(found, 0.6, max(0.53, 0.5 + 2 * chance))
    return Finding("membership inference", "last model", "AUC", found, 0.5, verdict, note)


def _typical(network: Network, vector: Vector, known: Known) -> Finding:
    name, truth = "model inversion", known.rows_of(None)
    count = network.layers[-1]
    if truth is None:
        note = "takes known rows of clients"
        return Finding(name, "last model", "correlation", None, 0.0, "open", note)
    rows = [typical_row(network, vector, place, known.box or (0.0, 1.0)) for place in range(count)]
    own: list[float] = []
    other: list[float] = []
    for place, row in enumerate(rows):
        for number, label in enumerate(np.asarray(network.classes)):
            mine = truth.X[truth.y == label]
            if len(mine):
                (own if place == number else other).append(likeness(row, mine.mean(axis=0)))
    reached, chance = float(np.mean(own)), float(np.mean(other)) if other else 0.0
    note = "with the mean row of the class; chance: with those of other classes"
    return Finding(
        name, "last model", "correlation", reached, chance, judged(reached - chance, 0.3, 0.1), note
    )
