"""``vfl trust``: pin the peer's certificate after its fingerprint was compared."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vfl.config import Config

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
    shown = _checked(pem, certificate, loaded)
    name = loaded.peer.name
    typer.echo(f"fingerprint of {name}: {shown}")
    if fingerprint is not None:
        _compare(fingerprint, shown, name)
    elif not yes and not _confirmed(name):
        typer.echo("Nothing was pinned.")
        raise typer.Exit(1)
    typer.echo(f"{name} is trusted: pinned as {pin(pem, loaded)}")


def pin(pem: bytes, config: "Config") -> Path:
    """Put the peer's certificate where the configuration expects it, whole or not at all; return the path."""
    from vfl.model import write_private

    path = config.path(config.peer.certificate)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, pem)
    return path


def _checked(pem: bytes, path: Path, config: "Config") -> str:
    """Return the fingerprint of a certificate that can be the peer's."""
    from vfl.crypto.signatures import certificate_public_bytes, certificate_server_name, fingerprint
    from vfl.errors import ConfigError, InvalidKey

    try:
        public, dns = certificate_public_bytes(pem), certificate_server_name(pem)
    except InvalidKey as error:
        raise ConfigError(f"{path}: {error}") from None
    if public == certificate_public_bytes(config.certificate()):
        raise ConfigError(
            f"{path} is {config.party.name}'s own certificate; pin the one that {config.peer.name} sent"
        )
    named, label = dns.removesuffix(".vfl"), re.sub(r"[^a-z0-9]+", "-", config.peer.name.lower())
    if named != label[:63].strip("-"):
        raise ConfigError(f"{path} names {named}, the configuration expects {config.peer.name}")
    return fingerprint(public)


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
