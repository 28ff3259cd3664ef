"""The benchmark of the intersection as its users call it, on few rows and without the other libraries."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def figures(*arguments: str, folder: Path) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.psi", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize(
    ("arguments", "matched"),
    [
        (["--rows", "3000"], 1500),
        (["--rows", "2000", "--host-rows", "100", "--parquet"], 50),
        (["--rows", "300", "--protocol", "dh"], 150),
    ],
)
def test_both_hold_the_common_rows(arguments: list[str], matched: int, tmp_path: Path) -> None:
    told = figures(*arguments, folder=tmp_path)
    assert told["correct"]
    assert told["matched"] == matched
    assert 0 < told["seconds"] < 60
    assert told["bytes"] > 10_000
    assert told["peak_mib"] > 50
