"""The audit log: every damage is found and its line named; nothing is sent that could not be logged."""

import errno
import hashlib
import itertools
import json
import os
import resource
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vfl.audit import SIGNATURE_CONTEXT, AuditEntry, AuditHeader, AuditLog, verify
from vfl.crypto import signatures
from vfl.crypto.signatures import IdentityKey
from vfl.errors import AuditError
from vfl.protocols.channel import Party, memory_pair, run
from vfl.protocols.wire import Abort, Role

HEADER = AuditHeader(
    session="5f3c",
    party="bank",
    peer="retailer",
    versions={"vfl": "0.1.0", "python": "3.11"},
    config_digest="ab" * 32,
    columns=["amount", "durée", 'a"quote\u2028'],
)
KEY = IdentityKey.generate()


def entry(number: int, **changed: Any) -> AuditEntry:
    values: dict[str, Any] = {
        "peer": "retailer",
        "message": "gradient.residual",
        "leakage": "ciphertext",
        "shape": {"rows": 64 + number},
        "size": 1000 + number,
        "digest": hashlib.sha256(bytes([number])).hexdigest(),
    }
    return AuditEntry(**{**values, **changed})


def write(path: Path, *, messages: int = 3, key: IdentityKey = KEY) -> str:
    log = AuditLog.create(path, HEADER, key, clock=itertools.count(1_700_000_000.5).__next__)
    for number in range(messages):
        log.append(entry(number))
    return log.close({"outcome": "done", "common_rows": 612})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "bank.audit"


@pytest.fixture
def lines(path: Path) -> list[bytes]:
    write(path)
    return path.read_bytes().splitlines(keepends=True)


def refused(path: Path, raw: bytes, key: bytes | None = None) -> str:
    path.write_bytes(raw)
    with pytest.raises(AuditError) as caught:
        verify(path, key)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_whole_log_is_verified_and_summed_up(path: Path) -> None:
    log = AuditLog.create(path, HEADER, KEY, clock=itertools.count(1_700_000_000.5).__next__)
    log.append(entry(0))
    log.append(entry(1))
    log.append(entry(2, message="psi.blinded", leakage="uniform", size=5))
    head = log.close({"outcome": "done", "common_rows": 612})
    found = verify(path, KEY.public_bytes)
    assert found.header == HEADER
    assert found.public_bytes == KEY.public_bytes
    assert (found.messages, found.size) == (3, 2006)
    assert found.totals == {
        ("gradient.residual", "ciphertext"): (2, 2001),
        ("psi.blinded", "uniform"): (1, 5),
    }
    assert found.summary == {"outcome": "done", "common_rows": 612}
    assert found.head == head == log.head
    assert (found.started, found.ended) == ("2023-11-14T22:13:20.500Z", "2023-11-14T22:13:24.500Z")


def test_a_log_without_messages_is_whole(path: Path) -> None:
    write(path, messages=0)
    assert verify(path).messages == 0


def test_the_format_is_what_the_docstring_says(path: Path, lines: list[bytes]) -> None:
    """Checked with the standard library alone, as an auditor might."""
    head = hashlib.sha256(b"vfl audit log 1").hexdigest()
    for seq, raw in enumerate(lines):
        line = json.loads(raw)
        digest = line.pop("hash")
        assert (line["seq"], line["prev"]) == (seq, head)
        head = hashlib.sha256(bytes.fromhex(head) + canonical(line)).hexdigest()
        assert digest == head
    assert line["kind"] == "end"
    assert line["count"] == 3
    signature = bytes.fromhex(line.pop("signature"))
    signatures.verify(KEY.public_bytes, SIGNATURE_CONTEXT, canonical(line), signature)
    first = json.loads(lines[0])
    assert first["kind"] == "header"
    assert first["columns"] == HEADER.columns
    assert first["public_key"] == KEY.public_bytes.hex()
    assert json.loads(lines[1])["bytes"] == 1000


def canonical(line: dict[str, Any]) -> bytes:
    return json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
def test_every_changed_byte_is_found_in_its_line(path: Path, mask: int) -> None:
    write(path, messages=2)
    raw = path.read_bytes()
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= mask
        line = raw[:position].count(b"\n") + 1
        assert f"line {line}: " in refused(path, bytes(changed)), position


def test_every_removed_and_every_doubled_byte_is_found(path: Path) -> None:
    write(path, messages=1)
    raw = path.read_bytes()
    for position in range(len(raw)):
        refused(path, raw[:position] + raw[position + 1 :])
        refused(path, raw[: position + 1] + raw[position:])


def test_every_cut_is_found(path: Path) -> None:
    write(path, messages=1)
    raw = path.read_bytes()
    for size in range(len(raw)):
        assert "not close" in refused(path, raw[:size]) or size == 0
    assert "line 1: the log does not begin with its header" in refused(path, b"")


