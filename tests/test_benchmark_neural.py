"""The benchmark of networks finds its tables, and says what it misses."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.neural.sets import load
from tests.test_benchmarks import benchmark

RNG = np.random.default_rng(4)


def write(folder: Path, rows: int) -> None:
    """Write tables whose label is an interaction of both; one row each that the other does not have."""
    guest, host = RNG.normal(size=(rows, 2)), RNG.normal(size=(rows, 1))
    y = (guest[:, 0] * host[:, 0] > 0).astype(int)
    ids = RNG.permutation(rows)
    pl.DataFrame({"id": ids + 1, "y": y, "x0": guest[:, 0], "x1": guest[:, 1]})[1:].write_csv(
        folder / "guest.csv"
    )
    pl.DataFrame({"id": ids + 1, "x0": host[:, 0]})[:-1].sample(fraction=1.0, shuffle=True, seed=1).write_csv(
        folder / "host.csv"
    )


def test_sets(tmp_path: Path) -> None:
    write(tmp_path, 50)
    tables = load(tmp_path, "any")
    assert (tables.guest.shape, tables.host.shape, tables.figure) == ((48, 2), (48, 1), "auc")
    assert ((tables.guest[:, 0] * tables.host[:, 0] > 0) == (tables.y == 1)).all()
    assert tables.measure(np.column_stack([1 - tables.y, tables.y])[tables.test]) == 1
    digits = load(tmp_path, "digits")
    assert (digits.pooled.shape, digits.classes, digits.figure) == ((1797, 64), 10, "accuracy")
    assert digits.test.sum() == 360
    assert digits.measure(np.eye(10)[digits.y[digits.test]]) == 1


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    for arguments, text in (([], "--data is missing"), (["--data", str(tmp_path)], "neither guest.csv")):
        done = benchmark("neural", *arguments, folder=tmp_path)
        assert done.returncode == 2
        assert text in done.stderr


@pytest.mark.slow
def test_tables_of_ones_own(tmp_path: Path) -> None:
    write(tmp_path, 160)
    done = benchmark("neural", "--data", str(tmp_path), "--seeds", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {"auc", "pooled_auc", "step_seconds", "bytes_per_step", "steps"} <= set(figures)
    assert figures["auc"] > 0.8
