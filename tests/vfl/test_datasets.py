"""The tables that ship: they are what they say, and the split tells its story."""

import gzip
import hashlib
import importlib.resources
import re

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vfl.data import features, labels
from vfl.datasets import TwoParties, german_credit, load_german_credit, synthetic
from vfl.identifiers import held_out, prepare_ids

Float = NDArray[np.float64]


@pytest.fixture(scope="module")
def two() -> TwoParties:
    return german_credit()


def joined(two: TwoParties) -> tuple[Float, Float, Float]:
    """Return the common customers' features at the bank, at both, and the labels."""
    bank = two.bank[two.common[:, 0]]
    retailer = two.retailer[two.common[:, 1]]
    own = features(bank.drop("phone", "default"), "bank").values
    other = features(retailer.drop("phone"), "retailer").values
    return own, np.hstack([own, other]), labels(bank["default"], "bank").encoded


def auc(x: Float, y: Float, train: NDArray[np.int64], test: NDArray[np.int64]) -> float:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1)).fit(x[train], y[train])
    return float(roc_auc_score(y[test], model.decision_function(x[test])))


class TestGermanCredit:
    def test_the_published_counts(self) -> None:
        people = load_german_credit()
        assert people.shape == (1000, 20)
        assert people.null_count().sum_horizontal().item() == 0
        # Marginal counts and sums of the table of the UCI Machine Learning Repository.
        assert people["creditability"].value_counts().sort("count").rows() == [("bad", 300), ("good", 700)]
        assert people["credit_amount"].sum() == 3271258
        assert people["duration_in_month"].sum() == 20903
        assert (people["status_of_existing_checking_account"] == "no checking account").sum() == 394
        assert people.row(0)[1:5:3] == (6, 1169)

    def test_the_file_is_the_one_compared_with_another_copy(self) -> None:
        packed = importlib.resources.files("vfl.datasets").joinpath("german_credit.csv.gz").read_bytes()
        assert hashlib.sha256(gzip.decompress(packed)).hexdigest() == (
            "a57022d75ef4b852cd4dcc13f00e43b12f94e99aca39a3df69913b606de27c1f"
        )

    def test_the_attribution_ships(self) -> None:
        text = importlib.resources.files("vfl.datasets").joinpath("README.md").read_text(encoding="utf-8")
        assert "Hofmann" in text
        assert "10.24432/C5NC77" in text
        assert "CC BY 4.0" in text

    def test_sizes(self, two: TwoParties) -> None:
        assert (two.bank.height, two.retailer.height, len(two.common)) == (900, 920, 820)
        assert two.bank.columns[0] == two.retailer.columns[0] == "phone"
        assert two.bank.columns[-1] == "default"
        assert set(two.bank.columns) & set(two.retailer.columns) == {"phone"}

    def test_every_column_is_ready_for_a_linear_model(self, two: TwoParties) -> None:
        assert features(two.bank.drop("phone"), "bank").constant_columns == ()
        assert features(two.retailer.drop("phone"), "retailer").constant_columns == ()

    def test_a_seed_gives_the_same_tables(self) -> None:
        first, second, other = german_credit(5), german_credit(5), german_credit(6)
        assert first.bank.equals(second.bank)
        assert first.retailer.equals(second.retailer)
        assert not first.bank.equals(other.bank)

    def test_rows_in_common_are_the_same_person(self, two: TwoParties) -> None:
        people = load_german_credit()
        loans = people.select("credit_amount", "duration_in_month").rows()
        rates = people["installment_rate_in_percentage_of_disposable_income"].to_list()
        person = {loan: rate for loan, rate in zip(loans, rates, strict=True) if loans.count(loan) == 1}
        bank = two.bank.select("amount", "duration").rows()
        pairs = [
            (person[bank[row]], two.retailer["instalment_rate"][other])
            for row, other in two.common.tolist()
            if bank[row] in person
        ]
        assert len(pairs) > 700
        assert all(at_bank == at_retailer for at_bank, at_retailer in pairs)

    def test_equal_strings_find_few_and_the_recipe_finds_all(self, two: TwoParties) -> None:
        assert len(set(two.bank["phone"]) & set(two.retailer["phone"])) < 60
        bank = prepare_ids(two.bank, "phone", normalise="phone:DE", party="bank")
        retailer = prepare_ids(two.retailer, "phone", normalise="phone:DE", party="retailer")
        place = {key: row for row, key in enumerate(retailer.keys)}
        found = [(row, place[key]) for row, key in enumerate(bank.keys) if key in place]
        assert sorted(found) == sorted(map(tuple, two.common.tolist()))

    def test_the_numbers_are_fictitious_and_the_orders_unrelated(self, two: TwoParties) -> None:
        for table in two[:2]:
            for key in prepare_ids(table, "phone", normalise="phone:DE", party="bank").keys:
                assert re.fullmatch(rb"\+49(3023125|6990009|4066969|2214710|8999998)[0-9]{3}", key)
        correlation = np.asarray(np.corrcoef(two.common.T))
        assert abs(correlation[0, 1]) < 0.15

    def test_the_retailer_adds_to_the_bank(self, two: TwoParties) -> None:
        own, both, y = joined(two)
        gains = []
        for seed in range(20):
            train, test = train_test_split(np.arange(len(y)), test_size=0.3, random_state=seed, stratify=y)
            gains.append(auc(both, y, train, test) - auc(own, y, train, test))
        assert np.mean(gains) > 0.03
        assert np.min(gains) > 0

    def test_the_retailer_adds_to_the_bank_whatever_the_seed(self) -> None:
        gains = []
        for seed in range(15):
            own, both, y = joined(german_credit(seed))
            train, test = train_test_split(np.arange(len(y)), test_size=0.3, random_state=seed, stratify=y)
            gains.append(auc(both, y, train, test) - auc(own, y, train, test))
        assert np.mean(gains) > 0.025

    def test_the_split_by_identifier(self, two: TwoParties) -> None:
        own, both, y = joined(two)
        chosen = [
            held_out(table[rows], "phone", share=0.3, normalise="phone:DE", party="bank")
            for table, rows in zip(two[:2], two.common.T, strict=True)
        ]
        assert_array_equal(chosen[0], chosen[1])
        train, test = np.flatnonzero(~chosen[0]), np.flatnonzero(chosen[0])
        assert auc(own, y, train, test) == pytest.approx(0.796, abs=0.002)
        assert auc(both, y, train, test) == pytest.approx(0.836, abs=0.002)


