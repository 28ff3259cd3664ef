"""The demo as a newcomer starts it: keys, two processes over mutual TLS, the figures, the files it names."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.parties import replace
from vfl import audit, cli
from vfl.cli.demo import MARK, demo_workspace, free_address, run_both
from vfl.crypto.signatures import certificate_public_bytes
from vfl.errors import ConfigError
from vfl.protocols.grpc import Endpoint, Listener

PARTIES = ("bank", "retailer")


def started(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run `vfl demo` in a process of its own, from another folder."""
    return subprocess.run(
        [sys.executable, "-m", "vfl", "demo", "--folder", str(folder), *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def figures(shown: str, model: str) -> list[float]:
    """Return AUC, KS and log loss of a model from the table."""
    (line,) = (line for line in shown.splitlines() if line.strip().startswith(f"{model}:"))
    return [float(text) for text in re.findall(r"\d\.\d{4}", line)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    """One demo: its folder, what it printed, and how long it took."""
    folder = tmp_path_factory.mktemp("demo") / "workspace"
    start = time.monotonic()
    done = started(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return folder, done.stdout, time.monotonic() - start


def test_the_joint_model_gains_and_is_as_good_as_the_pooled_one(finished: tuple[Path, str, float]) -> None:
    _, shown, seconds = finished
    alone, joint, pooled = (figures(shown, model) for model in ("guest only", "joint", "pooled"))
    assert joint[0] > alone[0] + 0.02
    assert abs(joint[0] - pooled[0]) < 0.005
    assert joint[2] < alone[2]
    assert "Common customers: 820 of 900 at the bank and 920 at the retailer" in shown
    assert seconds < 60


def test_the_figures_are_those_of_the_bank_s_report(finished: tuple[Path, str, float]) -> None:
    folder, shown, _ = finished
    (path,) = folder.glob("bank/runs/*/report.json")
    report = json.loads(path.read_bytes())
    for model in ("guest only", "joint"):
        expected = [report["metrics"][model][name] for name in ("auc", "ks", "log_loss")]
        assert figures(shown, model) == pytest.approx(expected, abs=5e-5)
    for phase in ("handshake", "align", "train"):
        assert re.search(rf"^  {phase} +\d+\.\d ", shown, re.MULTILINE)
        for party in PARTIES:
            assert re.search(rf"^  {party} +\| {phase}: ", shown, re.MULTILINE)
    assert report["parameters"]["security"] == "strict"
    assert len(report["messages"]) > 5


def test_the_files_it_names_are_there_and_private(finished: tuple[Path, str, float]) -> None:
    folder, shown, _ = finished
    for party in PARTIES:
        for kind in ("report.html", "audit.jsonl"):
            (path,) = folder.glob(f"{party}/runs/*/{kind}")
            assert str(path) in shown
        (log,) = folder.glob(f"{party}/runs/*/audit.jsonl")
        key = certificate_public_bytes((folder / party / f"{party}.pem").read_bytes())
        summary = audit.verify(log, key)
        assert f"verified: {summary.messages} messages left {party}" in shown
        assert (folder / party / f"{party}.model").is_file()
    assert not list(folder.glob("retailer/runs/*/evaluation.csv"))
    folders = [folder, *(folder / party for party in PARTIES), *folder.glob("*/runs/*")]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != MARK]
    assert len(files) >= 16
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_nothing_of_the_other_party_is_in_a_folder(finished: tuple[Path, str, float]) -> None:
    folder, _, _ = finished
    secrets = {party: (folder / party / f"{party}.key").read_bytes() for party in PARTIES}
    for party, peer in (PARTIES, PARTIES[::-1]):
        texts = [path.read_bytes() for path in (folder / party).rglob("*") if path.is_file()]
        assert not any(secrets[peer] in text for text in texts)
        own_columns = (folder / peer / f"{peer}.csv").read_text().partition("\n")[0].split(",")[1:]
        for column in own_columns:
            assert not any(f'"{column}"'.encode() in text for text in texts), column


def test_the_report_loads_nothing(finished: tuple[Path, str, float]) -> None:
    (path,) = finished[0].glob("bank/runs/*/report.html")
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["'](https?:)?//|@import|url\(\s*["']?http""", page)


@pytest.mark.slow
def test_the_exchange_with_paillier(tmp_path: Path) -> None:
    done = started(tmp_path / "demo", "--security", "exchange", "--he", "paillier")
    assert done.returncode == 0, done.stdout + done.stderr
    alone, joint, pooled = (figures(done.stdout, model) for model in ("guest only", "joint", "pooled"))
    assert joint[0] > alone[0] + 0.02
    assert abs(joint[0] - pooled[0]) < 0.005


# --- the folder


def test_a_folder_with_other_files_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert cli.execute(["demo", "--folder", str(tmp_path)]) == 2
    assert "files that no demo made" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_of_an_earlier_demo_is_replaced_and_nothing_else_in_it(tmp_path: Path) -> None:
    folder = demo_workspace(tmp_path / "demo", keep=False)
    (folder / "bank" / "runs").mkdir(parents=True)
    (folder / "mine.txt").write_text("kept")
    assert demo_workspace(folder, keep=False) == folder
    assert sorted(path.name for path in folder.iterdir()) == [MARK, "mine.txt"]


def test_keep_takes_the_next_name(tmp_path: Path) -> None:
    names = [demo_workspace(tmp_path / "demo", keep=True).name for _ in range(3)]
    assert names == ["demo", "demo-2", "demo-3"]


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("")
    with pytest.raises(ConfigError, match="cannot use the folder"):
        demo_workspace(tmp_path / "demo", keep=False)


# --- the processes


def test_the_address_can_be_listened_on(finished: tuple[Path, str, float]) -> None:
    folder = finished[0] / "bank"
    pem = (folder / "bank.pem").read_bytes()
    address = free_address()
    listener = Listener(Endpoint(address, None, (folder / "bank.key").read_bytes(), pem, pem))
    assert address == f"127.0.0.1:{listener.port}"
    listener.close()


def test_the_code_and_the_error_of_a_party_that_fails_are_shown(
    finished: tuple[Path, str, float], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = {}
    for party in PARTIES:
        jobs[party] = finished[0] / party / f"{party}.failing.job.toml"
        jobs[party].write_text((finished[0] / party / f"{party}.job.toml").read_text())
    replace(jobs["bank"], 'path = "bank.csv"', 'path = "gone.csv"')
    start = time.monotonic()
    code = run_both(jobs)
    assert code == 2
    assert time.monotonic() - start < 40
    shown = capfd.readouterr().out
    assert re.search(r"^  bank     \| error: .*gone\.csv: no such file$", shown, re.MULTILINE)
    assert re.search(r"^  retailer \| error: terminated$", shown, re.MULTILINE)


def test_terminating_the_demo_ends_both_processes(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vfl", "demo", "--folder", str(tmp_path / "demo")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "| align: " in line:
            break
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=40)  # returns when the last holder of the pipe has ended
    assert process.returncode == 143
    assert error == "error: terminated\n"
    assert not list((tmp_path / "demo").glob("*/*.model"))
