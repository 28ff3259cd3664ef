"""The notebook on common customers runs from top to bottom; its results are those of the pooled tables."""

import json
import re
from typing import Any

import nbformat
import pytest

from tests.notebooks import ROOT, complaints, execute, printed, read

NOTEBOOK = ROOT / "notebooks" / "04_finding_common_customers.ipynb"

# Runs after the notebook's own cells and prints what the assertions need.
FIGURES = """{
    "common": [len(pooled()), counted["bank"], counted["shop"], summed["bank"]["rows"], len(aligned["shop"]),
               len(enriched["bank"]), int(weight.sum())],
    "same_text": same_text,
    "more": len(more["bank"]),
    "either": len({p for key in ("email", "phone") for p in pooled(key)}),
    "everyone": [len(everyone), len(three["telco"])],
    "senders": [row[:2] for row in crossed],
    "attacks": [difference, len(found), len(caught), differencing, guessing],
}"""


@pytest.fixture(scope="module")
def executed() -> nbformat.NotebookNode:
    return execute(NOTEBOOK, FIGURES)


@pytest.fixture(scope="module")
def figures(executed: nbformat.NotebookNode) -> dict[str, Any]:
    found: dict[str, Any] = printed(executed)
    return found


def test_no_cell_of_the_common_customers_complains(executed: nbformat.NotebookNode) -> None:
    assert complaints(executed) == []


def test_every_call_finds_what_the_pooled_tables_have(figures: dict[str, Any]) -> None:
    pooled, counted, untold, *others = figures["common"]
    assert untold is None
    assert {counted, *others} == {pooled}
    assert figures["same_text"] < pooled < figures["more"] == figures["either"]
    assert figures["everyone"][0] == figures["everyone"][1] < pooled


def test_what_crossed_stands_with_its_sender(figures: dict[str, Any]) -> None:
    assert figures["senders"] == [
        ["psi.size", "bank"], ["psi.size", "shop"], ["psi.commitment", "shop"], ["psi.blinded", "bank"],
        ["psi.evaluated", "shop"], ["psi.tags", "shop"], ["psi.opening", "shop"], ["psi.matches", "bank"],
    ]  # fmt: skip


def test_each_attack_works_without_its_guard_and_is_refused_with_it(figures: dict[str, Any]) -> None:
    difference, found, warned, differencing, guessing = figures["attacks"]
    assert [difference, found] == [1, 60]
    assert warned > 0
    assert "differ in about 1 rows" in differencing
    assert "trying them out" in guessing


def test_the_stored_outputs_are_of_a_whole_run_in_order() -> None:
    cells = [cell for cell in read(NOTEBOOK).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    text = json.dumps(cells)
    assert not re.search(r"/(home|root|tmp)/", text)
