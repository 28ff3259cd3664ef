"""Environments of the libraries that benchmarks compare with: made once, made anew when the wanted version changes."""

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import environments
from benchmarks.environments import Peer, Unavailable, output


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return the commands that are run from now on; none is."""
    asked: list[list[str]] = []

    def run(title: str, command: list[str], limit: float = 0) -> str:
        asked.append(list(command))
        if "venv" in command:
            Path(command[-1]).mkdir(exist_ok=True)
        return ""

    monkeypatch.setattr(environments, "CACHE", tmp_path)
    monkeypatch.setattr(environments, "output", run)
    monkeypatch.delenv("VFL_NOBODY_PYTHON", raising=False)
    return asked


def test_an_environment_is_made_once_and_again_for_another_version(commands: list[Any]) -> None:
    for version, count in (("1", 3), ("1", 1), ("2", 3)):
        commands.clear()
        python = Peer("Nobody", (f"nobody=={version}",), "nobody").interpreter()
        assert len(commands) == count
        assert commands[-1] == [python, "-c", "import nobody"]
        if count == 3:
            assert commands[1][-1] == f"nobody=={version}"


def test_an_interpreter_that_is_named_is_taken(commands: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer("Nobody", ("nobody",), "nobody")
    assert peer.interpreter("here") == "here"
    monkeypatch.setenv(peer.variable, "there")
    assert peer.interpreter() == "there"
    assert len(commands) == 2


def test_the_reason_is_told() -> None:
    with pytest.raises(Unavailable, match=r"cannot import nowhere.*No module named 'nowhere'"):
        Peer("Nobody", (), "nowhere").interpreter(sys.executable)
    with pytest.raises(Unavailable, match="Nobody cannot run"):
        output("Nobody", ["/nonexistent/python"])


def test_a_version_of_python_that_is_not_there(commands: list[Any]) -> None:
    with pytest.raises(Unavailable, match=r"Python 2\.1"):
        Peer("Nobody", (), "nobody", "2.1").interpreter()
