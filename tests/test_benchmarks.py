"""The benchmark of model quality as its users call it: two processes, a table pair that it has never seen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl

from vfl.datasets import synthetic


def quality(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.quality", *arguments],
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
