"""Which intersection protocol to run: by the sizes of both lists, the link and who is to learn."""

from dataclasses import dataclass

__all__ = ["Choice", "choose"]

# Measured with two processes on one 2-core x86-64 server with AVX-512, see docs/performance_psi.md. Processors without
# it take about six times as long per key for DH, which moves the border down.
DH_SECONDS, DH_BYTES, DH_TRIPS = 2.1e-5, 40, 4
FAST_SECONDS, FAST_BYTES, FAST_TRIPS = 1.1e-6, 16, 7
FAST_START_SECONDS, FAST_START_BYTES = 0.15, 650_000
SLOW_LINK_MS = 5.0  # round trips beyond this are no local network: then bytes are assumed to take their time
SLOW_BYTES_PER_SECOND = 12.5e6  # 100 Mb/s


@dataclass(frozen=True)
class Choice:
    """The protocol, ``"dh"`` or ``"fast"``, and why, in words for the report."""

    protocol: str
    reason: str


def choose(asked: str, own: int, theirs: int, round_trip_ms: float, learns: str) -> Choice:
    """Choose a protocol; both parties come to the same result, since the figures are the same on both sides.

    Parameters
    ----------
    asked : {"auto", "dh", "fast"}
    own, theirs : int
        Padded sizes; their order does not matter.
    round_trip_ms : float
        Of the link, milliseconds, agreed.
    learns : {"both", "guest", "host"}
    """
    if asked != "auto":
        return Choice(asked, "asked for")
    total = own + theirs
    if learns != "both":
        return Choice("dh", "one side learns, for which there is no other protocol")
    rate = SLOW_BYTES_PER_SECOND if round_trip_ms > SLOW_LINK_MS else 1e9
    dh = DH_SECONDS * total + DH_BYTES * total / rate + DH_TRIPS * round_trip_ms / 1e3
    fast = FAST_START_SECONDS + FAST_SECONDS * total + FAST_TRIPS * round_trip_ms / 1e3
    fast += (FAST_START_BYTES + FAST_BYTES * total) / rate
    name = "dh" if dh <= fast else "fast"
    link = "a slow link" if round_trip_ms > SLOW_LINK_MS else "a fast link"
    return Choice(
        name,
        f"{own:,} and {theirs:,} padded identifiers over {link}: about {dh:.2g} s by dh and {fast:.2g} s by fast",
    )