@pytest.mark.parametrize("index", range(5))
def test_a_removed_line_is_found(path: Path, lines: list[bytes], index: int) -> None:
    text = refused(path, b"".join(lines[:index] + lines[index + 1 :]))
    assert f"line {index + 1}: " in text


@pytest.mark.parametrize("index", range(5))
def test_a_repeated_line_is_found(path: Path, lines: list[bytes], index: int) -> None:
    text = refused(path, b"".join(lines[: index + 1] + lines[index:]))
    assert f"line {index + 2}: " in text


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations(range(5), 2)))
def test_swapped_lines_are_found(path: Path, lines: list[bytes], a: int, b: int) -> None:
    lines[a], lines[b] = lines[b], lines[a]
    assert f"line {a + 1}: " in refused(path, b"".join(lines))


@pytest.mark.parametrize("more", [b"\n", b" ", b"{}\n", b"\x00", b"[" * 100_000])
def test_bytes_after_the_end_are_found(path: Path, lines: list[bytes], more: bytes) -> None:
    assert "line 6: bytes follow" in refused(path, b"".join(lines) + more)


def test_two_logs_in_one_file_are_found(path: Path, lines: list[bytes]) -> None:
    assert "line 6: bytes follow" in refused(path, b"".join(lines) * 2)


@pytest.mark.parametrize(
    "reformat",
    [
        lambda raw: raw.replace(b'":', b'": ', 1),
        lambda raw: b" " + raw,
        lambda raw: raw[:-1] + b"\r\n",
        lambda raw: raw[:-1] + b" \n",
        lambda raw: raw.replace(b'"bytes":1000', b'"bytes":1000.0'),
        lambda raw: raw.replace(b'"bytes":1000', b'"bytes":1e3'),
        lambda raw: raw.replace(b'"bytes":1000', b'"bytes":1,"bytes":1000'),
        lambda raw: raw.replace(b"retailer", b"\\u0072etailer"),
        lambda raw: (
            json.dumps(dict(reversed(json.loads(raw).items())), separators=(",", ":")).encode() + b"\n"
        ),
    ],
)
def test_the_same_facts_in_another_encoding_are_refused(
    path: Path, lines: list[bytes], reformat: Callable[[bytes], bytes]
) -> None:
    changed = reformat(lines[1])
    assert changed != lines[1]
    lines[1] = changed
    assert "line 2: " in refused(path, b"".join(lines))


def forged(lines: list[bytes], change: Callable[[list[dict[str, Any]]], None]) -> bytes:
    """Return the log after a change by someone who repairs all hashes but has not the key."""
    parsed = [json.loads(raw) for raw in lines]
    change(parsed)
    head, out = hashlib.sha256(b"vfl audit log 1").hexdigest(), b""
    for seq, line in enumerate(parsed):
        line.update(seq=seq, prev=head)
        line.pop("hash", None)
        line["hash"] = head = hashlib.sha256(bytes.fromhex(head) + canonical(line)).hexdigest()
        out += canonical(line) + b"\n"
    return out


def test_a_forger_who_changes_nothing_passes(path: Path, lines: list[bytes]) -> None:
    """The control: the forger's tool makes valid hashes."""
    assert forged(lines, lambda parsed: None) == b"".join(lines)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda parsed: parsed[2].update(bytes=1), "line 5: the signature of bank does not fit"),
        (lambda parsed: parsed[0].update(columns=[]), "line 5: the signature"),
        (lambda parsed: parsed[4]["summary"].update(outcome="failed"), "line 5: the signature"),
        (lambda parsed: parsed[4].update(time="2031-01-01T00:00:00.000Z"), "line 5: the signature"),
        (lambda parsed: parsed[4].update(signature=""), "line 5: the signature"),
        (lambda parsed: parsed[4].update(signature="zz"), "line 5: the signature"),
        (lambda parsed: parsed[0].update(public_key="00"), "line 5: the signature"),
        (lambda parsed: parsed.pop(2), "line 4: counts 3 messages, the log holds 2"),
        (lambda parsed: (parsed.pop(2), parsed[3].update(count=2)), "line 4: the signature"),
        (lambda parsed: parsed.insert(1, dict(parsed[0])), "line 2: a second header"),
        (lambda parsed: parsed.pop(0), "line 1: the log does not begin with its header"),
        (lambda parsed: parsed.__setitem__(slice(0, 4), []), "line 1: the log does not begin"),
        (lambda parsed: parsed[1].update(extra=1), "line 2: not a line of an audit log"),
        (lambda parsed: parsed[1].update(kind="note"), "line 2: not a line of an audit log"),
        (lambda parsed: parsed[1].pop("leakage"), "line 2: not a line of an audit log"),
    ],
)
def test_repaired_hashes_do_not_help_without_the_key(
    path: Path, lines: list[bytes], change: Callable[[list[dict[str, Any]]], None], text: str
) -> None:
    assert text in refused(path, forged(lines, change))


