"""The recorded transcript of a network on shares: ciphertexts, uniform numbers, and the scores at the end."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2, ks_2samp

import vfl
from vfl.crypto.product import Slotwise, Tiled
from vfl.crypto.ring import RING
from vfl.protocols.channel import TAG_BYTES
from vfl.protocols.record import recipient
from vfl.protocols.wire import Leakage, encode, largest

ROWS, UNLIKELY = 60, 1e-6
Opened = list[NDArray[Any]]


def job(seed: int, *, simulated: bool = False) -> vfl.Simulation:
    """Train two steps and score; the simulator knows shapes alone and puts noise into columns and labels."""
    rng = np.random.default_rng(seed)
    guest, host = rng.normal(size=(ROWS, 2)) ** 3, rng.exponential(size=(ROWS, 3))
    labels = (guest[:, 0] > host[:, 0] - 1).astype(int)
    if simulated:
        guest, host, labels = rng.normal(size=guest.shape), rng.normal(size=host.shape), np.arange(ROWS) % 2

    def bank() -> None:
        vfl.NeuralClassifier(hidden_units=16, epochs=2).fit(guest, labels).predict_proba(guest[:20])

    def shop() -> None:
        vfl.NeuralClassifier(hidden_units=16, epochs=2).fit(host).predict_proba(host[:20])

    return vfl.simulate(bank=bank, shop=shop)


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    """Collect what key holders decrypt."""
    found: Opened = []
    places = (Tiled, "open"), (Slotwise, "open_limbs")
    originals = [getattr(kind, name) for kind, name in places]
    for (kind, name), original in zip(places, originals, strict=True):

        def recording(*arguments: Any, original: Any = original) -> Any:
            found.append(original(*arguments))
            return found[-1]

        setattr(kind, name, recording)
    yield found
    for (kind, name), original in zip(places, originals, strict=True):
        setattr(kind, name, original)


@pytest.fixture(scope="module")
def runs(opened: Opened) -> dict[str, tuple[vfl.Simulation, Opened]]:
    """A run, one on other data, and the simulator's."""
    found = {}
    ways: dict[str, dict[str, Any]] = {"real": {"seed": 1}, "other": {"seed": 2}}
    for name, way in (ways | {"simulated": {"seed": 3, "simulated": True}}).items():
        opened.clear()
        found[name] = job(**way), list(opened)
    return found


def network(run: vfl.Simulation) -> list[Any]:
    return [r for r in run.transcript.records if r.kind.startswith(("product", "source"))]


def test_each_party_receives_only_what_is_declared(runs: Any) -> None:
    run = runs["real"][0]
    received = {party: {r.leakage for r in run.view(party)} for party in run.sessions}
    assert received["bank"] == {Leakage.PUBLIC, Leakage.CIPHERTEXT, Leakage.RESULT}
    assert received["shop"] == {Leakage.PUBLIC, Leakage.CIPHERTEXT}
    assert [r.kind for r in run.view("bank") if r.leakage is Leakage.RESULT] == ["source.scores"]
    for r in network(run):
        assert r.size == TAG_BYTES + len(encode(r.message)) <= TAG_BYTES + largest(type(r.message), r.shape)


def test_inputs_of_one_shape_give_transcripts_of_one_shape(runs: Any) -> None:
    shapes = [[(recipient(r), r.kind, r.size) for r in network(run)] for run, _ in runs.values()]
    assert shapes[0] == shapes[1] == shapes[2]
    assert len(shapes[0]) > 40


def limbs(values: Opened) -> list[NDArray[Any]]:
    return [np.concatenate([v[limb].ravel() for v in values if len(v) > limb]) for limb in range(RING.limbs)]


def chi_square(residues: NDArray[Any], prime: int, bins: int = 64) -> float:
    counts = np.bincount((residues.astype(np.uint64) * bins // prime).astype(np.int64), minlength=bins)
    expected = residues.size / bins
    return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), bins - 1))


def test_what_a_party_decrypts_is_uniform(runs: Any) -> None:
    by_run = {name: limbs(found) for name, (_, found) in runs.items()}
    for limb, prime in enumerate(RING.primes):
        for found in by_run.values():
            assert found[limb].size > 5_000
            assert chi_square(found[limb], prime) > UNLIKELY
        for other in ("other", "simulated"):
            assert ks_2samp(by_run["real"][limb], by_run[other][limb]).pvalue > UNLIKELY


def test_the_bytes_on_the_wire_are_those_of_the_simulator(runs: Any) -> None:
    def collect(run: vfl.Simulation, kind: str) -> NDArray[Any]:
        parts = [encode(r.message)[-r.size // 2 :] for r in network(run) if r.kind == kind]
        return np.bincount(np.frombuffer(b"".join(parts), np.uint8), minlength=256).astype(float)

    for kind in ("product.vector", "product.masked"):
        counts = np.array([collect(runs[name][0], kind) for name in ("real", "simulated")])
        expected = counts.sum(axis=0) / 2
        statistic = ((counts - expected) ** 2 / np.maximum(expected, 1)).sum()
        assert chi2.sf(statistic, 255) > UNLIKELY
