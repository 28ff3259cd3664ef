"""Channels between two machines: gRPC over mutual TLS with pinned certificates. The one module with sockets.

One bidirectional stream carries a session; :mod:`vfl.protocols.stream` defines what travels on it. The
listening side requires a client certificate whose only root is the peer's pinned one, and compares it byte
for byte; the dialling side has the peer's certificate as its only root and compares its DNS name. In TLS 1.3
(RFC 8446, section 2) the server checks the client's certificate after the client's handshake has ended, so a
client that is refused sees a handshake that worked: neither side trusts a connection before the other's
greeting has come over it.

No message is compressed, nothing is retried behind the session's back and no proxy is asked.
"""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read at import: errors are raised, not written to stderr
import grpc

from vfl.crypto.signatures import IdentityKey, certificate_public_bytes, certificate_server_name
from vfl.errors import ChannelTimeout, ConfigError, PeerAuthenticationError, VFLError
from vfl.protocols.channel import Channel, Party
from vfl.protocols.stream import LARGEST_MESSAGE, LEAVE_SECONDS, Stream
from vfl.protocols.wire import Role

__all__ = ["Endpoint", "GrpcChannel", "Hub", "Listener", "connect"]

SERVICE, METHOD = "vfl.Session", "Run"
ABORT_SECONDS = 5.0  # for telling the peer about an error
REFUSALS = 3  # connections closed right after the handshake before the certificate is to blame
PING_MS, PONG_MS = 20_000, 60_000  # also TCP's limit for unacknowledged data: above any wait of the stream
COMMON_OPTIONS = [
    ("grpc.max_receive_message_length", LARGEST_MESSAGE),
    ("grpc.max_send_message_length", LARGEST_MESSAGE),
    ("grpc.max_metadata_size", 8192),
    ("grpc.compression_enabled_algorithms_bitset", 1),  # identity alone: no decompression bombs
    ("grpc.keepalive_time_ms", PING_MS),
    ("grpc.keepalive_timeout_ms", PONG_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
SERVER_OPTIONS = [
    *COMMON_OPTIONS,
    ("grpc.so_reuseport", 0),  # a second listener on the port is an error, not a coin toss
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.server_handshake_timeout_ms", 10_000),
]
CLIENT_OPTIONS = [
    *COMMON_OPTIONS,
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True)
class Endpoint:
    """Where the peer is and how it proves who it is.

    Attributes
    ----------
    listen, connect : str or None
        "host:port" to listen on or to dial; exactly one of them. Port 0 listens on a free port.
    key_pem, certificate_pem : bytes
        This party's identity.
    peer_certificate_pem : bytes
        The one certificate that the peer may present.
    wait_seconds : float
        How long to wait for the peer to appear.
    silence_seconds : float
        After so long without a sign of life the peer is given up. A line too slow for one chunk (1 MiB) in
        that time looks like a dead one, and so does a process that keeps Python's global lock for longer.
    stall_seconds : float
        After so long with signs of life, but neither computing nor data, the peer is given up. Processor time
        of the peer's process counts as computing, that of its child processes does not.
    """

    listen: str | None
    connect: str | None
    key_pem: bytes = field(repr=False)
    certificate_pem: bytes
    peer_certificate_pem: bytes
    wait_seconds: float = 300.0
    silence_seconds: float = 20.0
    stall_seconds: float = 600.0

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is opened."""
        if (self.listen is None) == (self.connect is None):
            raise ConfigError("exactly one of listen and connect must be set")
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdecimal() or not int(port) < 1 << 16:
            raise ConfigError(f"{self.address!r} is not of the form host:port")
        certificate_server_name(self.peer_certificate_pem)  # refuses several: each would be trusted
        if certificate_public_bytes(self.certificate_pem) != IdentityKey.from_pem(self.key_pem).public_bytes:
            raise ConfigError("the certificate is not the identity key's; `vfl init` makes both")

    @property
    def address(self) -> str:
        """The address that is set."""
        return str(self.listen or self.connect)


@final
class GrpcChannel(Channel):
    """One side of a session over the network; made by :func:`connect` and :meth:`Listener.accept`."""

    def __init__(self, me: Party, peer: Party, stream: Stream, release: Callable[[], None]) -> None:
        super().__init__(me, peer)
        self._stream, self._release = stream, release

    def _put(self, frame: bytes) -> None:
        self._stream.put(frame)

    async def _get(self, limit: int, kind: str) -> bytes:
        return self._stream.get(limit, kind)

    def abort(self, error: BaseException) -> None:
        """Tell the peer the type of the error that stops this party, within seconds, then close."""
        self._stream.hurry(ABORT_SECONDS)
        super().abort(error)

    def close(self) -> None:
        """Deliver what was sent, as long as the peer makes progress, then end the connection."""
        self._stream.close()
        self._release()


def connect(endpoint: Endpoint, me: Party, peer: Party) -> GrpcChannel:
    """Wait for the peer and return a channel to it; either side may start first.

    Raises
    ------
    ChannelTimeout
        If nobody comes within `wait_seconds`.
    PeerAuthenticationError
        If somebody else answers, the peer refuses this party's certificate, or one of the two has expired.
    ConfigError
        If the address cannot be listened on.
    """
    if endpoint.connect is not None:
        return _dial(endpoint, me, peer)
    listener = Listener(endpoint)
    try:
        return listener.accept(me, peer)
    except BaseException:
        listener.close()
        raise


class _Daemons(Executor):
    """A thread per call that does not keep the process alive, unlike those of a ThreadPoolExecutor."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def submit(self, work: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        done: Future[Any] = Future()

        def run() -> None:
            try:
                done.set_result(work(*args, **named))
            except BaseException as error:  # carried by the future
                done.set_exception(error)

        self._threads.append(threading.Thread(target=run, name="vfl sends", daemon=True))
        self._threads[-1].start()
        return done

    def join(self) -> None:
        for thread in self._threads:
            thread.join(LEAVE_SECONDS)


class _Port:
    """A listening port; subclasses decide what becomes of a connection.

    Attributes
    ----------
    port : int
        The port that is bound.
    """

    def __init__(self, address: str, key_pem: bytes, certificate_pem: bytes, roots: bytes) -> None:
        self._started = False
        self._senders = _Daemons()
        self._server = grpc.server(self._senders, options=SERVER_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(self._answer)
        service = grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler})
        self._server.add_generic_rpc_handlers((service,))
        credentials = grpc.ssl_server_credentials(
            [(key_pem, certificate_pem)], root_certificates=roots, require_client_auth=True
        )
        try:
            self.port = int(self._server.add_secure_port(address, credentials))
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise ConfigError(f"cannot listen on {address}: in use, or not this machine's address")

    def _start(self) -> None:
        self._started = True
        self._server.start()

    def _answer(self, requests: Any, context: Any) -> Iterator[bytes]:
        raise NotImplementedError

    def _refuse(self) -> None:
        """Let nobody in any more."""

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._refuse()
        if not self._started:  # only a server that was started lets go of its port
            self._start()
        self._server.stop(grace=None).wait()
        self._senders.join()


@final
class Listener(_Port):
    """A listening port for one session with one peer.

    Attributes
    ----------
    port : int
        The port that is bound; connections are answered from :meth:`accept` on.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._pinned = _der(endpoint.peer_certificate_pem)
        self._free, self._arrived = threading.Lock(), queue.SimpleQueue[Stream]()
        super().__init__(
            endpoint.address, endpoint.key_pem, endpoint.certificate_pem, endpoint.peer_certificate_pem
        )

    def accept(self, me: Party, peer: Party) -> GrpcChannel:
        """Wait for the peer's connection; further ones are refused. Closing the channel closes the listener.

        Raises
        ------
        ChannelTimeout, PeerAuthenticationError
        """
        endpoint = self._endpoint
        _check_dates(endpoint, me, peer)
        self._parties = me, peer
        self._start()
        deadline = time.monotonic() + endpoint.wait_seconds
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                stream = self._arrived.get(timeout=left)
                if stream.greeted(endpoint.silence_seconds):
                    return GrpcChannel(me, peer, stream, self.close)
                stream.cancel()
                self._free.release()
        raise ChannelTimeout(
            f"{peer.name} did not connect to {endpoint.address} within {endpoint.wait_seconds:g} s: start "
            f"{peer.name}'s side, check the address it dials and the firewall, and that the certificate that "
            f"{me.name} pins for {peer.name} is the one it uses: a connection with another is refused unseen"
        )

    def _answer(self, requests: Any, context: Any) -> Iterator[bytes]:
        if _presented(context) != self._pinned:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "not the pinned certificate")
        if not self._free.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "another session is in progress")
        stream = _stream(self._endpoint, *self._parties)
        stream.start(requests, context.cancel)
        self._arrived.put(stream)
        return stream.outgoing()

    def _refuse(self) -> None:
        if not self._started:
            self._free.acquire(blocking=False)


@final
class Hub(_Port):
    """A listening port for a session with each of several peers, which may come, go and come again.

    Parameters
    ----------
    endpoints : mapping of str to Endpoint
        One for each peer by name; all with the same address and identity, each with its peer's certificate.
    me : Party
    role : Role
        Of the peers.
    attend : callable
        Called with the channel of every connection, each in a thread of its own, until it returns. A peer that connects
        again while its earlier connection stands ends that one: it may have lost it without this side noticing.

    Raises
    ------
    ConfigError
        If the endpoints differ, two peers pin one certificate, or the address cannot be listened on.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        me: Party,
        role: Role,
        attend: Callable[[GrpcChannel], None],
    ) -> None:
        self._me, self._attend = me, attend
        self._peers = {
            _der(endpoint.peer_certificate_pem): (Party(name, role), endpoint)
            for name, endpoint in endpoints.items()
        }
        first = next(iter(endpoints.values()), None)
        if first is None or len({(e.address, e.key_pem) for e in endpoints.values()}) != 1:
            raise ConfigError(
                "a hub takes the endpoints of at least one peer, all with one address and identity"
            )
        if len(self._peers) != len(endpoints):
            raise ConfigError("two peers have the same certificate: each pins its own")
        self._streams: dict[str, Stream] = {}
        self._threads: list[threading.Thread] = []
        self._lock, self._closed = threading.Lock(), False
        roots = b"\n".join(endpoint.peer_certificate_pem for endpoint in endpoints.values())
        super().__init__(first.address, first.key_pem, first.certificate_pem, roots)

    def open(self) -> None:
        """Begin to answer connections."""
        for peer, endpoint in self._peers.values():
            _check_dates(endpoint, self._me, peer)
        self._start()

    def _answer(self, requests: Any, context: Any) -> Iterator[bytes]:
        peer, endpoint = self._peers.get(_presented(context), (None, None))
        if peer is None or endpoint is None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "not a pinned certificate")
            raise AssertionError  # abort raises
        stream = _stream(endpoint, self._me, peer)
        stream.start(requests, context.cancel)
        with self._lock:
            if self._closed:
                context.abort(grpc.StatusCode.UNAVAILABLE, "closing")
            before = self._streams.get(peer.name)
            self._streams[peer.name] = stream
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            work = threading.Thread(
                target=self._serve,
                args=(peer, endpoint, stream),
                name=f"vfl attends {peer.name}",
                daemon=True,
            )
            self._threads.append(work)
        if before is not None:
            before.cancel()
        work.start()
        return stream.outgoing()

    def _serve(self, peer: Party, endpoint: Endpoint, stream: Stream) -> None:
        with contextlib.suppress(VFLError):
            if stream.greeted(endpoint.silence_seconds):
                channel = GrpcChannel(self._me, peer, stream, lambda: None)
                try:
                    self._attend(channel)
                finally:
                    channel.close()
        stream.cancel()

    def _refuse(self) -> None:
        with self._lock:
            self._closed = True
            streams = list(self._streams.values())
        for stream in streams:
            stream.hurry(ABORT_SECONDS)

    def close(self) -> None:
        """Stop listening and end every connection, once what was sent has arrived or seconds have passed."""
        self._refuse()
        for thread in self._threads:
            thread.join(ABORT_SECONDS)
        super().close()


