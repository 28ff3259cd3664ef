"""The report: every fact is on the page and in the JSON, nothing is loaded, nothing is half-written."""

import dataclasses
import itertools
import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np
import pytest

from vfl import metrics
from vfl.errors import InvalidData
from vfl.protocols.wire import Leakage
from vfl.report import (
    Alignment,
    AuditTrace,
    MessageTotal,
    PhaseCost,
    RunFacts,
    facts_json,
    write_report,
)
from vfl.report.page import page
from vfl.report.plots import Axis, Series, line_chart, ticks
from vfl.report.words import class_name, class_words, duration, figure, plain, signed

VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Collects elements, attributes and visible text, and checks that elements nest."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.styles: list[str] = []
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.styles if self.stack and self.stack[-1] == "style" else self.pieces).append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def total(message: str, leakage: str, *, sent: bool, count: int, size: int, reveals: str) -> MessageTotal:
    sender, recipient = ("bank", "retailer") if sent else ("retailer", "bank")
    return MessageTotal(
        message=message,
        sender=sender,
        recipient=recipient,
        leakage=leakage,
        reveals=reveals,
        count=count,
        size=size,
    )


def models() -> dict[str, tuple[Any, Any]]:
    generator = np.random.default_rng(5)
    a, b = generator.normal(size=(2, 400))
    y = (generator.random(400) < 1 / (1 + np.exp(-a - b))).astype(int)
    scores = {"guest only": a, "joint": a + 0.9 * b, "pooled": a + b}
    return {name: (y, 1 / (1 + np.exp(-z))) for name, z in scores.items()}


def facts(**changed: Any) -> RunFacts:
    values: dict[str, Any] = {
        "title": "Joint default model",
        "session": "5f3c-77",
        "party": "bank",
        "peer": "retailer",
        "role": "guest",
        "started": datetime(2025, 3, 14, 10, 26, 53, tzinfo=timezone(timedelta(hours=1))),
        "versions": {"vfl": "0.1.0", "python": "3.11.9"},
        "fingerprints": {"bank": "ac37:4ed5:172a", "retailer": "08fd:5d92:1db2"},
        "parameters": {
            "estimator": "LogisticRegression",
            "learning_rate": 0.15,
            "key_bits": 3072,
            "accept_leakage": ["score", "gradient"],
            "early_stopping": True,
            "class_weight": None,
        },
        "metrics": {name: metrics.summary(*model) for name, model in models().items()},
        "curves": {name: metrics.curves(*model) for name, model in models().items()},
        "history": [(1, 0.65432), (2, 0.6), (3, 0.58765)],
        "messages": [
            total("psi.matches", "intersection", sent=True, count=1, size=2448, reveals="common keys"),
            total(
                "gradient.residual", "ciphertext", sent=True, count=40, size=41_231_000, reveals="its size"
            ),
            total("gradient.opened", "gradient", sent=True, count=41, size=12_345, reveals="own gradient"),
            total("gradient.score", "score", sent=False, count=39, size=163_840, reveals="partial score"),
        ],
        "phases": [
            PhaseCost("align", 2.345, 31_120, 14_336),
            PhaseCost("train", 143.2, 41_243_000, 1_494_840),
        ],
        "alignment": Alignment(own_rows=1800, peer_bucket=2304, common_rows=1612),
        "audit": AuditTrace(path="runs/bank.audit", head="9f" * 32),
        "notes": ["Partial scores were accepted."],
    }
    return RunFacts(**{**values, **changed})


@pytest.fixture(scope="module")
def whole() -> Reader:
    return Reader(page(facts()))


def test_the_page_is_one_well_formed_document(whole: Reader) -> None:
    assert page(facts()).startswith('<!doctype html>\n<html lang="en">')
    assert whole.stack == []
    assert [whole.count(tag) for tag in ("html", "head", "body", "main", "h1")] == [1] * 5


