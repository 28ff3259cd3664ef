"""What the commands print: plain tables on the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

__all__ = ["console", "metrics_table", "rows_table", "show_facts", "shown"]

console = Console(highlight=False, soft_wrap=True)
_FIGURES = {"auc": "AUC", "ks": "KS", "log_loss": "log loss", "r2": "R2", "rmse": "RMSE"}


def show_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print names and what holds for them, below each other."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        console.print(f"  {name:<{width}}  {value}", markup=False)


def rows_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of texts; what begins with a digit stands on the right."""
    table = Table(box=box.SIMPLE_HEAD)
    for name, text in zip(header, rows[0], strict=True):
        table.add_column(name, justify="right" if text[:1].isdigit() else "left")
    for row in rows:
        table.add_row(*row)
    return table


def metrics_table(models: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table with a row per model and the figures that this project reports."""
    figures = [name for name in _FIGURES if all(name in values for values in models.values())]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in figures:
        table.add_column(_FIGURES[name], justify="right")
    for model, values in models.items():
        table.add_row(model, *(f"{values[name]:.4f}" for name in figures))
    return table


def shown(path: Path) -> str:
    """Return a path relative to the current folder if it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
