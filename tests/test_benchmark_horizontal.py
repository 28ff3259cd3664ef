"""Small versions of the experiments of benchmarks.horizontal: what they claim, on one seed and few rounds."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sklearn.linear_model import LogisticRegression

from benchmarks.horizontal import devices, experiments, skew, table
from vfl.horizontal.models import adapted
from vfl.horizontal.optimisation import local_sgd
from vfl.horizontal.partitioning import dealt
from vfl.horizontal.vectors import generator

ROOT = Path(__file__).resolve().parents[1]


def test_scaffold_is_ahead_under_skew_and_personal_models_ahead_of_the_common_one() -> None:
    figures = skew.skew([0], rounds=18)
    reached = figures["rounds_to_target"]
    assert reached["scaffold"]["median"] < reached["fedavg"]["median"]
    assert (
        figures["bytes_up_to_target"]["scaffold"]["median"]
        == 2 * 4 * 650 * 10 * reached["scaffold"]["median"]
    )
    assert figures["bytes_down_to_target"]["fedavg"]["median"] == 4 * 650 * 10 * reached["fedavg"]["median"]
    local = figures["local_accuracy"]
    assert local["ditto"]["median"] > local["common"]["median"]


def test_the_mean_collapses_under_poison_and_robust_rules_hold() -> None:
    figures = experiments.poison([0], rounds=50)
    assert figures["mean_collapses"]
    assert figures["points_lost"]["multi_krum"]["most"] <= 3.0
    assert figures["points_lost"]["secure_groups"]["most"] <= 3.0


def test_a_thirty_second_of_the_bytes_costs_less_than_two_points() -> None:
    figures = experiments.compression([0], only="top_k")
    assert figures["points_lost"]["top_k"]["most"] <= 2.0
    assert figures["times_fewer"]["top_k"] >= 32
    up = figures["bytes_up_to_target"]
    assert up["top_k"]["median"] < up["full"]["median"] / 10


def test_nobody_waits_for_the_slowest() -> None:
    figures = experiments.asynchronous([0], rounds=30)
    seconds, lost = figures["virtual_seconds"], figures["points_lost"]
    assert max(lost["deadline"]["most"], lost["asynchronous"]["most"]) <= 2.0
    assert seconds["deadline"]["median"] < seconds["synchronous"]["median"]
    assert seconds["asynchronous"]["median"] < seconds["synchronous"]["median"]


def test_a_killed_process_goes_on_with_the_same_bits() -> None:
    assert experiments.resume([0])["bit_identical"]


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


def test_the_page_names_every_method_once_and_its_spread() -> None:
    spread = {"median": 2.5, "least": 1.0, "most": 40.0, "each": [1.0, 2.5, 40.0]}
    named = {
        kind: dict.fromkeys(names, spread) for kind, names in (("s", table.STRATEGIES), ("c", table.CODECS))
    }
    taken = {f"{kind}_to_target" for kind in ("rounds", "bytes_up", "bytes_down")}
    found: dict[str, Any] = {
        "skew": {
            **dict.fromkeys(taken, named["s"]),
            "target": 0.9,
            "seeds": 3,
            "first_seed": 7,
            "final_accuracy": named["s"],
            "rounds_to_target_with_stragglers": dict.fromkeys(table.STRAGGLERS, spread),
            "local_accuracy": {"ditto": spread},
        },
        "compression": {
            **dict.fromkeys(taken, named["c"]),
            "times_fewer": {"top_k": 32.0},
            "points_lost": {"top_k": spread},
        },
        "poison": {"points_lost": {"mean": spread, "secure_mean": spread, "krum": spread}},
        "async": {
            "points_lost": {"deadline": spread},
            "virtual_seconds": dict.fromkeys(("synchronous", "deadline"), spread),
        },
        "devices": devices.devices([0], rounds=2, count=30, asked=10),
    }
    text = table.page(found)
    assert all(text.count(f"| {title} |") == 1 for title in (table.STRATEGIES | table.CODECS).values())
    assert "| krum | 2.5 (1 to 40) |" in text
    assert "| `TopK(1/48)` | 2 (1 to 40) | 0 (0 to 0) | 0 (0 to 0) | 1/32 | 2.5 (1 to 40) |" in text
    assert "over 3 seeds" in text
    assert "did not run" in text
    assert len(text.splitlines()) < 150
