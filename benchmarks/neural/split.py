"""The split network: what it learns, with and without its defence, and what either party makes of what it got."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import vfl
from benchmarks.neural.sets import Tables, load
from vfl.attacks import feature_inference, label_inference
from vfl.extras import load_torch
from vfl.neural.defences import Defence, leakage

__all__ = ["Run", "features_explained", "gradient_aucs", "heads", "run", "train"]

Floats = NDArray[np.float64]
SEEDS = {"default_credit": 2}
SEVERAL = 3
UNTAUGHT = {
    "norm": label_inference.norm_attack,
    "direction": label_inference.direction_attack,
    "average": label_inference.average_attack,
}
KNOWN_LABELS, KNOWN_ROWS, JUDGED = 100, 400, 1_000


@dataclass(frozen=True)
class Run:
    """A training in one process, and the scores of the held-out rows."""

    guest: Any
    host: Any
    simulation: vfl.Simulation
    figure: float
    step_seconds: float


def train(tables: Tables, defence: Defence, seed: int, **parameters: Any) -> Run:
    """Train both parties' halves and score the held-out rows."""
    rows = ~tables.test

    def bank() -> Any:
        model = vfl.SplitClassifier(defence=defence, random_state=seed, **parameters)
        start = time.perf_counter()
        model.fit(tables.guest[rows], tables.y[rows])
        seconds = time.perf_counter() - start
        return model, model.predict_proba(tables.guest[tables.test]), seconds / model.plan_.steps

    def shop() -> Any:
        model = vfl.SplitClassifier(defence=defence, random_state=1000 + seed, **parameters)
        model.fit(tables.host[rows])
        model.predict_proba(tables.host[tables.test])
        return model

    accept = [str(kind) for kind in leakage(defence)]
    result = vfl.simulate(accept_leakage=accept, bank=bank, shop=shop)
    model, found, seconds = result["bank"]
    return Run(model, result["shop"], result, tables.measure(found), seconds)


def gradient_aucs(done: Run, tables: Tables) -> dict[str, float]:
    """Return the AUC of each attack on all gradients of all epochs; of several classes, their mean."""
    y = tables.y[~tables.test]
    known = np.random.default_rng(7).permutation(len(y))[: min(KNOWN_ROWS, len(y) // 2)]
    gradients = label_inference.received_gradients(done.simulation.view("shop"), done.host.plan_)
    if tables.classes == 2:
        return label_inference.gradient_attacks(gradients, y, known)
    scores = {name: attack(gradients) for name, attack in UNTAUGHT.items()}
    found: dict[str, list[float]] = {}
    for label in range(tables.classes):
        mine = (y == label).astype(np.int64)
        each = scores | {"cosine": label_inference.cosine_attack(gradients, known, mine[known])}
        for name, score in each.items():
            found.setdefault(name, []).append(label_inference.attack_auc(score, mine))
    return {name: float(np.mean(areas)) for name, areas in found.items()}


def heads(done: Run, tables: Tables) -> tuple[float, float]:
    """Return the AUC of a head trained with few labels, on the host's trained bottom network and on its columns."""
    y = tables.y[~tables.test]
    known = np.concatenate([np.flatnonzero(y == label)[: KNOWN_LABELS // 2] for label in (0, 1)])
    others = np.setdiff1d(np.arange(len(y)), known)
    values = done.host.inputs_.values(tables.host[~tables.test], "shop")
    columns = done.host.bottom_.scores(values).numpy(), values.numbers
    areas = [
        label_inference.attack_auc(
            label_inference.head_attack(each.astype(np.float64), known, y[known])[others, 1], y[others]
        )
        for each in columns
    ]
    return areas[0], areas[1]


def features_explained(done: Run, tables: Tables) -> float:
    """Return the share of the host's variance that a guest explains that knows some rows: the best of three tries.

    It takes the embeddings of the last epoch, the mean of the last five epochs, or the last change.
    """
    values = done.host.inputs_.values(tables.host[~tables.test], "shop").numbers.astype(np.float64)
    rows = np.random.default_rng(8).permutation(len(values))[: KNOWN_ROWS + JUDGED]
    known = np.arange(min(KNOWN_ROWS, len(rows) // 2))
    z = feature_inference.received_embeddings(done.simulation.view("bank"), "shop", done.guest.plan_)[:, rows]
    truth = values[rows]
    varying = (
        truth.std(axis=0) > 0.1
    )  # of standardised columns: those that hardly vary in these rows say nothing
    found = []
    for received in (z[-1], z[-5:].mean(axis=0), z[-1] - z[-2]):
        guess = feature_inference.regression_attack(received, known, truth[known])
        explained = feature_inference.explained(truth[len(known) :], guess[len(known) :])
        found.append(float(explained[varying].mean()))
    return max(found)


def pooled(tables: Tables, seed: int) -> float:
    """Return the figure of a network of the same width over all columns in one place."""
    rows = ~tables.test
    columns = StandardScaler().fit(tables.pooled[rows]).transform(tables.pooled)
    network = MLPClassifier((64, 64), max_iter=300, early_stopping=len(columns) > 10_000, random_state=seed)
    return tables.measure(network.fit(columns[rows], tables.y[rows]).predict_proba(columns[~rows]))


def run(data: Path, name: str, attack: bool, seeds: int | None) -> dict[str, float]:
    """Return the figures of a set; the seeds' means.

    Parameters
    ----------
    data : Path
    name : str
    attack : bool
        Whether to train without a defence, too, and to attack both.
    seeds : int or None
    """
    load_torch().set_num_threads(1)
    threadpool_limits(1)  # small matrices: threads would wait for each other
    tables = load(data, name)
    figures: dict[str, list[float]] = {}
    for seed in range(seeds or SEEDS.get(name, SEVERAL)):
        found = {f"pooled_{tables.figure}": pooled(tables, seed)}
        for prefix, defence in (("", vfl.Defended()), ("undefended_", vfl.Undefended())):
            if prefix and not attack:
                continue
            done = train(tables, defence, seed)
            found[prefix + tables.figure] = done.figure
            found[prefix + "step_seconds"] = done.step_seconds
            found |= _attacked("" if prefix else "defended_", done, tables) if attack else {}
        print(", ".join(f"{key} {value:.4f}" for key, value in found.items()), flush=True)
        for key, value in found.items():
            figures.setdefault(key, []).append(value)
    result = {key: round(float(np.mean(values)), 4) for key, values in figures.items()}
    if attack:
        result["utility_lost"] = round(result[f"undefended_{tables.figure}"] - result[tables.figure], 4)
    return result


def _attacked(prefix: str, done: Run, tables: Tables) -> dict[str, float]:
    areas = gradient_aucs(done, tables)
    found = {f"{prefix}attack_auc": max(areas.values())}
    found |= {f"{prefix}{name}_auc": area for name, area in areas.items()}
    found[f"{prefix}columns_explained"] = features_explained(done, tables)
    if tables.classes == 2:
        on_bottom, on_columns = heads(done, tables)
        found |= {f"{prefix}head_auc": on_bottom, "head_on_columns_auc": on_columns}
    return found
