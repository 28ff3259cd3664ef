"""What the gradient exchange gives away, computed from what each party gets: the figures of docs/leakage_exchange.md.

    python -m benchmarks.leakage

The guest's side: from the scores of a recorded training over German Credit, all rows in one batch, and the features
of 60 customers that it is supposed to know, it computes the features of all others. The host's side: from the first
gradient of a batch of the fewest rows allowed, sent through CKKS, it estimates labels that are half positive, looks
for the rows of a few positive ones, and, with a single column, tries all labels. The last line printed is one JSON
object.
"""

import json
import warnings
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.linear_model import OrthogonalMatchingPursuit
from sklearn.metrics import roc_auc_score

import vfl
from vfl.crypto.ckks import CKKSEvaluator, CKKSKeyHolder
from vfl.crypto.innerproduct import Format
from vfl.crypto.rng import SystemRng
from vfl.datasets import german_credit
from vfl.errors import LeakageWarning
from vfl.protocols.gradient import ROWS_PER_COLUMN

EPOCHS = (4, 8, 12, 16)
KNOWN = 60
TRIALS = 50
COLUMNS, RARE = 30, 5

Floats = NDArray[np.float64]


def host_features(scores: Floats, known: Floats) -> Floats:
    """Return the guest's estimate of all the host's features.

    Parameters
    ----------
    scores : ndarray, shape (rows, epochs)
        The host's part of each row's score, by epoch.
    known : ndarray, shape (known rows, host columns)
        Features of the first rows.
    """
    basis, sizes, _ = np.linalg.svd(scores, full_matrices=False)
    seen = np.column_stack([np.ones(len(scores)), basis[:, sizes > 1e-12 * sizes[0]]])
    solution = np.linalg.lstsq(seen[: len(known)], known, rcond=None)[0]
    estimate: Floats = seen @ solution
    return estimate


def recorded(epochs: int) -> tuple[Floats, Floats]:
    """Train over so many epochs; return the scores that the guest received and the host's features."""
    tables = german_credit()

    def fit(table: pl.DataFrame, *label: str) -> Floats:
        rows = vfl.align(table, on="phone", normalise="phone:DE")
        model = vfl.LogisticRegression(security="exchange", max_iter=epochs, batch_size=None, tol=0.0)
        features = rows.drop("phone", *label)
        model.fit(features, rows[label[0]] if label else None)
        values: Floats = features.to_numpy().astype(np.float64)
        return values

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakageWarning)  # what it warns of is what is measured
        run = vfl.simulate(
            bank=lambda: fit(tables.bank, "default"),
            retailer=lambda: fit(tables.retailer),
            accept_leakage=["score", "gradient"],
        )
    messages: list[Any] = [seen.message for seen in run.view("bank") if seen.kind == "gradient.score"]
    return np.column_stack([message.z for message in messages]), run["retailer"]


def recovered(epochs: int) -> float:
    """Return the share of unknown values that the guest gets exactly (all are small integers)."""
    scores, features = recorded(epochs)
    estimate = host_features(scores, features[:KNOWN])
    return float(np.mean(np.rint(estimate[KNOWN:]) == features[KNOWN:]))


def guessed() -> float:
    """Return the share that is right when each value is taken to be its column's most frequent one."""
    values = german_credit().retailer.drop("phone")
    return float(np.mean([(column == column.mode()[0]).mean() for column in values]))


def first_gradient(columns: int, positives: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Return a host's matrix, the labels, and the sum of the rows with a positive label as the host learns it."""
    rows = ROWS_PER_COLUMN * columns  # the floor of a single column is higher: FEWEST_ROWS
    matrix = np.clip(rng.standard_normal((rows, columns)), -4, 4)
    labels = np.zeros(rows)
    labels[rng.choice(rows, positives, replace=False)] = 1
    layout = Format(max_rows=rows, residual_bound=1.0)
    key = CKKSKeyHolder(layout, SystemRng())
    evaluator = CKKSEvaluator.from_public(layout, key.public_bytes)
    encrypted = key.encrypt(0.5 - labels, SystemRng())  # before the first step every prediction is 0.5
    masked, masks = evaluator.masked_products(encrypted, evaluator.prepare(matrix / 4), SystemRng())
    gradient = 4 * evaluator.unmask(key.open_masked(masked, columns), masks)
    return matrix, labels, matrix.sum(axis=0) / 2 - gradient


def auc_of_labels(rng: np.random.Generator) -> float:
    """Return how well the shortest explanation of the first gradient tells the labels, half of them positive."""
    matrix, labels, target = first_gradient(COLUMNS, ROWS_PER_COLUMN * COLUMNS // 2, rng)
    return float(roc_auc_score(labels, np.linalg.lstsq(matrix.T, target, rcond=None)[0]))


def rare_found(rng: np.random.Generator) -> float:
    """Return the share of a few positive labels that the sparsest explanation of the first gradient finds."""
    matrix, labels, target = first_gradient(COLUMNS, RARE, rng)
    search = OrthogonalMatchingPursuit(n_nonzero_coefs=RARE).fit(matrix.T, target)
    return float(labels[np.argsort(-search.coef_)[:RARE]].mean())


def all_found(rng: np.random.Generator) -> bool:
    """Return whether a host with one column finds every label of a smallest batch by trying all."""
    matrix, labels, target = first_gradient(1, RARE, rng)
    tried = (np.arange(1 << len(labels))[:, None] >> np.arange(len(labels))) & 1
    best = np.argmin(np.abs(tried @ matrix[:, 0] - target[0]))
    return bool((tried[best] == labels).all())


def main() -> None:
    """Print the figures."""
    rng = np.random.default_rng(0)
    found = np.array([rare_found(rng) for _ in range(TRIALS)])
    figures = {
        "host_values_recovered": {epochs: recovered(epochs) for epochs in EPOCHS},
        "host_values_guessed": guessed(),
        "label_auc": float(np.mean([auc_of_labels(rng) for _ in range(TRIALS)])),
        "rare_labels_found": float(found.mean()),
        "rare_labels_all_found": float((found == 1).mean()),
        "one_column_all_found": float(np.mean([all_found(rng) for _ in range(TRIALS)])),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
