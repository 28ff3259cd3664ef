"""``vfl check``: everything that can be known about the peer before data moves."""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vfl.config import Config
    from vfl.session import Session

__all__ = ["check"]


def check(
    config: Annotated[Path, typer.Argument(help="This party's configuration, e.g. bank.toml.")],
) -> None:
    """Test the connection and compare settings.

    Both parties run it at the same time, before any data moves; neither clock matters but for certificates' dates.
    """
    from vfl.cli.output import console, rows_table, show_facts
    from vfl.config import RunConfig, load_config
    from vfl.session import connect, software

    loaded = load_config(config)
    mine = software()
    with tempfile.TemporaryDirectory() as folder:  # nothing is left behind: no data was used
        quiet = dataclasses.replace(loaded, run=RunConfig(output=folder, verbose=0))
        connection = connect(quiet)
        console.print(f"{loaded.party.name} waits for {loaded.peer.name} ...")
        start = time.monotonic()
        with connection as session:
            connected = time.monotonic() - start
            session.call("check", {}, {})
            start = time.monotonic()
            session.checkpoint()
            facts = _facts(loaded, session, connected, time.monotonic() - start)
            theirs = session.peer.own
    show_facts(facts)
    names = [name for name in {**mine, **theirs} if name != "accept_leakage"]
    versions = [(name, mine.get(name, "-"), theirs.get(name, "-")) for name in names]
    console.print(rows_table(("version", loaded.party.name, loaded.peer.name), versions))
    console.print(
        f"{loaded.party.name} and {loaded.peer.name} agree. Nothing but the handshake was exchanged."
    )


def _facts(
    config: "Config", session: "Session", connected: float, round_trip: float
) -> list[tuple[str, str]]:
    me, peer = session.name, session.peer.name
    theirs = session.peer.own["accept_leakage"].replace(",", ", ")
    address = config.peer.listen or config.peer.connect
    return [
        ("address", f"{address} ({'listening' if config.peer.listen else 'dialled'})"),
        (f"identity of {me}", session.fingerprints[me]),
        (f"identity of {peer}", f"{session.fingerprints[peer]} as pinned"),
        *(
            (f"certificate of {name}", _validity(pem))
            for name, pem in ((me, config.certificate()), (peer, config.pinned()))
        ),
        (
            "connection",
            f"mutual TLS, both signed, after {connected:.1f} s; round trip {1000 * round_trip:.0f} ms",
        ),
        (f"{me} accepts", ", ".join(session.policy.accept_leakage) or "no leakage beyond results"),
        (f"{peer} accepts", theirs or "no leakage beyond results"),
        (f"columns of {me}", ", ".join(session.policy.columns) or "none allowed yet: see policy.columns"),
    ]


def _validity(pem: bytes) -> str:
    from cryptography import x509

    return f"valid until {x509.load_pem_x509_certificate(pem).not_valid_after_utc:%Y-%m-%d}"