def _dial(endpoint: Endpoint, me: Party, peer: Party) -> GrpcChannel:
    _check_dates(endpoint, me, peer)
    credentials = grpc.ssl_channel_credentials(
        endpoint.peer_certificate_pem, endpoint.key_pem, endpoint.certificate_pem
    )
    name = certificate_server_name(endpoint.peer_certificate_pem)
    options = [*CLIENT_OPTIONS, ("grpc.ssl_target_name_override", name)]
    deadline = time.monotonic() + endpoint.wait_seconds
    pause, refusals, why = 0.1, 0, "none was made"
    while time.monotonic() < deadline:
        channel = grpc.secure_channel(endpoint.address, credentials, options=options)
        stream = _stream(endpoint, me, peer)
        call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(stream.outgoing())
        stream.start(call, call.cancel)
        try:
            if stream.greeted(min(deadline - time.monotonic(), endpoint.silence_seconds)):
                return GrpcChannel(me, peer, stream, channel.close)
        except BaseException:
            channel.close()
            raise
        channel.close()
        why = _why(stream.lost)
        refusals = refusals + 1 if _closed_after_handshake(why) else 0
        _check_identity(why, refusals, endpoint, me, peer)
        time.sleep(max(0.0, min(pause, deadline - time.monotonic())))
        pause = min(2 * pause, 2.0)
    raise ChannelTimeout(
        f"{peer.name} did not answer at {endpoint.address} within {endpoint.wait_seconds:g} s: start "
        f"{peer.name}'s side, check the address and the firewall, and that both pin each other's certificate "
        f"(last attempt: {why})"
    )