class TestSynthetic:
    def test_shapes_and_common_rows(self) -> None:
        made = synthetic(400, 3, 2, seed=1, overlap=0.75)
        assert made.guest.columns == ["id", "g0", "g1", "g2", "label"]
        assert made.host.columns == ["id", "h0", "h1"]
        assert made.guest.height == made.host.height == 400
        assert made.common.shape == (300, 2)
        same = made.guest["id"][made.common[:, 0]] == made.host["id"][made.common[:, 1]]
        assert same.all()
        assert len(set(made.guest["id"]) & set(made.host["id"])) == 300

    def test_a_seed_gives_the_same_tables(self) -> None:
        first, second = synthetic(50, 2, 2, seed=3), synthetic(50, 2, 2, seed=3)
        assert first.guest.equals(second.guest)
        assert first.host.equals(second.host)
        assert not first.guest.equals(synthetic(50, 2, 2, seed=4).guest)

    def test_the_labels_follow_a_logistic_model_of_both_tables(self) -> None:
        made = synthetic(6000, 3, 3, seed=2)
        guest, host = made.guest[made.common[:, 0]], made.host[made.common[:, 1]]
        x = pl.concat([guest.drop("id", "label"), host.drop("id")], how="horizontal").to_numpy()
        y = guest["label"].to_numpy()
        fitted = LogisticRegression(C=1e6).fit(x, y)
        assert np.linalg.norm(fitted.coef_) == pytest.approx(2, abs=0.2)
        assert np.abs(fitted.coef_[0, 3:]).max() > 0.2
        alone = LogisticRegression(C=1e6).fit(x[:, :3], y)
        assert roc_auc_score(y, fitted.decision_function(x)) > roc_auc_score(
            y, alone.decision_function(x[:, :3])
        )
