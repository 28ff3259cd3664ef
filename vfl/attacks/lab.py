"""Every attack that applies to a recorded transcript: what ``vfl audit attack`` runs."""

import numpy as np

from vfl.attacks.findings import Finding, Known, Verdict, judged
from vfl.attacks.membership import auc
from vfl.attacks.residue_reconstruction import residue_reconstruction
from vfl.attacks.reverse_multiplication import batches_of_scores, inner_products, projector, span
from vfl.attacks.updates import on_updates, residues_of, task_of
from vfl.errors import InvalidData
from vfl.protocols.secagg.messages import Invitation, MaskedInput
from vfl.protocols.secagg.policy import Task
from vfl.views import View

__all__ = ["attack"]

SURELY_NOT = 1e-6
"""Of a p-value that is looked at for many vectors."""


def attack(view: View, known: Known | None = None, most: int = 3) -> list[Finding]:
    """Run every attack that applies to a transcript.

    Parameters
    ----------
    view : View
        What one party has seen.
    known : Known, optional
        The truth to compare with; without it some attacks can only say what they explain.
    most : int
        Updates and sums that are inverted, of each kind.

    Returns
    -------
    list of Finding
    """
    if most < 1:
        raise InvalidData(f"at least one update is attacked, not {most}")
    known = known or Known()
    if view.facts.get("kind") == "federation":
        return on_updates(view, known, most)
    if view.received(MaskedInput):
        return _unmasked(view, most)
    return [_successive_scores(view, known), _residues(view, known)]


def _unmasked(view: View, most: int) -> list[Finding]:
    """Look for something in the masked vectors that an aggregator received: they should be uniform."""
    from scipy.stats import kstest

    found: list[Finding] = []
    tasks: dict[str, Task] = {}
    for seen in view.messages:
        if isinstance(seen.message, Invitation):
            tasks[seen.peer] = task_of(seen.message)
        elif isinstance(seen.message, MaskedInput) and seen.peer in tasks and len(found) < most:
            residues = residues_of(seen.message, tasks[seen.peer])
            chance = float(kstest(residues + 0.5, "uniform").pvalue)
            verdict: Verdict = "fails" if chance > SURELY_NOT else "partly"
            target = f"{seen.peer}, {residues.size} residues"
            note = "small if the vector can be told from uniform residues"
            found.append(Finding("unmasking", target, "p-value of uniformity", chance, 0.5, verdict, note))
    return found


def _successive_scores(view: View, known: Known) -> Finding:
    name, batches = "reverse multiplication", [batch for batch in batches_of_scores(view) if len(batch)]
    if not batches:
        return Finding(name, "all", "", None, None, "nothing", "no score was received")
    largest = max(batches, key=len)
    epochs, found = int(largest.any(axis=0).sum()), span(largest)
    target = f"{len(largest)} rows, {epochs} epochs"
    if known.host is None:
        closed = found < epochs
        note = f"scores span {found} directions" + ("; no more come" if closed else ", as many as epochs")
        return Finding(name, target, "directions", found, None, "succeeds" if closed else "open", note)
    truth = inner_products(known.host)
    if truth.shape[0] != len(largest):
        raise InvalidData(f"the known host has {truth.shape[0]} rows, the batch {len(largest)}")
    error = float(np.linalg.norm(projector(largest) - truth) / np.linalg.norm(truth))
    verdict = judged(-error, -1e-6, -0.5)
    return Finding(name, target, "relative error of inner products", error, 1.0, verdict)


def _residues(view: View, known: Known) -> Finding:
    name = "residue reconstruction"
    if "gradient.opened" not in view.counts():
        return Finding(name, "all", "", None, None, "nothing", "no gradient was opened")
    if known.matrix is None or known.gradient is None or known.labels is None:
        note = "takes the host's matrix and unmasked gradient of a batch, and the labels to compare with"
        return Finding(name, "one batch", "AUC", None, 0.5, "open", note)
    found = residue_reconstruction(known.matrix, known.gradient)
    reached = auc(found[known.labels == 1], found[known.labels != 1])
    return Finding(name, f"{len(found)} rows", "AUC", reached, 0.5, judged(reached, 0.95, 0.6))