def _stream(endpoint: Endpoint, me: Party, peer: Party) -> Stream:
    return Stream(
        me.name, peer.name, silence_seconds=endpoint.silence_seconds, stall_seconds=endpoint.stall_seconds
    )


def _presented(context: Any) -> bytes:
    """Return the certificate that a connection was made with, DER."""
    return _der(context.auth_context()["x509_pem_cert"][0])


def _der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


def _why(lost: Exception | None) -> str:
    """Return what gRPC says about a connection that failed."""
    if not isinstance(lost, grpc.RpcError) or not isinstance(lost, grpc.Call):
        return "no answer in time"
    return f"{lost.code().name}: {str(lost.details()).rsplit('last error: ')[-1][:200]}"


def _closed_after_handshake(why: str) -> bool:
    """Tell a peer that refuses a certificate from a port forwarder that closes because nobody is behind it."""
    early = "andshake" in why or "Failed to connect" in why
    return not early and ("Socket closed" in why or "Connection reset" in why)


def _check_identity(why: str, refusals: int, endpoint: Endpoint, me: Party, peer: Party) -> None:
    """Tell a wrong certificate, on either side, from a peer that is not there yet."""
    if "CERTIFICATE_VERIFY_FAILED" in why or "Hostname Verification" in why:
        raise PeerAuthenticationError(
            f"whoever answers at {endpoint.address} does not hold the certificate that {me.name} pins for "
            f"{peer.name}: check the address, or have {peer.name}'s certificate sent again and pin it"
        )
    if why.startswith("UNAUTHENTICATED") or refusals == REFUSALS:
        raise PeerAuthenticationError(
            f"{peer.name} proved its identity at {endpoint.address} but ends every connection of {me.name} "
            f"at once: it pins another certificate for {me.name}; send it {me.name}'s again and pin it there"
        )


def _check_dates(endpoint: Endpoint, me: Party, peer: Party) -> None:
    """Name an expired certificate, which TLS would refuse without saying whose it is."""
    now = datetime.now(UTC)
    for pem, whose in ((endpoint.certificate_pem, me.name), (endpoint.peer_certificate_pem, peer.name)):
        certificate = x509.load_pem_x509_certificate(pem)
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not start <= now <= end:
            raise PeerAuthenticationError(
                f"the certificate of {whose} is valid from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} and "
                f"the clock here says {now:%Y-%m-%d %H:%M} (UTC): set the clock, or make and pin a new one"
            )
