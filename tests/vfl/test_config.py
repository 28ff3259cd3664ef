"""A party's configuration: every kind of mistake in the file is an error with the line and the remedy."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

import vfl
from vfl.config import PolicyConfig, RunConfig, load_config
from vfl.crypto.signatures import IdentityKey, certificate_public_bytes, self_signed_certificate
from vfl.errors import ConfigError
from vfl.protocols.wire import Role

GOOD = """\
[party]
name = "bank"
role = "guest"
key = "bank.key"
certificate = "bank.pem"

[peer]
name = "retailer"
certificate = "retailer.pem"
listen = "127.0.0.1:7001"

[policy]
columns = ["income"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "bank.toml"
    path.write_bytes(text.encode())
    return path


@pytest.fixture
def party(tmp_path: Path) -> Path:
    """A complete configuration with its key and both certificates; returns its path."""
    for name in ("bank", "retailer"):
        key = IdentityKey.generate()
        (tmp_path / f"{name}.pem").write_bytes(self_signed_certificate(key, name, datetime.now(UTC)))
        (tmp_path / f"{name}.key").touch(mode=0o600)
        (tmp_path / f"{name}.key").write_bytes(key.to_pem())
    return written(tmp_path, GOOD)


def test_a_good_file(party: Path) -> None:
    config = load_config(party)
    assert (config.party.name, config.party.role) == ("bank", Role.GUEST)
    assert config.policy == PolicyConfig(columns=("income",))
    assert config.policy.accept_leakage == ()
    assert config.run == RunConfig()
    assert config.path("x") == party.parent / "x"
    assert certificate_public_bytes(config.certificate()) == config.identity().public_bytes
    assert config.pinned_key() == certificate_public_bytes((party.parent / "retailer.pem").read_bytes())
    assert vfl.connect(party) is not None  # all files are read; nothing is opened yet


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "\ufeff" + GOOD)).party.name == "bank"


