"""The documentation is true where a machine can tell: generated parts, links, commands, the scripts of the README."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from docs import generate
from tests.parties import replace
from vfl.cli import app
from vfl.cli.demo import free_address
from vfl.datasets import german_credit

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [
    *generate.PAGES,
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "vfl/datasets/README.md")),
    *NOTEBOOKS,
]
LONGEST_PAGE = 150
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"(?:benchmarks|crypto|docs|notebooks|protocols|tests|vfl)/[\w./-]*")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def text_of(page: Path) -> str:
    """Return a page, or the Markdown cells of a notebook."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def snippets(text: str) -> Iterator[str]:
    """Yield the lines of all code in a page: fenced, indented and inline."""
    for _, block in FENCE.findall(text):
        yield from block.splitlines()
    rest = FENCE.sub("", text)
    yield from re.findall(r"^ {4,}(\S.*)$", rest, re.MULTILINE)
    yield from re.findall(r"`([^`\n]+)`", rest)


def commands(text: str, program: str) -> Iterator[list[str]]:
    for snippet in snippets(text):
        line = snippet.strip()
        if line.split(" ")[0] == program:
            yield shlex.split(line, comments=True)


# --- generated parts


def test_generated_parts_are_up_to_date() -> None:
    assert [path.name for path in generate.outdated()] == [], "run `make docs`"


def test_a_part_that_was_edited_is_noticed() -> None:
    page = (ROOT / "docs" / "leakage.md").read_text(encoding="utf-8")
    edited = page.replace("the host's part of each row's score", "nothing at all", 1)
    assert edited != page
    assert generate.rewritten(edited) == page


def test_every_generated_part_stands_in_a_page() -> None:
    used = {
        name
        for page in generate.PAGES
        for _, name, _ in generate.PART.findall(page.read_text(encoding="utf-8"))
    }
    assert used == set(generate.PARTS)


def test_the_leakage_table_has_every_message_of_the_library() -> None:
    declared = {
        name
        for path in (ROOT / "protocols").rglob("*.py")
        for name in re.findall(r"Declaration\(\s*\"([a-z.]+)\"", path.read_text(encoding="utf-8"))
    } - {"gradient.score"}  # also the example in a docstring
    table = generate.leakage()
    assert len(declared) > 10
    assert [name for name in declared if f"`{name}`" not in table] == []


# --- pages


@each_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", text_of(page))):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or not found.is_relative_to(ROOT) or (anchor and anchor not in anchors(found)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", generate.PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_stay_short(page: Path) -> None:
    written = generate.PART.sub("", page.read_text(encoding="utf-8"))
    assert written.count("\n") <= LONGEST_PAGE


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    named = {
        path for snippet in snippets(text_of(page)) for path in PATH.findall(snippet) if "..." not in path
    }
    assert [path for path in named if not (ROOT / path).exists()] == []


@each_page
def test_make_targets_and_modules_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands(text_of(page), "make"):
        assert len(command) == 1 or re.search(rf"^{command[1]}:", makefile, re.MULTILINE), command
    for command in commands(text_of(page), "python"):
        if command[1:2] == ["-m"]:
            module = ROOT / command[2].replace(".", "/")
            assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file(), command


@each_page
def test_commands_exist_with_these_options(page: Path) -> None:
    for command in commands(text_of(page), "vfl"):
        check_command(command)


def check_command(words: list[str]) -> None:
    """Refuse a command line that the program would not take; one without arguments is only mentioned."""
    found: Any = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(found, "commands"):
        if not rest or rest[0].startswith("-"):
            break
        assert rest[0] in found.commands, f"{' '.join(words)}: no command {rest[0]!r}"
        found, rest = found.commands[rest[0]], rest[1:]
    options = {name for parameter in found.params for name in parameter.opts if name.startswith("-")} | {
        "--help"
    }
    given = {word for word in rest if word.startswith("-")}
    assert given <= options, f"{' '.join(words)}: unknown {given - options}"
    if rest and rest[0] != "--version":
        required = {name for p in found.params if p.required for name in p.opts if name.startswith("-")}
        assert required <= given, f"{' '.join(words)}: lacks {required - given}"


