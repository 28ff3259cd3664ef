"""The page of a report: the facts of a run in plain words, tables and plots, in one HTML document."""

from datetime import UTC

from vfl.progress import readable_bytes
from vfl.report.facts import GUEST_ONLY, JOINT, RunFacts
from vfl.report.markup import Markup, join, section, table, tag
from vfl.report.plots import Axis, Series, line_chart
from vfl.report.quality import plots, quality
from vfl.report.style import STYLE
from vfl.report.traffic import cost, traffic
from vfl.report.words import HISTORIES, duration, figure, main_model, metric_name, plain, signed

__all__ = ["page"]


def page(facts: RunFacts) -> str:
    """Return the HTML document; it loads nothing from anywhere."""
    parts = [
        _head,
        _tiles,
        _notes,
        quality,
        plots,
        traffic,
        cost,
        _training,
        _parameters,
        _identities,
        _foot,
    ]
    body = tag("main", *(part(facts) for part in parts))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        # a promise that the browser keeps: nothing is loaded and no script runs
        tag(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'",
        ),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{facts.title}: {facts.party} with {facts.peer}"),
        tag("style", Markup(STYLE)),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", body), lang="en") + "\n"


def _head(facts: RunFacts) -> Markup:
    other = "host" if facts.role == "guest" else "guest"
    holds = {"guest": "holds the labels", "host": "holds further columns"}
    started = f"{facts.started.astimezone(UTC):%d %B %Y, %H:%M} UTC"
    return tag(
        "header",
        tag("p", "Vertical federated learning · run report", class_="eyebrow"),
        tag("h1", facts.title),
        tag(
            "p",
            join(
                "Report of ",
                tag("b", facts.party),
                f" ({facts.role}, {holds.get(facts.role, '')}) on its run ",
            ),
            join("with ", tag("b", facts.peer), f" ({other}, {holds.get(other, '')})"),
            class_="lead",
        ),
        tag("p", f"Started {started} · Session ", tag("code", facts.session), class_="muted"),
    )


def _notes(facts: RunFacts) -> Markup:
    if not facts.notes:
        return Markup("")
    return tag(
        "aside",
        tag("h2", "Read this first"),
        tag("ul", *(tag("li", note) for note in facts.notes)),
        class_="notes",
    )


def _tiles(facts: RunFacts) -> Markup:
    """Return the figures that a reader looks for first."""
    tiles = []
    model = main_model(facts.metrics)
    if model is not None:
        metric, value = next(iter(facts.metrics[model].items()))
        baseline = facts.metrics.get(GUEST_ONLY, {}).get(metric) if model == JOINT else None
        against = f", {signed(value - baseline)} over {GUEST_ONLY}" if baseline is not None else ""
        tiles.append((metric_name(metric), figure(metric, value), f"{model}{against}"))
    if facts.alignment is not None:
        own, common = facts.alignment.own_rows, facts.alignment.common_rows
        tiles.append(("Common rows", f"{common:,}", f"of {own:,} rows of {facts.party}"))
    sent = [total for total in facts.messages if total.sender == facts.party]
    size, count = sum(total.size for total in sent), sum(total.count for total in sent)
    tiles.append(("Left the building", readable_bytes(size), f"in {count:,} messages to {facts.peer}"))
    if facts.phases:
        tiles.append(
            ("Time", duration(sum(p.seconds for p in facts.phases)), f"in {len(facts.phases)} phases")
        )
    return tag(
        "dl",
        *(tag("div", tag("dt", a), tag("dd", b), tag("dd", c, class_="small")) for a, b, c in tiles),
        class_="tiles",
    )


def _training(facts: RunFacts) -> Markup:
    if not facts.history:
        return Markup("")
    steps, values = [step for step, _ in facts.history], [value for _, value in facts.history]
    name, meaning = facts.history_name, HISTORIES.get(facts.history_name, "")
    margin = (max(values) - min(values)) * 0.08 or abs(values[0]) * 0.1 or 1.0
    across = Axis("Iteration", min(steps), max(max(steps), min(steps) + 1))
    up = Axis(name.capitalize(), min(values) - margin, max(values) + margin)
    line = Series(name, facts.history, "main", marked=len(steps) <= 40)
    count = f"{len(steps)} iterations" if len(steps) > 1 else "1 iteration"
    words = f"{count}; the {name} went from {values[0]:.4f} to {values[-1]:.4f}."
    title = f"{name.capitalize()} by iteration"
    caption = tag("figcaption", tag("b", title), f"{words} {meaning}".strip())
    drawing = tag("figure", caption, line_chart(f"{title}: {words}", [line], across, up))
    return section("How the training went", tag("div", drawing, class_="plots one"))


def _parameters(facts: RunFacts) -> Markup:
    rows: list[list[object]] = [[name, tag("code", plain(value))] for name, value in facts.parameters.items()]
    if facts.alignment is not None:
        where = facts.alignment
        rows += [
            [f"rows of {facts.party}", tag("code", f"{where.own_rows:,}")],
            [f"rows of {facts.peer}, padded", tag("code", f"{where.peer_bucket:,}")],
            ["common rows", tag("code", f"{where.common_rows:,}")],
        ]
    return section("What was agreed", table("Parameters and sizes", ["Name", "Value"], rows))


def _identities(facts: RunFacts) -> Markup:
    keys = [[party, tag("code", key)] for party, key in facts.fingerprints.items()]
    versions = [[name, tag("code", version)] for name, version in facts.versions.items()]
    return section(
        "Who took part, and how to check it",
        tag(
            "p",
            "Compare these fingerprints with what the other party reads out to you: they are the keys that proved "
            "the connection.",
        ),
        table("Identity keys", ["Party", "Fingerprint"], keys),
        table("Software", ["Name", "Version"], versions),
        _audit(facts),
    )


def _audit(facts: RunFacts) -> Markup:
    if facts.audit is None:
        return tag("p", "No audit log was kept.", class_="after")
    rows = [
        ["File", tag("code", facts.audit.path)],
        ["Hash of the last line", tag("code", facts.audit.head)],
        ["Check", tag("code", f"vfl audit verify {facts.audit.path}")],
    ]
    words = "The audit log has one line for every message that left. The check fails when a byte of it was changed, "
    words += "and shows the hash above when none was."
    return join(table("Audit log", ["Fact", "Value"], rows), tag("p", words, class_="explain after"))


def _foot(facts: RunFacts) -> Markup:
    return tag(
        "footer",
        f"report.json holds the same facts. This page loads nothing from any network and was sent to nobody; it holds "
        f"figures of {facts.party}, so to pass it on is a decision of its own.",
    )
