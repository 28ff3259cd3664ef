"""The libraries that benchmarks compare with, each in an environment of its own: their versions exclude each other.

An environment is made in the user's cache folder when it is first needed, unless --NAME-python or the variable
VFL_NAME_PYTHON names an interpreter that has the library.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FLOWER", "OPENMINED", "SECRETFLOW", "SPU", "Peer", "Unavailable", "output"]

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vfl-benchmarks"
INSTALL_SECONDS = 900


class Unavailable(Exception):
    """The peer cannot run here; the text says why."""


def output(title: str, command: Sequence[str], limit: float = INSTALL_SECONDS) -> str:
    """Return what a command of a peer prints; ours is not on its path.

    Raises
    ------
    Unavailable
        With the last line of what went wrong.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{title} cannot run: {error}") from None
    if done.returncode:
        raise Unavailable(f"{title} cannot run: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return done.stdout


@dataclass(frozen=True)
class Peer:
    """A library to compare with.

    Parameters
    ----------
    title : str
    requirements : tuple of str
        Arguments of ``pip install``.
    modules : str
        What must be importable, with commas.
    python : str
        The version that it needs, if it needs one.
    """

    title: str
    requirements: tuple[str, ...]
    modules: str
    python: str = ""

    @property
    def variable(self) -> str:
        """The variable that may name an interpreter."""
        return f"VFL_{self.title.upper()}_PYTHON"

    def interpreter(self, named: str | None = None) -> str:
        """Return the interpreter that has the library; make its environment if none is named.

        Raises
        ------
        Unavailable
        """
        python = named or os.environ.get(self.variable) or self._made()
        try:
            output(self.title, [python, "-c", f"import {self.modules}"])
        except Unavailable as error:
            raise Unavailable(f"{python} cannot import {self.modules}: {error}") from None
        return python

    def _made(self) -> str:
        folder = CACHE / self.title.lower()
        python, mark = folder / "bin" / "python", folder / "complete"
        named = [Path(text).read_text() if text.endswith(".txt") else text for text in self.requirements]
        wanted = hashlib.sha256(repr(named).encode()).hexdigest()
        if not mark.exists() or mark.read_text() != wanted:
            here = ".".join(map(str, sys.version_info[:2]))
            base = sys.executable if self.python in ("", here) else shutil.which(f"python{self.python}")
            if base is None:
                raise Unavailable(f"{self.title} needs Python {self.python}, which is not on the path")
            print(f"installing {self.title} into {folder}", file=sys.stderr)
            output(self.title, [base, "-m", "venv", "--clear", str(folder)])
            output(self.title, [str(python), "-m", "pip", "install", "--quiet", *self.requirements])
            mark.write_text(wanted)
        return str(python)


FLOWER = Peer("Flower", ("flwr[simulation]==1.41.0",), "flwr.common.secure_aggregation, ray")
SECRETFLOW = Peer(
    "SecretFlow",
    ("--no-deps", "-r", str(Path(__file__).resolve().parent / "glm" / "secretflow.txt")),
    "secretflow",
    "3.11",
)
SPU = Peer("SPU", ("spu==0.9.3b0", "numpy<2"), "spu", "3.11")
OPENMINED = Peer("OpenMined", ("openmined-psi==2.0.6",), "private_set_intersection.python")
