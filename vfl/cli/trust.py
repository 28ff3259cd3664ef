"""``vfl trust``: pin the peer's certificate after its fingerprint was compared."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vfl.config import Config, PeerConfig

__all__ = ["pin", "trust"]


def trust(
    certificate: Annotated[
        Path, typer.Argument(help="The certificate that the peer sent, e.g. retailer.pem.")
    ],
    config: Annotated[Path, typer.Option(help="This party's configuration, e.g. bank.toml.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="The fingerprint that the peer told you: compared instead of asking.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Pin without asking.")] = False,
) -> None:
    """Pin the peer's certificate by its fingerprint.

    Ask the peer for the fingerprint over another channel than the one by which the certificate came.
    """
    from vfl.config import load_config
    from vfl.errors import ConfigError

    loaded = load_config(config)
    try:
        pem = certificate.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {certificate}: {error.strerror}") from None
    peer, shown = _checked(pem, certificate, loaded)
    name = peer.name
    typer.echo(f"fingerprint of {name}: {shown}")
    if fingerprint is not None:
        _compare(fingerprint, shown, name)
    elif not yes and not _confirmed(name):
        typer.echo("Nothing was pinned.")
        raise typer.Exit(1)
    typer.echo(f"{name} is trusted: pinned as {pin(pem, loaded, peer)}")


def pin(pem: bytes, config: "Config", peer: "PeerConfig | None" = None) -> Path:
    """Put a peer's certificate where the configuration expects it, whole or not at all; return the path."""
    from vfl.model import write_private

    path = config.path((peer or config.peer).certificate)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, pem)
    return path


def _checked(pem: bytes, path: Path, config: "Config") -> "tuple[PeerConfig, str]":
    """Return the peer that a certificate names, and the certificate's fingerprint."""
    from vfl.crypto.signatures import certificate_public_bytes, certificate_server_name, fingerprint
    from vfl.errors import ConfigError, InvalidKey

    try:
        public, dns = certificate_public_bytes(pem), certificate_server_name(pem)
    except InvalidKey as error:
        raise ConfigError(f"{path}: {error}") from None
    if public == certificate_public_bytes(config.certificate()):
        raise ConfigError(
            f"{path} is {config.party.name}'s own certificate; pin the one that {config.peer_names} sent"
        )
    named = dns.removesuffix(".vfl")
    for peer in config.peers:
        if named == re.sub(r"[^a-z0-9]+", "-", peer.name.lower())[:63].strip("-"):
            return peer, fingerprint(public)
    raise ConfigError(f"{path} names {named}, the configuration expects {config.peer_names}")


def _compare(given: str, shown: str, name: str) -> None:
    from vfl.errors import PeerAuthenticationError

    if "".join(given.split()).replace(":", "").lower() != shown.replace(":", ""):
        raise PeerAuthenticationError(
            f"the certificate's fingerprint is not the one that {name} told you; nothing was pinned: "
            "it was replaced on the way, or is not the newest"
        )


def _confirmed(name: str) -> bool:
    from vfl.errors import ConfigError

    if not sys.stdin.isatty():
        raise ConfigError("there is nobody to ask: pass --fingerprint with what the peer told you")
    return typer.confirm(f"Did {name} read the same fingerprint to you, over another channel?")
