"""Two parties with folders of their own, as `vfl init` and `vfl trust` leave them, and a free address between them."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vfl.cli.demo import free_address
from vfl.cli.init import Created, create_party
from vfl.cli.templates import DataSection, Setup, job
from vfl.cli.trust import pin
from vfl.config import load_config
from vfl.datasets import synthetic


def two_parties(
    folder: Path, *, rows: int = 400, security: str = "strict", he: str = "auto", accept: tuple[str, ...] = ()
) -> tuple[Created, Created]:
    """Make a bank (guest, 3 columns and the label) and a shop (host, 9 columns) with generated data."""
    data, address = synthetic(rows, 3, 9, seed=5, overlap=0.9), free_address()
    created = []
    for setup, table, label in (
        (
            Setup("bank", "guest", "shop", listen=address, accept_leakage=accept, columns=("*",)),
            data.guest,
            "label",
        ),
        (
            Setup("shop", "host", "bank", connect=address, accept_leakage=accept, columns=("*",)),
            data.host,
            None,
        ),
    ):
        text = job(setup, DataSection(f"{setup.name}.csv", "id", "exact", label), security, he)
        created.append(create_party(folder / setup.name, setup, text))
        table.write_csv(folder / setup.name / f"{setup.name}.csv")
    bank, shop = created
    pin(shop.certificate.read_bytes(), load_config(bank.config))
    pin(bank.certificate.read_bytes(), load_config(shop.config))
    for party in created:
        replace(party.config, "verbose = 1", "verbose = 0")
        replace(party.config, "wait_seconds = 300.0", "wait_seconds = 20.0")
    return bank, shop


def replace(path: Path, before: str, after: str) -> None:
    """Change a text file, which has to hold what is replaced."""
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")


def both(bank: Callable[[], Any], shop: Callable[[], Any]) -> tuple[Any, Any]:
    """Run two functions at the same time, each in a thread; return what they returned or raised."""
    results: list[Any] = [None, None]

    def work(place: int, call: Callable[[], Any]) -> None:
        try:
            results[place] = call()
        except BaseException as error:
            results[place] = error

    threads = [threading.Thread(target=work, args=item) for item in enumerate((bank, shop))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results[0], results[1]


def vfl_process(*arguments: str | Path) -> "subprocess.Popen[str]":
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "vfl", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train_for_long(*parties: Created) -> None:
    """Let a training go on as long as it may."""
    for party in parties:
        replace(party.job, 'he = "auto"', 'he = "auto"\nmax_iter = 100\ntol = 0.0')


def wait_for_training(party: Created) -> None:
    """Wait until a party has sent a few messages of the training: its audit log says so before they leave."""
    deadline = time.monotonic() + 180  # kernels may have to be compiled first
    while time.monotonic() < deadline:
        logs = list(party.job.parent.glob("runs/*/audit.jsonl"))
        if logs and logs[0].read_bytes().count(b'"product.') > 5:
            return
        time.sleep(0.05)
    raise AssertionError("no training began")
