"""Which intersection protocol is chosen, and that both parties choose the same."""

import pytest

from vfl.choosing import choose

LAN, WAN = 0.5, 40.0


@pytest.mark.parametrize(
    ("own", "theirs", "round_trip", "protocol"),
    [
        (1000, 1000, LAN, "dh"),
        (1000, 1000, WAN, "dh"),
        (100_000, 100_000, LAN, "fast"),
        (100_000, 100_000, WAN, "fast"),
        (10_485_760, 10_485_760, LAN, "fast"),
        (1024, 1_048_576, LAN, "fast"),
    ],
)
def test_the_faster_one_by_size_and_link(own: int, theirs: int, round_trip: float, protocol: str) -> None:
    chosen = choose("auto", own, theirs, round_trip, "both")
    assert chosen.protocol == protocol
    assert chosen.protocol == choose("auto", theirs, own, round_trip, "both").protocol
    assert f"{own:,} and {theirs:,}" in chosen.reason
    assert ("slow link" in chosen.reason) == (round_trip == WAN)


def test_one_side_learns_by_dh_alone() -> None:
    assert choose("auto", 10**6, 10**6, LAN, "guest").protocol == "dh"


@pytest.mark.parametrize("asked", ["dh", "fast"])
def test_what_is_asked_for_is_taken(asked: str) -> None:
    assert choose(asked, 10, 10**7, LAN, "both") == choose(asked, 10**7, 10, WAN, "both")
    assert choose(asked, 10, 10**7, LAN, "both").protocol == asked
