"""``vfl run``: a whole job with the peer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vfl.job import Job
    from vfl.runner import JobResult

__all__ = ["run"]


def run(job: Annotated[Path, typer.Argument(help="This party's job file, e.g. bank.job.toml.")]) -> None:
    """Train and evaluate a model with the peer.

    Both parties run it, each with a job file of its own: align, fit, save, evaluate, report.
    """
    from vfl.job import load_job
    from vfl.runner import run_job

    loaded = load_job(job)
    _print(loaded, run_job(loaded))


def _print(job: "Job", result: "JobResult") -> None:
    from vfl.cli.output import console, metrics_table, show_facts, shown
    from vfl.runner import EVALUATION

    files = [("report", result.folder / "report.html"), ("audit log", result.folder / "audit.jsonl")]
    if job.model_path is not None:
        files.append(("half of the model", job.model_path))
    console.print(f"common customers: {result.common_rows} of {result.own_rows}")
    if result.metrics:
        files.append(("held-out scores", result.folder / EVALUATION))
        alone = f"{result.columns} own columns"
        console.print(
            f"{result.test_rows} of them held out; guest only: {alone}, joint: those and {job.config.peer_names}'s"
        )
        console.print(metrics_table(result.metrics))
    show_facts([(name, shown(path)) for name, path in files])
