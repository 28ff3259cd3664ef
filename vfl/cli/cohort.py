"""``vfl cohort``: folders of clients and of their aggregator, the aggregator's process, who is in a cohort."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vfl.cli.init import PARTY_NAME

if TYPE_CHECKING:
    from vfl.errors import VFLError
    from vfl.protocols.secagg.client import Result
    from vfl.protocols.secagg.policy import Task

__all__ = ["app"]

app = typer.Typer(
    help="Sums over several clients that show nobody's part.", no_args_is_help=True, rich_markup_mode=None
)

_CONFIGURATION = """\
# {name}, {role} of the cohort {cohort}. Paths are relative to this file.

[party]
name = "{name}"
role = "{role}"
# The private identity key: mode 0600, never to leave this machine.
key = "{name}.key"
# The certificate that belongs to it: give it to the others.
certificate = "{name}.pem"

[aggregator]
{aggregator}

# The same at all parties; clients refuse an aggregator that has other numbers.
[cohort]
name = "{cohort}"
# Certificates of all clients, NAME.pem, this party's own included if it is one: compare `vfl cohort show`.
clients = "clients"
# Most clients that may work together with the aggregator; -1: the most below a third.
colluders = -1
# No sum over fewer clients than this; 0: as few as the protocol allows.
minimum = 0
"""


def _name(name: str) -> str:
    if not PARTY_NAME.fullmatch(name):
        raise typer.BadParameter("a name has 1 to 64 letters, digits, hyphens and underscores")
    return name


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of this party.", callback=_name)],
    cohort: Annotated[str, typer.Option(help="Name of the cohort.", callback=_name)],
    listen: Annotated[str | None, typer.Option(help="At the aggregator: host:port for the clients.")] = None,
    connect: Annotated[str | None, typer.Option(help="At a client: the aggregator's host:port.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to write; default: ./NAME.")] = None,
) -> None:
    """Make key, certificate and configuration of a client or of the aggregator.

    They go into a folder of mode 0700. Nothing is overwritten.
    """
    from datetime import UTC, datetime

    from vfl.cli.init import _private_folder
    from vfl.crypto.signatures import IdentityKey, fingerprint, self_signed_certificate
    from vfl.model import write_private

    if (listen is None) == (connect is None):
        raise typer.BadParameter("the aggregator has --listen, a client --connect")
    role = "client" if listen is None else "aggregator"
    place = folder or Path(name)
    key = IdentityKey.generate()
    certificate = self_signed_certificate(key, name, datetime.now(UTC))
    aggregator = (
        f'listen = "{listen}"\n'
        "# How long to wait for clients at the start of a round, and for their answers, in seconds.\n"
        "gather_seconds = 60.0\nstage_seconds = 120.0"
        if connect is None
        else 'name = "aggregator"\n# Its certificate: put it here.\ncertificate = "aggregator.pem"\n'
        f'connect = "{connect}"'
    )
    text = _CONFIGURATION.format(name=name, role=role, cohort=cohort, aggregator=aggregator)
    contents = {f"{name}.key": key.to_pem(), f"{name}.pem": certificate, f"{name}.toml": text.encode()}
    _private_folder(place, [*contents, "clients"])
    (place / "clients").mkdir(mode=0o700)
    for file, content in contents.items():
        write_private(place / file, content)
    if role == "client":
        write_private(place / "clients" / f"{name}.pem", certificate)
    typer.echo(
        f"{place} holds {', '.join(contents)}.\n\n  fingerprint of {name}: {fingerprint(key.public_bytes)}"
    )


@app.command()
def show(config: Annotated[Path, typer.Argument(help="This party's configuration.")]) -> None:
    """Show who is in the cohort, by fingerprint: compare with the others over the telephone."""
    from vfl.cli.output import show_facts
    from vfl.cohort import CohortFile, load_cohort
    from vfl.config import decode_toml
    from vfl.crypto.signatures import certificate_public_bytes, fingerprint
    from vfl.protocols.wire import Role

    loaded = load_cohort(config, decode_toml(config, CohortFile).party.role)
    facts = list(loaded.fingerprints().items())
    if loaded.own.party.role is Role.CLIENT:
        pinned = certificate_public_bytes(loaded.aggregator_certificate())
        facts.append((f"{loaded.aggregator.name} (aggregator)", fingerprint(pinned)))
    show_facts(facts + list(loaded.policy().fields().items()))


@app.command()
def serve(config: Annotated[Path, typer.Argument(help="The aggregator's configuration.")]) -> None:
    """Be the aggregator until interrupted: run every round that the clients agree on."""
    from vfl.cohort import load_cohort
    from vfl.membership import aggregate
    from vfl.protocols.wire import Role

    loaded = load_cohort(config, Role.AGGREGATOR)
    typer.echo(f"{loaded.name} waits for {len(loaded.certificates)} clients on {loaded.aggregator.listen}")
    aggregate(config, _report)


def _report(task: "Task", number: int, result: "Result | VFLError") -> None:
    from vfl.errors import VFLError

    said = (
        f"{type(result).__name__}: {result}" if isinstance(result, VFLError) else ", ".join(result.survivors)
    )
    typer.echo(f"round {number}, {task.dimension} numbers of {task.bits} bits: {said}")
