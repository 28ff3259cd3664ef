"""``vfl audit``: whether an audit log is what its party signed, and what a transcript gives to an attacker."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Look into audit logs and transcripts.", no_args_is_help=True)


@app.callback()
def _audit() -> None:
    """Look into audit logs and transcripts."""


@app.command()
def verify(
    log: Annotated[Path, typer.Argument(help="An audit log, e.g. runs/.../audit.jsonl.")],
    certificate: Annotated[
        Path | None, typer.Option(help="Certificate of the party that must have signed it.")
    ] = None,
) -> None:
    """Check every line, the chain between them and the signature; the first damaged line is named."""
    from vfl import audit
    from vfl.cli.output import console, rows_table, show_facts
    from vfl.crypto.signatures import certificate_public_bytes, fingerprint
    from vfl.errors import ConfigError, InvalidKey
    from vfl.progress import readable_bytes

    expected = None
    if certificate is not None:
        try:
            expected = certificate_public_bytes(certificate.read_bytes())
        except OSError as error:
            raise ConfigError(f"cannot read {certificate}: {error.strerror}") from None
        except InvalidKey as error:
            raise ConfigError(f"{certificate}: {error}") from None
    found = audit.verify(log, expected)
    header = found.header
    console.print(f"{log}: complete and unchanged")
    whose = "" if expected else " (whose it is was not checked: pass --certificate)"
    show_facts(
        [
            ("party", f"{header.party}, with {header.peer}"),
            ("key", fingerprint(found.public_bytes) + whose),
            ("session", header.session),
            ("from", found.started),
            ("until", found.ended),
            ("outcome", ", ".join(f"{value}" for value in found.summary.values())),
            ("last hash", found.head),
        ]
    )
    rows = [
        (message, leakage, str(count), readable_bytes(size))
        for (message, leakage), (count, size) in found.totals.items()
    ]
    rows.append(("all", "", str(found.messages), readable_bytes(found.size)))
    console.print(rows_table((f"sent by {header.party}", "leakage", "messages", "size"), rows))


@app.command()
def attack(
    transcript: Annotated[
        Path, typer.Argument(help="What a party has seen, written by vfl.views.View.save.")
    ],
    known: Annotated[
        Path | None, typer.Option(help="NPZ file with the truth to compare with: X, y, owner; host.")
    ] = None,
    most: Annotated[int, typer.Option(help="Updates and sums that are inverted, of each kind.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run the known attacks on what one party has seen, and say how far they come."""
    from vfl.attacks.findings import Known
    from vfl.attacks.lab import attack as run
    from vfl.cli.output import console, rows_table
    from vfl.views import View

    view = View.load(transcript)
    found = run(view, None if known is None else Known.load(known), most)
    if json:
        import msgspec

        plain = {"party": view.party, "received": view.counts(), "findings": [one.plain() for one in found]}
        typer.echo(msgspec.json.encode(plain).decode())
        return
    console.print(f"{transcript}: what {view.party} has seen, {len(view.messages)} messages", markup=False)
    header = ("attack", "on", "verdict", "reached", "chance", "measure")
    shown = [
        (
            f.attack,
            f.target,
            f.verdict,
            _figure(f.reached),
            _figure(f.chance),
            f.note if f.reached is None else f.measure,
        )
        for f in found
    ]
    console.print(rows_table(header, shown))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
