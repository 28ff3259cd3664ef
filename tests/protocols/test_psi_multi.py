"""Several hosts: the common rows and no others, the same order everywhere, and nothing of what only some share."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import DeterministicRng
from vfl.crypto import okvs
from vfl.crypto.oprf import blind
from vfl.errors import AlignmentError, LocalProtocolError, MalformedMessage
from vfl.protocols.channel import MemoryChannel, Party, memory_pair, run_local
from vfl.protocols.psi import exchange, multi, sets
from vfl.protocols.record import Transcript
from vfl.protocols.wire import Leakage, Role

SETS = st.sets(st.binary(min_size=1, max_size=3), min_size=1, max_size=60)


def keys(*names: object) -> list[bytes]:
    return [str(name).encode() for name in names]


def together(guest: list[bytes], hosts: list[list[bytes]], minimum: int = 0, largest: int = 10_000) -> Any:
    """Run all roles; return their results by name and one transcript a host."""
    ends = [memory_pair(Party("bank", Role.GUEST), Party(f"h{i}", Role.HOST)) for i in range(len(hosts))]
    transcripts = [Transcript() for _ in hosts]
    for (end, _), transcript in zip(ends, transcripts, strict=True):
        end.observe(transcript)
    roles: dict[str, Any] = {
        f"h{i}": multi.host(end, own, len(hosts), DeterministicRng(i + 5), minimum, largest)
        for i, ((_, end), own) in enumerate(zip(ends, hosts, strict=True))
    }
    roles["bank"] = multi.guest([end for end, _ in ends], guest, DeterministicRng(1), minimum, largest)
    return run_local(**roles), transcripts


@settings(max_examples=10, deadline=None)
@given(SETS, st.lists(SETS, min_size=2, max_size=4))
def test_everyone_gets_the_common_keys_in_one_order(guest: set[bytes], hosts: list[set[bytes]]) -> None:
    mine, theirs = sorted(guest), [sorted(host) for host in hosts]
    result, _ = together(mine, theirs)
    found = [mine[i] for i in result["bank"].positions]
    assert set(found) == guest.intersection(*hosts)
    for place, own in enumerate(theirs):
        assert [own[i] for i in result[f"h{place}"].positions] == found


def test_more_keys_than_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multi, "_PIECE", 50)
    monkeypatch.setattr(exchange, "CHUNK", 70)
    mine = keys(*range(400))
    result, transcripts = together(mine, [keys(*range(10, 410)), keys(*range(20))])
    assert sorted(result["bank"].positions.tolist()) == list(range(10, 20))
    assert transcripts[0].by_kind()["multi.hint"].count == -(-okvs.shape(sets.bucket(400)).size // 50)


def test_what_some_share_looks_like_what_none_shares() -> None:
    """The guest's sums for keys of one host, of two of three, and of none are all non-zero and look random."""
    seen: dict[str, list[int]] = {}
    decoded: list[Any] = []
    original = multi._decoded

    def watched(*arguments: Any) -> Any:
        decoded.append(original(*arguments))
        return decoded[-1]

    mine = keys(*range(400))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multi, "_decoded", watched)
        together(mine, [keys(*range(300)), keys(*range(100, 300)), keys(*range(200, 500))])
    sums = decoded[0] ^ decoded[1] ^ decoded[2]
    groups = {"one": range(0, 100), "two": range(100, 200), "all": range(200, 300), "last": range(300, 400)}
    for name, rows in groups.items():
        seen[name] = [int(bin(int(a)).count("1") + bin(int(b)).count("1")) for a, b in sums[rows]]
    assert set(seen["all"]) == {0}
    for name in ("one", "two", "last"):
        assert abs(np.mean(seen[name]) - 64) < 6 * np.sqrt(32 / 100)
    # also pairwise, the guest finds no equality between what two hosts say of a key that only they have
    pairs = {tuple(row) for row in decoded[0][100:200].tolist()} & {
        tuple(row) for row in decoded[1][100:200].tolist()
    }
    assert not pairs


