"""The part of a report about the models: figures, verdict, plots and gains table."""

from collections.abc import Iterator

from vfl.metrics import GainsRow
from vfl.report.facts import GUEST_ONLY, JOINT, POOLED, RunFacts
from vfl.report.markup import Markup, join, section, table, tag
from vfl.report.plots import Axis, Series, legend, line_chart
from vfl.report.words import OF_DATA, figure, main_model, metric_name, metric_words, signed

__all__ = ["plots", "quality"]


def quality(facts: RunFacts) -> Markup:
    """Return every model's figures, what they mean and what the joint model gains."""
    if not facts.metrics:
        text = f"The figures need labels, which {facts.peer} holds: they are in its report."
        return section("How good the model is", tag("p", text)) if facts.role == "host" else Markup("")
    names = list(dict.fromkeys(metric for values in facts.metrics.values() for metric in values))
    rows = [
        [model, *(figure(name, values[name]) if name in values else "–" for name in names)]
        for model, values in facts.metrics.items()
    ]
    lift = _lift(facts)
    change = [f"{JOINT} − {GUEST_ONLY}", *(signed(lift[name]) if name in lift else "" for name in names)]
    words = [(metric_name(name), metric_words(name)) for name in names]
    return section(
        "How good the model is",
        tag("p", *_verdict(facts), class_="statement"),
        table(
            "Figures by model",
            ["Model", *map(metric_name, names)],
            rows,
            numeric=range(1, len(names) + 1),
            last=change if lift else [],
        ),
        tag("dl", *(join(tag("dt", name), tag("dd", text)) for name, text in words if text), class_="words"),
    )


def _lift(facts: RunFacts) -> dict[str, float]:
    """Return the joint model's figures minus those of the guest alone, for the metrics that both have."""
    before, after = facts.metrics.get(GUEST_ONLY, {}), facts.metrics.get(JOINT, {})
    return {name: after[name] - before[name] for name in after if name in before and name not in OF_DATA}


def _verdict(facts: RunFacts) -> Iterator[str]:
    """Say in sentences what the first metric shows."""
    model = main_model(facts.metrics) or ""
    metric, value = next(iter(facts.metrics[model].items()))
    label = metric_name(metric)
    guest, host = (facts.party, facts.peer) if facts.role == "guest" else (facts.peer, facts.party)
    lift = _lift(facts).get(metric)
    if lift is None:
        yield f"{label} of the {model} model: {figure(metric, value)}."
    else:
        before = figure(metric, value - lift)
        verb = "stays at" if before == figure(metric, value) else "rises to" if lift > 0 else "falls to"
        yield f"With {guest}'s columns alone, {label} is {before}. Together with {host}'s columns it {verb} "
        yield f"{figure(metric, value)}."
    pooled = facts.metrics.get(POOLED, {}).get(metric)
    if pooled is not None and model != POOLED:
        yield f" One table with all columns in one place would have given {figure(metric, pooled)}."


def plots(facts: RunFacts) -> Markup:
    """Return ROC, gains and calibration curves of all models and the gains table of the main one."""
    if not facts.curves:
        return Markup("")
    main = main_model(facts.curves) or ""
    drawn = [name for name in facts.curves if name != main] + [main]
    styles = {name: f"alt{index % 3 + 1}" for index, name in enumerate(drawn)} | {main: "main"}
    diagonal = Series("chance", [(0, 0), (1, 1)], "chance")

    def chart(title: str, words: str, lines: dict[str, list[tuple[float, float]]], x: str, y: str) -> Markup:
        series = [Series(name, lines[name], styles[name]) for name in drawn]
        picture = line_chart(
            f"{title} of the models {', '.join(facts.curves)}",
            [diagonal, *series],
            Axis(x, 0, 1),
            Axis(y, 0, 1),
        )
        return tag("figure", tag("figcaption", tag("b", title), words), picture)

    roc = {name: curves.roc for name, curves in facts.curves.items()}
    gains = {
        name: [(0.0, 0.0), *((row.band / len(curves.gains), row.gain) for row in curves.gains)]
        for name, curves in facts.curves.items()
    }
    calibration = {
        name: [(row.predicted, row.observed) for row in curves.calibration]
        for name, curves in facts.curves.items()
    }
    return section(
        "Ranking and calibration",
        legend([Series(name, [], styles[name]) for name in facts.curves]),
        tag(
            "div",
            chart(
                "ROC curve",
                "Up and to the left is better; the thin line is chance.",
                roc,
                "False positive rate",
                "True positive rate",
            ),
            chart(
                "Cumulative gains",
                "Positives found when the highest scores are looked at first.",
                gains,
                "Share of rows, highest scores first",
                "Share of positives found",
            ),
            chart(
                "Calibration",
                "On the thin line, predicted and observed rates agree.",
                calibration,
                "Predicted rate",
                "Observed rate",
            ),
            class_="plots",
        ),
        _gains_table(f"Gains table of the {main} model", facts.curves[main].gains),
    )


def _gains_table(caption: str, gains: list[GainsRow]) -> Markup:
    rows = [
        [
            row.band,
            f"{row.rows:,.1f}".removesuffix(".0"),
            f"{row.positives:,.1f}".removesuffix(".0"),
            f"{row.rate:.1%}",
            f"{row.gain:.1%}",
            f"{row.lift:.2f}",
            f"{row.lowest_score:.4f}",
        ]
        for row in gains
    ]
    head = ["Band", "Rows", "Positives", "Rate", "Cumulative gain", "Cumulative lift", "Lowest score"]
    return table(caption, head, rows, numeric=range(1, len(head)))
