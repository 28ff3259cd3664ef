"""The recorded transcript of a strict job: uniform shares, fresh ciphertexts, public values and declared outputs."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2, ks_2samp
from sklearn.exceptions import ConvergenceWarning

import vfl
from vfl.crypto import product
from vfl.crypto.ring import RING
from vfl.protocols.channel import TAG_BYTES
from vfl.protocols.record import recipient, sender
from vfl.protocols.wire import Leakage, encode, largest, message_types

ROWS, GUEST_COLUMNS, HOST_COLUMNS = 300, 3, 4
UNLIKELY = 1e-6  # of a p-value, in tests that are made a few hundred times


def job(seed: int, *, simulated: bool = False) -> vfl.Simulation:
    """Align, train three iterations and score; the simulator knows shapes alone and puts noise into the columns."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(10 * ROWS)[:ROWS]
    guest, host = rng.normal(size=(ROWS, GUEST_COLUMNS)) ** 3, rng.exponential(size=(ROWS, HOST_COLUMNS))
    labels = (guest[:, 0] - host[:, 0] + rng.normal(size=ROWS) > -1).astype(float)
    if simulated:
        guest, host, labels = rng.normal(size=guest.shape), rng.normal(size=host.shape), np.arange(ROWS) % 2.0

    def rows(*columns: Any) -> NDArray[np.float64]:
        table = np.column_stack([np.array([str(i) for i in ids], object), *columns])
        return vfl.align(table, on="x0")[:, 1:].astype(float)  # type: ignore[no-any-return]

    def bank() -> None:
        values = rows(guest, labels)
        model = vfl.LogisticRegression(max_iter=3, tol=1e-9)
        model.fit(values[:, :-1], values[:, -1]).predict_proba(values[:50, :-1])

    def shop() -> None:
        values = rows(host)
        vfl.LogisticRegression(max_iter=3, tol=1e-9).fit(values).predict_proba(values[:50])

    with pytest.warns(ConvergenceWarning, match="max_iter=3"):  # so that all take as many
        return vfl.simulate(bank=bank, shop=shop)


@pytest.fixture(scope="module")
def opened() -> Iterator[list[NDArray[Any]]]:
    """Collect what key holders decrypt: all that a party computes from the ciphertexts that it receives."""
    found: list[NDArray[Any]] = []
    kinds = [
        kind
        for kind in vars(product).values()
        if isinstance(kind, type) and issubclass(kind, product.Product)
    ]
    originals = {
        kind: vars(kind)["open"] for kind in kinds if "open" in vars(kind) and kind is not product.Product
    }
    for kind, original in originals.items():

        def recording(self: Any, received: Any, original: Any = original) -> Any:
            result = original(self, received)
            found.append(result)
            return result

        kind.open = recording  # type: ignore[method-assign]
    yield found
    for kind, original in originals.items():
        kind.open = original  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def runs(opened: list[NDArray[Any]]) -> dict[str, tuple[vfl.Simulation, list[NDArray[Any]]]]:
    """A run, one on other data, and the simulator's."""
    found = {}
    ways: dict[str, dict[str, Any]] = {"real": {"seed": 1}, "other": {"seed": 2}}
    for name, way in (ways | {"simulated": {"seed": 3, "simulated": True}}).items():
        opened.clear()
        found[name] = job(**way), list(opened)
    return found


def test_every_message_is_of_a_declared_type_sender_class_and_size(runs: Any) -> None:
    run = runs["real"][0]
    for record in run.transcript.records:
        declaration = message_types()[record.kind].declaration
        assert declaration.sender in (run.sessions[sender(record)].role, "either")
        assert record.leakage is declaration.leakage
        assert record.size == TAG_BYTES + len(encode(record.message))
        assert record.size <= TAG_BYTES + largest(type(record.message), record.shape)


def test_each_party_receives_only_the_classes_of_the_leakage_table(runs: Any) -> None:
    run = runs["real"][0]
    common = {Leakage.PUBLIC, Leakage.UNIFORM, Leakage.CIPHERTEXT, Leakage.INTERSECTION, Leakage.RESULT}
    received = {party: {record.leakage for record in run.view(party)} for party in run.sessions}
    assert received["bank"] == common | {Leakage.AGGREGATE}
    assert received["shop"] == common | {Leakage.CONTROL}
    assert not {Leakage.SCORE, Leakage.GRADIENT} & set.union(*received.values())