def test_the_page_loads_nothing(whole: Reader) -> None:
    document = page(facts())
    loading = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"}
    assert not [name for _, attributes in whole.elements for name in attributes if name in loading]
    assert not whole.count("script") + whole.count("link") + whole.count("iframe") + whole.count("object")
    assert not [text for text in ("http://", "https://", "url(", "@import", "@font-face") if text in document]
    policy = next(a["content"] for _, a in whole.elements if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_tables_can_be_heard(whole: Reader) -> None:
    assert whole.count("table") == whole.count("caption") == whole.count("thead") >= 9
    assert {attributes.get("scope") for tag, attributes in whole.elements if tag == "th"} == {"row", "col"}
    pictures = [a for tag, a in whole.elements if tag == "svg" and a.get("role") == "img"]
    assert len(pictures) == 4
    assert whole.count("title") == 1 + len(pictures)


def test_light_dark_and_paper(whole: Reader) -> None:
    (style,) = whole.styles
    assert "@media screen and (prefers-color-scheme: dark)" in style
    assert "@media print" in style


EXPECTED = [
    "Joint default model",
    "Session 5f3c-77",
    "bank (guest, holds the labels)",
    "retailer (host, holds further columns)",
    "14 March 2025, 09:26 UTC",
    "Partial scores were accepted.",
    "1,612",
    "of 1,800 rows of bank",
    "2,304",
    "41.2 MB",
    "in 82 messages to retailer",
    "bank sent 82 messages",
    "Beyond the agreed result they give away gradients, which the configurations of both parties accept.",
    "psi.matches",
    "own gradient",
    "12.3 kB",
    "partial score",
    "163.8 kB",
    "2.3 s",
    "2 min 23 s",
    "2 min 26 s",
    "31.1 kB",
    "1.5 MB",
    "LogisticRegression",
    "0.15",
    "3072",
    "score, gradient",
    "yes",
    "none",
    "ac37:4ed5:172a",
    "08fd:5d92:1db2",
    "0.1.0",
    "3.11.9",
    "3 iterations; the loss went from 0.6543 to 0.5877.",
    "vfl audit verify runs/bank.audit",
    "9f" * 32,
]


@pytest.mark.parametrize("text", EXPECTED)
def test_every_fact_is_on_the_page(whole: Reader, text: str) -> None:
    assert text in whole.text


def test_every_metric_is_on_the_page(whole: Reader) -> None:
    for name, values in facts().metrics.items():
        assert name in whole.text
        for metric, value in values.items():
            assert figure(metric, value) in whole.text
    for row in facts().curves["joint"].gains:
        assert f"{row.gain:.1%}" in whole.text
        assert f"{row.lowest_score:.4f}" in whole.text


def test_the_gain_is_said_in_words(whole: Reader) -> None:
    auc = {name: values["auc"] for name, values in facts().metrics.items()}
    assert auc["joint"] > auc["guest only"]
    assert (
        f"With bank's columns alone, AUC is {auc['guest only']:.4f}. Together with retailer's columns it rises to "
        f"{auc['joint']:.4f}. One table with all columns in one place would have given {auc['pooled']:.4f}."
    ) in whole.text
    assert f"joint, +{auc['joint'] - auc['guest only']:.4f} over guest only" in whole.text


@pytest.mark.parametrize(
    ("joint", "verb"), [(0.7, "rises to 0.7000"), (0.5, "falls to 0.5000"), (0.60001, "stays at 0.6000")]
)
def test_no_gain_is_said_too(joint: float, verb: str) -> None:
    text = Reader(page(facts(metrics={"guest only": {"auc": 0.6}, "joint": {"auc": joint}}))).text
    assert f"AUC is 0.6000. Together with retailer's columns it {verb}." in text


def test_all_models_are_drawn(whole: Reader) -> None:
    lines = [a["class"] for tag, a in whole.elements if tag == "polyline"]
    assert lines.count("line main") == 4  # three charts and the loss
    assert lines.count("line alt1") == lines.count("line alt2") == lines.count("line chance") == 3


def test_the_host_is_told_where_the_figures_are() -> None:
    text = Reader(page(facts(role="host", metrics={}, curves={}, history=[]))).text
    assert "The figures need labels, which retailer holds" in text
    assert "bank (host, holds further columns)" in text
    assert "retailer (guest, holds the labels)" in text


def test_only_the_facts_that_are_there() -> None:
    bare = Reader(
        page(
            facts(
                metrics={},
                curves={},
                history=[],
                messages=[],
                phases=[],
                alignment=None,
                audit=None,
                notes=[],
            )
        )
    )
    assert bare.stack == []
    assert "No audit log was kept." in bare.text
    assert "bank sent 0 messages (0 B)" in bare.text
    assert "How good the model is" not in bare.text


def test_a_quiet_run_is_called_so() -> None:
    quiet = [total("psi.blinded", "uniform", sent=True, count=1, size=9, reveals="nothing")]
    text = Reader(page(facts(messages=quiet))).text
    assert "None of them belongs to a class that gives away more than the agreed result." in text
    assert "accepted leakage" not in text


def test_metrics_of_a_regression() -> None:
    text = Reader(page(facts(metrics={"joint": {"rmse": 1234.5, "pinball": 0.25}}, curves={}))).text
    assert "RMSE of the joint model: 1,234.5000." in text
    assert "pinball" in text


EVIL = "<script>alert('x\"')</script>&amp;</style><!--"


def poisoned(value: Any) -> Any:
    """Return a copy in which every free text and every key carries markup."""
    if isinstance(value, str):
        return value if value in list(Leakage) or value == "guest" else value + EVIL
    if isinstance(value, dict):
        return {poisoned(k): poisoned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(v) for v in value]
    if isinstance(value, metrics.ModelCurves):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: poisoned(getattr(value, f.name)) for f in dataclasses.fields(value)})
    return value


