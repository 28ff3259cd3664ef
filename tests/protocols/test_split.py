"""The messages of split learning: what crosses and how large, what is refused, and how rows are put in order again."""

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vfl.errors import InvalidData, MalformedMessage, MessageTooLarge, TrainingDiverged
from vfl.protocols import split
from vfl.protocols.channel import MemoryChannel, Party, memory_pair, run_local
from vfl.protocols.record import Transcript
from vfl.protocols.wire import OPT_IN, Leakage, Role

Numbers = NDArray[np.float32]
ROWS, WIDTHS, BOUND = 50, (3, 2), 5.0
SEED = bytes(range(32))


def plan(gradient: split.Gradient = split.LabelGradient, rows: int = ROWS) -> split.Plan:
    return split.Plan(rows, 16, 2, SEED, gradient)


class Echo(split.GuestSide):
    """Returns twice what it got."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.ended = 0

    def step(self, rows: NDArray[np.int64], embeddings: list[Numbers]) -> list[Numbers]:
        self.seen.append((rows, embeddings))
        return [2 * each for each in embeddings]

    def end(self) -> None:
        self.ended += 1


class Table(split.HostSide):
    """Embeds a row as its line in a table."""

    def __init__(self, table: Numbers) -> None:
        self.table, self.got = table, list[Numbers]()

    def embed(self, rows: NDArray[np.int64]) -> Numbers:
        return self.table[rows]

    def step(self, gradient: Numbers) -> None:
        self.got.append(gradient)


def table(width: int, rows: int = ROWS) -> Numbers:
    return np.random.default_rng(width).normal(size=(rows, width)).astype(np.float32)


def pairs(count: int) -> list[tuple[MemoryChannel, MemoryChannel]]:
    return [memory_pair(Party("bank", Role.GUEST), Party(f"shop{i}", Role.HOST)) for i in range(count)]


def quiet(done: int, total: int) -> None:
    assert 1 <= done <= total


def train(tables: list[Numbers], guest: split.GuestSide, used: split.Plan) -> tuple[Transcript, list[Table]]:
    ends, transcript = pairs(len(tables)), Transcript()
    for near, _ in ends:
        near.observe(transcript)
    hosts = [Table(each) for each in tables]
    widths, bounds = [each.shape[1] for each in tables], [BOUND] * len(tables)
    roles = {
        f"shop{i}": split.host(far, side, used, quiet)
        for i, ((_, far), side) in enumerate(zip(ends, hosts, strict=True))
    }
    run_local(bank=split.guest([near for near, _ in ends], widths, guest, used, bounds, quiet), **roles)
    return transcript, hosts


@pytest.mark.parametrize("gradient", [split.LabelGradient, split.RowGradient])
def test_embeddings_go_and_gradients_come_back_row_by_row(gradient: split.Gradient) -> None:
    guest, used = Echo(), plan(gradient)
    tables = [table(width) for width in WIDTHS]
    transcript, hosts = train(tables, guest, used)
    assert guest.ended == 2
    for place, host in enumerate(hosts):
        sent = split.by_row([embeddings[place] for _, embeddings in guest.seen], used)
        np.testing.assert_array_equal(sent, np.stack([host.table] * 2))
        np.testing.assert_array_equal(split.by_row(host.got, used), 2 * sent)
    classes = {record.leakage for record in transcript.records if record.leakage in OPT_IN}
    assert classes == {Leakage.REPRESENTATION, gradient.declaration.leakage}
    bulk = {(record.shape["rows"], record.shape["width"]): record.size for record in transcript.records}
    assert all(4 * rows * width < size < 4 * rows * width + 100 for (rows, width), size in bulk.items())


def test_batches_hold_every_row_once_and_none_is_small() -> None:
    used = plan()
    for epoch in range(2):
        batches = used.batches(epoch)
        assert sorted(itertools.chain(*batches)) == list(range(ROWS))
        assert [len(batch) for batch in batches] == [16, 16, 18]
    assert not np.array_equal(used.batches(0)[0], used.batches(1)[0])
    assert [len(batch) for batch in plan(rows=7).batches(0)] == [7]
    assert used.steps == 6
    with pytest.raises(InvalidData, match="2 rows"):
        plan(rows=1)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, BOUND + 0.01, -1e6])
def test_the_guest_refuses_embeddings_beyond_the_bound(wrong: float) -> None:
    (near, far), *_ = pairs(1)
    bad = table(3, 16)
    bad[7, 1] = wrong

    async def shop() -> None:
        await far.send(split.Embedding(z=bad))

    with pytest.raises(MalformedMessage, match="shop0 sent 1 numbers"):
        run_local(bank=split.guest([near], [3], Echo(), plan(), [BOUND], quiet), shop=shop())


class Wild(Echo):
    """Returns what no gradient is."""

    def step(self, rows: NDArray[np.int64], embeddings: list[Numbers]) -> list[Numbers]:
        return [np.full_like(each, np.inf) for each in embeddings]


def test_own_numbers_beyond_the_limit_are_not_sent() -> None:
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        train([table(2)], Wild(), plan())


def test_the_host_refuses_gradients_beyond_the_limit() -> None:
    (near, far), *_ = pairs(1)

    async def bank() -> None:
        received = await near.recv(split.Embedding, rows=16, width=3)
        await near.send(split.LabelGradient(g=np.full_like(received.z, np.nan)))

    with pytest.raises(MalformedMessage, match="bank sent 48 numbers"):
        run_local(bank=bank(), shop=split.host(far, Table(table(3)), plan(), quiet))


@pytest.mark.parametrize("shape", [(16, 4), (15, 3)])
def test_another_shape_is_refused(shape: tuple[int, int]) -> None:
    (near, far), *_ = pairs(1)

    async def shop() -> None:
        await far.send(split.Embedding(z=np.zeros(shape, np.float32)))

    with pytest.raises((MalformedMessage, MessageTooLarge), match="bytes"):
        run_local(bank=split.guest([near], [3], Echo(), plan(), [BOUND], quiet), shop=shop())


def test_scores_cross_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "SCORED_ROWS", 20)
    ends, tables = pairs(2), [table(width) for width in WIDTHS]
    found = run_local(
        bank=split.guest_scores([near for near, _ in ends], WIDTHS, ROWS, [BOUND, BOUND]),
        first=split.host_scores(ends[0][1], tables[0], BOUND),
        second=split.host_scores(ends[1][1], tables[1], BOUND),
    )["bank"]
    for sent, received in zip(tables, found, strict=True):
        np.testing.assert_array_equal(sent, received)
