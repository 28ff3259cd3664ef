"""The devices of `experiments.devices` in Flower's simulation on Ray; run by Flower's interpreter, not ours.

    python flower_simulation.py ROWS.npz ROUNDS WARM ASKED STEPS RATE BATCH SEED

Flower's `ServerApp` with its `FedAvg`, its `ClientApp`, its simulation runtime with one actor a processor. What a
client does is the code of vfl.horizontal itself, on the same rows in the same order, and the server measures the
accuracy after each round as ours does. The clock starts after WARM rounds: neither Ray's start nor that of its workers
counts. The last line is JSON.
"""

import functools
import importlib
import json
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}


@functools.cache
def ours(name: str) -> Any:
    """Return a module of vfl without vfl's own start, whose requirements this environment has not."""
    if "vfl" not in sys.modules:
        package = types.ModuleType("vfl")
        package.__path__ = [str(ROOT / "vfl")]
        sys.modules["vfl"] = package
    return importlib.import_module(f"vfl.horizontal.{name}")


@functools.cache
def data(path: str) -> tuple[list[Any], Any, Any]:
    """Return the clients' rows, the rows held out, and the model; once in each process."""
    rows, kept = ours("vectors").Rows, np.load(path)
    clients = [rows(kept["X"][part], kept["y"][part]) for part in kept["parts"]]
    network = ours("models").Network((kept["X"].shape[1], 10), np.arange(10))
    return clients, rows(kept["held_X"], kept["held_y"]), network


def trained(message: Any, context: Any) -> Any:
    """Train one client as :meth:`vfl.horizontal.plan.Plan.work` does."""
    app = importlib.import_module("flwr.app")
    told, place = message.content["config"], int(context.node_config["partition-id"])
    clients, _, model = data(told["path"])
    start = message.content["arrays"].to_numpy_ndarrays()[0].astype(np.float64)
    optimisation = ours("optimisation")
    local = optimisation.Local(told["steps"], told["rate"], told["batch"])
    rng = ours("vectors").generator(told["seed"], 30, told["server-round"], place)
    end = optimisation.local_sgd(model, start, clients[place], local, rng)
    content = app.RecordDict(
        {
            "arrays": app.ArrayRecord([end.astype("<f4")]),
            "metrics": app.MetricRecord({"num-examples": len(clients[place])}),
        }
    )
    return app.Message(content=content, reply_to=message)


def run(path: str, rounds: int, warm: int, asked: int, told: dict[str, Any]) -> dict[str, Any]:
    """Return rounds per second after the first `warm` ones, and the mean accuracy of the last five."""
    app = importlib.import_module("flwr.app")
    client, server = importlib.import_module("flwr.clientapp"), importlib.import_module("flwr.serverapp")
    strategies = importlib.import_module("flwr.serverapp.strategy")
    clients, held, model = data(path)
    moments: list[float] = []
    accuracies: list[float] = []

    def evaluated(number: int, arrays: Any) -> Any:
        vector = arrays.to_numpy_ndarrays()[0].astype(np.float64)
        accuracies.append(model.accuracy(vector, held.X, held.y))
        moments.append(time.perf_counter())
        return app.MetricRecord({"accuracy": accuracies[-1]})

    client_app, server_app = client.ClientApp(), server.ServerApp()
    client_app.train()(trained)

    @server_app.main()  # type: ignore[untyped-decorator]
    def main(grid: Any, context: Any) -> None:
        strategies.FedAvg(asked / len(clients), 0.0, min_available_nodes=len(clients)).start(
            grid,
            app.ArrayRecord([model.initial(0).astype("<f4")]),
            rounds,
            train_config=app.ConfigRecord({**told, "path": path}),
            evaluate_fn=evaluated,
        )

    importlib.import_module("flwr.simulation").run_simulation(
        server_app, client_app, len(clients), backend_config={"client_resources": {"num_cpus": 1}}
    )
    if len(moments) != rounds + 1:
        raise RuntimeError(f"{len(moments) - 1} of {rounds} rounds ended")
    return {
        "rounds_per_second": (rounds - warm) / (moments[-1] - moments[warm]),
        "accuracy": float(np.mean(accuracies[-5:])),
    }


if __name__ == "__main__":
    simulation = importlib.import_module("flower_simulation")  # by name, so that workers keep their data
    rows, rounds, warm, asked, steps, rate, batch, seed = sys.argv[1:]
    wanted = {"steps": int(steps), "rate": float(rate), "batch": int(batch), "seed": int(seed)}
    print(json.dumps(simulation.run(rows, int(rounds), int(warm), int(asked), wanted)))
