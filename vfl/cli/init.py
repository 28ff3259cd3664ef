"""``vfl init``: a party's folder with key, certificate, configuration and job."""

import enum
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from vfl.cli.templates import DataSection, Setup, configuration, job

__all__ = ["Created", "create_party", "init"]

PARTY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class RoleName(enum.StrEnum):
    """The roles, without the import that their protocol type costs."""

    guest = "guest"
    host = "host"


@dataclass(frozen=True)
class Created:
    """What was written, and the fingerprint of the new key."""

    config: Path
    job: Path
    certificate: Path
    fingerprint: str


def _party_name(name: str) -> str:
    if not PARTY_NAME.fullmatch(name):
        raise typer.BadParameter("a name has 1 to 64 letters, digits, hyphens and underscores")
    return name


def _address(address: str | None) -> str | None:
    if address is not None:
        host, _, port = address.rpartition(":")
        if not host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
            raise typer.BadParameter(f"{address!r} is not of the form host:port")
    return address


def init(
    name: Annotated[str, typer.Argument(help="Name of this party.", callback=_party_name)],
    role: Annotated[RoleName, typer.Option(help="guest holds the labels, host more columns.")],
    peer: Annotated[str, typer.Option(help="Name of the other party.", callback=_party_name)],
    listen: Annotated[
        str | None, typer.Option(help="host:port on which to wait for the peer.", callback=_address)
    ] = None,
    connect: Annotated[
        str | None, typer.Option(help="host:port at which the peer waits.", callback=_address)
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to write; default: ./NAME.")] = None,
) -> None:
    """Make a key, a certificate and commented files.

    They go into a folder of mode 0700: the private key, the self-signed certificate that the peer pins, the
    configuration and a job file. Nothing is overwritten.
    """
    if (listen is None) == (connect is None):
        raise typer.BadParameter(
            "give exactly one of --listen and --connect: one side waits, the other dials"
        )
    if name == peer:
        raise typer.BadParameter("the two parties need different names")
    setup = Setup(name, role.value, peer, listen, connect)
    label = "label" if role is RoleName.guest else None
    created = create_party(
        folder or Path(name), setup, job(setup, DataSection(f"{name}.csv", "id", "exact", label))
    )
    typer.echo(_next_steps(created, setup))


def create_party(folder: Path, setup: Setup, job_text: str) -> Created:
    """Write a party's four files; key and certificate are new.

    Parameters
    ----------
    folder : Path
        Made with mode 0700 if it does not exist; one that exists must not be open to others.
    setup : Setup
    job_text : str
        Content of ``<name>.job.toml``.

    Raises
    ------
    ConfigError
        If a file exists already, or the folder cannot be used; nothing is written.
    """
    from datetime import UTC, datetime

    from vfl.crypto.signatures import IdentityKey, fingerprint, self_signed_certificate
    from vfl.model import write_private

    key = IdentityKey.generate()
    contents = {
        f"{setup.name}.key": key.to_pem(),
        f"{setup.name}.pem": self_signed_certificate(key, setup.name, datetime.now(UTC)),
        f"{setup.name}.toml": configuration(setup).encode(),
        f"{setup.name}.job.toml": job_text.encode(),
    }
    _private_folder(folder, list(contents))
    for name, content in contents.items():
        write_private(folder / name, content)
    config, job, certificate = (folder / f"{setup.name}.{suffix}" for suffix in ("toml", "job.toml", "pem"))
    return Created(config, job, certificate, fingerprint(key.public_bytes))


def _private_folder(folder: Path, names: list[str]) -> None:
    """Make the folder, or check that it is private and has none of these files."""
    from vfl.errors import ConfigError

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror}") from None
    mode = folder.stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(
            f"{folder} will hold a private key and is open to others (mode {mode:04o}): chmod 700 it"
        )
    existing = [name for name in names if (folder / name).exists() or (folder / name).is_symlink()]
    if existing:
        raise ConfigError(
            f"{folder} has {', '.join(existing)} already; nothing was overwritten: name another --folder"
        )


def _next_steps(created: Created, setup: Setup) -> str:
    config, peer = created.config, setup.peer
    return f"""\
{config.parent} now holds the private key, the certificate, the configuration and a job of {setup.name}.

  fingerprint of {setup.name}: {created.fingerprint}

Next:
  1. Send {created.certificate} to {peer}, and read the fingerprint to them over the telephone.
  2. When {peer}'s certificate has come:  vfl trust {peer}.pem --config {config}
  3. Fill in [policy] in {config} and the data in {created.job}
  4. Together with {peer}:                vfl check {config}
  5. Together with {peer}:                vfl run {created.job}"""
