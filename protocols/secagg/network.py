"""Secure aggregation between processes: a hub of mutual TLS connections, and clients that come back to it.

Every connection begins with the session's handshake, in which both sides prove their pinned identities; certificates
and identities are of the same keys.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self, cast, final

from vfl.crypto.rng import Rng
from vfl.crypto.signatures import IdentityKey, certificate_public_bytes
from vfl.errors import ChannelClosed, ChannelTimeout, ConfigError, VFLError
from vfl.protocols.channel import Channel, Observer, Party, Waiting, run
from vfl.protocols.grpc import Endpoint, GrpcChannel, Hub, connect
from vfl.protocols.secagg.client import Contribution, Result, contribute
from vfl.protocols.secagg.hall import Deadlines, Hall
from vfl.protocols.secagg.policy import Policy
from vfl.protocols.session import handshake
from vfl.protocols.wire import Role

__all__ = ["Aggregator", "Line", "dial", "take_part"]

_SHARED = {"protocol": "secure aggregation, version 1"}


@final
class Aggregator:
    """An aggregator that listens until it is closed; use it as a context manager.

    Parameters
    ----------
    name : str
    endpoints : mapping of str to Endpoint
        One for each client of the policy by name, all with the same address and identity.
    policy : Policy
    rng : Rng
    deadlines : Deadlines

    Attributes
    ----------
    hall : Hall
        ``hall.run(task, number)`` runs a round.
    port : int
        The port that is bound.

    Raises
    ------
    ConfigError
        If a client has no endpoint, or its certificate is not of the key that the policy pins.
    """

    def __init__(
        self,
        name: str,
        endpoints: Mapping[str, Endpoint],
        policy: Policy,
        rng: Rng,
        deadlines: Deadlines | None = None,
    ) -> None:
        pinned = {who: certificate_public_bytes(e.peer_certificate_pem) for who, e in endpoints.items()}
        if pinned != dict(policy.clients):
            raise ConfigError("the endpoints' certificates are not those of the keys that the policy pins")
        self.hall, self._rng, self._pinned = Hall(policy, deadlines), rng, pinned
        self._identity = IdentityKey.from_pem(next(iter(endpoints.values())).key_pem)
        self._hub = Hub(endpoints, Party(name, Role.AGGREGATOR), Role.CLIENT, self._attend)
        self.port = self._hub.port

    def _attend(self, channel: GrpcChannel) -> None:
        try:
            pinned = self._pinned[channel.peer.name]
            run(handshake(channel, self._identity, pinned, _SHARED, {}, self._rng))
        except VFLError as error:
            channel.abort(error)
            return
        self.hall.serve(channel)

    def __enter__(self) -> "Aggregator":
        """Begin to answer connections."""
        self._hub.open()
        return self

    def __exit__(self, *stopped: object) -> None:
        """End the present round, tell the clients, stop listening."""
        self.hall.close()
        self._hub.close()


def dial(
    endpoint: Endpoint, name: str, aggregator: str, rng: Rng, observers: Sequence[Observer] = ()
) -> Channel:
    """Connect a client to its aggregator and shake hands; the observers see every message from the first.

    Raises
    ------
    ChannelTimeout, PeerAuthenticationError, ConfigMismatch
    """
    channel = connect(endpoint, Party(name, Role.CLIENT), Party(aggregator, Role.AGGREGATOR))
    for observer in observers:
        channel.observe(observer)
    try:
        pinned = certificate_public_bytes(endpoint.peer_certificate_pem)
        run(handshake(channel, IdentityKey.from_pem(endpoint.key_pem), pinned, _SHARED, {}, rng))
    except BaseException as error:
        channel.abort(error)
        raise
    return channel


@final
class Line:
    """A client's connection to its aggregator: kept from round to round, replaced when it is lost.

    Use it as a context manager, or close it.

    Parameters
    ----------
    connected : callable
        Returns a new channel to the aggregator, as :func:`dial` does.
    seconds : float
        For how long lost connections are replaced within one round.
    wait : callable, optional
        As :func:`vfl.protocols.channel.run` takes it, for channels that do not block.
    """

    def __init__(
        self,
        connected: Callable[[], Channel],
        seconds: float,
        wait: Callable[[Waiting], None] | None = None,
    ) -> None:
        self._connected, self._seconds, self._wait = connected, seconds, wait
        self._channel: Channel | None = None

    def open(self) -> None:
        """Connect, unless the line is connected already; the errors are those of `connected`."""
        if self._channel is None:
            self._channel = self._connected()

    def take_part(self, part: Contribution) -> Result:
        """Run a client's side of one round, over a new connection whenever one is lost.

        Raises
        ------
        ChannelError
            If that takes longer than allowed.
        VFLError
            See :func:`contribute`.
        """
        end = time.monotonic() + self._seconds
        while True:
            self.open()
            channel = cast(Channel, self._channel)
            try:
                return run(contribute(channel, part), self._wait)
            except BaseException as error:
                channel.abort(error)
                self._channel = None
                if not isinstance(error, ChannelClosed | ChannelTimeout) or time.monotonic() >= end:
                    raise
            time.sleep(0.1)

    def close(self) -> None:
        """Leave."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def __enter__(self) -> Self:
        """Connect with the first round."""
        return self

    def __exit__(self, *stopped: object) -> None:
        """Leave."""
        self.close()


def take_part(connected: Callable[[], Channel], part: Contribution, seconds: float) -> Result:
    """Run a client's side of one round over a :class:`Line` of its own."""
    with Line(connected, seconds) as line:
        return line.take_part(part)
