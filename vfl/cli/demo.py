"""``vfl demo``: a bank and a retailer, two processes on this machine, from keys to a joint model."""

import dataclasses
import enum
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from vfl.cli.templates import DataSection, Setup, job

if TYPE_CHECKING:
    from vfl.cli.init import Created
    from vfl.datasets import TwoParties

__all__ = ["MARK", "demo", "demo_workspace", "free_address", "run_both"]

PARTIES = ("bank", "retailer")
MARK = ".vfl-demo"  # tells a folder that an earlier demo made
GRACE_SECONDS = 5.0  # for the other process to notice that one has failed


class Security(enum.StrEnum):
    """How the demo trains."""

    strict = "strict"
    exchange = "exchange"


class Encryption(enum.StrEnum):
    """What encrypts."""

    auto = "auto"
    lattice = "lattice"
    ckks = "ckks"
    paillier = "paillier"


def demo(
    folder: Annotated[Path, typer.Option(help="Where keys, data, reports and logs go.")] = Path("vfl-demo"),
    security: Annotated[
        Security, typer.Option(help="strict opens nothing on the way; exchange opens scores and gradients.")
    ] = Security.strict,
    he: Annotated[
        Encryption, typer.Option(help="lattice or paillier for strict, ckks or paillier for exchange.")
    ] = Encryption.auto,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep an earlier demo in FOLDER and use FOLDER-2.")
    ] = False,
) -> None:
    """Watch a bank and a retailer do all of this.

    Two processes on this machine, connected by mutual TLS, find their common customers in German Credit data and
    train one model on the columns of both.
    """
    start = time.monotonic()
    from vfl.cli.demo_results import show_results
    from vfl.cli.output import console, shown
    from vfl.datasets import german_credit

    workspace = demo_workspace(folder, keep=keep)
    data = german_credit()
    address = free_address()
    parties = _prepare(workspace, data, (security, he), address)
    console.print(
        f"{shown(workspace.absolute())}/ has a folder per party: key, certificates, configuration, data.\n"
        f"Each now executes `vfl run` in a process of its own, connected by mutual TLS on {address}.\n"
    )
    code = run_both({name: party.job for name, party in parties.items()})
    if code:
        raise typer.Exit(code)
    show_results(workspace, data, seconds=time.monotonic() - start)


def demo_workspace(folder: Path, *, keep: bool) -> Path:
    """Return an empty folder; what an earlier demo left in it is replaced, anything else is not touched."""
    from vfl.errors import ConfigError

    if keep:
        names = [folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, 1000))]
        folder = next(path for path in names if not path.exists())
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / MARK).is_file() and any(folder.iterdir()):
            raise ConfigError(f"{folder} holds files that no demo made; name another --folder")
        (folder / MARK).touch()
        for name in PARTIES:
            if (folder / name).exists():
                shutil.rmtree(folder / name)
    except OSError as error:
        raise ConfigError(f"cannot use the folder {folder}: {error.strerror}") from None
    return folder


def _prepare(
    workspace: Path, data: "TwoParties", model: tuple[Security, Encryption], address: str
) -> "dict[str, Created]":
    """Do for both parties what their owners would: init, policy, data, trust."""
    from vfl.cli.init import create_party
    from vfl.cli.trust import pin
    from vfl.config import load_config
    from vfl.model import write_private

    created = {}
    accepted = ("score", "gradient") if model[0] is Security.exchange else ()
    for setup, table, label in (
        (Setup("bank", "guest", "retailer", listen=address), data.bank, "default"),
        (Setup("retailer", "host", "bank", connect=address), data.retailer, None),
    ):
        columns = [name for name in table.columns if name not in ("phone", label)]
        setup = dataclasses.replace(setup, accept_leakage=accepted, columns=columns)
        text = job(
            setup,
            DataSection(f"{setup.name}.csv", "phone", "phone:DE", label),
            *(choice.value for choice in model),
        )
        created[setup.name] = create_party(workspace / setup.name, setup, text)
        write_private(workspace / setup.name / f"{setup.name}.csv", table.write_csv().encode())
    for name, peer in (PARTIES, PARTIES[::-1]):
        pin(created[peer].certificate.read_bytes(), load_config(created[name].config))
    return created


def free_address() -> str:
    """Return a loopback address that nobody listens on: the transport picks it, and lets go of it again."""
    from datetime import UTC, datetime

    from vfl.crypto.signatures import IdentityKey, self_signed_certificate
    from vfl.protocols.grpc import Endpoint, Listener

    key = IdentityKey.generate()
    certificate = self_signed_certificate(key, "demo", datetime.now(UTC))
    listener = Listener(Endpoint("127.0.0.1:0", None, key.to_pem(), certificate, certificate))
    listener.close()
    return f"127.0.0.1:{listener.port}"


def run_both(jobs: dict[str, Path]) -> int:
    """Run the job of each party in a process of its own; return 0, or the exit code of the first that failed."""
    width = max(map(len, jobs))
    processes = {
        name: subprocess.Popen(  # noqa: S603 - this interpreter, paths made above
            [sys.executable, "-m", "vfl", "run", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        for name, path in jobs.items()
    }
    readers = [
        threading.Thread(target=_pass_on, args=(process.stderr, name, width), daemon=True)
        for name, process in processes.items()
    ]
    for reader in readers:
        reader.start()
    try:
        return _wait(list(processes.values()))
    finally:
        for process in processes.values():
            _end(process)
        for reader in readers:
            reader.join()


def _pass_on(lines: IO[str], name: str, width: int) -> None:
    """Show what a party says, after its name."""
    with lines:
        for line in lines:
            sys.stdout.write(f"  {name:<{width}} | {line.removeprefix(f'{name}: ').rstrip()}\n")
            sys.stdout.flush()


def _wait(processes: "list[subprocess.Popen[str]]") -> int:
    failed, deadline = 0, float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
        code = next((process.returncode for process in processes if process.returncode), 0)
        if code and not failed:
            failed, deadline = code, time.monotonic() + GRACE_SECONDS
    code = failed or next((process.returncode for process in processes if process.returncode), 0)
    return 128 - code if code < 0 else code


def _end(process: "subprocess.Popen[str]") -> None:
    """End a process that still runs; one that ignores the request is killed."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
