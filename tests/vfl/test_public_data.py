"""Strict defaults on public data against pooled scikit-learn; larger sets are read from the folder that VFL_DATA names.

It holds a folder per set with guest.csv and host.csv: the two-party splits of FATE 2.2.0 (its examples/data), whose
terms keep them out of this repository.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import vfl
from vfl.datasets import german_credit

Floats = NDArray[np.float64]
ROOT = Path(__file__).parents[2]
DATA = os.environ.get("VFL_DATA", "")
needs_data = pytest.mark.skipif(
    not Path(DATA, "default_credit").is_dir(), reason="VFL_DATA names no folder of data"
)


def joint(guest: Floats, host: Floats, y: Any, train: Any) -> tuple[Any, Any, Floats]:
    """Return both halves and held-out probabilities of a strict training with defaults."""

    def bank() -> Any:
        model = vfl.LogisticRegression().fit(guest[train], y[train])
        return model, model.predict_proba(guest[~train])[:, 1]

    def shop() -> Any:
        model = vfl.LogisticRegression().fit(host[train])
        model.predict_proba(host[~train])
        return model

    result = vfl.simulate(bank=bank, shop=shop)
    return result["bank"][0], result["shop"], result["bank"][1]


def assert_as_pooled(guest: Floats, host: Floats, y: Any, train: Any) -> None:
    both = np.hstack([guest, host])
    mine, theirs, probabilities = joint(guest, host, y, train)
    pooled = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(both[train], y[train])
    expected = pooled.predict_proba(both[~train])[:, 1]
    assert mine.converged_
    assert mine.n_iter_ <= 25
    assert roc_auc_score(y[~train], probabilities) > roc_auc_score(y[~train], expected) - 1e-3
    assert log_loss(y[~train], probabilities) < log_loss(y[~train], expected) + 1e-3
    found = np.concatenate([mine.coef_, theirs.coef_]) * pooled[0].scale_
    assert np.linalg.norm(found - pooled[1].coef_[0]) < 0.05 * np.linalg.norm(pooled[1].coef_[0])


def test_german_credit() -> None:
    tables = german_credit()
    bank, shop = tables.bank[tables.common[:, 0]], tables.retailer[tables.common[:, 1]]
    y = bank["default"].to_numpy()
    guest, host = (
        table.drop("phone", "default", strict=False).to_numpy().astype(float) for table in (bank, shop)
    )
    assert_as_pooled(guest, host, y, np.arange(len(y)) % 5 > 0)


@functools.cache
def credit() -> tuple[Floats, Floats, NDArray[np.int64], NDArray[np.bool_]]:
    """Return the guest's and the host's columns, labels, and which rows train."""
    guest, host = (pl.read_csv(Path(DATA, "default_credit", f"{role}.csv")) for role in ("guest", "host"))
    rows = guest.join(host, on="id", suffix="_host", maintain_order="left")
    own = [name for name in guest.columns if name not in ("id", "y")]
    others = [name for name in rows.columns if name not in ("id", "y", *own)]
    train = rows["id"].to_numpy() % 5 != 0
    return rows.select(own).to_numpy(), rows.select(others).to_numpy(), rows["y"].to_numpy(), train


@needs_data
def test_a_part_of_default_credit() -> None:
    guest, host, y, train = credit()
    part = slice(0, 6000)
    assert_as_pooled(guest[part], host[part], y[part], train[part])


@needs_data
@pytest.mark.slow
def test_other_keys_give_the_same_predictions() -> None:
    runs = [joint(*credit())[2] for _ in range(3)]
    assert 0 < np.ptp(runs, axis=0).max() < 1e-4


def benchmark(folder: str, *options: str) -> dict[str, Any]:
    """Return the figures of a training over two processes and TLS."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.glm", "--data", str(Path(DATA, folder)), *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert figures["converged"], figures
    return figures


@needs_data
@pytest.mark.slow
def test_default_credit_over_two_processes() -> None:
    figures = benchmark("default_credit")
    assert figures["auc"] >= 0.7275
    assert figures["log_loss"] <= 0.4664
    assert figures["iterations"] <= 25
    assert figures["pooled"]["coefficient_distance"] <= 0.05


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "options", "figure", "low", "high"),
    [
        ("breast", [], "auc", 0.99, 1.0),
        ("dvisits", ["--model", "poisson", "--label", "doctorco"], "deviance", 0.8999, 0.9199),
        ("vehicle", ["--model", "multinomial"], "accuracy", 0.7966, 0.8366),
    ],
)
def test_other_sets_over_two_processes(
    folder: str, options: list[str], figure: str, low: float, high: float
) -> None:
    assert low <= benchmark(folder, *options)[figure] <= high
