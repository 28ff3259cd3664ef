"""Running a job with the peer: align, fit, save, evaluate; or score new customers with a saved model.

What has to be equal on both sides is compared before any data moves. Rows are held out by a hash of their identifier,
so that both parties hold out the same customers, again and again, whatever order the rows are in.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.alignment import align, train_test_split
from vfl.baseline import amount_figures, one_table, regression_figures
from vfl.data import labels
from vfl.errors import ConfigError
from vfl.job import Job
from vfl.linear import LogisticRegression
from vfl.model import load, write_private
from vfl.outcome import record_metrics
from vfl.report.facts import GUEST_ONLY, JOINT
from vfl.session import Session, connect
from vfl.tables import columns_of, read_table, take_columns

if TYPE_CHECKING:
    import polars

__all__ = ["EVALUATION", "JobResult", "predict_job", "run_job"]

EVALUATION = "evaluation.csv"
COEFFICIENTS = "coefficients.csv"
"""Beside the guest's report: identifiers, labels and scores of the rows held out."""


@dataclass(frozen=True)
class JobResult:
    """What a run tells its user; the rest is in the report.

    Attributes
    ----------
    folder : Path
        Holds the report, the audit log and, at the guest, the evaluation.
    own_rows, common_rows, test_rows : int
        Rows of this party's table, those in common, and those of them that were held out.
    columns : int
        Of this party, in the model.
    metrics : dict of str to (dict of str to float)
        Model to figures; empty at the host and without an evaluation.
    """

    folder: Path
    own_rows: int
    common_rows: int
    test_rows: int
    columns: int
    metrics: dict[str, dict[str, float]]


def run_job(job: Job) -> JobResult:
    """Align, fit, save and evaluate with the peer; the report is written when this returns.

    Raises
    ------
    VFLError
        Of any kind; a table that cannot be read is named before the peer is called.
    """
    party, label = job.config.party.name, job.data.label
    table = _table(job, job.folder / job.data.path)
    names = list(job.data.columns or _others(job, table))
    take_columns(table, [*names, *([label] if label else [])], party)
    if job.model_path is not None:
        _check_writable(job.model_path)
    with connect(job.config) as session:
        evaluate = msgspec.to_builtins(job.evaluate) if job.evaluate else {"test_size": 0}
        session.call("run", {"model": job.kind, **evaluate}, {})
        rows = _align(job, table)
        if label and job.kind == "logistic":
            labels(rows[label], party)
        train, test = _split(job, rows)
        model = job.estimator.fit(take_columns(train, names), train[label] if label else None)
        if job.model_path is not None:
            model.save(job.model_path)
        if model.inference:
            _write_coefficients(cast(Path, session.folder) / COEFFICIENTS, model)
        if job.evaluate:
            _evaluate(job, session, names, train, test)
        folder = cast(Path, session.folder)
    return JobResult(
        folder=folder,
        own_rows=len(table),
        common_rows=len(rows),
        test_rows=len(test),
        columns=len(names),
        metrics=session.facts.metrics,
    )


def predict_job(job: Job, data: Path, out: Path | None) -> int:
    """Score the common customers of new tables with a saved model; the guest writes them to a file.

    Parameters
    ----------
    job : Job
        Names the model and how identifiers are read.
    data : Path
        This party's new table.
    out : Path or None
        At the guest: a CSV file of mode 0600, replaced if it exists, with the identifiers as they are in `data`.
        None at the host, who gets no scores.

    Returns
    -------
    int
        Number of common customers.

    Raises
    ------
    VFLError
        Of any kind; a missing file or column is named before the peer is called.
    """
    if job.model_path is None:
        raise ConfigError("the job has no [save] section, so there is no model to predict with")
    if job.guest != (out is not None):
        wanted = (
            "name the file for the scores with --out" if job.guest else "it gets no scores: leave --out away"
        )
        raise ConfigError(f"{job.config.party.name} is the {job.config.party.role}; {wanted}")
    model = load(job.model_path)
    table = _table(job, data)
    names = [str(name) for name in model.feature_names_in_]
    take_columns(table, names, job.config.party.name)
    if out is not None:
        _check_writable(out)
    with connect(job.config) as session:
        session.call("predict", {"model": model.model_id_}, {})
        rows = _align(job, table)
        scores = _scores(model, take_columns(rows, names))
        if out is not None and scores is not None:
            what = "probability" if isinstance(model, LogisticRegression) else "prediction"
            _write_csv(out, take_columns(rows, job.data.identifiers), {what: scores})
    return len(rows)


