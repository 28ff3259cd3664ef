"""The recorded transcript of a whole job: only declared types, classes and sizes, the same for inputs of one shape."""

import hashlib
import warnings
from typing import Any

import msgspec
import numpy as np
import pytest

import vfl
from vfl.errors import LeakageWarning
from vfl.protocols.channel import TAG_BYTES, Record
from vfl.protocols.record import recipient, sender
from vfl.protocols.wire import Leakage, encode, largest, message_types

ROWS, GUEST_COLUMNS, HOST_COLUMNS = 260, 3, 4


def estimator(he: Any) -> vfl.LogisticRegression:
    return vfl.LogisticRegression(security="exchange", he=he, key_bits=2048, max_iter=3, tol=0.0)


def job(seed: int, he: str = "ckks") -> vfl.Simulation:
    """Align, train and score on data drawn from a seed; every row is common and the epochs are fixed."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(10 * ROWS)[:ROWS]
    guest = np.column_stack([ids, rng.normal(size=(ROWS, GUEST_COLUMNS)) ** 3])
    host = np.column_stack([ids, rng.exponential(size=(ROWS, HOST_COLUMNS))])[rng.permutation(ROWS)]
    labels = (guest[:, 1] + rng.normal(size=ROWS) > 0).astype(float)

    def bank() -> None:
        table = guest.astype(object)
        table[:, 0] = [str(int(i)) for i in ids]
        rows = vfl.align(np.column_stack([table, labels.astype(object)]), on="x0")
        model = estimator(he)
        features = rows[:, 1:-1].astype(float)
        model.fit(features, rows[:, -1].astype(float)).predict_proba(features[:50])

    def shop() -> None:
        table = host.astype(object)
        table[:, 0] = [str(int(i)) for i in host[:, 0]]
        features = vfl.align(table, on="x0")[:, 1:].astype(float)
        model = estimator(he)
        model.fit(features).predict_proba(features[:50])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakageWarning)
        return vfl.simulate(bank=bank, shop=shop, accept_leakage=["score", "gradient"])


@pytest.fixture(scope="module", params=["ckks", "paillier"])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(scheme: str) -> vfl.Simulation:
    return job(1, scheme)


def test_every_message_is_of_a_declared_type_sender_class_and_size(run: vfl.Simulation) -> None:
    for record in run.transcript.records:
        declaration = message_types()[record.kind].declaration
        assert declaration.sender in (run.sessions[sender(record)].role, "either")
        assert record.leakage is declaration.leakage
        assert record.size <= TAG_BYTES + largest(type(record.message), record.shape)
        assert record.size == TAG_BYTES + len(encode(record.message))


def test_each_party_receives_only_the_classes_of_the_leakage_table(run: vfl.Simulation) -> None:
    common = {Leakage.PUBLIC, Leakage.UNIFORM, Leakage.CIPHERTEXT, Leakage.INTERSECTION}
    received = {party: {record.leakage for record in run.view(party)} for party in run.sessions}
    assert received["bank"] == common | {Leakage.SCORE, Leakage.RESULT}
    assert received["shop"] == common | {Leakage.GRADIENT, Leakage.CONTROL}


def test_both_sides_recorded_the_same_frames(run: vfl.Simulation) -> None:
    sent: dict[str, list[Record]] = {name: [] for name in run.sessions}
    received: dict[str, list[Record]] = {name: [] for name in run.sessions}
    for name, transcript in run._transcripts.items():
        for record in transcript.records:
            (sent if record.direction == "sent" else received)[name].append(record)
    for left, right in (("bank", "shop"), ("shop", "bank")):
        assert [r.digest for r in sent[left]] == [r.digest for r in received[right]]


def test_inputs_of_one_shape_give_transcripts_of_one_shape(run: vfl.Simulation, scheme: str) -> None:
    other = job(2, scheme)

    def shape(result: vfl.Simulation) -> list[tuple[str, str, int]]:
        varying = ("session.hello", "session.proposal", "session.confirm")  # texts, signature encodings
        return [(recipient(r), r.kind, r.size) for r in result.transcript.records if r.kind not in varying]

    assert shape(run) == shape(other)


def test_nothing_that_leaves_twice_is_the_same(run: vfl.Simulation) -> None:
    """Fresh randomness: no ciphertext, blinded element or masked number repeats, within a run or between two."""
    sensitive = {"gradient.residual", "gradient.masked", "gradient.opened", "psi.blinded", "psi.tags"}
    bodies = [
        hashlib.sha256(encode(record.message)).digest()
        for result in (run, job(1, "ckks"))
        for record in result.transcript.records
        if record.kind in sensitive
    ]
    assert len(set(bodies)) == len(bodies)


def test_no_plaintext_of_a_party_is_in_the_bytes_that_it_sent(run: vfl.Simulation) -> None:
    """No feature, label or identifier appears as such in any message (float64, decimal text)."""
    rng = np.random.default_rng(1)
    ids = rng.permutation(10 * ROWS)[:ROWS]
    guest = rng.normal(size=(ROWS, GUEST_COLUMNS)) ** 3
    needles = [value.tobytes() for value in guest.ravel()]
    needles += [msgspec.msgpack.encode(str(int(i))) for i in ids if i >= 1000]
    bulk = b"".join(
        encode(record.message)
        for record in run.transcript.records
        if record.kind.startswith(("psi", "gradient.s"))
    )
    assert not any(needle in bulk for needle in needles)
