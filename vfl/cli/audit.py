"""``vfl audit verify``: whether an audit log is what its party signed."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Look into audit logs.", no_args_is_help=True)


@app.callback()
def _audit() -> None:
    """Look into audit logs."""


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
