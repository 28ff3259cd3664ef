"""One of the two processes: `python -m benchmarks.glm.party ROLE FOLDER` trains, scores and leaves its figures."""

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from sklearn.metrics import mean_poisson_deviance

import vfl
from benchmarks.glm import generated
from benchmarks.glm.jobs import Job
from benchmarks.quality import held_out, read
from vfl import metrics
from vfl.progress import Phases

ESTIMATORS = {
    "logistic": "LogisticRegression",
    "multinomial": "LogisticRegression",
    "poisson": "PoissonRegressor",
}
WARM_ROWS = 600


class Marked(Phases):
    """Phases that note when each step of the training ended."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.marks: list[float] = []

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Measure a phase; the steps of the training are marked."""
        with super().phase(name) as update:

            def step(done: int, total: int) -> None:
                if name == "train":
                    self.marks.append(time.monotonic())
                update(done, total)

            yield step

    def per_iteration(self, iterations: int) -> float:
        """Return the seconds of one iteration: between the first and the last, or of the whole training for one."""
        steps = len(self.marks) - 1
        if steps < 1:
            return [cost.seconds for cost in self.costs if cost.name == "train"][-1] / iterations
        return (self.marks[-1] - self.marks[0]) / steps * (steps + 1) / iterations


def estimator(job: Job) -> Any:
    """Return the estimator of a job, with its defaults unless a number of iterations is asked for."""
    parameters: dict[str, Any] = {"security": job.security}
    if job.he is not None:
        parameters["he"] = job.he
    if job.iterations is not None:
        parameters |= {"max_iter": job.iterations, "batch_size": None, "tol": 0.0, "n_iter_no_change": 10**6}
    kind = getattr(vfl, ESTIMATORS[job.model])
    known = kind().get_params()
    return kind(**{name: value for name, value in parameters.items() if name in known})


def own_tables(job: Job, role: str) -> tuple[Any, Any, Any, Any]:
    """Return training rows, held-out rows and their labels (None at the host); identifiers are aligned first."""
    if job.data is None:
        values = generated.table(job, int(role == "host"))
        y = generated.labels(job) if role == "guest" else None
        train, test = slice(0, job.rows), slice(job.rows, None)
        return values[train], values[test], *((None, None) if y is None else (y[train], y[test]))
    rows = vfl.align(read(Path(job.data) / f"{role}.csv", job.id), on=job.id)
    test_rows = held_out(rows[job.id].to_list())
    features = rows.drop(job.id, *([job.label] if role == "guest" else []))
    parts = features.filter(~test_rows), features.filter(test_rows)
    if role == "host":
        return *parts, None, None
    y = rows[job.label].to_numpy()
    return *parts, y[~test_rows], y[test_rows]


def quality(job: Job, model: Any, predicted: Any, truth: Any) -> dict[str, float | None]:
    """Return how good held-out predictions are."""
    if job.model == "poisson":
        return {"deviance": float(mean_poisson_deviance(truth, predicted)), "log_loss": None}
    encoded = np.searchsorted(model.classes_, truth)
    chosen = np.clip(predicted[np.arange(len(truth)), encoded], 1e-15, 1)
    log_loss = float(-np.log(chosen).mean())
    if job.model == "multinomial":
        return {"accuracy": float((predicted.argmax(axis=1) == encoded).mean()), "log_loss": log_loss}
    auc = metrics.roc_auc(encoded, predicted[:, 1]) if len(set(encoded)) == 2 else None
    return {"auc": auc, "log_loss": log_loss}


def peak_mib() -> float:
    """Return the most memory that this process has held, in MiB.

    The kernel's own mark of the running program where there is one: that of getrusage is inherited by a process from
    the one that started it.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def warm_up(job: Job, role: str) -> None:
    """Train on a few rows, so that compiled code is loaded when the clock starts."""
    few = msgspec.structs.replace(
        job, rows=WARM_ROWS, held_out=0, guest_columns=2, host_columns=3, iterations=2
    )
    rows, _, y, _ = own_tables(few, role)
    estimator(few).fit(rows, y)


def train(job: Job, role: str, folder: Path) -> None:
    """Be one party: connect, align, train, score."""
    generated_tables = own_tables(job, role) if job.data is None else None
    with vfl.connect(folder / f"{role}.toml") as session:
        if job.warm:
            warm_up(job, role)
        session.phases = phases = Marked(session.name, lambda: (0, 0), 0)
        before = dict(session.channel.bytes)
        start = time.monotonic()
        rows, test, y, truth = generated_tables or own_tables(job, role)
        fit_start = time.monotonic()
        model = estimator(job)
        model.fit(rows, y)
        fit_seconds = time.monotonic() - fit_start
        fit_bytes = sum(session.channel.bytes.values()) - sum(before.values())
        predict = model.predict if job.model == "poisson" else model.predict_proba
        predicted = predict(test) if len(test) else None
        seconds = time.monotonic() - start
        figures: dict[str, Any] = {
            "coefficients": np.asarray(model.coef_).tolist(),
            "peak_mib": peak_mib(),
            "columns": len(model.feature_names_in_),
        }
        if role == "guest":
            iterations = int(np.max(model.n_iter_))
            figures |= quality(job, model, predicted, truth) if predicted is not None else {}
            figures |= {
                "iterations": iterations,
                "seconds": seconds,
                "fit_seconds": fit_seconds,
                "seconds_per_iteration": phases.per_iteration(iterations),
                "bytes": sum(session.channel.bytes.values()) - sum(before.values()),
                "bytes_per_iteration": fit_bytes / iterations,
                "converged": bool(np.all(model.converged_)),
            }
    (folder / f"{role}.json").write_text(json.dumps(figures))


def main() -> None:
    role, folder = sys.argv[1], Path(sys.argv[2])
    job = msgspec.json.decode((folder / "job.json").read_bytes(), type=Job)
    with profiled(folder, role):
        train(job, role, folder)


@contextlib.contextmanager
def profiled(folder: Path, role: str) -> Iterator[None]:
    """Write a profile of the standard library to the folder that VFL_PROFILE names, if it is set."""
    target = os.environ.get("VFL_PROFILE")
    if not target:
        yield
        return
    import cProfile

    with cProfile.Profile() as profile:
        yield
    profile.dump_stats(Path(target) / f"{role}.prof")


if __name__ == "__main__":
    main()
