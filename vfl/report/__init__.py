"""What a run leaves behind for people: one page, ``report.html``, and the same facts as ``report.json``.

The page loads nothing: style and plots are inside it. It is written for whoever answers for the data as much
as for whoever built the model. Both files are written by one party for itself and sent to nobody.
"""

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vfl.errors import InvalidData
from vfl.metrics import ModelCurves
from vfl.progress import PhaseCost
from vfl.report.facts import GUEST_ONLY, JOINT, POOLED, Alignment, AuditTrace, MessageTotal, RunFacts
from vfl.report.page import page

__all__ = [
    "GUEST_ONLY",
    "JOINT",
    "POOLED",
    "Alignment",
    "AuditTrace",
    "MessageTotal",
    "ModelCurves",
    "PhaseCost",
    "RunFacts",
    "facts_json",
    "write_report",
]

FORMAT = "vfl report 1"


def facts_json(facts: RunFacts) -> bytes:
    """Return the facts as JSON: keys sorted, two spaces, a newline at the end, and the format's name.

    Raises
    ------
    InvalidData
        If a number is NaN or infinite, which JSON does not have, or the start has no time zone.
    """
    if facts.started.tzinfo is None:
        raise InvalidData("report: the start of the run needs a time zone")
    values = msgspec.to_builtins(facts, enc_hook=_number)
    strange = list(_not_finite("", values))
    if strange:
        raise InvalidData(f"report: not a finite number: {', '.join(strange)}")
    return msgspec.json.format(msgspec.json.encode(values | {"format": FORMAT}, order="sorted")) + b"\n"


def write_report(directory: str | os.PathLike[str], facts: RunFacts) -> Path:
    """Write ``report.html`` and ``report.json`` into a directory, replacing those of an earlier run.

    Parameters
    ----------
    directory : path
        Made with mode 0700 if it does not exist. The files have mode 0600.
    facts : RunFacts

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InvalidData
        If the facts hold a number that is not finite; nothing is written then.
    OSError
        If the disk refuses; each of the two files is then the old one or the new one, whole.
    """
    folder = Path(directory)
    contents = {"report.json": facts_json(facts), "report.html": page(facts).encode()}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in contents.items():
        _replace(folder / name, content)
    return folder / "report.html"


def _number(value: object) -> object:
    """Return a numpy number as a Python one."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a report holds no {type(value).__name__}")


def _not_finite(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _not_finite(f"{name}.{key}" if name else key, inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _not_finite(f"{name}[{index}]", inner)
    elif isinstance(value, float) and not math.isfinite(value):
        yield name


def _replace(path: Path, content: bytes) -> None:
    """Put a whole file in the place of another in one step."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
