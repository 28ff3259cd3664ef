"""Rules of the house that no linter knows: sizes, what the lower layers may touch, what an import costs."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import vfl

ROOT = Path(__file__).resolve().parents[1]
MODULE_LINES = 500
FUNCTION_LINES = 60
BANNED_BELOW = {"random", "secrets", "pickle", "marshal", "shelve", "joblib", "logging"}
SOCKETS = {"socket", "socketserver", "asyncio", "grpc", "http", "requests", "urllib3"}
HEAVY = {
    "tenseal",
    "torch",
    "grpc",
    "numba",
    "sklearn",
    "scipy",
    "pandas",
    "polars",
    "pyarrow",
    "matplotlib",
    "phe",
}

Rule = Callable[[str, ast.Module], Iterator[str]]


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of every import, also of those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_below(name: str) -> bool:
    return name.startswith(("crypto/", "protocols/"))


def long_functions(name: str, tree: ast.Module) -> Iterator[str]:
    if name.startswith(("crypto/", "protocols/", "vfl/")):
        for node in functions(tree):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > FUNCTION_LINES:
                yield f"{name}:{node.lineno} {node.name} has {size} lines"


def banned_imports(name: str, tree: ast.Module) -> Iterator[str]:
    for line, imported in imports(tree):
        root = imported.split(".")[0]
        if is_below(name) and (root in BANNED_BELOW or imported.startswith("numpy.random")):
            yield f"{name}:{line} imports {imported}"
        if root in {"crypto", "protocols"}:
            yield f"{name}:{line} imports {imported} under its bare name"


def numpy_random(name: str, tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if (
            is_below(name)
            and isinstance(node, ast.Attribute)
            and ast.unparse(node) in {"np.random", "numpy.random"}
        ):
            yield f"{name}:{node.lineno} uses {ast.unparse(node)}"


def sockets(name: str, tree: ast.Module) -> Iterator[str]:
    if name.startswith(("crypto/", "protocols/", "vfl/")) and name != "protocols/grpc.py":
        for line, imported in imports(tree):
            if imported.split(".")[0] in SOCKETS or imported.startswith("urllib.request"):
                yield f"{name}:{line} imports {imported}"


def boolean_defaults(name: str, tree: ast.Module) -> Iterator[str]:
    for node in functions(tree) if is_below(name) else ():
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if isinstance(default, ast.Constant) and isinstance(default.value, bool):
                yield f"{name}:{node.lineno} {node.name} has a boolean default"


RULES: list[Rule] = [long_functions, banned_imports, numpy_random, sockets, boolean_defaults]


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule) -> None:
    offences = [
        offence
        for name, text in sources("crypto", "protocols", "vfl", "benchmarks", "tests")
        for offence in rule(name, ast.parse(text))
    ]
    assert not offences


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (long_functions, "vfl/a.py", "def f():\n" + "    x = 1\n" * FUNCTION_LINES),
        (banned_imports, "crypto/a.py", "def f():\n    import random"),
        (banned_imports, "protocols/psi/a.py", "from pickle import loads"),
        (banned_imports, "crypto/a.py", "from numpy import random"),
        (banned_imports, "tests/a.py", "from crypto.rng import Rng"),
        (numpy_random, "crypto/a.py", "x = np.random.default_rng()"),
        (sockets, "protocols/channel.py", "import grpc"),
        (sockets, "vfl/cli/check.py", "from socket import create_connection"),
        (boolean_defaults, "protocols/a.py", "async def f(*, masked=True): ..."),
    ],
)
def test_rule_finds_its_offence(rule: Rule, name: str, text: str) -> None:
    assert len(list(rule(name, ast.parse(text)))) == 1


def test_modules_stay_small() -> None:
    sizes = {name: text.count("\n") for name, text in sources("crypto", "protocols", "vfl", "benchmarks")}
    assert {name: lines for name, lines in sizes.items() if lines > MODULE_LINES} == {}


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=False)


def test_importing_the_package_is_light() -> None:
    done = fresh("import sys, vfl; print(*sorted({name.split('.')[0] for name in sys.modules}))")
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "vfl" in loaded
    assert not HEAVY & loaded


@pytest.mark.parametrize("folder", ["crypto", "protocols"])
def test_a_layer_refuses_its_bare_name(folder: str) -> None:
    done = fresh(f"import {folder}")
    assert done.returncode != 0
    assert f"import this package as vfl.{folder}" in done.stderr


def test_no_public_name_is_also_a_module() -> None:
    """Importing a module of the same name would put the module in the place of the function."""
    names = set(vfl.__all__) & {path.stem for path in (ROOT / "vfl").iterdir()}
    assert not names
