"""A bank that listens for two hosts over TLS, with folders, keys and pinned certificates of each."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import vfl
from vfl import cli
from vfl.cli.demo import free_address
from vfl.cli.init import Created, create_party
from vfl.cli.templates import Setup
from vfl.cli.trust import pin
from vfl.config import load_config

HOSTS = ("retailer", "insurer")
PEER = """
[[peers]]
name = "{name}"
certificate = "trusted/{name}.pem"
listen = "{address}"
"""


def make_parties(folder: Path) -> dict[str, Created]:
    """A bank that listens for two hosts, all of whom have pinned each other."""
    addresses = {name: free_address() for name in HOSTS}
    created = {}
    for name in HOSTS:
        setup = Setup(name, "host", "bank", connect=addresses[name], columns=("*",))
        created[name] = create_party(folder / name, setup, "")
    setup = Setup("bank", "guest", "nobody", listen="127.0.0.1:1", columns=("*",))
    created["bank"] = create_party(folder / "bank", setup, "")
    config = created["bank"].config
    text = config.read_text(encoding="utf-8")
    start, end = text.index("[peer]"), text.index("[policy]")
    sections = "".join(PEER.format(name=name, address=addresses[name]) for name in HOSTS)
    config.write_text(text[:start] + sections + text[end:], encoding="utf-8")
    for party in created.values():
        text = party.config.read_text(encoding="utf-8")
        party.config.write_text(text.replace("verbose = 1", "verbose = 0"), encoding="utf-8")
    for name in HOSTS:
        assert vfl_command("trust", created[name].certificate, "--config", config, "--yes") == 0
        pin(created["bank"].certificate.read_bytes(), load_config(created[name].config))
    return created


def vfl_command(*arguments: str | Path) -> int:
    return cli.execute([str(argument) for argument in arguments])


def at_once(acts: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Run functions in threads; return results and errors."""
    outcome: dict[str, Any] = {}

    def work(name: str, act: Callable[[], Any]) -> None:
        try:
            outcome[name] = act()
        except Exception as error:
            outcome[name] = error

    threads = [threading.Thread(target=work, args=item) for item in acts.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcome


def connected(party: Created, act: Callable[[vfl.Session], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with vfl.connect(party.config) as session:
            return act(session)

    return run
