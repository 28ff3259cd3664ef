"""The network: who may connect, who may not, what happens when a peer dies, and what a slow one costs."""

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from tests.channels import (
    BANK,
    RETAILER,
    Blob,
    Identity,
    Task,
    endpoint,
    grpc_pair,
    identity,
    make_pair,
    threads_besides,
)
from vfl.crypto.signatures import IdentityKey, self_signed_certificate
from vfl.errors import (
    ChannelClosed,
    ChannelTimeout,
    ConfigError,
    InvalidKey,
    MalformedMessage,
    MessageTooLarge,
    PeerAuthenticationError,
    VFLError,
)
from vfl.protocols.channel import Channel, run
from vfl.protocols.grpc import METHOD, SERVICE, GrpcChannel, Listener, connect
from vfl.protocols.stream import CHUNK, WINDOW

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def bank() -> Identity:
    return identity(BANK)


@pytest.fixture(scope="module")
def retailer() -> Identity:
    return identity(RETAILER)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert not threads_besides(before)


@contextlib.contextmanager
def listening(mine: Identity, pinned: Identity, **seconds: float) -> Iterator[tuple[int, Task]]:
    """Listen as the bank; yield the port and the accepting task, whose channel is closed in the end."""
    listener = Listener(endpoint(mine, pinned, listen=0, seconds=seconds))
    accepting = Task(lambda: listener.accept(BANK, RETAILER))
    try:
        yield listener.port, accepting
    finally:
        with contextlib.suppress(VFLError):
            accepting.result().close()
        listener.close()


def dial(mine: Identity, pinned: Identity, port: int, **seconds: float) -> GrpcChannel:
    return connect(endpoint(mine, pinned, dial=port, seconds=seconds), RETAILER, BANK)


def say(channel: Channel, data: bytes) -> None:
    async def role() -> None:
        await channel.send(Blob(data=data))

    run(role())


def hear(channel: Channel, size: int) -> bytes:
    async def role() -> bytes:
        return (await channel.recv(Blob, size=size)).data

    return run(role())


def assert_connected(accepting: Task, host: GrpcChannel) -> None:
    guest = accepting.result()
    say(host, b"ping")
    assert hear(guest, 4) == b"ping"
    Task(guest.close)
    host.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# --- appearing


@pytest.mark.parametrize("first", ["listener", "dialler"])
def test_either_side_may_start_first(bank: Identity, retailer: Identity, first: str) -> None:
    port = free_port()
    sides = {
        "listener": lambda: connect(endpoint(bank, retailer, listen=port), BANK, RETAILER),
        "dialler": lambda: dial(retailer, bank, port),
    }
    early = Task(sides.pop(first))
    time.sleep(0.4)
    ((_, start),) = sides.items()
    late = Task(start)
    channels = [early.result(), late.result()]
    say(channels[0], b"hello")
    assert hear(channels[1], 5) == b"hello"
    for closing in [Task(channel.close) for channel in channels]:
        closing.result()


def test_nobody_listens(bank: Identity, retailer: Identity) -> None:
    port = free_port()
    with pytest.raises(
        ChannelTimeout, match=rf"bank did not answer at 127\.0\.0\.1:{port} within 0\.5 s: start bank's"
    ):
        dial(retailer, bank, port, wait_seconds=0.5)


def test_nobody_dials(bank: Identity, retailer: Identity) -> None:
    with pytest.raises(
        ChannelTimeout, match=r"retailer did not connect to 127\.0\.0\.1:0 within 0\.2 s: start retailer's"
    ):
        connect(endpoint(bank, retailer, listen=0, seconds={"wait_seconds": 0.2}), BANK, RETAILER)


def test_a_port_in_use_is_an_error_at_once(bank: Identity, retailer: Identity) -> None:
    with (
        listening(bank, retailer, wait_seconds=0.2) as (port, _),
        pytest.raises(ConfigError, match=f"{port}: in use"),
    ):
        Listener(endpoint(bank, retailer, listen=port))


def test_a_second_session_is_refused_while_one_is_open(bank: Identity, retailer: Identity) -> None:
    with listening(bank, retailer) as (port, accepting):
        host = dial(retailer, bank, port)
        guest = accepting.result()
        with pytest.raises(ChannelTimeout, match="another session is in progress"):
            dial(retailer, bank, port, wait_seconds=0.5)
        say(guest, b"still here")
        assert hear(host, 10) == b"still here"
        Task(host.close)


