"""Transcripts and tallies: complete, each message once, ready for JSON, and from one party alone."""

import json

import numpy as np
import pytest

from tests.channels import Blob, Scores, make_pair
from vfl.errors import ConfigError, LocalProtocolError, PeerAborted
from vfl.protocols.channel import Channel
from vfl.protocols.record import RecordingChannel, Tally, Total, Transcript
from vfl.protocols.wire import Leakage, encode

TAG = 16
BLOB, SCORES = Blob(data=b"abc"), Scores(z=np.arange(4.0))
BLOB_SIZE, SCORES_SIZE = TAG + len(encode(BLOB)), TAG + len(encode(SCORES))


async def guest(channel: Channel) -> None:
    await channel.send(BLOB)
    await channel.recv(Scores, rows=4)
    await channel.send(BLOB)


async def host(channel: Channel) -> None:
    await channel.recv(Blob, size=3)
    await channel.send(SCORES)
    await channel.recv(Blob, size=3)


@pytest.fixture
def transcripts() -> tuple[Transcript, Transcript]:
    """What the bank and the retailer recorded of two blobs one way and scores the other."""
    pair, bank, retailer = make_pair("memory"), Transcript(), Transcript()
    pair.guest.observe(bank)
    pair.host.observe(retailer)
    assert pair.run(guest(pair.guest), host(pair.host)) == (None, None)
    return bank, retailer


def test_a_view_is_what_a_party_received(transcripts: tuple[Transcript, Transcript]) -> None:
    for transcript in transcripts:  # either side sees both views
        (scores,) = transcript.view("bank")
        assert isinstance(scores.message, Scores)
        np.testing.assert_array_equal(scores.message.z, SCORES.z)
        assert [record.message for record in transcript.view("retailer")] == [BLOB, BLOB]
        assert transcript.view("somebody") == []


def test_both_sides_record_the_same(transcripts: tuple[Transcript, Transcript]) -> None:
    bank, retailer = transcripts
    for row, other in zip(bank.rows(), retailer.rows(), strict=True):
        assert (row["party"], row["peer"]) == (other["peer"], other["party"]) == ("bank", "retailer")
        assert {row["direction"], other["direction"]} == {"sent", "received"}
        for name in ("sequence", "kind", "leakage", "shape", "size", "digest"):
            assert row[name] == other[name]
    assert bank.leakage_table() == retailer.leakage_table()


def test_totals(transcripts: tuple[Transcript, Transcript]) -> None:
    blobs, scores = Total(2, 2 * BLOB_SIZE), Total(1, SCORES_SIZE)
    for transcript in transcripts:
        assert transcript.by_kind() == {"test.blob": blobs, "test.scores": scores}
        assert transcript.by_kind("bank") == {"test.scores": scores}
        assert transcript.by_leakage() == {Leakage.PUBLIC: blobs, Leakage.SCORE: scores}
        assert transcript.by_leakage("retailer") == {Leakage.PUBLIC: blobs}
        assert transcript.by_leakage("somebody") == {}


def test_the_leakage_table_says_what_each_party_was_given(transcripts: tuple[Transcript, Transcript]) -> None:
    assert transcripts[0].leakage_table() == [
        {
            "message": "test.blob",
            "sender": "bank",
            "recipient": "retailer",
            "leakage": "public",
            "reveals": "test data",
            "count": 2,
            "size": 2 * BLOB_SIZE,
        },
        {
            "message": "test.scores",
            "sender": "retailer",
            "recipient": "bank",
            "leakage": "score",
            "reveals": "test scores",
            "count": 1,
            "size": SCORES_SIZE,
        },
    ]


def test_everything_but_the_contents_is_ready_for_json(transcripts: tuple[Transcript, Transcript]) -> None:
    rows = transcripts[0].rows()
    assert json.loads(json.dumps(rows)) == rows
    assert rows[1]["shape"] == {"rows": 4}
    assert "message" not in rows[1]
    table = transcripts[0].leakage_table()
    assert json.loads(json.dumps(table)) == table


def test_one_record_takes_one_party(transcripts: tuple[Transcript, Transcript]) -> None:
    bank, retailer = transcripts
    with pytest.raises(LocalProtocolError, match="belongs to bank; give retailer's channel one of its own"):
        bank(retailer.records[0])
    assert len(bank.records) == 3
    assert bank.by_kind()["test.blob"].count == 2


def test_a_tally_counts_without_keeping(transcripts: tuple[Transcript, Transcript]) -> None:
    tally = Tally()
    for record in transcripts[0].records:
        tally(record)
    assert tally.leakage_table() == transcripts[0].leakage_table()
    assert not hasattr(tally, "records")


def test_a_recording_channel_keeps_a_transcript_of_its_own() -> None:
    pair = make_pair("recording")
    assert pair.run(guest(pair.guest), host(pair.host)) == (None, None)
    assert isinstance(pair.guest, RecordingChannel)
    assert isinstance(pair.host, RecordingChannel)
    assert [r.kind for r in pair.guest.transcript.records] == ["test.blob", "test.scores", "test.blob"]
    assert pair.guest.transcript.leakage_table() == pair.host.transcript.leakage_table()


def test_what_was_refused_is_not_recorded_as_received() -> None:
    pair, transcript = make_pair("memory"), Transcript()
    pair.host.observe(transcript)

    async def sender() -> None:
        await pair.guest.send(BLOB)

    async def receiver() -> None:
        await pair.host.recv(Blob, size=4)

    pair.run(sender(), receiver())
    assert transcript.view("retailer") == []
    assert [record.kind for record in transcript.view("bank")] == ["abort"]


def test_why_the_peer_went_is_found_behind_messages_that_were_not_read() -> None:
    pair = make_pair("memory")

    async def leaves(channel: Channel) -> None:
        await channel.send(BLOB)
        channel.abort(ConfigError("of no concern to the peer"))

    async def sends(channel: Channel) -> None:
        with pytest.raises(PeerAborted, match="bank stopped with ConfigError while retailer was sending"):
            await channel.send(SCORES)

    pair.run(leaves(pair.guest), sends(pair.host))
