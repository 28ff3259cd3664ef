"""Rounds per second over many devices, beside Flower's simulation of the same training."""

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import vfl
from benchmarks.environments import output
from vfl.horizontal.history import Federation
from vfl.horizontal.models import Network
from vfl.horizontal.optimisation import Local
from vfl.horizontal.participation import Participation
from vfl.horizontal.partitioning import dealt
from vfl.horizontal.vectors import Rows, generator
from vfl.horizontal.world import Device, World

Figures = dict[str, Any]
EACH = 20  # rows of a device, drawn with replacement
TRAIN = 1397  # rows of digits that devices draw from; the other 400 are held out
WARM = 2  # rounds before the clock starts
FLOWER_SECONDS = 600
LOCAL = Local(5, 0.1, 10)
WORKER = Path(__file__).with_name("flower_simulation.py")


class Devices:
    """A population of devices with rows of digits."""

    def __init__(self, seed: int, count: int, asked: int) -> None:
        data, rng = load_digits(), generator(seed, 95)
        self.X, self.y, self.seed, self.asked = data.data / 16.0, data.target, seed, asked
        self.parts = [rng.integers(0, TRAIN, EACH) for _ in range(count)]
        self.held = Rows(self.X[TRAIN:], self.y[TRAIN:])

    def ours(self, world: World, rounds: int) -> tuple[float, float]:
        """Return rounds per second after the first WARM, and the mean accuracy of the last five."""
        moments: list[float] = []
        found: Federation = vfl.federate(
            Network((self.X.shape[1], 10), np.arange(10)), dealt(self.X, self.y, self.parts), rounds=rounds + WARM,
            held_out=self.held, local=LOCAL, seed=self.seed, world=world,
            participation=Participation(self.asked, deadline=60.0),
            on_round=lambda record: moments.append(time.perf_counter()),
        )  # fmt: skip
        accuracy = float(np.mean([record.accuracy for record in found.history[-5:]]))
        return rounds / (moments[-1] - moments[WARM - 1]), accuracy

    def write(self, path: Path) -> None:
        """Write all rows for Flower's process."""
        np.savez(path, X=self.X, y=self.y, parts=np.stack(self.parts), held_X=self.held.X, held_y=self.held.y)

    def flower(self, python: str, rounds: int) -> Figures:
        """Return the same of Flower's simulation.

        Raises
        ------
        Unavailable
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.npz"
            self.write(path)
            numbers = (rounds + WARM, WARM, self.asked, LOCAL.steps, LOCAL.rate, LOCAL.batch, self.seed)
            printed = output("Flower", [python, str(WORKER), str(path), *map(str, numbers)], FLOWER_SECONDS)
        told: Figures = json.loads(printed.splitlines()[-1])
        return told


def devices(
    seeds: Sequence[int], rounds: int = 30, count: int = 1000, asked: int = 100, flower: str | None = None
) -> Figures:
    """Return rounds per second of devices that are all there, and of devices of which some fail.

    With an interpreter that has Flower also those of its simulation, seed by seed in the same run, of the devices that
    are all there: the same rows, steps, rate and batches, 32-bit numbers on the way, the accuracy after each round.
    """
    rates, failing, accuracies, theirs = [], [], [], []
    for seed in seeds:
        population = Devices(seed, count, asked)
        rate, accuracy = population.ours(World(), rounds)
        accuracies.append(accuracy)
        failing.append(population.ours(World(other=Device(available=0.9, dropout=0.05)), rounds)[0])
        if flower is not None:
            theirs.append(population.flower(flower, rounds))
            rate = statistics.mean([rate, population.ours(World(), rounds)[0]])  # before and after theirs
        rates.append(rate)
    figures = {
        "devices": count,
        "clients_per_round": asked,
        "rounds_per_second": statistics.median(rates),
        "rounds_per_second_each": rates,
        "rounds_per_second_with_failures": statistics.median(failing),
        "accuracy": statistics.median(accuracies),
    }
    if not theirs:
        return figures
    others = [told["rounds_per_second"] for told in theirs]
    ratios = [a / b for a, b in zip(rates, others, strict=True)]
    return figures | {
        "flower_rounds_per_second": statistics.median(others),
        "flower_rounds_per_second_each": others,
        "flower_accuracy": statistics.median(told["accuracy"] for told in theirs),
        "ratio_to_flower": statistics.median(ratios),
        "ratio_to_flower_each": ratios,
    }