def test_no_value_becomes_markup(whole: Reader) -> None:
    evil = Reader(page(poisoned(facts())))
    assert evil.stack == []
    assert evil.count("script") == 0
    assert [tag for tag, _ in evil.elements] == [tag for tag, _ in Reader(page(renamed())).elements]
    assert evil.text.count(EVIL) > 60


def renamed() -> RunFacts:
    """Return facts with names as unknown as those of the poisoned ones, but harmless."""
    raw = msgspec.json.encode(poisoned(facts())).replace(json.dumps(EVIL)[1:-1].encode(), b"-x")
    return msgspec.json.decode(raw, type=RunFacts)


def test_the_json_holds_the_facts() -> None:
    raw = facts_json(facts())
    values = json.loads(raw)
    assert values.pop("format") == "vfl report 1"
    assert msgspec.convert(values, RunFacts) == facts()
    assert values["metrics"]["joint"]["auc"] == facts().metrics["joint"]["auc"]
    assert values["started"] == "2025-03-14T10:26:53+01:00"
    assert set(values) == {field.name for field in dataclasses.fields(RunFacts)}


def test_the_json_is_stable() -> None:
    raw = facts_json(facts())
    assert raw == facts_json(facts())
    assert raw.endswith(b"}\n")
    assert list(json.loads(raw)) == sorted(json.loads(raw))


def test_numpy_numbers_are_numbers() -> None:
    history = [(np.int64(1), np.float64(0.5)), (np.int64(2), np.float64(0.25))]
    assert json.loads(facts_json(facts(history=history)))["history"] == [[1, 0.5], [2, 0.25]]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), np.float64("-inf")])
def test_numbers_that_json_does_not_have(tmp_path: Path, number: float) -> None:
    with pytest.raises(InvalidData, match=r"not a finite number: metrics\.joint\.auc, history\[1\]\[1\]$"):
        write_report(tmp_path, facts(metrics={"joint": {"auc": number}}, history=[(1, 0.5), (2, number)]))
    assert not list(tmp_path.iterdir())


def test_a_start_without_time_zone() -> None:
    with pytest.raises(InvalidData, match="time zone"):
        facts_json(facts(started=datetime(2025, 1, 1)))


def test_an_unknown_leakage_class() -> None:
    with pytest.raises(InvalidData, match=r"message psi\.new has the unknown leakage class 'gossip'"):
        total("psi.new", "gossip", sent=True, count=1, size=1, reveals="?")


