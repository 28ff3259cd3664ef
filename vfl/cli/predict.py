"""``vfl predict``: score new customers with a saved model."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["predict"]


def predict(
    job: Annotated[Path, typer.Argument(help="This party's job file: names the model and the identifiers.")],
    data: Annotated[Path, typer.Option(help="This party's new table, CSV or Parquet.")],
    out: Annotated[Path | None, typer.Option(help="Where the guest writes the scores, as CSV.")] = None,
) -> None:
    """Score new customers with a saved model.

    Both parties run it, each with a new table of its own. The guest gets the scores of the customers in both.
    """
    from vfl.cli.output import console, shown
    from vfl.job import load_job
    from vfl.runner import predict_job

    count = predict_job(load_job(job), data, out)
    console.print(f"{count} common customers scored" + ("" if out is None else f": {shown(out.absolute())}"))
