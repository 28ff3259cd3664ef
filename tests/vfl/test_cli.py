"""The command line: what each command writes and prints, one line per error, and the exit codes."""

import contextlib
import errno
import os
import pty
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from tests.parties import both, replace, train_for_long, two_parties, vfl_process, wait_for_training
from vfl import __version__, cli, errors
from vfl.audit import AuditEntry, AuditHeader, AuditLog
from vfl.cli.demo import free_address
from vfl.cli.templates import DataSection, Setup, configuration, job
from vfl.config import PartyConfig, PeerConfig, PolicyConfig, RunConfig, load_config
from vfl.crypto.signatures import IdentityKey
from vfl.job import DataSection as JobData
from vfl.job import EvaluateSection, load_job

Captured = pytest.CaptureFixture[str]


def vfl(*arguments: str | Path) -> int:
    """Run the command line within this process; return the exit code."""
    return cli.execute([str(argument) for argument in arguments])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two parties after `vfl init`."""
    bank, shop, port = tmp_path / "bank", tmp_path / "shop", free_address()
    assert vfl("init", "bank", "--role", "guest", "--peer", "shop", "--listen", port, "--folder", bank) == 0
    assert vfl("init", "shop", "--role", "host", "--peer", "bank", "--connect", port, "--folder", shop) == 0
    return bank, shop


# --- init


def test_init_writes_a_private_folder_and_says_what_is_next(tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "new" / "bank"
    assert vfl("init", "bank", "--role=guest", "--peer=shop", "--listen=a:7001", f"--folder={folder}") == 0
    assert folder.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == dict.fromkeys(("bank.key", "bank.pem", "bank.toml", "bank.job.toml"), 0o600)
    shown = capsys.readouterr().out
    key = IdentityKey.from_pem((folder / "bank.key").read_bytes())
    assert repr(key).removeprefix("IdentityKey(").rstrip(")") in shown
    assert f"vfl trust shop.pem --config {folder / 'bank.toml'}" in shown
    assert "PRIVATE" not in shown
    config = load_config(folder / "bank.toml")
    assert config.policy == PolicyConfig()  # nothing is allowed until somebody allows it
    assert (config.run, config.peer.listen) == (RunConfig(), "a:7001")
    assert load_job(folder / "bank.job.toml").guest


def test_init_overwrites_nothing(folders: tuple[Path, Path], capsys: Captured) -> None:
    before = {path: path.read_bytes() for path in folders[0].iterdir()}
    arguments = ("init", "bank", "--role=guest", "--peer=shop", "--listen=a:1", f"--folder={folders[0]}")
    assert vfl(*arguments) == 2
    assert "nothing was overwritten" in capsys.readouterr().err
    for path in set(before) - {folders[0] / "bank.key"}:
        path.unlink()
    assert vfl(*arguments) == 2
    assert {path: path.read_bytes() for path in folders[0].iterdir()} == {
        folders[0] / "bank.key": before[folders[0] / "bank.key"]
    }


def test_init_refuses_a_folder_that_is_open_to_others(tmp_path: Path, capsys: Captured) -> None:
    tmp_path.chmod(0o755)
    assert vfl("init", "bank", "--role=guest", "--peer=shop", "--listen=a:1", f"--folder={tmp_path}") == 2
    assert "chmod 700" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["bank", "--role=guest", "--peer=shop"], "exactly one of --listen and --connect"),
        (["bank", "--role=guest", "--peer=shop", "--listen=a:1", "--connect=a:1"], "exactly one"),
        (["bank", "--role=guest", "--peer=bank", "--listen=a:1"], "different names"),
        (["../b", "--role=guest", "--peer=shop", "--listen=a:1"], "letters, digits"),
        (["bank", "--role=guest", "--peer=a b", "--listen=a:1"], "letters, digits"),
        (["bank", "--role=both", "--peer=shop", "--listen=a:1"], "both"),
        (["bank", "--role=guest", "--peer=shop", "--listen=7001"], "host:port"),
        (["bank", "--role=guest", "--peer=shop", "--listen=a:70000"], "host:port"),
        (["bank", "--peer=shop", "--listen=a:1"], "role"),
        (["bank", "--role=guest", "--peer=shop", "--listen=a:1", "--colour=red"], "--colour"),
    ],
)
def test_init_with_wrong_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, arguments: Sequence[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert vfl("init", *arguments) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


SETUPS = [
    Setup("bank", "guest", "shop", listen="0.0.0.0:7001"),
    Setup("shop", "host", "bank", connect='x"\\y:1', columns=('a"b', "ä", "c\\d"), accept_leakage=("score",)),
]


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_the_template_has_every_setting_with_its_default_and_a_sentence(tmp_path: Path, setup: Setup) -> None:
    text = configuration(setup)
    path = tmp_path / "party.toml"
    path.write_text(text)
    config, raw = load_config(path), tomllib.loads(text)
    sections: dict[str, type[msgspec.Struct]] = {
        "party": PartyConfig,
        "peer": PeerConfig,
        "policy": PolicyConfig,
        "run": RunConfig,
    }
    for name, kind in sections.items():
        expected = {field.name for field in msgspec.structs.fields(kind)}
        assert expected - set(raw[name]) <= {"listen", "connect"}
        for field in msgspec.structs.fields(kind):
            if not field.required and field.name not in ("listen", "connect", "columns", "accept_leakage"):
                assert getattr(getattr(config, name), field.name) == field.default
    assert (config.peer.listen, config.peer.connect) == (setup.listen, setup.connect)
    assert config.policy.columns == tuple(setup.columns)
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+ = ", line):
            assert lines[number - 1].startswith("# "), line
            assert lines[number - 1].endswith((".", ";")), line


def test_the_job_template_has_every_setting() -> None:
    raw = tomllib.loads(
        job(SETUPS[0], DataSection("a.csv", "id", "exact", "y")).replace("# columns", "columns")
    )
    assert set(raw["data"]) == {field.name for field in msgspec.structs.fields(JobData)}
    assert set(raw["evaluate"]) == {field.name for field in msgspec.structs.fields(EvaluateSection)}
    assert "label" not in tomllib.loads(job(SETUPS[1], DataSection("a.csv", "id", "exact", None)))["data"]


# --- trust


def fingerprint_of(folder: Path, name: str) -> str:
    key = IdentityKey.from_pem((folder / f"{name}.key").read_bytes())
    return repr(key).removeprefix("IdentityKey(").rstrip(")")


@pytest.mark.parametrize("change", [str, str.upper, lambda text: text.replace(":", " ")])
def test_trust_pins_what_the_peer_read_out(
    folders: tuple[Path, Path], capsys: Captured, change: Callable[[str], str]
) -> None:
    bank, shop = folders
    told = fingerprint_of(shop, "shop")
    assert vfl("trust", shop / "shop.pem", "--config", bank / "bank.toml", "--fingerprint", change(told)) == 0
    assert f"fingerprint of shop: {told}" in capsys.readouterr().out
    assert load_config(bank / "bank.toml").pinned() == (shop / "shop.pem").read_bytes()


def test_trust_refuses_another_fingerprint(folders: tuple[Path, Path], capsys: Captured) -> None:
    bank, shop = folders
    told = fingerprint_of(bank, "bank")
    assert vfl("trust", shop / "shop.pem", "--config", bank / "bank.toml", "--fingerprint", told) == 3
    assert "nothing was pinned" in capsys.readouterr().err
    assert not (bank / "trusted").exists()


def test_trust_asks_nobody_when_there_is_nobody(folders: tuple[Path, Path]) -> None:
    bank, shop = folders
    process = vfl_process("trust", shop / "shop.pem", "--config", bank / "bank.toml")
    _, error = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "nobody to ask: pass --fingerprint" in error
    assert not (bank / "trusted").exists()


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_trust_asks_on_a_terminal(folders: tuple[Path, Path], answer: str, code: int) -> None:
    bank, shop = folders
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "vfl", "trust", shop / "shop.pem", "--config", bank / "bank.toml"],
        stdin=other, stdout=other, stderr=other, close_fds=True,
    )  # fmt: skip
    os.close(other)
    os.write(terminal, f"{answer}\n".encode())
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while piece := os.read(terminal, 4096):
            shown += piece
    os.close(terminal)
    assert process.wait(10) == code
    assert b"Did shop read the same fingerprint to you, over another channel? [y/N]" in shown
    assert (bank / "trusted" / "shop.pem").exists() == (code == 0)


def test_trust_replaces_an_older_certificate(folders: tuple[Path, Path], tmp_path: Path) -> None:
    bank, shop = folders
    assert vfl("trust", shop / "shop.pem", "--config", bank / "bank.toml", "--yes") == 0
    newer = tmp_path / "newer"
    assert vfl("init", "shop", "--role=host", "--peer=bank", "--connect=a:1", f"--folder={newer}") == 0
    assert vfl("trust", newer / "shop.pem", "--config", bank / "bank.toml", "--yes") == 0
    assert load_config(bank / "bank.toml").pinned() == (newer / "shop.pem").read_bytes()


@pytest.mark.parametrize(
    ("certificate", "text"),
    [
        ("bank/bank.pem", "own certificate"),
        ("shop/shop.key", "PEM"),
        ("shop/nothing.pem", "cannot read"),
        ("third/third.pem", "names third, the configuration expects shop"),
    ],
)
def test_trust_refuses_what_cannot_be_the_peers(
    folders: tuple[Path, Path], tmp_path: Path, capsys: Captured, certificate: str, text: str
) -> None:
    third = tmp_path / "third"
    assert vfl("init", "third", "--role=host", "--peer=bank", "--connect=a:1", f"--folder={third}") == 0
    assert vfl("trust", tmp_path / certificate, "--config", folders[0] / "bank.toml", "--yes") == 2
    assert text in capsys.readouterr().err
    assert not (folders[0] / "trusted").exists()


# --- check, run, predict


def test_check_compares_both_sides_and_leaves_nothing_behind(tmp_path: Path, capsys: Captured) -> None:
    bank, shop = two_parties(tmp_path, accept=("score", "gradient"))
    assert both(lambda: vfl("check", bank.config), lambda: vfl("check", shop.config)) == (0, 0)
    shown = capsys.readouterr().out
    assert shown.count(bank.fingerprint) == shown.count(shop.fingerprint) == 2
    assert f"{shop.fingerprint} as pinned" in shown
    assert "bank and shop agree" in shown
    assert "score, gradient" in shown
    assert re.search(r"numpy +\d\S+ +\d", shown)
    assert not list(tmp_path.glob("*/runs"))


def test_check_names_what_differs(tmp_path: Path, capsys: Captured) -> None:
    bank, shop = two_parties(tmp_path)
    replace(bank.config, "minimum_intersection = 10", "minimum_intersection = 11")
    assert both(lambda: vfl("check", bank.config), lambda: vfl("check", shop.config)) == (3, 3)
    assert "minimum intersection: bank has '11', shop has '10'" in capsys.readouterr().err


def test_check_names_a_peer_that_is_not_there(tmp_path: Path, capsys: Captured) -> None:
    bank, shop = two_parties(tmp_path)
    for party, name in ((bank, "shop"), (shop, "bank")):
        replace(party.config, "wait_seconds = 20.0", "wait_seconds = 0.3")
        assert vfl("check", party.config) == 3
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert name in error


def test_run_prints_figures_and_paths_and_predict_the_file(tmp_path: Path, capsys: Captured) -> None:
    bank, shop = two_parties(tmp_path)
    assert both(lambda: vfl("run", bank.job), lambda: vfl("run", shop.job)) == (0, 0)
    shown = capsys.readouterr().out
    assert shown.count("common customers: 360 of 400") == 2
    for model in ("guest only", "joint"):
        assert re.search(rf"{model} +0\.\d{{4}} +0\.\d{{4}} +0\.\d{{4}}", shown), shown
    for path in (
        *tmp_path.glob("*/runs/*/*.html"),
        *tmp_path.glob("*/runs/*/audit.jsonl"),
        *tmp_path.glob("*/*.model"),
    ):
        assert str(path) in shown
    out = tmp_path / "scores.csv"
    codes = both(
        lambda: vfl("predict", bank.job, "--data", bank.job.with_name("bank.csv"), "--out", out),
        lambda: vfl("predict", shop.job, "--data", shop.job.with_name("shop.csv")),
    )
    assert codes == (0, 0)
    assert f"360 common customers scored: {out}" in capsys.readouterr().out
    assert len(out.read_text().splitlines()) == 361


def test_a_refusal_by_policy_has_a_code_of_its_own(tmp_path: Path, capsys: Captured) -> None:
    bank, shop = two_parties(tmp_path, security="exchange")
    assert both(lambda: vfl("run", bank.job), lambda: vfl("run", shop.job)) == (4, 4)
    assert "accept_leakage" in capsys.readouterr().err


def test_different_commands_are_refused_on_both_sides(tmp_path: Path, capsys: Captured) -> None:
    bank, shop = two_parties(tmp_path)
    assert both(lambda: vfl("run", bank.job), lambda: vfl("check", shop.config)) == (3, 3)
    assert "call: bank has 'run', shop has 'check'" in capsys.readouterr().err


def test_sigterm_ends_in_an_orderly_way_and_the_peer_is_told(tmp_path: Path) -> None:
    bank, shop = two_parties(tmp_path, rows=3000)
    train_for_long(bank, shop)
    processes = [vfl_process("run", party.job) for party in (bank, shop)]
    try:
        wait_for_training(bank)
        processes[0].send_signal(signal.SIGTERM)
        texts = [process.communicate(timeout=60)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [143, 3]
    assert "error: terminated" in texts[0]
    assert re.search(r"error: bank stopped", texts[1].splitlines()[-1])
    log = next(bank.job.parent.glob("runs/*/audit.jsonl"))
    assert vfl("audit", "verify", log, "--certificate", bank.certificate) == 0  # closed and signed


# --- audit


@pytest.fixture
def log(tmp_path: Path) -> tuple[Path, IdentityKey]:
    key = IdentityKey.generate()
    header = AuditHeader(
        session="5e55", party="bank", peer="shop", versions={}, config_digest="00", columns=["g0"]
    )
    opened = AuditLog.create(tmp_path / "private" / "audit.jsonl", header, key)
    for number in range(3):
        entry = AuditEntry(
            peer="shop", message="psi.blinded", leakage="uniform", shape={}, size=1000 + number, digest="ab"
        )
        opened.append(entry)
    opened.close({"outcome": "done"})
    return opened.path, key


def test_audit_verify_summarises_a_good_log(log: tuple[Path, IdentityKey], capsys: Captured) -> None:
    assert vfl("audit", "verify", log[0]) == 0
    shown = capsys.readouterr().out
    assert "complete and unchanged" in shown
    assert re.search(r"psi.blinded +uniform +3 +3.0 kB", shown)
    assert "not checked: pass --certificate" in shown


def test_audit_verify_names_the_first_damaged_line(log: tuple[Path, IdentityKey], capsys: Captured) -> None:
    raw = bytearray(log[0].read_bytes())
    raw[raw.index(b"1001")] ^= 1
    log[0].write_bytes(raw)
    assert vfl("audit", "verify", log[0]) == 1
    assert "audit.jsonl: line 3: " in capsys.readouterr().err


def test_audit_verify_compares_the_signer(
    log: tuple[Path, IdentityKey], folders: tuple[Path, Path], capsys: Captured
) -> None:
    assert vfl("audit", "verify", log[0], "--certificate", folders[0] / "bank.pem") == 1
    assert "another key" in capsys.readouterr().err
    assert vfl("audit", "verify", log[0], "--certificate", folders[0] / "bank.key") == 2
    assert vfl("audit", "verify", log[0], "--certificate", folders[0] / "none.pem") == 2
    assert vfl("audit", "verify", folders[0] / "none.jsonl") == 1


# --- all of it


def test_version(capsys: Captured) -> None:
    assert vfl("--version") == 0
    assert capsys.readouterr().out == f"vfl {__version__}\n"


def test_help_names_every_command(capsys: Captured) -> None:
    assert vfl("--help") == 0
    shown = capsys.readouterr().out
    for command in ("init", "trust", "check", "run", "predict", "audit", "demo"):
        assert re.search(rf"^  {command} +[A-Z].*\.$", shown, re.MULTILINE), shown
    assert "..." not in shown.partition("Commands:")[2]
    for command in ("init", "trust", "check", "run", "predict", "demo"):
        assert vfl(command, "--help") == 0


def test_an_unknown_command_is_a_matter_of_usage(capsys: Captured) -> None:
    assert vfl("trian") == 2
    assert capsys.readouterr().err.startswith("error: No such command 'trian'")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.PolicyRefused("a\nb"), 4, "a b"),
        (errors.PeerAborted("x"), 3, "x"),
        (errors.PeerAuthenticationError("x"), 3, "x"),
        (errors.ChannelTimeout("x"), 3, "x"),
        (errors.MessageTooLarge("x"), 3, "x"),
        (errors.InvalidCiphertext("x"), 3, "x"),
        (errors.ConfigMismatch({"f": (1, 2)}, "a", "b"), 3, "a and b do not run the same call"),
        (errors.ConfigError("x"), 2, "x"),
        (errors.MissingValues("x"), 1, "x"),
        (errors.AuditError("x"), 1, "x"),
        (errors.LocalProtocolError("x"), 1, "x"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/f"), 1, "/tmp/f: No space left on device"),
        (KeyError("a secret"), 1, "internal error: KeyError in test_cli.py, line"),
        (KeyboardInterrupt(), 130, None),
    ],
)
def test_an_error_is_one_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, error: BaseException, code: int, text: str | None
) -> None:
    def fail(path: object) -> None:
        raise error

    monkeypatch.setattr("vfl.audit.verify", lambda path, expected: fail(path))
    assert vfl("audit", "verify", "x") == code
    shown = capsys.readouterr().err
    assert "secret" not in shown
    assert "Traceback" not in shown
    if text is not None:
        assert shown.startswith(f"error: {text}")
        assert shown.count("\n") == 1
    monkeypatch.setenv("VFL_DEBUG", "1")
    assert vfl("audit", "verify", "x") == code
    assert ("Traceback" in capsys.readouterr().err) == isinstance(error, Exception)


def test_every_error_of_the_library_has_a_code() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        if not issubclass(kind, Warning):
            assert any(issubclass(kind, kinds) for _, kinds in cli.EXIT_CODES)


def test_the_command_is_quick_to_load() -> None:
    code = "import sys, vfl.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    heavy = {"numpy", "scipy", "sklearn", "polars", "grpc", "tenseal", "cryptography", "rich", "msgspec"}
    assert not heavy & set(done.stdout.split())
