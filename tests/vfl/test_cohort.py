"""Cohorts as their users run them: folders from `vfl cohort init`, processes over mutual TLS, one of them killed."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.parties import replace
from vfl.audit import verify
from vfl.cli import execute
from vfl.cli.demo import free_address
from vfl.cohort import RoundFile, load_cohort
from vfl.errors import ConfigError, LocalProtocolError
from vfl.protocols.wire import Role

ROOT = Path(__file__).resolve().parents[2]
SILOS = [f"silo{i}" for i in range(5)]
VALUES = {name: [float(i), 10.0 + i / 3, -4.5 * i] for i, name in enumerate(SILOS)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with those of an aggregator and five clients, ready to run."""
    address = free_address()
    assert execute(["cohort", "init", "aggregator", "--cohort", "c", "--listen", address,
                    "--folder", str(tmp_path / "aggregator")]) == 0  # fmt: skip
    for name in SILOS:
        place = str(tmp_path / name)
        assert (
            execute(["cohort", "init", name, "--cohort", "c", "--connect", address, "--folder", place]) == 0
        )
    for name in SILOS:
        shutil.copy(tmp_path / "aggregator" / "aggregator.pem", tmp_path / name)
        for other in [*SILOS, "aggregator"]:
            shutil.copy(tmp_path / name / f"{name}.pem", tmp_path / other / "clients")
    replace(tmp_path / "aggregator" / "aggregator.toml", "stage_seconds = 120.0", "reconnect_seconds = 0.5")
    return tmp_path


class Running:
    """The processes of a cohort."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        self.aggregator = self.start(
            "-m", "vfl", "cohort", "serve", str(folder / "aggregator/aggregator.toml")
        )

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self.processes.append(process)
        return process

    def client(self, name: str, answers: int = 9) -> "subprocess.Popen[str]":
        config = self.folder / name / f"{name}.toml"
        return self.start("tests/member_process.py", str(config), json.dumps(VALUES[name]), str(answers))

    def stop(self) -> str:
        self.aggregator.send_signal(signal.SIGTERM)
        return self.aggregator.communicate(timeout=20)[0]


@pytest.fixture
def running(folder: Path) -> Iterator[Running]:
    ours = Running(folder)
    yield ours
    for process in ours.processes:
        process.kill()
        process.communicate()


def line(process: "subprocess.Popen[str]") -> tuple[list[float], list[str]]:
    assert process.stdout is not None
    result, survivors = json.loads(process.stdout.readline())
    return result, survivors


@pytest.mark.slow
def test_five_silos_one_killed_in_a_round_and_started_again(running: Running) -> None:
    """The sum is that of a clean run with four; the fifth gets it when it is back, and goes on with the others."""
    clients = {name: running.client(name, 2 if name == "silo3" else 9) for name in SILOS}
    four = [name for name in SILOS if name != "silo3"]
    totals = {name: line(clients[name]) for name in four}
    assert clients["silo3"].wait(timeout=30) == -signal.SIGKILL
    for total, survivors in totals.values():
        assert survivors == four
        np.testing.assert_allclose(total, np.sum([VALUES[name] for name in four], axis=0), rtol=0, atol=1e-12)
    assert len({json.dumps(total) for total, _ in totals.values()}) == 1
    number = (running.folder / "silo3" / "silo3.round").read_text()
    clients["silo3"] = running.client("silo3")
    assert line(clients["silo3"]) == totals["silo0"]
    assert (running.folder / "silo3" / "silo3.round").read_text() == number
    for process in clients.values():
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
    for process in clients.values():
        mean, survivors = line(process)
        assert survivors == SILOS
        np.testing.assert_allclose(mean, np.mean(list(VALUES.values()), axis=0), rtol=0, atol=1e-6)
        assert process.wait(timeout=30) == 0
    assert "silo0, silo1, silo2, silo4" in running.stop()
    logs = list((running.folder / "silo0" / "runs").glob("*/audit.jsonl"))
    config = load_cohort(running.folder / "silo0" / "silo0.toml", Role.CLIENT)
    summary = verify(logs[0], config.own.identity().public_bytes)
    assert summary.header.session == "c/"


class TestConfiguration:
    def test_all_see_the_same_cohort(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        shown = []
        for name in ("silo0", "silo4", "aggregator"):
            assert execute(["cohort", "show", str(folder / name / f"{name}.toml")]) == 0
            shown.append({row for row in capsys.readouterr().out.splitlines() if "aggregator" not in row})
        policies = [{row.split()[0]: row.split()[-1] for row in rows if row} for rows in shown]
        assert policies[0] == policies[1] == policies[2]
        assert {*SILOS, "clients", "colluders", "dropouts", "minimum"} == set(policies[0])

    @pytest.mark.parametrize(
        ("name", "old", "new", "text"),
        [
            ("silo0", 'role = "client"', 'role = "aggregator"', "party.role is aggregator"),
            ("silo0", "connect = ", "listen = ", "no listen"),
            ("silo0", 'clients = "clients"', 'clients = "."', "takes 3 to 16,384 clients"),
            ("silo0", "minimum = 0", "minimal = 0", "did you mean minimum"),
            (
                "silo0",
                'certificate = "aggregator.pem"',
                'certificate = "nobody.pem"',
                "aggregator.certificate",
            ),
            ("silo0", "minimum = 0", "minimum = 6", "minimum of 6"),
        ],
    )
    def test_mistakes_are_named(self, folder: Path, name: str, old: str, new: str, text: str) -> None:
        path = folder / name / f"{name}.toml"
        replace(path, old, new)
        with pytest.raises(ConfigError, match=text):
            _load(path)

    def test_another_certificate_than_ones_own_is_refused(self, folder: Path) -> None:
        from vfl.membership import join

        shutil.copy(folder / "silo1/silo1.pem", folder / "silo0/clients/silo0.pem")
        (folder / "silo0/clients/silo1.pem").unlink()
        with (
            pytest.raises(LocalProtocolError, match="does not pin this identity key"),
            join(folder / "silo0/silo0.toml"),
        ):
            pass

    def test_nothing_is_overwritten(self, folder: Path) -> None:
        again = [
            "cohort",
            "init",
            "silo0",
            "--cohort",
            "c",
            "--connect",
            "x:1",
            "--folder",
            str(folder / "silo0"),
        ]
        assert execute(again) == 2

    def test_one_side_listens(self, tmp_path: Path) -> None:
        assert execute(["cohort", "init", "a", "--cohort", "c", "--folder", str(tmp_path / "a")]) == 2


def _load(path: Path) -> None:
    config = load_cohort(path, Role.CLIENT)
    config.policy()
    config.aggregator_certificate()


class TestLedger:
    def test_numbers_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "silo0.round"
        for expected in (-1, 7):
            ledger = RoundFile(path)
            assert ledger.last == expected
            ledger.keep(7)
            assert path.stat().st_mode & 0o777 == 0o600
            ledger.close()

    def test_one_process_at_a_time(self, tmp_path: Path) -> None:
        first = RoundFile(tmp_path / "a.round")
        with pytest.raises(LocalProtocolError, match="another process"):
            RoundFile(tmp_path / "a.round")
        first.close()
        RoundFile(tmp_path / "a.round").close()

    def test_a_damaged_file_is_not_taken_for_a_new_one(self, tmp_path: Path) -> None:
        (tmp_path / "a.round").write_text("")
        with pytest.raises(ConfigError, match="must not be lost"):
            RoundFile(tmp_path / "a.round")