def test_a_host_sees_only_declared_classes_and_the_common_keys() -> None:
    _, transcripts = together(keys(*range(100)), [keys(*range(50, 200)), keys(*range(80, 120))])
    for place, transcript in enumerate(transcripts):
        kinds = {r.kind for r in transcript.view(f"h{place}") if r.leakage is Leakage.INTERSECTION}
        assert kinds == {"multi.count", "multi.everyone"}
        assert next(r for r in transcript.records if r.kind == "multi.everyone").shape == {"matched": 20}


def test_padding_is_in_the_store_so_that_sizes_within_a_bucket_look_alike() -> None:
    sizes = []
    for count in (65, 72):
        _, transcripts = together(keys(*range(65)), [keys(*range(count)), keys(*range(70))])
        sizes.append([r.size for r in transcripts[0].records if r.kind != "multi.everyone"])
    assert sizes[0] == sizes[1]


class TestRefusals:
    def test_one_host(self) -> None:
        with pytest.raises(LocalProtocolError, match="two to 64 hosts are needed, not 1"):
            together(keys(1), [keys(1)])

    def test_too_few_in_common(self) -> None:
        with pytest.raises(AlignmentError, match="1 common customers, at least 2"):
            together(keys(1, 2), [keys(1, 2), keys(1)], minimum=2)

    def test_too_many_keys(self) -> None:
        with pytest.raises(AlignmentError, match="enumerate"):
            together(keys(*range(300)), [keys(1), keys(2)], largest=100)

    @pytest.mark.parametrize("deviate", ["repeated", "not mine", "zero"])
    def test_keys_that_a_guest_made_up(self, deviate: str) -> None:
        async def guest(end: MemoryChannel) -> None:
            own = np.frombuffer((await end.recv(multi.HostKey)).key, np.uint8)
            other = {"repeated": own, "not mine": own ^ 1, "zero": np.zeros(32, np.uint8)}[deviate]
            listed = np.stack([own ^ 2 if deviate == "not mine" else own, other])
            await end.send(multi.HostKeys(place=0, keys=listed))

        bank, shop = memory_pair(Party("bank", Role.GUEST), Party("shop", Role.HOST))
        with pytest.raises((AlignmentError, MalformedMessage), match="passed on"):
            run_local(one=guest(bank), two=multi.host(shop, keys(1), 2, DeterministicRng(1), 0, 100))

    def test_names_that_are_not_this_hosts(self) -> None:
        async def guest(end: MemoryChannel) -> None:
            own = np.frombuffer((await end.recv(multi.HostKey)).key, np.uint8)
            await end.send(multi.HostKeys(place=0, keys=np.stack([own, own ^ 1])))
            await end.send(sets.SetSize(size=64))
            await end.recv(sets.SetSize)
            points = blind(keys(*range(64)), DeterministicRng(3))[1]
            await end.send(exchange.Blinded(points=points))
            await end.recv(exchange.Evaluated, elements=64)
            await end.recv(multi.Hint, elements=okvs.shape(64).size)
            await end.send(multi.EveryoneCount(count=1))
            await end.send(multi.Everyone(names=np.zeros((1, 16), np.uint8)))

        bank, shop = memory_pair(Party("bank", Role.GUEST), Party("shop", Role.HOST))
        with pytest.raises(MalformedMessage, match="none of this party's"):
            run_local(one=guest(bank), two=multi.host(shop, keys(1), 2, DeterministicRng(1), 0, 100))


def test_the_store_is_uniform_among_those_that_fit() -> None:
    """Free columns are random: two stores for the same keys and shares differ nearly everywhere."""
    rng = DeterministicRng(1)
    outputs = np.frombuffer(rng.bytes(48 * 64), np.uint8).reshape(64, 48)
    shares = np.zeros((64, 2), np.uint64)
    one, two = (multi._programmed(outputs, shares, DeterministicRng(seed)) for seed in (2, 3))
    assert (one != two).any(axis=1).mean() > 0.95
    assert not multi._decoded(outputs, one, 64).any()
    assert not multi._decoded(outputs, two, 64).any()
    other = np.frombuffer(rng.bytes(48 * 64), np.uint8).reshape(64, 48)
    assert multi._decoded(other, one, 64).any(axis=1).all()
