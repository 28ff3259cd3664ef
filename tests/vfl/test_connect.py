"""Sessions over the network, in the two parties' own threads: what they leave behind, and how they fail."""

import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import vfl
from vfl import audit
from vfl.cli.init import create_party
from vfl.cli.templates import Setup
from vfl.cli.trust import pin
from vfl.config import load_config
from vfl.errors import (
    AuditError,
    ConfigError,
    ConfigMismatch,
    InvalidData,
    PeerAborted,
    PolicyRefused,
)
from vfl.protocols.grpc import Endpoint, Listener

Act = Callable[[vfl.Session], Any]
RNG = np.random.default_rng(3)
GUEST = pd.DataFrame(
    {"id": [f"c{i}" for i in range(400)], "a": RNG.normal(size=400), "b": RNG.normal(size=400)}
)
HOST = pd.DataFrame(
    {"id": [f"c{i}" for i in range(50, 450)], "c": RNG.normal(size=400), "d": RNG.normal(size=400)}
)
GUEST["y"] = (GUEST["a"] + RNG.normal(size=400) > 0).astype(int)


@pytest.fixture
def configs(tmp_path: Path) -> dict[str, Path]:
    """Configurations of two parties that have pinned each other."""
    paths = {}
    for name, role, peer, columns in (
        ("bank", "guest", "shop", ["a", "b"]),
        ("shop", "host", "bank", ["c", "d"]),
    ):
        setup = Setup(
            name,
            role,
            peer,
            accept_leakage=("score", "gradient"),
            columns=columns,
            **{"listen" if role == "guest" else "connect": "127.0.0.1:1"},
        )
        paths[name] = create_party(tmp_path / name, setup, "").config
    port = free_port(paths["bank"])
    for name, peer in (("bank", "shop"), ("shop", "bank")):
        pin((tmp_path / peer / f"{peer}.pem").read_bytes(), load_config(paths[name]))
        change(paths[name], "127.0.0.1:1", f"127.0.0.1:{port}")
        change(paths[name], "verbose = 1", "verbose = 0")
    return paths


def free_port(config: Path) -> int:
    folder = config.parent
    certificate = (folder / "bank.pem").read_bytes()
    listener = Listener(
        Endpoint("127.0.0.1:0", None, (folder / "bank.key").read_bytes(), certificate, certificate)
    )
    listener.close()
    return listener.port


def change(config: Path, old: str, new: str) -> None:
    text = config.read_text()
    assert old in text, old
    config.write_text(text.replace(old, new))