@pytest.mark.parametrize(
    "line", ["vfl dance", "vfl check --loud x", "vfl init bank --role guest", "vfl audit check x"]
)
def test_a_wrong_command_is_noticed(line: str) -> None:
    with pytest.raises(AssertionError):
        check_command(line.split())


@pytest.mark.parametrize(
    "picture", sorted((ROOT / "docs" / "images").glob("*.svg")), ids=lambda path: path.name
)
def test_pictures_are_whole_described_and_load_nothing(picture: Path) -> None:
    root = ET.fromstring(picture.read_text(encoding="utf-8"))
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert {"title", "desc", "style"} <= tags
    assert not {"script", "image", "foreignObject"} & tags
    links = [value for element in root.iter() for name, value in element.items() if name.endswith("href")]
    assert [link for link in links if not link.startswith("#")] == []
    assert "prefers-color-scheme: dark" in picture.read_text(encoding="utf-8")


# --- the README, followed step by step


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [
        re.sub(r"^   ", "", block, flags=re.MULTILINE)
        for kind, block in FENCE.findall(text)
        if kind == language
    ]


def start(command: list[str], folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        cwd=folder,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def together(processes: list["subprocess.Popen[str]"]) -> list[str]:
    """Wait for processes that all have to succeed; return what they printed."""
    try:
        printed = [process.communicate(timeout=100) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), printed
    return [out for out, _ in printed]


def test_the_scripts_of_the_readme_run(tmp_path: Path) -> None:
    """Two companies follow the README: keys, certificates, policy, check, and the two scripts as two processes."""
    address = free_address()
    steps = [
        shlex.split(line, comments=True) for block in blocks("bash") for line in block.splitlines() if line
    ]
    todo: dict[str, list[list[str]]] = {}
    for step in steps:
        line = [re.sub(r"(0\.0\.0\.0|bank\.example):7001", address, word) for word in step[1:]]
        todo.setdefault(line[0], []).append([sys.executable, "-m", "vfl", *line])
    parties = ("bank", "retailer")

    said = together([start(command, tmp_path) for command in todo["init"]])
    fingerprints = dict(match for out in said for match in re.findall(r"fingerprint of (\w+): (\S+)", out))
    for name in parties:
        shutil.copy(tmp_path / name / f"{name}.pem", tmp_path)
    read_out = [[*command, "--fingerprint", fingerprints[Path(command[4]).stem]] for command in todo["trust"]]
    together([start(command, tmp_path) for command in read_out])
    policy = dict(line.partition(" = ")[::2] for line in blocks("toml")[0].splitlines())
    for name in parties:
        for key, value in policy.items():
            replace(tmp_path / name / f"{name}.toml", f"{key} = []", f"{key} = {value}")
    together([start(command, tmp_path) for command in todo["check"]])

    tables = german_credit()
    tables.bank.write_csv(tmp_path / "bank" / "customers.csv")
    tables.retailer.write_csv(tmp_path / "retailer" / "shoppers.csv")
    scripts = {re.findall(r"# (\w+)\.py", block)[0]: block for block in blocks("python")}
    assert set(scripts) == set(parties)
    for name, script in scripts.items():
        assert len([line for line in script.splitlines() if line and not line.startswith("#")]) <= 10
        (tmp_path / name / f"{name}.py").write_text(script, encoding="utf-8")
    out, _ = together([start([sys.executable, f"{name}.py"], tmp_path / name) for name in parties])

    figures = re.findall(r"'auc': ([0-9.]+)", out)
    assert len(figures) == 1
    assert float(figures[0]) > 0.75
    for name in parties:
        assert (tmp_path / name / f"{name}.model").is_file()
        assert len(list((tmp_path / name).glob("runs/*/report.html"))) == 1