def test_another_key_is_refused(path: Path) -> None:
    other = IdentityKey.generate()
    write(path, key=other)
    verify(path)
    assert "line 1: the log of bank names another key" in refused(path, path.read_bytes(), KEY.public_bytes)


def test_an_endless_line_is_not_read_into_memory(path: Path, lines: list[bytes]) -> None:
    assert "line 2: incomplete" in refused(path, lines[0] + b"0" * (1 << 21) + b"\n")


def test_the_line_limit_holds_when_writing(path: Path) -> None:
    log = AuditLog.create(path, HEADER, KEY)
    with pytest.raises(AuditError, match="longer than"):
        log.append(entry(0, message="x" * (1 << 20)))


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"no\.audit: cannot read the audit log"):
        verify(tmp_path / "no.audit")


def test_modes_and_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "bank.audit"
    previous = os.umask(0)
    try:
        write(path)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_existing_log_is_not_touched(path: Path, lines: list[bytes]) -> None:
    with pytest.raises(AuditError, match="exists already"):
        AuditLog.create(path, HEADER, KEY)
    assert path.read_bytes() == b"".join(lines)


def test_symbolic_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link.audit").symlink_to(tmp_path / "target")
    with pytest.raises(AuditError, match="exists already"):
        AuditLog.create(tmp_path / "link.audit", HEADER, KEY)
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    with pytest.raises(AuditError, match="symbolic link"):
        AuditLog.create(tmp_path / "folder" / "x.audit", HEADER, KEY)
    assert not (tmp_path / "target").exists()
    assert not list((tmp_path / "real").iterdir())


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701])
def test_an_open_folder_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    with pytest.raises(AuditError, match=f"mode 0{mode:o} and is open to others; chmod 700"):
        AuditLog.create(tmp_path / "open" / "x.audit", HEADER, KEY)


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError):
        AuditLog.create(tmp_path / "file" / "x.audit", HEADER, KEY)


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Let no file of this process grow beyond a size: the kernel cuts the write that reaches it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_full_disk_stops_the_message(path: Path, small_disk: Callable[[int], None], room: int) -> None:
    log = AuditLog.create(path, HEADER, KEY)
    log.append(entry(0))
    small_disk(path.stat().st_size + room)
    with pytest.raises(AuditError, match=r"bank\.audit: cannot write the audit log \(.*nothing may be sent"):
        log.append(entry(1))
    small_disk(resource.RLIM_INFINITY)
    with pytest.raises(AuditError, match="closed"):
        log.append(entry(1))
    with pytest.raises(AuditError, match="closed"):
        log.close({"outcome": "done"})
    with pytest.raises(AuditError, match=r"line 3: .*not closed"):
        verify(path)


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_no_space_left(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log = AuditLog.create(path, HEADER, KEY)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(AuditError, match=r"bank\.audit: cannot write .*No space left on device"):
            log.close({})
        with pytest.raises(AuditError, match="No space left"):
            AuditLog.create(path.with_name("second.audit"), HEADER, KEY)
    write(path.with_name("second.audit"))  # the failed try left no file behind


def test_a_closed_log_takes_no_more(path: Path) -> None:
    log = AuditLog.create(path, HEADER, KEY)
    log.close({})
    with pytest.raises(AuditError, match="closed"):
        log.append(entry(0))
    with pytest.raises(AuditError, match="closed"):
        log.close({})
    verify(path)


def test_threads_may_share_a_log(path: Path) -> None:
    log = AuditLog.create(path, HEADER, KEY)

    def work() -> None:
        for number in range(50):
            log.append(entry(number))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close({})
    assert verify(path).messages == 200


def test_it_observes_a_channel_and_stops_it_when_it_fails(path: Path) -> None:
    bank, retailer = memory_pair(Party("bank", Role.GUEST), Party("retailer", Role.HOST))
    log = AuditLog.create(path, HEADER, KEY)
    bank.observe(log.observe)
    run(bank.send(Abort(reason="InvalidData")))
    run(retailer.send(Abort(reason="Deadlock")))
    assert len(path.read_bytes().splitlines()) == 2
    log.close({})
    sent = bank.bytes["sent"]
    with pytest.raises(AuditError, match="closed"):
        run(bank.send(Abort(reason="InvalidData")))
    assert bank.bytes["sent"] == sent
    found = verify(path)
    assert found.totals == {("abort", "control"): (1, sent)}