def run(configs: dict[str, Path], bank: Act, shop: Act) -> dict[str, Any]:
    """Run both sides; return results and errors by party."""
    outcome: dict[str, Any] = {}

    def work(name: str, act: Act) -> None:
        try:
            with vfl.connect(configs[name]) as session:
                outcome[name] = act(session)
        except Exception as error:
            outcome[name] = error

    threads = [threading.Thread(target=work, args=item) for item in (("bank", bank), ("shop", shop))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcome


def bank_job(session: vfl.Session) -> Path:
    rows = vfl.align(GUEST, on="id")
    model = vfl.LogisticRegression().fit(rows[["a", "b"]], rows["y"])
    vfl.record_metrics("joint", rows["y"], model.predict_proba(rows[["a", "b"]])[:, 1])
    assert session.folder is not None
    return session.folder


def shop_job(session: vfl.Session) -> Path:
    rows = vfl.align(HOST, on="id")
    vfl.LogisticRegression().fit(rows[["c", "d"]]).predict_proba(rows[["c", "d"]])
    assert session.folder is not None
    return session.folder


def only_folder(configs: dict[str, Path], name: str) -> Path:
    (folder,) = (configs[name].parent / "runs").iterdir()
    return folder


def test_a_run_leaves_a_report_and_a_log_that_verifies(configs: dict[str, Path]) -> None:
    outcome = run(configs, bank_job, shop_job)
    for name in ("bank", "shop"):
        folder = outcome[name]
        facts = json.loads((folder / "report.json").read_text())
        config = load_config(configs[name])
        summary = audit.verify(folder / "audit.jsonl", config.identity().public_bytes)
        sent = [row for row in facts["messages"] if row["sender"] == name]
        assert summary.messages == sum(row["count"] for row in sent)
        assert summary.size == sum(row["size"] for row in sent)
        assert {row["message"] for row in sent} >= {"session.hello", "session.confirm"}
        assert summary.summary == {"outcome": "done"}
        assert facts["audit"]["head"] == summary.head
        assert facts["alignment"]["common_rows"] == 350
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "joint" in json.loads((outcome["bank"] / "report.json").read_text())["metrics"]
    assert (outcome["bank"] / "report.html").read_text().startswith("<!doctype html>")


def test_one_changed_byte_of_the_log_is_found(configs: dict[str, Path]) -> None:
    log = run(configs, bank_job, shop_job)["bank"] / "audit.jsonl"
    raw = bytearray(log.read_bytes())
    raw[len(raw) // 2] ^= 1
    log.write_bytes(raw)
    with pytest.raises(AuditError):
        audit.verify(log)


def test_an_error_of_one_side_is_told_to_the_other_and_leaves_no_report(configs: dict[str, Path]) -> None:
    def fail(session: vfl.Session) -> None:
        raise InvalidData("secret detail")

    outcome = run(configs, bank_job, fail)
    assert isinstance(outcome["shop"], InvalidData)
    assert isinstance(outcome["bank"], PeerAborted)
    assert "shop stopped with InvalidData" in str(outcome["bank"])
    assert "secret" not in str(outcome["bank"])
    for name, kind in (("bank", "PeerAborted"), ("shop", "InvalidData")):
        folder = only_folder(configs, name)
        assert sorted(path.name for path in folder.iterdir()) == ["audit.jsonl"]
        assert audit.verify(folder / "audit.jsonl").summary == {"outcome": kind}


def test_configurations_that_differ_are_named_on_both_sides(configs: dict[str, Path]) -> None:
    change(configs["shop"], "minimum_intersection = 10", "minimum_intersection = 11")
    outcome = run(configs, bank_job, shop_job)
    for name, mine, theirs in (("bank", "10", "11"), ("shop", "11", "10")):
        assert isinstance(outcome[name], ConfigMismatch), outcome[name]
        assert outcome[name].differences == {"minimum intersection": (mine, theirs)}
        assert not (configs[name].parent / "runs").exists()


def test_columns_that_the_policy_does_not_name_never_leave(configs: dict[str, Path]) -> None:
    change(configs["shop"], 'columns = ["c", "d"]', 'columns = ["c"]')
    outcome = run(configs, bank_job, shop_job)
    assert isinstance(outcome["shop"], PolicyRefused)
    assert "d" in str(outcome["shop"])
    assert isinstance(outcome["bank"], PeerAborted)


def test_leakage_that_one_side_does_not_accept_stops_both_before_data_moves(configs: dict[str, Path]) -> None:
    change(configs["shop"], 'accept_leakage = ["score", "gradient"]', "accept_leakage = []")

    def exchange(table: Any, columns: list[str], *label: str) -> Any:
        def act(session: vfl.Session) -> None:
            rows = vfl.align(table, on="id")
            vfl.LogisticRegression(security="exchange").fit(rows[columns], *(rows[name] for name in label))

        return act

    outcome = run(configs, exchange(GUEST, ["a", "b"], "y"), exchange(HOST, ["c", "d"]))
    assert isinstance(outcome["bank"], PolicyRefused)
    assert isinstance(outcome["shop"], PolicyRefused)
    totals = audit.verify(only_folder(configs, "shop") / "audit.jsonl").totals
    assert not any(message.startswith("gradient") for message, _ in totals)


def test_files_are_checked_before_anybody_is_called(configs: dict[str, Path]) -> None:
    os.chmod(configs["bank"].parent / "bank.key", 0o644)
    with pytest.raises(ConfigError, match="0644"):
        vfl.connect(configs["bank"])
    load_config(configs["shop"]).path(load_config(configs["shop"]).peer.certificate).unlink()
    with pytest.raises(ConfigError, match="vfl trust"):
        vfl.connect(configs["shop"])


def test_a_folder_that_cannot_be_written_stops_the_run_with_its_name(configs: dict[str, Path]) -> None:
    (configs["bank"].parent / "runs").write_text("a file")
    outcome = run(configs, bank_job, shop_job)
    assert isinstance(outcome["bank"], AuditError)
    assert "runs" in str(outcome["bank"])
    assert isinstance(outcome["shop"], PeerAborted)
