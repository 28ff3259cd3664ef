"""The split network: what it learns, what crosses, what both have to accept, files, and what is refused."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

import vfl
from tests.parties import both, two_parties
from tests.support import DeterministicRng
from vfl.attacks.label_inference import received_gradients
from vfl.errors import (
    ConfigError,
    ConfigMismatch,
    InvalidData,
    MissingValues,
    PolicyRefused,
    SchemaMismatch,
    VFLError,
)
from vfl.neural import defences
from vfl.neural.inputs import Inputs
from vfl.neural.split_files import MAGIC
from vfl.neural.towers import Bottom, distance_correlation
from vfl.protocols.wire import OPT_IN, Leakage

torch = pytest.importorskip("torch")
Floats = NDArray[np.float64]
RNG = np.random.default_rng(21)
ROWS = 1_500
GUEST, HOST = RNG.normal(size=(ROWS, 3)), RNG.normal(size=(ROWS, 6))
SCORE = GUEST[:, 0] + 1.2 * HOST[:, 0] - 0.8 * HOST[:, 1] + HOST[:, 2] * GUEST[:, 1]
LABELS = np.where(RNG.random(ROWS) < 1 / (1 + np.exp(-1.5 * SCORE)), "bad", "good")
CLASSES = np.digitize(SCORE, [-1, 1])
TRAIN, TEST = slice(0, 1_000), slice(1_000, ROWS)
ACCEPT = ("representation", "noisy_label")
OPEN = ("representation", "row_gradient")
SMALL: dict[str, Any] = {"max_iter": 8, "batch_size": 64, "hidden": (16,), "top": (16,), "embedding": 8}


def train(
    labels: Any = LABELS,
    hosts: tuple[Any, ...] = (HOST,),
    accept: tuple[str, ...] = ACCEPT,
    **parameters: Any,
) -> vfl.Simulation:
    def bank() -> Any:
        model = vfl.SplitClassifier(random_state=1, **SMALL | parameters).fit(GUEST[TRAIN], labels[TRAIN])
        return model, model.predict_proba(GUEST[TEST]), model.predict(GUEST[TEST])

    def shop(columns: Any) -> Any:
        model = vfl.SplitClassifier(random_state=2, **SMALL | parameters).fit(columns[:1_000])
        assert model.predict_proba(columns[1_000:]) is None
        assert model.predict(columns[1_000:]) is None
        return model

    acts: dict[str, Any] = {f"shop{i}": functools.partial(shop, table) for i, table in enumerate(hosts)}
    return vfl.simulate(accept_leakage=accept, bank=bank, **acts)


def auc(found: Floats) -> float:
    return float(roc_auc_score(LABELS[TEST] == "good", found[:, 1]))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained() -> vfl.Simulation:
    return train()


class TestTraining:
    def test_it_learns_from_the_hosts_columns(self, trained: vfl.Simulation) -> None:
        model, found, likeliest = trained["bank"]
        assert found.shape == (500, 2)
        assert np.allclose(found.sum(axis=1), 1)
        assert auc(found) > 0.78  # of the guest's columns alone: 0.66
        assert set(likeliest) == {"bad", "good"}
        assert model.loss_curve_[-1] < model.loss_curve_[0]

    def test_without_a_defence_it_has_to_be_accepted(self) -> None:
        assert auc(train(accept=OPEN, defence=vfl.Undefended())["bank"][1]) > 0.8
        with pytest.raises(PolicyRefused, match="row_gradient"):
            train(defence=vfl.Undefended())
        with pytest.raises(PolicyRefused, match="row_gradient"):
            train(defence=vfl.Defended(labels=vfl.Marvell()))
        with pytest.raises(PolicyRefused, match="noisy_label"):
            train(accept=("representation",))

    def test_marvell(self) -> None:
        result = train(accept=OPEN, defence=vfl.Defended(labels=vfl.Marvell(power=4.0)))
        assert auc(result["bank"][1]) > 0.75
        with pytest.raises(InvalidData, match="two classes"):
            train(CLASSES, accept=OPEN, defence=vfl.Defended(labels=vfl.Marvell()))

    def test_only_declared_classes_cross(self, trained: vfl.Simulation) -> None:
        to_guest = {record.leakage for record in trained.view("bank")} & OPT_IN
        to_host = {record.leakage for record in trained.view("shop0")} & OPT_IN
        assert (to_guest, to_host) == ({Leakage.REPRESENTATION}, {Leakage.NOISY_LABEL})

    def test_several_classes_and_hosts(self) -> None:
        result = train(CLASSES, hosts=(HOST[:, :2], HOST[:, 2:]))
        model, found, likeliest = result["bank"]
        assert found.shape == (500, 3)
        assert (likeliest == CLASSES[TEST]).mean() > 0.55  # the most frequent class: 0.44
        assert model.widths_ == (8, 8)
        views = [received_gradients(result.view(name), model.plan_)[0] for name in ("shop0", "shop1")]
        codes = [np.unique(view, axis=0, return_inverse=True)[1].reshape(-1) for view in views]
        assert len(np.unique(codes[0])) == 3
        assert len(set(zip(*codes, strict=True))) == 3  # both hosts get the same randomised labels


class TestDefences:
    def test_a_rows_gradient_is_the_same_in_every_epoch(self, trained: vfl.Simulation) -> None:
        gradients = received_gradients(trained.view("shop0"), trained["shop0"].plan_)
        assert (gradients == gradients[0]).all()
        assert len(np.unique(gradients[0], axis=0)) == 2

    @pytest.mark.parametrize("classes", [2, 5])
    def test_randomised_labels_have_the_stated_epsilon(self, classes: int) -> None:
        labels = np.repeat(np.arange(classes), 40_000 // classes)
        found = defences.randomised(labels, classes, 0.3, DeterministicRng(4))
        kept = (found == labels).mean()
        other = (1 - kept) / (classes - 1)
        assert abs(kept - (0.3 + 0.7 / classes)) < 0.01
        epsilon = vfl.RandomisedLabels(advantage=0.3).epsilon(classes)
        assert abs(np.log(kept / other) - epsilon) < 0.08

    def test_noise_has_its_size_and_a_part_that_stays(self) -> None:
        noise = defences.NoisyEmbeddings(b"k" * 32, 0.5, 4.0)
        raw = RNG.integers(0, 256, size=(4_000, 12), dtype=np.uint8)
        own, rng, zero = noise.of_rows(raw, 5), DeterministicRng(1), np.zeros((4_000, 5), np.float32)
        np.testing.assert_array_equal(own, noise.of_rows(raw, 5))
        first, second = noise.apply(zero, own, rng), noise.apply(zero, own, rng)
        assert abs(first.std() - 0.5) < 0.01
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1] - 0.5) < 0.03
        assert np.abs(noise.apply(zero + 9, own, rng)).max() == 4.0

    def test_embeddings_are_within_the_bound_that_the_guest_enforces(self, trained: vfl.Simulation) -> None:
        largest = max(np.abs(r.message.z).max() for r in trained.view("bank") if r.kind == "split.embedding")  # type: ignore[attr-defined]
        assert 1 < largest <= defences.bound(vfl.Defended(), 8, np.inf)

    def test_marvells_noise_is_of_the_stated_power_and_better_than_isotropic(self) -> None:
        labels = (RNG.random(4_000) < 0.25).astype(np.int64)
        clean = (0.1 * RNG.normal(size=(4_000, 6)) + np.outer(labels, [1.0, 1, 0, 0, 0, 0])).astype(
            np.float32
        )
        noisy = defences.marvell_noise(clean, labels, 4.0, DeterministicRng(2))
        added = ((noisy - clean) ** 2).sum(axis=1).mean()
        assert abs(added / (4.0 * 2.0) - 1) < 0.1  # the squared distance of the means is 2
        isotropic = clean + np.sqrt(8.0 / 6) * RNG.normal(size=clean.shape)
        areas = [roc_auc_score(labels, each[:, :2].sum(axis=1)) for each in (clean, isotropic, noisy)]
        assert areas[0] > 0.99
        assert areas[2] < areas[1] - 0.05
        assert not defences.marvell_noise(clean[:5], np.ones(5, np.int64), 4.0, DeterministicRng(3)).any()

    def test_distance_correlation_of_known_samples(self) -> None:
        left, other = (torch.from_numpy(RNG.normal(size=(400, 2))) for _ in range(2))
        assert abs(float(distance_correlation(left, 3 * left + 1)) - 1) < 1e-3
        assert float(distance_correlation(left, other)) < 0.1

    @pytest.mark.parametrize(
        "make",
        [
            lambda: vfl.RandomisedLabels(advantage=1.0),
            lambda: vfl.Marvell(power=0.0),
            lambda: vfl.Defended(noise=-1.0),
            lambda: vfl.Defended(clip=0.0),
            lambda: vfl.Defended(distance_correlation=float("nan")),
        ],
    )
    def test_impossible_defences(self, make: Any) -> None:
        with pytest.raises(ValueError, match="must lie"):
            make()


class TestInputs:
    frame = pl.DataFrame({"age": [30.0, 40, 50, 60], "town": ["a", "b", "a", "c"], "code": [1, 2, 1, 3]})

    def test_text_and_named_columns_are_categories(self) -> None:
        inputs, values = Inputs.fit(self.frame, ["code"], "shop")
        assert inputs.numeric == ["age"]
        assert inputs.categories == {"town": ["a", "b", "c"], "code": ["1", "2", "3"]}
        assert values.codes.tolist() == [[1, 1], [2, 2], [1, 1], [3, 3]]
        new = inputs.values(pl.DataFrame({"age": [1e6], "town": ["z"], "code": [2]}), "shop")
        assert new.codes.tolist() == [[0, 2]]
        assert np.abs(new.numbers).max() < 10  # cut off
        same = inputs.values(self.frame.to_pandas().astype({"code": float}), "shop")
        np.testing.assert_array_equal(same.codes, values.codes)

    def test_categories_serve(self) -> None:
        town = RNG.integers(0, 5, size=ROWS)
        labels = (RNG.random(ROWS) < np.array([0.05, 0.9, 0.1, 0.95, 0.5])[town]).astype(int)
        table = pd.DataFrame({"town": [f"t{i}" for i in town], "noise": HOST[:, 5]})
        found = train(labels, hosts=(table,))["bank"][1]
        assert roc_auc_score(labels[TEST], found[:, 1]) > 0.8

    @pytest.mark.parametrize(
        ("table", "categorical", "error"),
        [
            (frame.with_columns(town=pl.Series(["a", None, "b", "c"])), None, MissingValues),
            (frame.with_columns(age=pl.Series([1.0, np.inf, 2, 3])), None, InvalidData),
            (frame, ["colour"], SchemaMismatch),
            (frame[:1], None, InvalidData),
            (pl.DataFrame({"id": [f"c{i}" for i in range(10_001)]}), None, InvalidData),
        ],
    )
    def test_bad_tables(self, table: Any, categorical: Any, error: type[VFLError]) -> None:
        with pytest.raises(error, match="shop"):
            Inputs.fit(table, categorical, "shop")

    def test_the_straight_part_keeps_the_columns(self) -> None:
        bottom = Bottom(6, [], (4,), 8, np.inf, 3)
        weight = bottom.network["straight"].weight.detach().numpy().astype(np.float64)
        np.testing.assert_allclose(weight.T @ weight, np.eye(6), atol=1e-5)


class TestRefusals:
    @pytest.mark.parametrize(
        ("bank", "shop", "error", "match"),
        [
            ({}, {"defence": vfl.Defended(noise=0.3)}, ConfigMismatch, "defence"),
            ({}, {"max_iter": 3}, ConfigMismatch, "max_iter"),
            ({"batch_size": 1}, {}, ValueError, "2 or more"),
            ({"embedding": 0}, {}, ValueError, "positive integers"),
            ({"defence": None}, {}, ValueError, "Undefended"),
            ({"hidden": (3, -1)}, {}, ValueError, "positive"),
        ],
    )
    def test_parameters(
        self, bank: dict[str, Any], shop: dict[str, Any], error: type[Exception], match: str
    ) -> None:
        with pytest.raises(error, match=match):
            vfl.simulate(
                accept_leakage=ACCEPT,
                bank=lambda: vfl.SplitClassifier(**SMALL | bank).fit(GUEST, LABELS),
                shop=lambda: vfl.SplitClassifier(**SMALL | shop).fit(HOST),
            )

    @pytest.mark.parametrize(
        ("labels", "theirs", "match"),
        [(None, None, "pass the labels"), (LABELS, LABELS, "belong to the guest")],
    )
    def test_labels_belong_to_the_guest(self, labels: Any, theirs: Any, match: str) -> None:
        with pytest.raises(InvalidData, match=match):
            vfl.simulate(
                accept_leakage=ACCEPT,
                bank=lambda: vfl.SplitClassifier().fit(GUEST, labels),
                shop=lambda: vfl.SplitClassifier().fit(HOST, theirs),
            )

    def test_clone_and_defaults(self) -> None:
        model = clone(vfl.SplitClassifier(defence=vfl.Defended(noise=0.4)))
        assert model.defence == vfl.Defended(noise=0.4)
        assert isinstance(vfl.SplitClassifier().defence, vfl.Defended)


def scores_of(guest: Any, host: Any, accept: tuple[str, ...] = OPEN) -> Floats:
    found = vfl.simulate(
        accept_leakage=accept,
        bank=lambda: guest.predict_proba(GUEST[TEST]),
        shop=lambda: host.predict_proba(HOST[TEST]),
    )["bank"]
    return np.asarray(found)


class TestFiles:
    def test_a_saved_model_gives_the_same_scores(self, tmp_path: Path) -> None:
        result = train(accept=OPEN, defence=vfl.Undefended())
        halves = result["bank"][0], result["shop0"]
        for half, name in zip(halves, ("bank", "shop"), strict=True):
            half.save(tmp_path / name)
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        again = vfl.load(tmp_path / "bank"), vfl.load(tmp_path / "shop")
        np.testing.assert_array_equal(scores_of(*again), result["bank"][1])
        assert again[0].get_params() == halves[0].get_params() | {"hidden": (16,), "top": (16,)}
        with pytest.raises(SchemaMismatch, match="trained by the guest"):
            scores_of(again[0], again[0])

    def test_the_rows_part_of_the_noise_is_kept(self, trained: vfl.Simulation, tmp_path: Path) -> None:
        trained["shop0"].save(tmp_path / "shop")
        assert vfl.load(tmp_path / "shop").secret_ == trained["shop0"].secret_

    def test_damaged_files(self, trained: vfl.Simulation, tmp_path: Path) -> None:
        path = tmp_path / "bank"
        trained["bank"][0].save(path)
        raw = path.read_bytes()
        stored = msgspec.msgpack.decode(raw.removeprefix(MAGIC))
        name = "top.0.weight"
        dtype, shape, values = stored["arrays"][name]
        changes: list[dict[str, Any]] = [
            {"arrays": stored["arrays"] | {name: [dtype, shape, values[:-4]]}},
            {"arrays": stored["arrays"] | {name: ["|O", shape, values]}},
            {"arrays": stored["arrays"] | {name: [dtype, shape, b"\xff" * len(values)]}},
            {"arrays": {key: value for key, value in stored["arrays"].items() if key != name}},
            {"arrays": stored["arrays"] | {"more": [dtype, shape, values]}},
            {"classes": []},
            {"embedding": 0},
            {"format": 9},
            {"unknown": 1},
        ]
        for change in changes:
            path.write_bytes(MAGIC + msgspec.msgpack.encode(stored | change))
            with pytest.raises((SchemaMismatch, ConfigError)):
                vfl.load(path)
        for damaged in (raw[:-9], b"\x80\x04pickle", b""):
            path.write_bytes(damaged)
            with pytest.raises(ConfigError):
                vfl.load(path)


def test_over_the_network(tmp_path: Path) -> None:
    parties = two_parties(tmp_path, accept=ACCEPT)

    def bank() -> Any:
        with vfl.connect(parties[0].config):
            model = vfl.SplitClassifier(**SMALL | {"max_iter": 2}).fit(GUEST[:200], LABELS[:200])
            return model.predict_proba(GUEST[TEST])

    def shop() -> Any:
        with vfl.connect(parties[1].config):
            model = vfl.SplitClassifier(**SMALL | {"max_iter": 2}).fit(HOST[:200])
            return model.predict_proba(HOST[TEST])

    found, nothing = both(bank, shop)
    assert nothing is None
    assert found.shape == (500, 2)
