"""The known attacks on the classic exchange: they work where the docs say so, and not within the enforced limits.

The exchange is the profile that leaks and is accepted as such; these tests keep the statement of what it leaks true.
"""

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

import vfl
from vfl.attacks.findings import Known
from vfl.attacks.lab import attack
from vfl.attacks.residue_reconstruction import residue_reconstruction
from vfl.attacks.reverse_multiplication import batches_of_scores, inner_products, projector
from vfl.errors import InvalidData, LeakageWarning
from vfl.generalised import Block
from vfl.protocols import gradient

COLUMNS = 5
RNG = np.random.default_rng(11)


def train(rows: int, epochs: int) -> tuple[vfl.Simulation, NDArray[np.float64], NDArray[np.float64]]:
    """Run a full-batch training; return it with the host's table and the labels."""
    guest, host = (
        RNG.normal(size=(rows, 3)),
        RNG.normal(size=(rows, COLUMNS)) @ RNG.normal(size=(COLUMNS, COLUMNS)),
    )
    labels = (RNG.random(rows) < 1 / (1 + np.exp(-guest[:, 0] - host[:, 0]))).astype(float)

    def make() -> vfl.LogisticRegression:
        return vfl.LogisticRegression(security="exchange", max_iter=epochs, batch_size=None, tol=0.0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakageWarning)
        result = vfl.simulate(
            bank=lambda: make().fit(guest, labels),
            shop=lambda: make().fit(host),
            accept_leakage=["score", "gradient"],
        )
    return result, host, labels


def successive_scores(result: vfl.Simulation) -> NDArray[np.float64]:
    """What the guest computes from its view."""
    (scores,) = batches_of_scores(result.view_of("bank"))
    return projector(scores)


class TestSuccessiveScores:
    """A guest with as many different scores per row as the host has columns knows the host's inner products."""

    def test_control_as_many_epochs_as_columns(self) -> None:
        result, host, _ = train(200, COLUMNS + 2)  # the first epoch's scores are zero
        assert np.abs(successive_scores(result) - inner_products(host)).max() < 1e-6
        found, residues = attack(result.view_of("bank"))
        assert (found.reached, found.verdict, residues.verdict) == (COLUMNS, "succeeds", "nothing")
        found = attack(result.view_of("bank"), Known(host=host))[0]
        assert found.verdict == "succeeds"
        assert found.reached is not None
        assert found.reached < 1e-6

    def test_fewer_epochs_leave_it_open(self) -> None:
        result, host, _ = train(200, COLUMNS - 1)
        truth = inner_products(host)
        missing = np.linalg.norm(successive_scores(result) - truth) / np.linalg.norm(truth)
        assert [one.verdict for one in attack(result.view_of("bank"), Known(host=host))] == [
            "fails",
            "nothing",
        ]
        assert [one.verdict for one in attack(result.view_of("bank"))] == ["open", "nothing"]
        assert missing > 0.5  # at least two of five directions are unknown: sqrt(2/5) = 0.63

    def test_the_library_warns_from_that_number_of_epochs_on(self) -> None:
        table = RNG.normal(size=(200, COLUMNS))

        def act(*labels: Any) -> None:
            model = vfl.LogisticRegression(security="exchange", max_iter=COLUMNS, batch_size=None)
            model.fit(table, *labels)

        with pytest.warns(LeakageWarning, match=f"max_iter={COLUMNS}"):
            vfl.simulate(bank=lambda: act(table[:, 0] > 0), shop=act, accept_leakage=["score", "gradient"])


def auc_of_reconstruction(rows: int, trials: int) -> list[float]:
    found = []
    for _ in range(trials):
        matrix = Block.of(RNG.normal(size=(rows, COLUMNS)), 1e-3, 0.25).matrix
        labels = RNG.permutation(np.arange(rows) % 2).astype(float)
        found.append(float(roc_auc_score(labels, residue_reconstruction(matrix, matrix.T @ (0.5 - labels)))))
    return found


class TestResidueReconstruction:
    """A host with a gradient of as many rows as it has columns knows the labels."""

    def test_control_a_batch_of_as_many_rows_as_columns(self) -> None:
        found = []
        for _ in range(20):
            matrix = RNG.normal(size=(COLUMNS, COLUMNS))
            labels = np.array([0.0, 1, 0, 1, 1])
            found.append(roc_auc_score(labels, residue_reconstruction(matrix, matrix.T @ (0.5 - labels))))
        assert np.mean(found) >= 0.95

    def test_at_the_enforced_floor_one_gradient_says_little_of_single_labels(self) -> None:
        """The shortest solution still holds 1/16 of the residual's energy; the docs state the figure."""
        found = auc_of_reconstruction(gradient.smallest_batch(COLUMNS), 200)
        assert np.mean(found) < 0.67

    def test_the_floor_is_enforced_by_both_roles(self) -> None:
        with pytest.raises(InvalidData, match="solve for labels"):
            gradient.Plan(
                rows=1000,
                validation_rows=0,
                batch_rows=gradient.smallest_batch(COLUMNS) - 1,
                epochs=1,
                step=1.0,
                momentum=0.0,
                host_columns=COLUMNS,
                residual_bound=1.0,
            )


def test_the_last_batch_is_never_smaller_than_the_others() -> None:
    plan = gradient.Plan(
        rows=1099,
        validation_rows=0,
        batch_rows=100,
        epochs=1,
        step=1.0,
        momentum=0.0,
        host_columns=5,
        residual_bound=1.0,
    )
    sizes = [batch.stop - batch.start for batch in plan.batches]
    assert sizes == [100] * 9 + [199]
    assert plan.largest_batch == 199
