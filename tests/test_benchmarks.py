"""The benchmark of model quality as its users call it: two processes, a table pair that it has never seen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl

from vfl.datasets import synthetic


def quality(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return benchmark("quality", *arguments, folder=folder)


def benchmark(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
        env=environment,
    )


def test_a_pair_with_text_identifiers_and_other_names(tmp_path: Path) -> None:
    parties = synthetic(1200, 3, 5, seed=4, overlap=0.8)
    guest = parties.guest.rename({"id": "customer", "label": "churned"}).with_columns(
        pl.col("customer").map_elements(lambda i: f"K-{i}ä", return_dtype=pl.String),
        pl.col("churned").replace_strict({0: "no", 1: "yes"}),
    )
    host = parties.host.rename({"id": "customer", "h0": "g0"}).with_columns(
        pl.col("customer").map_elements(lambda i: f" K-{i}ä", return_dtype=pl.String)
    )
    guest.write_csv(tmp_path / "guest.csv")
    host.with_columns(pl.col("customer").str.strip_chars()).write_csv(tmp_path / "host.csv")
    done = quality("--data", str(tmp_path), "--label", "churned", "--id", "customer", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {"auc", "ks", "log_loss", "seconds", "bytes", "pooled_auc", "guest_auc"} <= set(figures)
    assert figures["rows"] == 960
    assert figures["auc"] > figures["guest_auc"] + 0.02
    assert abs(figures["auc"] - figures["pooled_auc"]) < 0.01


def test_a_table_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    parties = synthetic(300, 2, 2)
    gaps = pl.when(pl.int_range(pl.len()) % 9 > 0).then(pl.col("g0"))
    parties.guest.with_columns(gaps).write_csv(tmp_path / "guest.csv")
    parties.host.write_csv(tmp_path / "host.csv")
    done = quality("--data", str(tmp_path), "--label", "label", folder=tmp_path)
    assert done.returncode != 0
    assert "MissingValues: guest" in done.stderr
    assert "PeerAborted: guest stopped with MissingValues" in done.stderr


def test_a_linear_model_on_tables_of_ones_own(tmp_path: Path) -> None:
    parties = synthetic(1500, 3, 4, seed=5)
    number = pl.col("id").str.slice(1).cast(pl.Int64)
    parties.guest.with_columns(number).rename({"label": "bad"}).write_csv(tmp_path / "guest.csv")
    parties.host.with_columns(number).write_csv(tmp_path / "host.csv")
    done = benchmark(
        "glm", "--data", str(tmp_path), "--label", "bad", "--security", "exchange", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert {"auc", "log_loss", "iterations", "seconds", "bytes", "pooled"} <= set(figures)
    assert figures["auc"] > 0.8
    assert abs(figures["auc"] - figures["pooled"]["auc"]) < 0.01
    assert figures["pooled"]["coefficient_distance"] < 0.1


def test_generated_rows_over_a_slow_link_without_the_peer(tmp_path: Path) -> None:
    sizes = ["--rows", "2000", "--guest-columns", "3", "--host-columns", "6", "--iterations", "3"]
    link = ["--megabits", "100", "--delay-ms", "20"]
    peer = ["--peers", "--secretflow-python", sys.executable]
    done = benchmark("glm", *sizes, *link, *peer, "--security", "exchange", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["iterations"] == 3
    assert figures["seconds_per_iteration"] > 2 * 0.02, "no there and back in less than two delays"
    assert 100 < figures["peak_mib"] < 4000
    assert figures["ratio_to_secretflow"] is None
    assert "cannot import secretflow" in figures["secretflow"]["reason"]


def test_a_round_of_secure_aggregation_without_the_peer(tmp_path: Path) -> None:
    sizes = ["--clients", "12", "--params", "3001", "--dropout", "0.3", "--bits", "12", "--repeats", "2"]
    done = benchmark("secagg", *sizes, "--peers", "--flower-python", sys.executable, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["exact"] is True
    assert (figures["clients"], figures["params"], figures["lost"]) == (12, 3001, 3)
    assert figures["sum_bits"] == 16
    assert 2.0 < figures["bytes_per_param"] < 4.0
    assert 0 < figures["client_seconds"] < figures["server_seconds"] * 12
    assert figures["ratio_to_flower"] is None
    assert "No module named 'flwr'" in figures["flower"]["reason"]
