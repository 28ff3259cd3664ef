"""Small versions of the experiments of benchmarks.horizontal: what they claim, on one seed and few rounds."""

import json
import subprocess
import sys
from pathlib import Path

from sklearn.linear_model import LogisticRegression

from benchmarks.horizontal import devices, experiments
from vfl.horizontal.models import adapted
from vfl.horizontal.optimisation import local_sgd
from vfl.horizontal.partitioning import dealt
from vfl.horizontal.vectors import generator

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


def test_devices_are_counted_without_the_peer_too() -> None:
    command = [sys.executable, "-m", "benchmarks.horizontal", "--experiment", "devices", "--seeds", "1"]
    command += ["--peers", "--flower-python", sys.executable]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["experiment"] == "devices"
    assert figures["rounds_per_second"] > 0
    assert figures["accuracy"] > 0.8
    assert figures["ratio_to_flower"] is None
    assert "No module named 'flwr'" in figures["flower"]["reason"]


def test_what_flower_runs_is_the_library_s_own_local_training(tmp_path: Path) -> None:
    """The module is loaded as Flower's interpreter loads it: without `import vfl`."""
    population = devices.Devices(seed=3, count=4, asked=4)
    path = tmp_path / "rows.npz"
    population.write(path)
    code = (
        f"import sys; sys.path.insert(0, {str(devices.WORKER.parent)!r}); import flower_simulation as f; "
        f"clients, held, model = f.data({str(path)!r}); "
        "end = f.ours('optimisation').local_sgd(model, model.initial(0), clients[2], "
        "f.ours('optimisation').Local(5, 0.1, 10), f.ours('vectors').generator(3, 30, 1, 2)); "
        "assert not hasattr(sys.modules['vfl'], 'federate'); print(end.tobytes().hex())"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    clients = dealt(population.X, population.y, population.parts)
    model = adapted(LogisticRegression(), 64, range(10))
    own = local_sgd(model, model.initial(0), clients["client002"], devices.LOCAL, generator(3, 30, 1, 2))
    assert done.stdout.strip() == own.tobytes().hex()
