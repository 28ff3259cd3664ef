"""The part of a report about what crossed the wire: what left, what it tells, what it cost."""

from collections.abc import Iterator

from vfl.progress import readable_bytes
from vfl.report.facts import MessageTotal, RunFacts
from vfl.report.markup import Markup, join, section, table, tag
from vfl.report.words import OPEN, class_level, class_name, class_rank, class_words, duration

__all__ = ["cost", "traffic"]


def traffic(facts: RunFacts) -> Markup:
    """Return what left this party and what came in, by leakage class and by type of message."""
    sent = [total for total in facts.messages if total.sender == facts.party]
    received = [total for total in facts.messages if total.sender != facts.party]
    classes = sorted({total.leakage for total in sent}, key=class_rank)
    return section(
        "What left the building",
        tag("p", *_disclosure(facts, sent), class_="statement"),
        table(
            f"What {facts.party} sent, by leakage class",
            ["Class", "In plain words", "Messages", "Size"],
            [_class_row(name, [total for total in sent if total.leakage == name]) for name in classes],
            numeric=[2, 3],
        ),
        *(_pair_tables(facts.party, peer, sent, received) for peer in facts.peer.split(", ")),
        tag(
            "p",
            "These statements rest on the encryption and on both parties following the protocol. Whoever watches the "
            "network sees sizes and times.",
            class_="explain after",
        ),
    )


def _disclosure(facts: RunFacts, sent: list[MessageTotal]) -> Iterator[str]:
    count, size = sum(total.count for total in sent), sum(total.size for total in sent)
    yield f"{facts.party} sent {count:,} messages ({readable_bytes(size)}) to {facts.peer}. "
    telling = sorted({total.leakage for total in sent if class_level(total.leakage) == OPEN}, key=class_rank)
    if telling:
        names = " and ".join(class_name(leakage).lower() for leakage in telling)
        yield f"Beyond the agreed result they give away {names}, which the configurations of both parties accept."
    else:
        yield "None of them belongs to a class that gives away more than the agreed result."


def _class_row(leakage: str, totals: list[MessageTotal]) -> list[object]:
    style, mark = class_level(leakage)
    return [
        tag("span", class_name(leakage), tag("br"), tag("span", mark, class_=f"chip {style}"), class_="kind"),
        tag("span", class_words(leakage), class_="text"),
        f"{sum(total.count for total in totals):,}",
        readable_bytes(sum(total.size for total in totals)),
    ]


def _pair_tables(party: str, peer: str, sent: list[MessageTotal], received: list[MessageTotal]) -> Markup:
    there = [total for total in sent if total.recipient == peer]
    back = [total for total in received if total.sender == peer]
    return join(
        _message_table(f"Every type of message from {party} to {peer}", there),
        _message_table(f"Every type of message from {peer} to {party}", back),
    )


def _message_table(caption: str, totals: list[MessageTotal]) -> Markup:
    rows = [
        [
            tag("code", total.message),
            class_name(total.leakage),
            tag("span", total.reveals, class_="text"),
            f"{total.count:,}",
            readable_bytes(total.size),
        ]
        for total in sorted(totals, key=lambda total: (class_rank(total.leakage), total.message))
    ]
    return table(caption, ["Message", "Class", "What it tells", "Messages", "Size"], rows, numeric=[3, 4])


def cost(facts: RunFacts) -> Markup:
    """Return time and traffic by phase."""
    if not facts.phases:
        return Markup("")
    longest = max(phase.seconds for phase in facts.phases) or 1.0
    rows = [
        [
            phase.name,
            duration(phase.seconds),
            _bar(phase.seconds / longest),
            readable_bytes(phase.sent),
            readable_bytes(phase.received),
        ]
        for phase in facts.phases
    ]
    total = [
        "Total",
        duration(sum(phase.seconds for phase in facts.phases)),
        "",
        readable_bytes(sum(phase.sent for phase in facts.phases)),
        readable_bytes(sum(phase.received for phase in facts.phases)),
    ]
    head = ["Phase", "Time", "Relative", "Sent", "Received"]
    return section(
        "What it cost", table("Time and traffic by phase", head, rows, numeric=[1, 3, 4], last=total)
    )


def _bar(share: float) -> Markup:
    filled = tag("span", class_="bar", style=f"width:{share:.1%}")
    return tag("span", filled, class_="track", aria_hidden="true")