MISTAKES = {
    "unknown key": (
        ('role = "guest"', 'roll = "guest"'),
        ["line 3", "'roll'", "[party]", "did you mean role?"],
    ),
    "unknown key without a near one": (
        ('role = "guest"', 'role = "guest"\ncolour = 1'),
        ["line 4", "'colour'", "valid are name, role, key, certificate"],
    ),
    "unknown section": (("[policy]", "[polices]"), ["line 12", "'polices'", "top level", "mean policy?"]),
    "unknown key, dotted": (
        ("[policy]", "[policy]\nrun.x = 1"),
        ["line 13", "'run'", "[policy]", "valid are"],
    ),
    "unknown key, inline": (
        ('columns = ["income"]', 'columns = ["income"]\n[run]\nfoo = { a = 1 }'),
        ["line 15", "'foo'", "[run]", "output, verbose"],
    ),
    "text for a number": (
        ("[policy]", "[policy]\nminimum_intersection = '5'"),
        ["line 13", "policy.minimum_intersection", "expected integer, got text"],
    ),
    "number for text": (
        ('name = "bank"', "name = 7"),
        ["line 2", "party.name", "expected text, got integer"],
    ),
    "truth value for a number": (
        ("listen", "wait_seconds = true\nlisten"),
        ["line 10", "peer.wait_seconds", "expected number, got truth value"],
    ),
    "text for a list": (('["income"]', '"income"'), ["line 13", "policy.columns", "expected list, got text"]),
    "number in a list": (('["income"]', '["income", 3]'), ["line 13", "policy.columns", "expected text"]),
    "value for a section": (
        ("[policy]\n", "[[policy]]\n"),
        ["line 12", "policy", "expected table, got list"],
    ),
    "unknown value": (('"guest"', '"gust"'), ["line 3", "party.role", "'gust'", "did you mean guest?"]),
    "both roles": (('"guest"', '"either"'), ["party.role", "guest", "host"]),
    "missing key": (('key = "bank.key"\n', ""), ["line 1", "key is missing in [party]"]),
    "missing section": (("[peer]", "[party.x]"), ["line 7", "unknown key 'x' in [party]"]),
    "number out of range": (
        ("[policy]", "[policy]\nmax_peer_keys = 0"),
        ["line 13", "policy.max_peer_keys", ">= 1"],
    ),
    "no patience": (("listen", "stall_seconds = -1\nlisten"), ["line 10", "peer.stall_seconds", "> 0"]),
    "endless patience": (("listen", "wait_seconds = inf\nlisten"), ["line 10", "peer.wait_seconds", "<="]),
    "not a number": (("listen", "wait_seconds = nan\nlisten"), ["line 10", "peer.wait_seconds", "> 0"]),
    "a name with a path in it": (('name = "bank"', 'name = "../x"'), ["line 2", "party.name", "matching"]),
    "one name for both": (('"retailer"', '"bank"'), ["party.name", "peer.name", "bank"]),
    "neither listen nor connect": (('listen = "127.0.0.1:7001"', ""), ["exactly one of listen and connect"]),
    "both listen and connect": (
        ("listen", 'connect = "127.0.0.1:7002"\nlisten'),
        ["exactly one of listen and connect"],
    ),
    "unknown leakage": (
        ("[policy]", '[policy]\naccept_leakage = ["scores"]'),
        ["accept_leakage", "scores", "gradient, noisy_label, payload, representation, row_gradient, score"],
    ),
    "a class that needs no consent": (
        ("[policy]", '[policy]\naccept_leakage = ["public"]'),
        ["accept_leakage", "public", "gradient, noisy_label, payload, representation, row_gradient, score"],
    ),
    "not TOML": (('name = "bank"', "name = bank"), ["not TOML", "line 2"]),
    "a key twice": (('role = "guest"', 'role = "guest"\nrole = "host"'), ["not TOML", "line 4"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, mistake: str) -> None:
    (before, after), expected = MISTAKES[mistake]
    assert before in GOOD
    path = written(tmp_path, GOOD.replace(before, after, 1))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert [part for part in expected if part not in text] == []


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml \(No such file"):
        load_config(tmp_path / "nowhere.toml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="directory"):
        load_config(tmp_path)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bank.toml"
    path.write_bytes('name = "Bänk"'.encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(path)


def test_a_missing_key_is_named(party: Path) -> None:
    (party.parent / "bank.key").unlink()
    with pytest.raises(ConfigError, match=r"party\.key.*bank\.key.*vfl init"):
        vfl.connect(party)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_may_read_is_refused(party: Path, mode: int) -> None:
    (party.parent / "bank.key").chmod(mode)
    with pytest.raises(ConfigError, match=rf"party\.key.*{mode:04o}.*chmod 600"):
        vfl.connect(party)


def test_a_symbolic_link_to_a_key_is_refused(party: Path) -> None:
    key = party.parent / "bank.key"
    key.rename(party.parent / "elsewhere.key")
    key.symlink_to("elsewhere.key")
    with pytest.raises(ConfigError, match=r"party\.key.*symbolic links are refused"):
        vfl.connect(party)


def test_a_pipe_instead_of_a_key_is_refused_without_waiting(party: Path) -> None:
    key = party.parent / "bank.key"
    key.unlink()
    os.mkfifo(key, 0o600)
    with pytest.raises(ConfigError, match=r"party\.key.*not a regular file"):
        vfl.connect(party)


def test_a_damaged_key_is_named_and_not_shown(party: Path) -> None:
    key = party.parent / "bank.key"
    secret = key.read_text().splitlines()[1]
    key.write_text(key.read_text().replace("BEGIN", "BEGUN"))
    with pytest.raises(ConfigError, match=r"party\.key: .*bank\.key: .*PKCS #8.*vfl init") as caught:
        vfl.connect(party)
    assert secret[:8] not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [("bank.pem", "party.certificate", "vfl init"), ("retailer.pem", "peer.certificate", "vfl trust")],
)
@pytest.mark.parametrize("damage", ["missing", "empty", "no certificate"])
def test_a_certificate_that_is_none_is_named(
    party: Path, name: str, what: str, remedy: str, damage: str
) -> None:
    path = party.parent / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_text("" if damage == "empty" else "-----BEGIN CERTIFICATE-----\nMIIB\n")
    with pytest.raises(ConfigError, match=rf"{what}: .*{name}.*{remedy}"):
        vfl.connect(party)
