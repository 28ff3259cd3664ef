"""The attacks on horizontal learning, on what a party has received: each control succeeds, each default holds.

That a dead-and-alive list and a split view of the model are refused by the clients stands in
tests/protocols/test_secagg_malicious.py, from the control that unmasks a vector on.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import vfl
from benchmarks.attacks import experiments
from benchmarks.attacks.experiments import BOX, DIGITS, ONE_STEP, RULES, seen, split
from vfl.attacks import backdoor
from vfl.attacks.gradient_inversion import (
    capacity,
    deep_leakage,
    dense_input,
    gradient_of,
    psnr,
    recovered_label,
)
from vfl.attacks.membership import auc, losses
from vfl.attacks.model_inversion import likeness, typical_row
from vfl.attacks.poisoning import malicious, sign_flipped, with_flipped_labels
from vfl.attacks.updates import changes, inverted, quality
from vfl.errors import InvalidData, LeakageWarning
from vfl.horizontal.combining import Mean, Secure, SecureGroups
from vfl.horizontal.models import Network
from vfl.horizontal.optimisation import Local, local_sgd
from vfl.horizontal.vectors import Rows
from vfl.protocols.horizontal import GlobalModel
from vfl.views import View

ROOT = Path(__file__).resolve().parents[2]
RELU = Network((64, 32, 10), np.arange(10))
LINEAR = Network((64, 10), np.arange(10))
HELD, REST = split(0)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices are small: threads of the linear algebra would wait for each other on a busy machine."""
    with threadpool_limits(1):
        yield


class TestGradientInversion:
    """PSNR >= 25 dB from a client's update, <= 12 dB from what secure aggregation leaves of it."""

    def test_control_and_default(self) -> None:
        figures = experiments.inversion(1)
        assert figures["psnr"]["update"]["least"] >= 25
        assert figures["psnr_of_eight_rows"]["least"] >= 25
        assert figures["mean_psnr"]["masked update"] <= 12
        assert figures["mean_psnr"]["sum"] <= 12
        assert figures["mean_psnr"]["sum"] <= figures["mean_psnr"]["chance"] + 0.5
        assert figures["passes"]

    def test_a_sum_of_few_single_rows_hides_nothing(self) -> None:
        """Secure aggregation is no protection by itself: what counts is how many rows are in the sum."""
        found = experiments.few(1, (3, 12))["psnr_by_rows_in_the_sum"]
        assert min(found["3"]["least"], found["12"]["least"]) >= 25
        assert capacity(DIGITS) == 32
        clients = {f"device{i:02d}": REST.take(np.array([i])) for i in range(40)}
        three = {name: clients[name] for name in list(clients)[:3]}
        with pytest.warns(LeakageWarning, match="a sum of 3 rows .* up to about 32 rows"):
            seen(three, Secure(bound=5.0), 0)
        with pytest.warns(LeakageWarning, match="a sum of 13 rows"):
            seen(clients, SecureGroups(bound=5.0, count=3), 0)
        seen(clients, Secure(bound=5.0), 0)  # enough, and no warning

    @pytest.mark.slow
    def test_on_five_seeds(self) -> None:
        assert experiments.inversion(5)["passes"]
        assert experiments.few(2, (64, 100))["psnr_by_rows_in_the_sum"]["64"]["most"] <= 18

    def test_features_of_any_range(self) -> None:
        network = Network((3, 8, 2), np.arange(2), "tanh")
        X, y, vector = (
            np.array([[61.0, 59.0, 60.5], [59.5, 60.0, 61.0]]),
            np.array([0, 1]),
            network.initial(0) / 50,
        )
        found = deep_leakage(
            network, vector, network.gradient(vector, X, y), 2, np.random.default_rng(0), (50.0, 70.0)
        )
        assert quality(found.X, X, 20.0) > 25

    @pytest.mark.parametrize("network", [DIGITS, RELU, LINEAR], ids=["tanh", "relu", "linear"])
    @pytest.mark.parametrize("steps", [1, 7])
    def test_one_row_is_found_exactly_after_any_number_of_steps(self, network: Network, steps: int) -> None:
        local = Local(steps, 0.1, 0)
        for i in range(5):
            start = network.initial(i)
            update = (
                local_sgd(network, start, REST.take(np.array([i])), local, np.random.default_rng(0)) - start
            )
            gradient = gradient_of(update, local)
            assert recovered_label(network, gradient) == REST.y[i]
            assert psnr(dense_input(network, gradient), REST.X[i]) > 80

    def test_a_member_sees_the_changes_of_the_model_alone(self) -> None:
        view = View("device0")
        for number, vector in enumerate((DIGITS.initial(0), DIGITS.initial(1)), 1):
            view.add("received", "cohort", GlobalModel(number=number, vector=vector))
        (change,) = changes(view, DIGITS)
        assert change.what == "model"
        assert np.array_equal(change.update, DIGITS.initial(1) - DIGITS.initial(0))

    def test_what_the_server_decodes_is_the_mean(self) -> None:
        clients, _ = experiments.federation(0)
        clear = {c.owner: c for c in seen(clients, Mean(), 0)}
        secret = seen(clients, Secure(bound=5.0), 0)
        total = next(change for change in secret if change.what == "sum")
        rows = sum(len(part) for part in clients.values())
        mean = sum(len(part) * clear[name].update for name, part in clients.items()) / rows
        assert total.rows == rows
        assert np.allclose(total.update, mean, atol=1e-4)
        assert not any(change.what == "update" for change in secret)

    def test_masked_updates_are_those_of_nobody(self) -> None:
        """The same device, two runs: its masked vectors have nothing in common, its updates are the same."""
        clients, _ = experiments.federation(0)
        one, two = (
            next(c for c in seen(clients, Secure(bound=5.0), 0) if c.owner == "device0") for _ in range(2)
        )
        assert abs(np.corrcoef(one.update, two.update)[0, 1]) < 0.1
        assert quality(inverted(DIGITS, one, ONE_STEP, BOX)[0], clients["device0"].X) < 14

    def test_nonsense_is_refused(self) -> None:
        vector, rng = DIGITS.initial(0), np.random.default_rng(0)
        for rows, gradient in ((0, vector), (1, np.zeros(DIGITS.size))):
            with pytest.raises(InvalidData):
                deep_leakage(DIGITS, vector, gradient, rows, rng)
        regression = Network((64, 1), None)
        with pytest.raises(InvalidData):
            recovered_label(regression, np.zeros(65))


