"""The notebook on attacks runs from top to bottom: every control succeeds, every defence that it praises holds."""

from typing import Any

import pytest

from tests.notebooks import ROOT, figures_of

NOTEBOOK = ROOT / "notebooks" / "08_attacks_and_defences.ipynb"

# Runs after the notebook's own cells and prints what the assertions need.
FIGURES = """{
    "quality": {title: [float(v) for v in values] for title, values in quality_of.items()},
    "guess": guess,
    "sums": dict(zip(sizes, found, strict=True)),
    "warned": {size: len(texts) for size, texts in warned.items()},
    "worth": worth,
    "model": model_worth,
    "epsilon": epsilon,
    "accuracy": {name: values[-1] for name, values in accuracy.items()},
    "opened": {name: values[0] for name, values in opened.items()},
    "findings": [(one.attack, one.verdict) for one in findings],
}"""


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    found: dict[str, Any] = figures_of(NOTEBOOK, FIGURES)
    return found


def test_rows_from_updates_and_from_sums(figures: dict[str, Any]) -> None:
    quality = figures["quality"]
    assert min(quality["from its update"]) > 60
    for title in ("from its masked update", "from the sum"):
        assert sum(quality[title]) / 6 <= min(12, figures["guess"] + 0.5)
    assert figures["sums"]["3"] > 60
    assert figures["sums"]["44"] < 20
    assert figures["warned"] == {"3": 1, "8": 1, "16": 1, "28": 1, "44": 0}


def test_members_are_told_from_others_without_privacy_alone(figures: dict[str, Any]) -> None:
    assert figures["worth"]["without"] > 0.6
    assert figures["worth"]["epsilon 3"] <= 0.535
    assert figures["epsilon"] <= 3
    assert figures["model"]["epsilon 3"] > figures["model"]["without"] - 0.03


def test_poison_and_marks(figures: dict[str, Any]) -> None:
    accuracy, opened = figures["accuracy"], figures["opened"]
    assert max(accuracy["mean"], accuracy["secure mean"]) < 0.5
    assert min(opened["mean"], opened["secure mean"]) > 0.9
    for name in ("norm clipping", "median", "secure groups, median"):
        assert accuracy[name] > accuracy["no attack"] - 0.02
        assert opened[name] < 0.1


def test_the_file_says_the_same(figures: dict[str, Any]) -> None:
    assert ["gradient inversion", "fails"] in figures["findings"]
    assert not any(verdict == "succeeds" for _, verdict in figures["findings"])
