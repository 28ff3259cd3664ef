"""Two parties on one machine: their keys, certificates and configurations."""

import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from vfl.crypto.signatures import IdentityKey, self_signed_certificate

__all__ = ["LEAKAGE", "PARTIES", "Address", "configure", "free_address"]

Address = tuple[str, int]
PARTIES = {"guest": "host", "host": "guest"}
LEAKAGE = {"strict": (), "exchange": ("score", "gradient")}
"""What a training takes both parties to accept."""


def free_address() -> Address:
    """Return an address of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        host, port = probe.getsockname()
    return str(host), int(port)


def configure(
    folder: Path,
    *,
    leakage: Sequence[str] = (),
    verbose: int = 0,
    listen: Address | None = None,
    connect: Address | None = None,
    wait_seconds: float | None = None,
) -> None:
    """Write keys, certificates and configurations of both parties.

    Parameters
    ----------
    folder : Path
    leakage : sequence of str
        What both accept; nothing beyond what the profile needs.
    verbose : int
    listen, connect : Address, optional
        Where the guest listens, and where the host finds it: they differ where a shaped link stands between the two.
    wait_seconds : float, optional
        How long each waits for the other; the library's default otherwise.
    """
    listen = listen or free_address()
    addresses = {"guest": ("listen", listen), "host": ("connect", connect or listen)}
    wait = "" if wait_seconds is None else f"wait_seconds = {wait_seconds:g}\n"
    accepted = ", ".join(f'"{name}"' for name in leakage)
    for role, peer in PARTIES.items():
        key = IdentityKey.generate()
        path = folder / f"{role}.key"
        path.touch(mode=0o600)
        path.write_bytes(key.to_pem())
        (folder / f"{role}.pem").write_bytes(self_signed_certificate(key, role, now=datetime.now(UTC)))
        way, (host, port) = addresses[role]
        (folder / f"{role}.toml").write_text(
            f'[party]\nname = "{role}"\nrole = "{role}"\nkey = "{role}.key"\ncertificate = "{role}.pem"\n'
            f'[peer]\nname = "{peer}"\ncertificate = "{peer}.pem"\n{way} = "{host}:{port}"\n{wait}'
            f'[policy]\naccept_leakage = [{accepted}]\ncolumns = ["*"]\n'
            f'[run]\noutput = "runs-{role}"\nverbose = {verbose}\n'
        )
