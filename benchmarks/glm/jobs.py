"""What a benchmark trains, told to both processes in a file, and the configuration that joins them."""

import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from vfl.crypto.signatures import IdentityKey, self_signed_certificate

PARTIES = {"guest": "host", "host": "guest"}
LEAKAGE: dict[str, list[str]] = {"strict": [], "exchange": ["score", "gradient"]}

Model = Literal["logistic", "poisson", "multinomial"]


class Link(msgspec.Struct, frozen=True):
    """A line to imitate: megabits per second, and the delay of each direction in milliseconds."""

    megabits: float
    delay_ms: float


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One training.

    Attributes
    ----------
    data : str or None
        Folder with guest.csv and host.csv; None generates `rows` with so many columns.
    held_out : int
        Generated rows beyond `rows` that are scored and not trained on.
    iterations : int or None
        Passes over all rows, each in one batch; None trains with the estimator's defaults.
    he : str or None
        Encryption of the exchange profile.
    warm : bool
        Train once on a few rows before the clock starts.
    """

    model: Model = "logistic"
    security: Literal["strict", "exchange"] = "strict"
    data: str | None = None
    label: str = "y"
    id: str = "id"
    rows: int = 0
    guest_columns: int = 0
    host_columns: int = 0
    held_out: int = 0
    seed: int = 1
    iterations: int | None = None
    he: str | None = None
    warm: bool = False
    verbose: bool = False
    link: Link | None = None


def free_address() -> tuple[str, int]:
    """Return an address of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        host, port = probe.getsockname()
    return str(host), int(port)


def configure(folder: Path, job: Job, listen: tuple[str, int], connect: tuple[str, int]) -> None:
    """Write the job, and the keys, certificates and configurations of both parties.

    The addresses differ where a shaped link stands between the parties. Nothing is accepted beyond what the profile
    needs, so the strict one runs with an empty list.
    """
    (folder / "job.json").write_bytes(msgspec.json.encode(job))
    accepted = ", ".join(f'"{leak}"' for leak in LEAKAGE[job.security])
    for role, peer in PARTIES.items():
        key = IdentityKey.generate()
        path = folder / f"{role}.key"
        path.touch(mode=0o600)
        path.write_bytes(key.to_pem())
        (folder / f"{role}.pem").write_bytes(self_signed_certificate(key, role, now=datetime.now(UTC)))
        way, (host, port) = ("listen", listen) if role == "guest" else ("connect", connect)
        (folder / f"{role}.toml").write_text(
            f'[party]\nname = "{role}"\nrole = "{role}"\nkey = "{role}.key"\ncertificate = "{role}.pem"\n'
            f'[peer]\nname = "{peer}"\ncertificate = "{peer}.pem"\n{way} = "{host}:{port}"\n'
            f'wait_seconds = 900\n[policy]\naccept_leakage = [{accepted}]\ncolumns = ["*"]\n'
            f'[run]\noutput = "runs-{role}"\nverbose = {int(job.verbose)}\n'
        )