def test_what_is_opened_to_the_guest_is_as_much_as_is_declared(runs: Any) -> None:
    run = runs["real"][0]
    sizes = [r.message.share[0].size for r in run.view("bank") if r.leakage is Leakage.AGGREGATE]
    assert sizes == [1, 2, 3, 1]  # inner products of three gradients, and the range of the scores
    results = [r.kind for r in run.view("shop") if r.leakage is Leakage.RESULT]
    assert results == ["glm.weights"]


def test_inputs_of_one_shape_give_transcripts_of_one_shape(runs: Any) -> None:
    def shape(run: vfl.Simulation) -> list[tuple[str, str, int]]:
        varying = ("session.hello", "session.proposal", "session.confirm")  # texts, signature encodings
        return [(recipient(r), r.kind, r.size) for r in run.transcript.records if r.kind not in varying]

    assert shape(runs["real"][0]) == shape(runs["other"][0]) == shape(runs["simulated"][0])


def test_nothing_that_leaves_twice_is_the_same(runs: Any) -> None:
    again = job(1)
    bodies = [
        hashlib.sha256(encode(record.message)).digest()
        for run in (runs["real"][0], again)
        for record in run.transcript.records
        if record.leakage in (Leakage.CIPHERTEXT, Leakage.UNIFORM, Leakage.AGGREGATE)
    ]
    assert len(set(bodies)) == len(bodies) > 100


def chi_square(residues: NDArray[Any], prime: int, bins: int = 64) -> float:
    """Return the p-value of residues being uniform below a prime."""
    counts = np.bincount((residues.astype(np.uint64) * bins // prime).astype(np.int64), minlength=bins)
    expected = residues.size / bins
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), bins - 1))


def limbs(values: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return all numbers, by the prime modulo which they are."""
    return [np.concatenate([v[limb].ravel() for v in values if len(v) > limb]) for limb in range(RING.limbs)]


def test_what_a_party_decrypts_is_uniform(runs: Any) -> None:
    """On real data, on other data and in the simulator alike; so it holds nothing but what is declared as opened."""
    by_run = {name: limbs(found) for name, (_, found) in runs.items()}
    for limb, prime in enumerate(RING.primes):
        for found in by_run.values():
            assert found[limb].size > 3_000
            assert chi_square(found[limb], prime) > UNLIKELY
        assert ks_2samp(by_run["real"][limb], by_run["other"][limb]).pvalue > UNLIKELY
        assert ks_2samp(by_run["real"][limb], by_run["simulated"][limb]).pvalue > UNLIKELY


def test_uniformity_has_teeth() -> None:
    """A share of a small number that was not masked would be seen."""
    prime = RING.primes[0]
    rng = np.random.default_rng(0)
    values = rng.integers(0, prime, 20_000)
    values[:400] = rng.integers(0, 1 << 20, 400)
    assert chi_square(values, prime) < UNLIKELY


def test_the_bytes_on_the_wire_are_those_of_the_simulator(runs: Any) -> None:
    """Kind by kind, and place by place of long messages, the bytes of real data are distributed as those of none."""

    def collect(run: vfl.Simulation) -> dict[str, NDArray[np.uint8]]:
        kinds: dict[str, list[bytes]] = {}
        for r in run.transcript.records:
            if r.leakage in (Leakage.CIPHERTEXT, Leakage.UNIFORM) and r.kind.startswith(("product", "glm")):
                kinds.setdefault(r.kind, []).append(encode(r.message)[-r.size // 2 :])
        return {kind: np.frombuffer(b"".join(parts), np.uint8) for kind, parts in kinds.items()}

    real, simulated = collect(runs["real"][0]), collect(runs["simulated"][0])
    assert set(real) == set(simulated) == {"product.vector", "product.masked"}
    for kind, body in real.items():
        counts = np.array([np.bincount(b, minlength=256) for b in (body, simulated[kind])], float)
        expected = counts.sum(axis=0) / 2
        statistic = ((counts - expected) ** 2 / np.maximum(expected, 1)).sum()
        assert chi2.sf(statistic, 255) > UNLIKELY


def test_no_plaintext_of_a_party_is_in_the_bytes_that_it_sent(runs: Any) -> None:
    rng = np.random.default_rng(1)
    rng.permutation(10 * ROWS)
    columns = [rng.normal(size=(ROWS, GUEST_COLUMNS)) ** 3, rng.exponential(size=(ROWS, HOST_COLUMNS))]
    needles = [value.tobytes() for value in np.concatenate([c.ravel() for c in columns])]
    bulk = b"".join(
        encode(r.message) for r in runs["real"][0].transcript.records if not r.kind.startswith("product")
    )
    assert not any(needle in bulk for needle in needles)
