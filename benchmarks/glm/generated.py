"""Generated tables: each party makes its own columns in chunks, so that nobody holds more than its share.

The columns have a weak factor in common; the log-odds of the labels depend on both parties' columns and have a
standard deviation of about two. Nothing is secret, and a seed gives the same tables again.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.glm.jobs import Job

Floats = NDArray[np.float64]
CHUNK = 16_384
SHARED = 0.05  # of each column's variance
INTERCEPT = -1.0
FACTOR, LABELS, WEIGHTS = 10, 11, 12  # streams of the generator; 0 and 1 are the parties' columns


def chunks(rows: int) -> Iterator[tuple[int, slice]]:
    """Yield number and rows of each chunk."""
    for number, start in enumerate(range(0, rows, CHUNK)):
        yield number, slice(start, min(start + CHUNK, rows))


def columns(job: Job, side: int, chunk: int, size: int) -> Floats:
    """Return one chunk of a party's columns; side 0 is the guest."""
    width = (job.guest_columns, job.host_columns)[side]
    own: Floats = np.random.default_rng([job.seed, side, chunk]).standard_normal((CHUNK, width))[:size]
    factor = np.random.default_rng([job.seed, FACTOR, chunk]).standard_normal(CHUNK)[:size]
    own *= np.sqrt(1 - SHARED)
    own += np.sqrt(SHARED) * factor[:, None]
    return own


def weights(job: Job) -> tuple[Floats, Floats]:
    """Return the true weights of both parties' columns."""
    both = np.random.default_rng([job.seed, WEIGHTS]).standard_normal(job.guest_columns + job.host_columns)
    both *= 2 / np.linalg.norm(both)
    return both[: job.guest_columns], both[job.guest_columns :]


def table(job: Job, side: int) -> Floats:
    """Return a party's columns, shape (rows and held-out rows, columns)."""
    rows = job.rows + job.held_out
    values = np.empty((rows, (job.guest_columns, job.host_columns)[side]))
    for chunk, part in chunks(rows):
        values[part] = columns(job, side, chunk, part.stop - part.start)
    return values


def labels(job: Job) -> NDArray[np.int64]:
    """Return the labels, 0 or 1, without keeping either party's columns."""
    rows, true = job.rows + job.held_out, weights(job)
    y = np.empty(rows, np.int64)
    for chunk, part in chunks(rows):
        size = part.stop - part.start
        score = INTERCEPT + sum(columns(job, side, chunk, size) @ true[side] for side in (0, 1))
        uniform = np.random.default_rng([job.seed, LABELS, chunk]).random(CHUNK)[:size]
        y[part] = uniform < 1 / (1 + np.exp(-score))
    return y