def test_both_files_are_written(tmp_path: Path) -> None:
    path = write_report(tmp_path / "a" / "run", facts())
    assert path == tmp_path / "a" / "run" / "report.html"
    assert path.read_text() == page(facts())
    assert path.with_name("report.json").read_bytes() == facts_json(facts())
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "report.json"]
    assert {stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_later_report_takes_the_place_of_the_earlier(tmp_path: Path) -> None:
    write_report(tmp_path, facts(started=datetime(2024, 1, 1, tzinfo=UTC)))
    path = write_report(tmp_path, facts())
    assert path.read_text() == page(facts())


@pytest.mark.parametrize(("call", "good"), list(itertools.product(["fsync", "replace"], [0, 1])))
def test_nothing_is_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, good: int
) -> None:
    write_report(tmp_path, facts(title="old"))
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls, original = itertools.count(), getattr(os, call)

    def fail_after(*arguments: Any) -> Any:
        return original(*arguments) if next(calls) < good else full()

    def full() -> NoReturn:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail_after)
        with pytest.raises(OSError, match="No space left"):
            write_report(tmp_path, facts(title="new"))
    new = {"report.json": facts_json(facts(title="new")), "report.html": page(facts(title="new")).encode()}
    for path in tmp_path.iterdir():
        assert path.read_bytes() in (old[path.name], new[path.name])
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("leakage", list(Leakage))
def test_every_leakage_class_has_words(leakage: Leakage) -> None:
    assert class_name(leakage)
    assert class_words(leakage).endswith(".")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (60, "1 min 00 s"), (125.4, "2 min 05 s")]
    + [(3599.9, "1 h 00 min"), (3661, "1 h 01 min"), (90_000, "25 h 00 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_figures() -> None:
    assert figure("auc", 0.78125) == "0.7812"
    assert figure("rows", 12345) == "12,345"
    assert figure("base_rate", 0.3) == "30.0%"
    assert signed(0.0441) == "+0.0441"
    assert signed(-0.0441) == "−0.0441"
    assert [plain(v) for v in (True, False, None, [], ["a", "b"], 0.1, 1)] == [
        "yes", "no", "none", "none", "a, b", "0.1", "1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (1, 20, [5, 10, 15, 20]),
        (1, 2, [1, 1.2, 1.4, 1.6, 1.8, 2]),
        (-0.001, 0.001, [-0.001, -0.0005, 0, 0.0005, 0.001]),
        (1200, 99_000, [20_000, 40_000, 60_000, 80_000]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def axes() -> Iterator[tuple[float, float]]:
    generator = np.random.default_rng(1)
    for exponent in range(-9, 9):
        low = float(generator.normal()) * 10.0**exponent
        yield low, low + float(generator.random() + 0.1) * 10.0**exponent


@pytest.mark.parametrize(("low", "high"), list(axes()))
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found, slack = ticks(low, high), (high - low) * 1e-6
    assert 2 <= len(found) <= 6
    assert all(low - slack <= value <= high + slack for value in found)


def test_points_land_where_they_should() -> None:
    line = Series("x", [(0, 10), (5, 15), (10, 20)], "main", marked=True)
    chart = Reader(line_chart("a & b", [line], Axis("across", 0, 10), Axis("up", 10, 20)))
    points = next(a["points"] for tag, a in chart.elements if tag == "polyline")
    assert points == "44,220 171,115 298,10"
    dots = [(a["cx"], a["cy"]) for tag, a in chart.elements if tag == "circle"]
    assert [",".join(map(str, dot)).replace(".0", "") for dot in dots] == str(points).split()
    assert "a & b" in chart.text
    assert "across" in chart.text


def test_one_iteration_and_a_flat_loss_are_drawn() -> None:
    for history in ([(1, 0.5)], [(1, 0.0)], [(1, 0.5), (2, 0.5)]):
        assert "the loss went from" in Reader(page(facts(history=history))).text
