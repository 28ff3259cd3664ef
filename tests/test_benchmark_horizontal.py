"""Small versions of the experiments of benchmarks.horizontal: what they claim, on one seed and few rounds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.horizontal import experiments

ROOT = Path(__file__).resolve().parents[1]


def test_scaffold_is_ahead_under_skew_and_personal_models_ahead_of_the_common_one() -> None:
    figures = experiments.skew(1, rounds=12)
    reached = figures["rounds_to_target"]
    assert reached["scaffold"]["median"] < reached["fedavg"]["median"]
    local = figures["local_accuracy"]
    assert local["ditto"]["median"] > local["common"]["median"]


def test_the_mean_collapses_under_poison_and_robust_rules_hold() -> None:
    figures = experiments.poison(1, rounds=30)
    assert figures["mean_collapses"]
    assert figures["points_lost"]["multi_krum"]["most"] <= 3.0
    assert figures["points_lost"]["secure_groups"]["most"] <= 3.0


def test_a_thirty_second_of_the_bytes_costs_less_than_two_points() -> None:
    figures = experiments.compression(1, only="top_k")
    assert figures["points_lost"]["top_k"]["most"] <= 2.0
    assert figures["times_fewer"]["top_k"] >= 32


def test_nobody_waits_for_the_slowest() -> None:
    figures = experiments.asynchronous(1, rounds=30)
    seconds, lost = figures["virtual_seconds"], figures["points_lost"]
    assert max(lost["deadline"]["most"], lost["asynchronous"]["most"]) <= 2.0
    assert seconds["deadline"]["median"] < seconds["synchronous"]["median"]
    assert seconds["asynchronous"]["median"] < seconds["synchronous"]["median"]


def test_a_killed_process_goes_on_with_the_same_bits() -> None:
    assert experiments.resume(1)["bit_identical"]


@pytest.mark.slow
def test_the_last_line_is_json() -> None:
    command = [sys.executable, "-m", "benchmarks.horizontal", "--experiment", "devices", "--seeds", "1"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["experiment"] == "devices"
    assert figures["rounds_per_second"] > 0
