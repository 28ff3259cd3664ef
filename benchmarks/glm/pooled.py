"""scikit-learn on the pooled columns of the same rows: what a training without a partition would give."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, PoissonRegressor
from sklearn.preprocessing import StandardScaler

from benchmarks.glm import generated
from benchmarks.glm.jobs import Job
from benchmarks.glm.party import quality
from benchmarks.parties import PARTIES
from benchmarks.quality import held_out, read

Floats = NDArray[np.float64]


def tables(job: Job) -> tuple[Floats, NDArray[Any], NDArray[np.bool_], int]:
    """Return pooled columns, labels, which rows are held out, and how many of the columns are the guest's."""
    if job.data is None:
        values = np.column_stack([generated.table(job, side) for side in (0, 1)])
        return values, generated.labels(job), np.arange(len(values)) >= job.rows, job.guest_columns
    guest, host = (read(Path(job.data) / f"{role}.csv", job.id) for role in PARTIES)
    own = [name for name in guest.columns if name not in (job.id, job.label)]
    both = guest.join(host, on=job.id, suffix="_host")
    values = both.select(pl_name for pl_name in both.columns if pl_name not in (job.id, job.label)).to_numpy()
    return (
        values.astype(np.float64),
        both[job.label].to_numpy(),
        held_out(both[job.id].to_list()),
        len(own),
    )


def train(job: Job, coefficients: tuple[Any, Any]) -> dict[str, Any]:
    """Train on all columns; return the figures, and how far the parties' coefficients are from these.

    `coefficient_distance` is relative, in the L2 norm, of the weights of standardised columns; there is none for
    several classes, where one model per class is compared with one for all.
    """
    values, y, test, _ = tables(job)
    start = time.monotonic()
    scaler = StandardScaler().fit(values[~test])
    model: Any
    if job.model == "poisson":
        model = PoissonRegressor(alpha=1e-3, max_iter=10_000, tol=1e-8)
    else:
        model = LogisticRegression(C=1.0, max_iter=10_000, tol=1e-8)
    model.fit(scaler.transform(values[~test]), y[~test])
    seconds = time.monotonic() - start
    standard = scaler.transform(values[test])
    predicted = model.predict(standard) if job.model == "poisson" else model.predict_proba(standard)
    figures: dict[str, Any] = quality(job, model, predicted, y[test]) if test.any() else {}
    figures |= {"seconds": seconds}
    if job.model != "multinomial":
        joint = np.concatenate([np.ravel(part) for part in coefficients]) * scaler.scale_
        theirs = np.ravel(model.coef_)
        figures["coefficient_distance"] = float(np.linalg.norm(joint - theirs) / np.linalg.norm(theirs))
    return figures
