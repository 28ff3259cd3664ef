"""The wheel and the sdist, each installed in a fresh environment, hold one import root and all the files."""

import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"vfl": "vfl", "crypto": "vfl/crypto", "protocols": "vfl/protocols"}
OWN = {"vfl", "tests", "benchmarks", "docs"}
PROVIDED = packages_distributions()
LEFT_BEHIND = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "build", "dist", "*.egg-info"
)

# Imports every module with the tools of the extra [dev] made unimportable; prints what was loaded and from which files.
IMPORT_ALL = """
import importlib, json, pkgutil, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import vfl
found = [module.name for module in pkgutil.walk_packages(vfl.__path__, "vfl.")]
for name in found:
    if not name.endswith(".__main__"):
        importlib.import_module(name)
loaded = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "vfl"}
print(json.dumps({"found": ["vfl", *found], "files": [module.__file__ for module in loaded.values()]}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def requirements(section: str, option: str) -> set[str]:
    """Return the names of the distributions that setup.cfg lists there."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    names = (re.match(r"[\w-]+", line) for line in config[section][option].splitlines())
    return {name.group() for name in names if name}


def core() -> set[str]:
    return requirements("options", "install_requires")


def extras() -> set[str]:
    return set().union(
        *(requirements("options.extras_require", name) for name in ("dp", "flower", "phe", "torch"))
    )


def development() -> set[str]:
    return requirements("options.extras_require", "dev")


def tree_files() -> set[str]:
    """Return the files of the three folders under their installed paths."""
    return {
        f"{installed}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, installed in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def third_party_imports(*folders: str) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module:
                    names = [node.module]
                for name in (name.split(".")[0] for name in names):
                    if name not in OWN and name not in sys.stdlib_module_names:
                        yield name, path


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build the wheel and the sdist from a copy: a build leaves folders that a later build would pick up."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=LEFT_BEHIND)
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel", "source", cwd=folder)
    dist = folder / "source" / "dist"
    return {"wheel": next(dist.glob("*.whl")), "sdist": next(dist.glob("*.tar.gz"))}


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def python(
    request: pytest.FixtureRequest, distributions: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Install one distribution into a fresh environment that borrows the dependencies of this one."""
    home = tmp_path_factory.mktemp(request.param) / "env"
    venv.create(home, symlinks=True)
    interpreter = home / "bin" / "python"
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages(interpreter) / "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    pip = (sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet")
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    run(*pip, *offline, "--ignore-installed", distributions[request.param], cwd=home)
    return interpreter


def site_packages(interpreter: Path) -> Path:
    return next((interpreter.parents[1] / "lib").glob("python3*/site-packages"))


def test_the_wheel_holds_the_tree_and_nothing_else(distributions: dict[str, Path]) -> None:
    with zipfile.ZipFile(distributions["wheel"]) as wheel:
        files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert files == tree_files()


def test_the_data_set_and_the_type_marker_ship() -> None:
    files = tree_files()
    assert "vfl/py.typed" in files
    assert any(re.fullmatch(r"vfl/datasets/.+\.csv(\.gz)?", name) for name in files)


def test_an_installation_holds_the_tree_under_one_name(python: Path) -> None:
    packages = site_packages(python)
    installed = {
        path.relative_to(packages).as_posix()
        for path in packages.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and ".dist-info" not in path.parent.name
    }
    assert {name for name in installed if "/" in name and ".dist-info/" not in name} == tree_files()
    assert not {"crypto", "protocols"} & {path.name for path in packages.iterdir()}


def test_every_module_imports_without_the_extra_and_exists_once(python: Path) -> None:
    tools = packages_of(development() - core())
    report = json.loads(run(python, "-I", "-c", IMPORT_ALL, *sorted(tools), cwd=python.parent))
    modules = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in tree_files()
        if name.endswith(".py")
    }
    assert set(report["found"]) == modules
    files = [Path(name).resolve() for name in report["files"]]
    assert len(set(files)) == len(files)
    assert all(path.is_relative_to(site_packages(python).resolve()) for path in files)


def test_the_command_runs_without_the_repository(python: Path) -> None:
    version = (
        (ROOT / "vfl" / "__init__.py").read_text(encoding="utf-8").split('__version__ = "')[1].split('"')[0]
    )
    assert run(python, "-I", "-m", "vfl", "--version", cwd=python.parent).split()[-1] == version
    usage = run(python.with_name("vfl"), "--help", cwd=python.parent)
    assert {"init", "trust", "check", "run", "predict", "audit", "demo"} <= set(usage.split())


@pytest.mark.parametrize("python", ["wheel"], indirect=True)
def test_the_demo_runs_without_the_repository(python: Path, tmp_path: Path) -> None:
    run(python.with_name("vfl"), "demo", cwd=tmp_path)
    reports = {path.relative_to(tmp_path).parts[1] for path in tmp_path.rglob("report.html")}
    assert reports == {"bank", "retailer"}


def packages_of(names: set[str]) -> set[str]:
    """Return the import names that the distributions `names` provide."""
    normal = {re.sub(r"[-_.]+", "-", name).lower() for name in names}
    return {
        package
        for package, owners in PROVIDED.items()
        if normal & {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}
    }


def test_what_the_package_imports_is_declared() -> None:
    declared = packages_of(core() | extras())
    assert not {(name, str(path)) for name, path in third_party_imports(*FOLDERS) if name not in declared}


def test_what_tests_and_benchmarks_import_is_declared() -> None:
    declared = packages_of(core() | development())
    imported = third_party_imports("tests", "benchmarks", "docs")
    assert not {(name, str(path)) for name, path in imported if name not in declared}


def test_what_is_declared_is_imported() -> None:
    imported = {name for name, _ in third_party_imports(*FOLDERS)}
    assert not {name for name in core() if not packages_of({name}) & imported}