def test_a_peer_that_gives_up_before_the_greeting_leaves_room_for_the_next(
    bank: Identity, retailer: Identity
) -> None:
    with listening(bank, retailer) as (port, accepting):
        with raw_client(retailer, bank, port) as call:
            assert next(call) == GREETING  # which is not answered
            call.cancel()
        assert_connected(accepting, dial(retailer, bank, port))


# --- who it is


EXPIRED: dict[str, Any] = {"now": NOW - timedelta(days=30), "days": 29}
TOMORROW: dict[str, Any] = {"now": NOW + timedelta(days=2)}


def test_the_dialler_is_somebody_else(bank: Identity, retailer: Identity) -> None:
    with listening(bank, retailer) as (port, accepting):
        with pytest.raises(
            PeerAuthenticationError,
            match=r"bank proved its identity .* pins another certificate for retailer",
        ):
            dial(identity(RETAILER), bank, port)
        assert_connected(accepting, dial(retailer, bank, port))  # and the right one is still welcome


def test_the_listener_is_somebody_else(bank: Identity, retailer: Identity) -> None:
    with listening(bank, retailer) as (port, accepting):
        with pytest.raises(
            PeerAuthenticationError, match="does not hold the certificate that retailer pins for bank"
        ):
            dial(retailer, identity(BANK), port)
        assert_connected(accepting, dial(retailer, bank, port))


def test_the_listener_has_the_key_but_another_name(bank: Identity, retailer: Identity) -> None:
    key = IdentityKey.from_pem(bank.key)
    renamed = replace(bank, certificate=self_signed_certificate(key, "branch", now=NOW))
    with listening(renamed, retailer, wait_seconds=1) as (port, _), pytest.raises(PeerAuthenticationError):
        dial(retailer, bank, port)


@pytest.mark.parametrize("kind", ["renewed", "delegated"])
def test_another_certificate_of_the_pinned_key_is_not_the_pinned_certificate(
    bank: Identity, retailer: Identity, kind: str
) -> None:
    """TLS lets pass what the pinned certificate signed, since that is a root: the comparison does not."""
    other = renewed(retailer) if kind == "renewed" else delegated(retailer)
    with listening(bank, retailer) as (port, accepting):
        with pytest.raises(PeerAuthenticationError, match="pins another certificate for retailer"):
            dial(other, bank, port)
        assert_connected(accepting, dial(retailer, bank, port))


def renewed(mine: Identity) -> Identity:
    """Return the same key with another certificate."""
    key = IdentityKey.from_pem(mine.key)
    return replace(
        mine, certificate=self_signed_certificate(key, RETAILER.name, now=NOW - timedelta(hours=1))
    )


def delegated(mine: Identity) -> Identity:
    """Return another key whose certificate is signed by the identity key."""
    issuer = x509.load_pem_x509_certificate(mine.certificate)
    signer = load_pem_private_key(mine.key, password=None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "branch")])
    certificate = (
        x509.CertificateBuilder(issuer.subject, subject, key.public_key(), 1, NOW, NOW + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("retailer.vfl")]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return Identity(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.PEM),
    )


@pytest.mark.parametrize("dates", [EXPIRED, TOMORROW], ids=["expired", "tomorrow"])
@pytest.mark.parametrize("whose", ["bank", "retailer"])
def test_a_certificate_outside_its_dates_is_named_by_both_sides(
    bank: Identity, retailer: Identity, whose: str, dates: dict[str, Any]
) -> None:
    if whose == "bank":
        bank = identity(BANK, **dates)
    else:
        retailer = identity(RETAILER, **dates)
    with pytest.raises(PeerAuthenticationError, match=f"the certificate of {whose} is valid from"):
        dial(retailer, bank, 1)
    with pytest.raises(PeerAuthenticationError, match=f"the certificate of {whose} is valid from"):
        connect(endpoint(bank, retailer, listen=0), BANK, RETAILER)