def _table(job: Job, path: Path) -> "polars.DataFrame":
    return read_table(path, text=job.data.identifiers)


def _others(job: Job, table: "polars.DataFrame") -> list[str]:
    """Return all columns but the identifiers and the label."""
    return [name for name in columns_of(table) if name not in (*job.data.identifiers, job.data.label)]


def _align(job: Job, table: "polars.DataFrame") -> "polars.DataFrame":
    data = job.data
    rows: polars.DataFrame = align(
        table, data.identifiers, normalise=data.normalise, nulls=data.nulls, duplicates=data.duplicates
    )
    return rows


def _split(job: Job, rows: "polars.DataFrame") -> tuple["polars.DataFrame", "polars.DataFrame"]:
    """Return the rows that train and those that are held out; all train without an [evaluate] section."""
    if job.evaluate is None:
        return rows, rows.clear()
    data, evaluate = job.data, job.evaluate
    train, test = train_test_split(
        rows, data.identifiers, normalise=data.normalise, test_size=evaluate.test_size, salt=evaluate.salt
    )
    return train, test


def _evaluate(
    job: Job, session: Session, names: list[str], train: "polars.DataFrame", test: "polars.DataFrame"
) -> None:
    """Score the rows held out; the guest compares with a model of its own columns alone."""
    joint = _scores(job.estimator, take_columns(test, names))
    if joint is None or job.data.label is None:
        return
    label = job.data.label
    alone = one_table(
        job.estimator, take_columns(train, names), train[label], take_columns(test, names), session.name
    )
    scores = {GUEST_ONLY: alone, JOINT: joint}
    for name, values in scores.items():
        if job.kind == "logistic":
            record_metrics(name, (test[label] == job.estimator.classes_[1]).to_numpy(), values)
        elif job.kind == "linear":
            session.facts.metrics[name] = regression_figures(test[label].to_numpy(), values)
        else:
            power = job.estimator.variance_power
            session.facts.metrics[name] = amount_figures(test[label].to_numpy(), values, power)
    if session.folder is not None:
        _write_csv(session.folder / EVALUATION, take_columns(test, [*job.data.identifiers, label]), scores)


def _scores(model: Any, features: "polars.DataFrame") -> NDArray[np.float64] | None:
    """Return probabilities of the second class, or predictions, at the guest; None at the host."""
    if not isinstance(model, LogisticRegression):
        return cast("NDArray[np.float64] | None", model.predict(features))
    probabilities = model.predict_proba(features)
    return None if probabilities is None else probabilities[:, 1]


def _write_coefficients(path: Path, model: Any) -> None:
    """Write this party's coefficients with their standard errors; several classes one below the other."""
    import polars as pl

    tables = model.summary_ if isinstance(model.summary_, list) else [model.summary_]
    numbered = [pl.DataFrame({"model": place} | table.to_dict()) for place, table in enumerate(tables)]
    write_private(path, pl.concat(numbered).write_csv().encode())


def _write_csv(path: Path, table: "polars.DataFrame", scores: Mapping[str, NDArray[np.float64]]) -> None:
    import polars as pl

    write_private(
        path,
        table.with_columns(pl.Series(name, values) for name, values in scores.items()).write_csv().encode(),
    )


def _check_writable(path: Path) -> None:
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"cannot write {path}: {path.parent} is not a folder that may be written to")
