"""The benchmark of the intersection as its users call it, on few rows and without the other libraries."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.psi import jobs, peers, table
from benchmarks.psi.__main__ import compare
from benchmarks.psi.jobs import Case, Figures


def figures(*arguments: str, folder: Path) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.psi", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize(
    ("arguments", "matched"),
    [
        (["--rows", "3000"], 1500),
        (["--rows", "2000", "--host-rows", "100", "--parquet"], 50),
        (["--rows", "300", "--protocol", "dh", "--wan"], 150),
    ],
)
def test_both_hold_the_common_rows(arguments: list[str], matched: int, tmp_path: Path) -> None:
    told = figures(*arguments, "--repeats", "1", folder=tmp_path)
    assert told["correct"]
    assert told["matched"] == matched
    assert 0 < told["seconds"] < 60
    assert told["bytes"] > 10_000
    assert told["peak_mib"] > 50
    if "--wan" in arguments:
        assert told["seconds"] > 4 * 0.02  # messages that wait for each other


def test_a_library_that_cannot_be_had_is_named_and_the_own_figures_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any) -> Figures:
        raise peers.Unavailable("pip cannot install spu==0: no such version")

    monkeypatch.setattr(peers, "spu", missing)
    monkeypatch.setattr("benchmarks.psi.__main__.ours", lambda *_: {"seconds": 1.0, "correct": True})
    told = compare(tmp_path, Case(100, 50), 3, others=True)
    assert told["seconds"] == 1.0
    assert "pip cannot install" in told["unavailable"]
    assert (tmp_path / "host.txt").read_text().split()[0].startswith("K")


class TestTable:
    @staticmethod
    def filled(monkeypatch: pytest.MonkeyPatch, cost: dict[str, float]) -> table.Table:
        """Return the table of runs that take `cost` seconds a thousand rows."""

        def kinds(folder: Path, case: Case) -> Any:
            for name, seconds in cost.items():
                figures = {"seconds": seconds * case.rows / 1e3, "correct": True, "bytes": 40 * case.rows}
                yield name, lambda told=figures: told

        monkeypatch.setattr(table, "_kinds", kinds)
        made = table.Table()
        for rows in (1000, 10_000, 100_000):
            made.size(Path(), Case(rows, rows))
        return made

    def test_grows_as_the_runs_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.filled(monkeypatch, {table.FILES: 0.5}).conclusions()
        assert found["exponent"] == pytest.approx(1)
        assert found["ratio_to_a_tenth"] == pytest.approx(10)
        assert found["largest_rows"] == 100_000

    def test_what_would_take_too_long_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = self.filled(monkeypatch, {table.FILES: 0.1, "slow": table.LIMIT_SECONDS / 20})
        slow = [line for line in made.lines if "| slow |" in line]
        assert ["left out" in line for line in slow] == [False, False, True]
        assert len(made.figures) == 5

    def test_a_wrong_result_is_no_figure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            table, "_kinds", lambda *_: [("vfl fast", lambda: {"seconds": 1, "correct": False})]
        )
        with pytest.raises(RuntimeError, match="other rows"):
            table.Table().size(Path(), Case(10, 10))


def test_tables_have_half_of_the_smaller_in_common(tmp_path: Path) -> None:
    case = Case(30, 10)
    jobs.write_tables(tmp_path, case, text=True)
    guest, host = (set((tmp_path / f"{role}.txt").read_text().split()) for role in ("guest", "host"))
    assert {int(key[1:]) for key in guest & host} == set(case.numbers.tolist())
    assert (len(guest), len(host), len(guest & host)) == (30, 10, 5)
