"""The attacks that work on the classic exchange, on what a strict training gives; and the one on what it opens.

The controls of the first two stand in test_exchange_attacks.py, with the same functions.
"""

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score

import vfl
from vfl.attacks.findings import Known
from vfl.attacks.lab import attack
from vfl.attacks.residue_reconstruction import residue_reconstruction
from vfl.attacks.reverse_multiplication import inner_products, projector
from vfl.blocks import Block
from vfl.crypto.ring import RING
from vfl.families import LOGISTIC, Target
from vfl.protocols import glm, glm_pairs
from vfl.start import own_model
from vfl.strict import LEAST_IMPORTANCE

Floats = NDArray[np.float64]
COLUMNS = 5
RNG = np.random.default_rng(7)


class Seen:
    """What the parties compute from what they receive."""

    def __init__(self) -> None:
        self.scores: list[Floats] = []  # the guest's shares
        self.gradients: list[Floats] = []  # the host's shares of its own
        self.products: list[Floats] = []  # opened to the guest


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Note both parties' shares, and what is opened, while trainings run."""
    found = Seen()
    scores, add, opening = glm_pairs.Pair.scores, glm_pairs.Pair._add_gradient, glm._open_products

    async def note_scores(self: Any) -> Any:
        share = await scores(self)
        if self.arithmetic.party == 0:
            found.scores.append(RING.decode(share, 0).ravel())
        return share

    def note_gradient(self: Any, gradient: Any) -> None:
        if self.arithmetic.party == 1:
            found.gradients.append(RING.decode(gradient, 0)[self.plan.columns[0] :, 0])
        add(self, gradient)

    async def note_products(*arguments: Any) -> Any:
        products = await opening(*arguments)
        found.products.append(products[:, 0])
        return products

    monkeypatch.setattr(glm_pairs.Pair, "scores", note_scores)
    monkeypatch.setattr(glm_pairs.Pair, "_add_gradient", note_gradient)
    monkeypatch.setattr(glm, "_open_products", note_products)
    return found


def train(guest: Floats, host: Floats, labels: Floats, iterations: int) -> vfl.Simulation:
    def make() -> vfl.LogisticRegression:
        return vfl.LogisticRegression(max_iter=iterations, tol=1e-9)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return vfl.simulate(bank=lambda: make().fit(guest, labels), shop=lambda: make().fit(host))


def test_successive_scores_say_nothing(seen: Seen) -> None:
    """As many iterations as the host has columns, and more, of which the guest holds a share each."""
    guest, host = RNG.normal(size=(200, 3)), RNG.normal(size=(200, COLUMNS))
    labels = (RNG.random(200) < expit(guest[:, 0] + host[:, 0])).astype(float)
    result = train(guest, host, labels, COLUMNS + 2)
    assert not any(record.kind == "gradient.score" for record in result.view("bank"))
    assert {one.verdict for one in attack(result.view_of("bank"), Known(host=host))} == {"nothing"}
    truth, shares = inner_products(host), np.column_stack([s[:200] for s in seen.scores])
    assert shares.shape[1] == COLUMNS + 2
    found = projector(shares)
    chance = projector(RNG.normal(size=shares.shape))
    overlap = np.sum(found * truth) / COLUMNS
    assert abs(overlap - np.sum(chance * truth) / COLUMNS) < 0.1


def test_residue_reconstruction_says_nothing(seen: Seen) -> None:
    """The host has as many columns as rows take to solve for the labels: from its shares it gets a coin's toss."""
    found = []
    for _ in range(20):
        guest, host = RNG.normal(size=(40, 1)), RNG.normal(size=(40, 30))
        labels = RNG.permutation(np.arange(40) % 2).astype(float)
        train(guest, host, labels, 1)
        matrix = Block.standard(host, 1 / 40, rows=40).whitened(0.25, rows=40).matrix
        found.append(float(roc_auc_score(labels, residue_reconstruction(matrix, seen.gradients[-1]))))
    assert abs(np.mean(found) - 0.5) < 3 * np.std(found) / np.sqrt(len(found)) + 0.01


def first_product(guest: Floats, host: Floats, labels: Floats) -> float:
    """What the guest computes for a host column that it guesses: the first number that is opened to it."""
    rows = len(labels)
    block = Block.standard(guest, 1 / rows, rows=rows, ones=True)
    target = Target(LOGISTIC, labels, np.ones(rows))
    model = own_model(block, target, rows)
    importance = np.maximum(model.importance, LEAST_IMPORTANCE)
    own = block.whitened(0.25, rows=rows, importance=importance)
    other = Block.standard(host, 1 / rows, rows=rows).whitened(0.25, rows=rows)
    residuals = expit(model.scores) - labels
    own_weights = np.linalg.solve(own.back, model.weights)
    g = own.matrix.T @ residuals / rows + own.penalty @ own_weights
    h = other.matrix.T @ residuals / rows
    return float(g @ g + h @ h)


def columns_of_ones(rows: int, size: int) -> Iterator[Floats]:
    """Every column of so many rows with `size` ones."""
    for places in itertools.combinations(range(rows), size):
        column = np.zeros((rows, 1))
        column[list(places)] = 1
        yield column


def test_no_more_is_opened_than_the_hosts_hold(seen: Seen) -> None:
    """With few rows a training ends before the guest has as many equations as the host has values."""
    guest, host = RNG.normal(size=(12, 2)), RNG.normal(size=(12, 1))
    train(guest, host, (np.arange(12) % 2).astype(float), 40)
    assert sum(len(products) for products in seen.products) <= host.size


class TestOpenedProducts:
    """The guest may try out host columns on the inner products that it learns: few rows, and few possible columns."""

    def test_control_fourteen_rows_and_three_ones(self, seen: Seen) -> None:
        guest, labels = RNG.normal(size=(14, 1)), RNG.permutation(np.arange(14) % 2).astype(float)
        truth = np.zeros((14, 1))
        truth[[1, 5, 6]] = 1
        train(guest, truth, labels, 1)
        seen_product = float(seen.products[0][0])
        best = min(
            columns_of_ones(14, 3),
            key=lambda column: abs(first_product(guest, column, labels) - seen_product),
        )
        assert abs(first_product(guest, truth, labels) - seen_product) < 1e-4
        assert (best == truth).all()

    def test_many_columns_explain_it_when_rows_are_as_many_as_policies_ask_for(self, seen: Seen) -> None:
        """Of 20,000 random columns of 200 rows hundreds come within the rounding, and are right as often as chance."""
        rows = 200
        guest, labels = RNG.normal(size=(rows, 1)), RNG.permutation(np.arange(rows) % 2).astype(float)
        truth = RNG.permutation(np.arange(rows) % 4 == 0)[:, None].astype(float)
        train(guest, truth, labels, 1)
        guesses = [RNG.permutation(truth) for _ in range(3000)]
        errors = [abs(first_product(guest, guess, labels) - float(seen.products[0][0])) for guess in guesses]
        best = [guesses[i] for i in np.argsort(errors)[:10]]
        chance = float(np.mean([(guess == truth).mean() for guess in guesses]))
        assert abs(np.mean([(guess == truth).mean() for guess in best]) - chance) < 0.1