class TestMembership:
    """AUC > 0.6 of a model that has learned its customers by heart, <= 0.53 at epsilon 3 for each customer."""

    def test_control_and_default(self) -> None:
        order = np.random.default_rng(3).permutation(820)
        halves = experiments.credit().take(order[:410]), experiments.credit().take(order[410:])
        worth: dict[str, list[float]] = {"control": [], "default": []}
        spent = None
        for members, others in (halves, halves[::-1]):
            for name, privacy in (("control", None), ("default", experiments.PRIVATE)):
                view, spent = experiments.trained(members, 3, privacy)
                vector = experiments.last_model(view)
                scores = (-losses(experiments.CREDIT, vector, rows) for rows in (members, others))
                worth[name].append(auc(*scores))
        assert min(worth["control"]) > 0.6 or np.mean(worth["control"]) > 0.61
        assert spent is not None
        assert spent <= 3
        assert np.mean(worth["default"]) <= 0.53

    @pytest.mark.slow
    def test_on_five_seeds(self) -> None:
        figures = experiments.membership(5)
        assert figures["passes"]
        assert figures["auc"]["shadow"]["least"] > 0.6
        assert figures["model_auc"]["default"]["median"] > figures["model_auc"]["control"]["median"] - 0.02

    def test_shadow_models_tell_members_too(self) -> None:
        assert experiments.shadow(np.random.default_rng(5).permutation(820), 5) > 0.58

    def test_auc_by_hand(self) -> None:
        assert auc(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == pytest.approx(7 / 8)
        assert auc(np.zeros(3), np.zeros(5)) == 0.5

    def test_a_label_of_another_model_is_refused(self) -> None:
        with pytest.raises(InvalidData):
            losses(DIGITS, DIGITS.initial(0), Rows(HELD.X, HELD.y + 5))


class TestModelInversion:
    """The typical row of a class follows from the model, with secure aggregation as without."""

    def test_control_and_no_default(self) -> None:
        start = local_sgd(LINEAR, LINEAR.initial(0), REST, Local(300, 0.3, 32), np.random.default_rng(0))
        table = np.array(
            [
                [likeness(typical_row(LINEAR, start, c), HELD.X[HELD.y == k].mean(axis=0)) for k in range(10)]
                for c in range(10)
            ]
        )
        own, other = np.diag(table).mean(), table[~np.eye(10, dtype=bool)].mean()
        assert own > other + 0.3
        assert (table.argmax(axis=1) == np.arange(10)).all()

    def test_a_class_that_is_none_is_refused(self) -> None:
        with pytest.raises(InvalidData):
            typical_row(LINEAR, LINEAR.initial(0), 10)


class TestPoison:
    """One of ten clients sends -100 times its update: the mean collapses, rules lose at most two points."""

    def test_control_and_default(self) -> None:
        figures = experiments.poison(1, rounds=20, rules=("mean", "norm_clipping", "median", "multi_krum"))
        assert figures["points_lost"]["mean"]["least"] > 20
        assert figures["default"] <= 2

    @pytest.mark.slow
    def test_on_five_seeds(self) -> None:
        figures = experiments.poison(5)
        assert figures["points_lost"]["mean"]["least"] > 20
        assert figures["points_lost"]["secure_mean"]["least"] > 20
        rules = [name for name in RULES if name not in ("mean", "secure_mean")]
        assert max(figures["points_lost"][name]["median"] for name in rules) <= 2

    def test_flips(self) -> None:
        clients = {
            "a": Rows(np.zeros((3, 1)), np.array([0, 1, 2])),
            "b": Rows(np.zeros((1, 1)), np.array([0])),
        }
        flipped = with_flipped_labels(clients, ["a"], classes=3)
        assert flipped["a"].y.tolist() == [2, 1, 0]
        assert flipped["b"] is clients["b"]
        with pytest.raises(InvalidData, match="no client is named c"):
            with_flipped_labels(clients, ["c"], classes=3)
        world = malicious(["a"], sign_flipped())
        attack: Any = world.device("a").attack
        assert attack(np.ones(2), np.random.default_rng(0)).tolist() == [-1, -1]
        assert world.device("b").attack is None


class TestBackdoor:
    """The mark works after model replacement under the mean, also the secure one; rules keep it out."""

    def test_control_and_default(self) -> None:
        figures = experiments.plant(1, ("mean", "secure_mean", "norm_clipping", "median"))
        success = figures["success"]
        assert min(success["mean"]["least"], success["secure_mean"]["least"]) >= 0.9
        assert figures["default"] <= 0.1
        assert figures["accuracy"]["mean"]["least"] > 0.9, "nobody would notice"

    def test_three_patient_attackers_get_past_the_clip(self) -> None:
        """Where a defence does not help: the docs say so."""
        success, accuracy = experiments.planted(0, RULES["norm_clipping"], bad=3, boost=False, rounds=20)
        assert success > 0.4
        assert accuracy > 0.9

    @pytest.mark.slow
    def test_on_five_seeds(self) -> None:
        assert experiments.plant(5)["passes"]

    def test_marks_and_factors(self) -> None:
        rows = Rows(np.zeros((8, 4)), np.arange(8))
        marked = backdoor.marked(rows, backdoor.Trigger((1, 3)), 7, 0.2, np.random.default_rng(0))
        assert len(marked) == 10
        assert marked.X[8:, [1, 3]].all()
        assert not marked.X[:8].any()
        assert marked.y[8:].tolist() == [7, 7]
        assert backdoor.replacement({"a": rows, "b": marked}, "a", 0.5) == pytest.approx(18 / 4)


@pytest.mark.slow
def test_the_last_line_of_the_benchmark_is_one_object() -> None:
    command = [sys.executable, "-m", "benchmarks.attacks", "--attack", "backdoor", "--seeds", "1"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["seeds"] == 1
    assert figures["backdoor"]["passes"] is True


def test_the_view_of_a_private_training_has_no_more_than_the_server_gets() -> None:
    """With Central the server is trusted: it receives every update in the clear, and its view says so."""
    clients, _ = experiments.federation(0)
    view = View("server")
    vfl.federate(DIGITS, clients, rounds=1, local=ONE_STEP, privacy=experiments.PRIVATE, view=view)
    assert view.counts() == {"horizontal.update": len(clients)}