@pytest.mark.parametrize("whose", ["bank", "retailer"])
def test_tls_refuses_an_expired_certificate_by_itself(
    bank: Identity, retailer: Identity, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfl.protocols.grpc._check_dates", lambda *_: None)
    if whose == "bank":
        bank = identity(BANK, **EXPIRED)
    else:
        retailer = identity(RETAILER, **EXPIRED)
    with listening(bank, retailer, wait_seconds=1.0) as (port, _), pytest.raises(PeerAuthenticationError):
        dial(retailer, bank, port)


def tls_client(mine: Identity | None, folder: Path, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    if mine is not None:
        (folder / "pem").write_bytes(mine.key + mine.certificate)
        context.load_cert_chain(folder / "pem")
    return context


@pytest.mark.parametrize("certificate", ["none", "wrong"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_without_the_pinned_certificate_gets_no_answer(
    bank: Identity, retailer: Identity, version: ssl.TLSVersion, certificate: str, tmp_path: Path
) -> None:
    context = tls_client(identity(RETAILER) if certificate == "wrong" else None, tmp_path, version)
    with listening(bank, retailer) as (port, accepting):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            contextlib.suppress(ssl.SSLError, ConnectionError),
            context.wrap_socket(plain) as secure,
        ):
            assert version is ssl.TLSVersion.TLSv1_3  # where the client cannot know yet
            secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
            assert secure.recv(1) == b""
        assert_connected(accepting, dial(retailer, bank, port))


@pytest.mark.parametrize(
    "greeting",
    [b"GET / HTTP/1.1\r\nHost: bank\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(1000), b""],
)
def test_whoever_speaks_no_tls_gets_no_answer(bank: Identity, retailer: Identity, greeting: bytes) -> None:
    with listening(bank, retailer) as (port, accepting):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            plain.sendall(greeting)
            if greeting:
                with contextlib.suppress(ConnectionError):
                    answer = plain.recv(100)
                    assert answer[:1] in (b"", b"\x15")  # nothing, or a TLS alert
        assert_connected(accepting, dial(retailer, bank, port))


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", bytes(100)])
def test_dialling_something_that_is_no_vfl(bank: Identity, retailer: Identity, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(0.6)

        def serve() -> None:
            with contextlib.suppress(TimeoutError):
                while True:
                    client, _ = server.accept()
                    with client, contextlib.suppress(ConnectionError):
                        client.recv(1000)
                        client.sendall(answer)

        serving = Task(serve)
        with pytest.raises(ChannelTimeout, match="last attempt: UNAVAILABLE"):
            dial(retailer, bank, port, wait_seconds=0.5)
        serving.result()


# --- an authenticated peer that does not keep to the format


@contextlib.contextmanager
def raw_client(
    mine: Identity, bank: Identity, port: int, *messages: bytes, compression: Any = None
) -> Iterator[Any]:
    """Call the bank with gRPC alone, which sends these messages and then nothing."""
    done = threading.Event()

    def outgoing() -> Iterator[bytes]:
        yield from messages
        done.wait(10)

    credentials = grpc.ssl_channel_credentials(bank.certificate, mine.key, mine.certificate)
    options = [("grpc.ssl_target_name_override", "bank.vfl"), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options, compression) as channel:
        try:
            yield channel.stream_stream(f"/{SERVICE}/{METHOD}")(outgoing())
        finally:
            done.set()


GREETING = b"\x00vfl stream 1"


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"\x01" + (1 << 63).to_bytes(8, "big") + b"x", MessageTooLarge),
        (b"\x09what is this", MalformedMessage),
        (b"\x01" + bytes(CHUNK + 100), ChannelClosed),
    ],
    ids=["2^63 bytes", "unknown message", "chunk too large"],
)
def test_an_authenticated_peer_that_breaks_the_format(
    bank: Identity, retailer: Identity, message: bytes, error: type[VFLError]
) -> None:
    with (
        listening(bank, retailer) as (port, accepting),
        raw_client(retailer, bank, port, GREETING, message) as call,
    ):
        guest = accepting.result()
        with pytest.raises(error, match="retailer"):
            hear(guest, 5)
        with pytest.raises(grpc.RpcError):
            list(call)


def test_a_compression_bomb_is_refused_compressed(bank: Identity, retailer: Identity) -> None:
    bomb = b"\x01" + bytes(256 << 20)
    with listening(bank, retailer) as (port, accepting):
        with (
            raw_client(retailer, bank, port, GREETING, bomb, compression=grpc.Compression.Gzip) as call,
            pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"),
        ):
            list(call)
        assert_connected(accepting, dial(retailer, bank, port))


def test_another_version_of_the_stream_is_named(bank: Identity, retailer: Identity) -> None:
    with (
        listening(bank, retailer) as (port, accepting),
        raw_client(retailer, bank, port, b"\x00vfl stream 999") as _call,
        pytest.raises(MalformedMessage, match="install the same vfl on both sides"),
    ):
        accepting.result()


def test_another_method_does_not_exist(bank: Identity, retailer: Identity) -> None:
    credentials = grpc.ssl_channel_credentials(bank.certificate, retailer.key, retailer.certificate)
    options = [("grpc.ssl_target_name_override", "bank.vfl"), ("grpc.enable_http_proxy", 0)]
    with listening(bank, retailer) as (port, accepting):
        with (
            grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel,
            pytest.raises(grpc.RpcError, match="UNIMPLEMENTED"),
        ):
            channel.unary_unary("/grpc.reflection.v1alpha.ServerReflection/List")(b"")
        assert_connected(accepting, dial(retailer, bank, port))


# --- endpoints


def test_an_endpoint_does_not_show_its_key(bank: Identity, retailer: Identity) -> None:
    text = repr(endpoint(bank, retailer, listen=0))
    assert "PRIVATE" not in text
    assert "BEGIN CERTIFICATE" in text


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"listen": None}, "exactly one of listen and connect"),
        ({"connect": "bank:1"}, "exactly one of listen and connect"),
        ({"listen": "bank"}, "'bank' is not of the form host:port"),
        ({"listen": ":7700"}, "':7700' is not of the form host:port"),
        ({"listen": "bank:port"}, "'bank:port' is not of the form host:port"),
        ({"listen": "bank:65536"}, "'bank:65536' is not of the form host:port"),
        ({"listen": "bank:-1"}, "'bank:-1' is not of the form host:port"),
    ],
)
def test_an_endpoint_that_cannot_work(
    bank: Identity, retailer: Identity, changed: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        replace(endpoint(bank, retailer, listen=0), **changed)


def test_an_endpoint_with_the_wrong_pems(bank: Identity, retailer: Identity) -> None:
    good = endpoint(bank, retailer, listen=0)
    with pytest.raises(ConfigError, match="the certificate is not the identity key's"):
        replace(good, key_pem=retailer.key)
    with pytest.raises(InvalidKey, match="2 certificates"):
        replace(good, peer_certificate_pem=retailer.certificate + bank.certificate)
    for nonsense in (b"", b"-----BEGIN CERTIFICATE-----\n", bank.key):
        with pytest.raises(InvalidKey):
            replace(good, peer_certificate_pem=nonsense)
        with pytest.raises(InvalidKey):
            replace(good, certificate_pem=nonsense)


# --- the peer's process


@contextlib.contextmanager
def retailer_process(mode: str, **seconds: float) -> Iterator[tuple[GrpcChannel, subprocess.Popen[str]]]:
    """Start a retailer that works as `mode` says; yield the bank's channel to it once it is ready."""
    bank, retailer = identity(BANK), identity(RETAILER)
    script = Path(__file__).resolve().parents[1] / "peer_process.py"
    with listening(bank, retailer, **seconds) as (port, accepting):
        process = subprocess.Popen(
            [sys.executable, str(script), mode, str(port)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        told = {"key": retailer.key, "certificate": retailer.certificate, "bank": bank.certificate}
        process.stdin.write(json.dumps({name: pem.decode() for name, pem in told.items()}) + "\n")
        process.stdin.flush()
        try:
            channel = accepting.result()
            assert hear(channel, 5) == b"ready"
            yield channel, process
        finally:
            process.kill()
            process.communicate()


def until_it_fails(work: Callable[[], object]) -> VFLError:
    """Repeat until a typed error comes; print how long it took."""
    started = time.monotonic()
    while True:
        try:
            work()
        except VFLError as error:
            print(f"{type(error).__name__} after {time.monotonic() - started:.3f} s: {error}")
            return error


def test_a_peer_killed_while_it_sends() -> None:
    with retailer_process("flood") as (channel, process):
        hear(channel, 16 << 20)
        process.send_signal(signal.SIGKILL)
        error = until_it_fails(lambda: hear(channel, 16 << 20))
    assert isinstance(error, ChannelClosed)
    assert "retailer went away while bank waited for test.blob" in str(error)


def test_a_peer_killed_while_this_side_sends() -> None:
    with retailer_process("hang") as (channel, process):
        threading.Timer(0.2, process.kill).start()
        error = until_it_fails(lambda: say(channel, bytes(CHUNK)))
    assert isinstance(error, ChannelClosed)
    assert "retailer went away while bank" in str(error)


def test_a_process_that_ends_without_closing() -> None:
    with retailer_process("leave") as (channel, process):
        say(channel, b"x")
        error = until_it_fails(lambda: hear(channel, 1))
        assert isinstance(error, ChannelClosed)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""  # open connections do not keep it alive, and gRPC keeps quiet


def test_a_frozen_peer_is_silent() -> None:
    with retailer_process("freeze", silence_seconds=1.0) as (channel, _):
        say(channel, b"x")
        error = until_it_fails(lambda: hear(channel, 1))
    assert isinstance(error, ChannelTimeout)
    assert "retailer has been silent for 1 s while bank waited for test.blob" in str(error)


def test_a_hung_computation_is_told_from_a_long_one_in_spite_of_heartbeats() -> None:
    with retailer_process("hang", stall_seconds=1.2) as (channel, _):
        error = until_it_fails(lambda: hear(channel, 1))
    assert isinstance(error, ChannelTimeout)
    assert "retailer is connected but has neither computed nor moved data for 1.2 s" in str(error)


def test_a_slow_reader_holds_the_sender_up_and_needs_no_more_memory() -> None:
    frame, count = 4 << 20, 60
    with retailer_process("slow") as (channel, process):
        say(channel, b"x")

        def send() -> None:
            for _ in range(count):
                say(channel, bytes(frame))

        sending = Task(send)
        sent = -1
        while sent != channel.bytes["sent"]:
            sent = channel.bytes["sent"]
            time.sleep(0.5)
        assert sent < 2 * WINDOW + 3 * frame  # of 240 MiB
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        grown = int.from_bytes(hear(channel, 8), "big")
        sending.result()
    print(f"the reader's memory grew by {grown / 2**20:.1f} MiB")
    assert grown < 80 << 20  # a window, what gRPC buffers, and some copies of one frame


# --- leaving


def test_closing_is_quick_and_may_be_repeated() -> None:
    guest, host = grpc_pair()
    started = time.monotonic()
    for channel in (guest, host, guest, host):
        channel.close()
    assert time.monotonic() - started < 5
    for channel in (guest, host):
        with pytest.raises(ChannelClosed, match="has closed the connection"):
            say(channel, b"x")


def test_a_large_last_frame_is_delivered_before_the_connection_ends() -> None:
    pair = make_pair("grpc")
    say(pair.host, bytes(3 * WINDOW))
    closing = Task(pair.host.close)
    time.sleep(0.2)
    assert hear(pair.guest, 3 * WINDOW) == bytes(3 * WINDOW)
    closing.result()
    pair.guest.close()


def test_an_abort_does_not_wait_for_a_peer_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfl.protocols.grpc.ABORT_SECONDS", 0.3)
    pair = make_pair("grpc")
    say(pair.host, bytes(3 * WINDOW))
    started = time.monotonic()
    pair.host.abort(ConfigError("x"))
    assert time.monotonic() - started < 5
    with pytest.raises(VFLError, match="retailer"):
        hear(pair.guest, 3 * WINDOW)
    pair.guest.close()


def test_the_port_is_free_after_closing(bank: Identity, retailer: Identity) -> None:
    with listening(bank, retailer) as (port, accepting):
        assert_connected(accepting, dial(retailer, bank, port))
    listener = Listener(endpoint(bank, retailer, listen=port))
    listener.close()


def test_a_closed_listener_that_never_accepted_leaves_the_port(bank: Identity, retailer: Identity) -> None:
    listener = Listener(endpoint(bank, retailer, listen=0))
    port = listener.port
    listener.close()
    Listener(endpoint(bank, retailer, listen=port)).close()


def test_grpc_is_quiet_unless_somebody_wants_to_hear() -> None:
    code = "import os; import vfl.protocols.grpc; print(os.environ['GRPC_VERBOSITY'])"
    for verbosity in (None, "ERROR"):
        environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
        if verbosity is not None:
            environment["GRPC_VERBOSITY"] = verbosity
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == (verbosity or "NONE")
