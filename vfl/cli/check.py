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
        console.print(f"{loaded.party.name} waits for {loaded.peer_names} ...")
        start = time.monotonic()
        with connection as session:
            connected = time.monotonic() - start
            session.call("check", {}, {})
            start = time.monotonic()
            session.checkpoint()
            facts = _facts(loaded, session, connected, time.monotonic() - start)
            told = {loaded.party.name: mine} | {peer.name: peer.own for peer in session.peers}
    show_facts(facts)
    names = dict.fromkeys(name for facts in told.values() for name in facts)
    versions = [
        (name, *(own.get(name, "-") for own in told.values()))
        for name in names
        if name not in ("accept_leakage", "hosts")
    ]
    console.print(rows_table(("version", *told), versions))
    console.print(f"{' and '.join(told)} agree. Nothing but the handshake was exchanged.")


def _facts(
    config: "Config", session: "Session", connected: float, round_trip: float
) -> list[tuple[str, str]]:
    me = session.name
    addresses = {
        peer.name: f"{peer.listen or peer.connect} ({'listening' if peer.listen else 'dialled'})"
        for peer in config.peers
    }
    several = len(addresses) > 1
    return [
        *((f"address of {name}" if several else "address", text) for name, text in addresses.items()),
        *([("hosts", ", ".join(session.hosts))] if len(session.hosts) > 1 else []),
        (f"identity of {me}", session.fingerprints[me]),
        *((f"identity of {peer.name}", f"{peer.fingerprint} as pinned") for peer in session.peers),
        (f"certificate of {me}", _validity(config.certificate())),
        *((f"certificate of {peer.name}", _validity(config.pinned(peer))) for peer in config.peers),
        (
            "connection",
            f"mutual TLS, both signed, after {connected:.1f} s; round trip {1000 * round_trip:.0f} ms",
        ),
        *((f"{name} accepts", text or "no leakage beyond results") for name, text in _accepted(session)),
        (f"columns of {me}", ", ".join(session.policy.columns) or "none allowed yet: see policy.columns"),
    ]


def _accepted(session: "Session") -> list[tuple[str, str]]:
    own = (session.name, ", ".join(session.policy.accept_leakage))
    return [own, *((peer.name, peer.own["accept_leakage"].replace(",", ", ")) for peer in session.peers)]


def _validity(pem: bytes) -> str:
    from cryptography import x509

    return f"valid until {x509.load_pem_x509_certificate(pem).not_valid_after_utc:%Y-%m-%d}"
