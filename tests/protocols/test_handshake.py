"""The handshake, the lockstep and the checkpoint: what differs is named, and nobody else gets in."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.support import DeterministicRng
from vfl.crypto.signatures import IdentityKey
from vfl.errors import ConfigMismatch, MalformedMessage, PeerAuthenticationError, UnexpectedMessage
from vfl.protocols import session
from vfl.protocols.channel import MemoryChannel, Party, memory_pair, run, run_local
from vfl.protocols.wire import Role

BANK, SHOP = IdentityKey.generate(), IdentityKey.generate()
SETTINGS = {"minimum intersection": "10"}


def pair(guest: str = "bank", host: str = "shop") -> tuple[MemoryChannel, MemoryChannel]:
    return memory_pair(Party(guest, Role.GUEST), Party(host, Role.HOST))


def shake(
    bank: MemoryChannel,
    shop: MemoryChannel,
    *,
    shop_key: IdentityKey = SHOP,
    shop_settings: Mapping[str, str] = SETTINGS,
    seed: int = 1,
) -> dict[str, Any]:
    return run_local(
        guest=session.handshake(
            bank, BANK, SHOP.public_bytes, SETTINGS, {"vfl": "1"}, DeterministicRng(seed)
        ),
        host=session.handshake(
            shop, shop_key, BANK.public_bytes, shop_settings, {"vfl": "2"}, DeterministicRng(seed + 1)
        ),
    )


def test_both_learn_who_the_other_is_and_share_one_session_identifier() -> None:
    result = shake(*pair())
    guest, host = result["guest"], result["host"]
    assert (guest.name, host.name) == ("shop", "bank")
    assert guest.own == {"vfl": "2"}
    assert host.own == {"vfl": "1"}
    assert guest.session == host.session
    assert guest.session != shake(*pair(), seed=5)["guest"].session


def test_every_field_that_differs_is_named_with_both_values() -> None:
    with pytest.raises(ConfigMismatch) as caught:
        shake(*pair(), shop_settings={"minimum intersection": "12", "extra": "x"})
    sides = {frozenset(values) for values in caught.value.differences.values()}
    assert set(caught.value.differences) == {"minimum intersection", "extra"}
    assert sides == {frozenset({"10", "12"}), frozenset({"nothing", "x"})}
    assert "shop has '12'" in str(caught.value)


def test_a_peer_without_the_pinned_key_is_refused() -> None:
    with pytest.raises(PeerAuthenticationError):
        shake(*pair(), shop_key=IdentityKey.generate())


def test_another_protocol_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, shop = pair()

    async def old_host() -> None:
        await shop.send(
            session.Hello(
                protocol=0, role=Role.HOST, name="shop", nonce=bytes(32), identity="", shared=SETTINGS, own={}
            )
        )

    with pytest.raises(ConfigMismatch, match="protocol version: bank has '1', shop has '0'"):
        run_local(
            guest=session.handshake(bank, BANK, SHOP.public_bytes, SETTINGS, {}, DeterministicRng(1)),
            host=old_host(),
        )


def test_a_peer_in_the_same_role_or_of_another_name_is_named() -> None:
    bank, shop = pair(host="retailer")
    shop.me = Party("shop", Role.HOST)
    with pytest.raises(ConfigMismatch, match="peer name"):
        shake(bank, shop)
    bank, shop = pair()
    shop.me, shop.peer = Party("shop", Role.GUEST), Party("bank", Role.HOST)
    with pytest.raises(ConfigMismatch, match="role"):
        shake(bank, shop)


def test_reflected_messages_do_not_authenticate() -> None:
    """A man in the middle who only sends the guest's own messages back gets nowhere."""
    bank, shop = pair()

    async def mirror() -> None:
        hello = await shop.recv(session.Hello)
        await shop.send(hello)
        confirm = await shop.recv(session.Confirm)
        await shop.send(confirm)

    with pytest.raises((ConfigMismatch, PeerAuthenticationError)):
        run_local(
            guest=session.handshake(bank, BANK, SHOP.public_bytes, SETTINGS, {}, DeterministicRng(1)),
            host=mirror(),
        )


def test_a_confirmation_of_another_session_is_refused() -> None:
    bank, shop = pair()
    stolen: list[bytes] = []
    shop.observe(lambda record: stolen.append(getattr(record.message, "signature", b"")))
    shake(bank, shop)
    signature = next(s for s in reversed(stolen) if s)

    bank, shop = pair()

    async def replaying_host() -> None:
        await shop.send(
            session.Hello(
                protocol=session.PROTOCOL_VERSION,
                role=Role.HOST,
                name="shop",
                nonce=bytes(32),
                identity="",
                shared=SETTINGS,
                own={},
            )
        )
        await shop.send(session.Confirm(signature=signature))

    with pytest.raises(PeerAuthenticationError):
        run_local(
            guest=session.handshake(bank, BANK, SHOP.public_bytes, SETTINGS, {}, DeterministicRng(7)),
            host=replaying_host(),
        )


def test_data_before_the_confirmation_is_refused() -> None:
    bank, shop = pair()

    async def hasty_host() -> None:
        await shop.send(session.Proposal(shared={}, own={}))

    with pytest.raises(UnexpectedMessage, match=r"waits for session\.hello, shop sent session\.proposal"):
        run_local(
            guest=session.handshake(bank, BANK, SHOP.public_bytes, SETTINGS, {}, DeterministicRng(1)),
            host=hasty_host(),
        )


def test_frames_of_an_earlier_session_do_not_fit_a_later_one() -> None:
    frames = []
    for seed in (1, 3):
        bank, shop = pair()
        shake(bank, shop, seed=seed)
        run(bank.send(session.Proposal(shared={}, own={})))
        frames.append(shop._inbox[-1])
    assert frames[0][16:] == frames[1][16:]
    shop._inbox[-1] = frames[0]
    with pytest.raises(MalformedMessage, match="does not continue the transcript"):
        run(shop.recv(session.Proposal))


def test_agree_returns_the_peers_facts_and_names_differences() -> None:
    bank, shop = pair()
    result = run_local(
        guest=session.agree(bank, {"rows": "5"}, {"columns": "2"}),
        host=session.agree(shop, {"rows": "5"}, {"columns": "3"}),
    )
    assert result == {"guest": {"columns": "3"}, "host": {"columns": "2"}}
    with pytest.raises(ConfigMismatch, match="rows: shop has '6', bank has '5'"):
        run_local(guest=session.agree(bank, {"rows": "5"}, {}), host=session.agree(shop, {"rows": "6"}, {}))


def test_checkpoint_passes_on_equal_transcripts_and_fails_on_others() -> None:
    bank, shop = pair()
    shake(bank, shop)
    run_local(guest=session.checkpoint(bank), host=session.checkpoint(shop))
    bank._hashes["received"].update(b"something else")
    with pytest.raises(MalformedMessage):
        run_local(guest=session.checkpoint(bank), host=session.checkpoint(shop))
