"""Customer lists as they come: e-mail addresses and telephone numbers in many spellings, repeated, missing."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest


def spelled_email(person: int, draw: np.random.Generator) -> str:
    name = f"jürgen.né{person}@exämple.org" if person % 3 == 0 else f"anna.lind{person}@example.org"
    forms = [name, name.upper(), f"  {name}", f"{name}\t", name.title()]
    if person % 3 == 0:  # decomposed
        forms.append(name.replace("ü", "u\u0308").replace("é", "e\u0301").replace("ä", "a\u0308"))
    return str(draw.choice(np.array(forms, dtype=object)))


def spelled_phone(person: int, draw: np.random.Generator) -> str:
    digits = f"{2_000_000 + person}"
    forms = [
        f"+49 151 {digits}", f"0151/{digits[:3]}-{digits[3:]}", f"0049 151 {digits}", f"(0151) {digits}",
        f"+49 (0)151 {digits[:4]} {digits[4:]}", f"tel:+49151{digits}",
    ]  # fmt: skip
    return str(draw.choice(np.array(forms, dtype=object)))


def customers(people: list[int], seed: int, column: str, *, missing: float = 0.0) -> pl.DataFrame:
    """A table of these people, one row each entry, in a random order; `person` is the truth."""
    draw = np.random.default_rng(seed)
    rows = draw.permutation(np.array(people))
    frame: dict[str, list[Any]] = {
        "person": rows.tolist(),
        "email": [spelled_email(int(person), draw) for person in rows],
        "phone": [spelled_phone(int(person), draw) for person in rows],
        column: list(range(len(rows))),
    }
    for name in ("email", "phone"):
        lost = draw.random(len(rows)) < missing
        frame[name] = [None if gone else text for text, gone in zip(frame[name], lost, strict=True)]
    return pl.DataFrame(frame)


def reduced(table: pl.DataFrame, key: str, policy: str) -> pl.DataFrame:
    """What is left of a table under a policy on repeated keys: the pooled way."""
    table = table.drop_nulls(key)
    if policy == "drop":
        return table.filter(pl.len().over(key) == 1)
    if policy in ("first", "last"):
        return table.unique(key, keep=policy, maintain_order=True)  # type: ignore[arg-type]
    return table


def pairs(left: Any, right: Any, first: str, second: str) -> list[tuple[int, int]]:
    """The rows that two aligned tables put side by side."""
    return sorted(zip(left[first].to_list(), right[second].to_list(), strict=True))


def shared_data(folder: str) -> Path:
    """The folder of test data beside the checkout, which VFL_DATA names; skips without it."""
    root = os.environ.get("VFL_DATA")
    if root is None or not (Path(root) / folder).is_dir():
        pytest.skip(f"VFL_DATA names no folder with {folder}")
    return Path(root) / folder
