"""One-shot transfer: what it gains over its baselines, what crosses, what is refused."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

import vfl
from vfl.errors import (
    ConfigError,
    InvalidData,
    LeakageWarning,
    LocalProtocolError,
    PolicyRefused,
    SchemaMismatch,
    VFLError,
)
from vfl.protocols.wire import OPT_IN, Leakage
from vfl.representations import Encoder, default_components
from vfl.trees import Trees

RNG = np.random.default_rng(11)
ROWS, COMMON = 2_400, 150
GUEST, HOST = RNG.normal(size=(ROWS, 4)), RNG.normal(size=(ROWS, 2)) @ RNG.normal(size=(2, 6))
HOST += 0.3 * RNG.normal(size=HOST.shape)
SCORE = GUEST @ [1.0, -0.7, 0.4, 0.0] + GUEST[:, 0] * GUEST[:, 1] + 0.6 * HOST[:, 0] - 0.6 * HOST[:, 1]
LABELS = np.where(RNG.random(ROWS) < 1 / (1 + np.exp(-SCORE)), "bad", "good")
IN, REST, TEST = slice(0, COMMON), slice(COMMON, 1_800), slice(1_800, ROWS)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakageWarning)
        yield


def train(accept: tuple[str, ...] = ("representation",), **host: Any) -> vfl.Simulation:
    def bank() -> Any:
        model = vfl.TransferClassifier()
        model.fit(GUEST[IN], LABELS[IN], rest=GUEST[REST], rest_y=LABELS[REST])
        return model, model.joint_predict_proba(GUEST[TEST])

    def shop() -> Any:
        model = vfl.TransferClassifier(**host).fit(HOST[IN], rest=HOST[REST])
        assert model.joint_predict_proba(HOST[TEST]) is None
        return model

    return vfl.simulate(accept_leakage=accept, bank=bank, shop=shop)


@pytest.fixture(scope="module")
def trained() -> vfl.Simulation:
    return train()


def auc(positive: Any) -> float:
    return float(roc_auc_score(LABELS[TEST] == "good", positive))


def test_it_beats_both_baselines(trained: vfl.Simulation) -> None:
    guest, joint = trained["bank"]
    encoded = trained["shop"].encoder_.transform(HOST[TEST])
    own = auc(guest.baselines_["guest"].predict_proba(GUEST[TEST])[:, 1])
    overlap = auc(guest.baselines_["overlap"].predict_proba(np.hstack([GUEST[TEST], encoded]))[:, 1])
    assert auc(joint[:, 1]) > max(own, overlap) + 0.01


def test_the_guest_predicts_alone(trained: vfl.Simulation) -> None:
    guest, _ = trained["bank"]
    alone = guest.predict_proba(GUEST[TEST])
    assert alone.shape == (ROWS - 1_800, 2)
    assert auc(alone[:, 1]) > auc(guest.baselines_["guest"].predict_proba(GUEST[TEST])[:, 1]) - 0.01
    assert set(guest.predict(GUEST[TEST])) == {"bad", "good"}
    with pytest.raises(LocalProtocolError, match="only the guest"):
        trained["shop"].predict_proba(HOST[TEST])


def test_only_declared_representations_cross(trained: vfl.Simulation) -> None:
    view = trained.view("bank")
    assert [record.kind for record in view if record.leakage in OPT_IN] == ["transfer.representations"] * 2
    assert not {record.leakage for record in trained.view("shop")} & (OPT_IN | {Leakage.RESULT})


def test_both_have_to_accept() -> None:
    with pytest.raises(PolicyRefused, match="representation"):
        train(accept=())


def test_as_many_components_as_columns_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", LeakageWarning)
        with pytest.raises(LeakageWarning, match="all 6 columns"):
            train(components=6)


@pytest.mark.parametrize(
    ("bank", "error", "match"),
    [
        ({"y": None}, InvalidData, "pass labels"),
        ({"y": LABELS[IN], "rest": GUEST[REST]}, InvalidData, "rest_y"),
        ({"y": np.r_[["bad"] * 145, ["good"] * 5]}, InvalidData, "fewer than 10 rows of a class"),
        ({"y": LABELS[IN], "rest": GUEST[REST, :3], "rest_y": LABELS[REST]}, SchemaMismatch, "missing"),
    ],
)
def test_bad_tables_are_refused(bank: dict[str, Any], error: type[VFLError], match: str) -> None:
    with pytest.raises(error, match=match):
        vfl.simulate(
            accept_leakage=["representation"],
            bank=lambda: vfl.TransferClassifier().fit(GUEST[IN], **bank),
            shop=lambda: vfl.TransferClassifier().fit(HOST[IN]),
        )


def test_several_hosts() -> None:
    def bank() -> Any:
        model = vfl.TransferClassifier().fit(GUEST[IN], LABELS[IN])
        return model.joint_predict_proba(GUEST[TEST])

    def shop(columns: slice) -> Any:
        model = vfl.TransferClassifier().fit(HOST[IN, columns], rest=HOST[REST, columns])
        return model.joint_predict_proba(HOST[TEST, columns])

    result = vfl.simulate(
        accept_leakage=["representation"],
        bank=bank,
        shop=lambda: shop(slice(0, 3)),
        club=lambda: shop(slice(3, 6)),
    )
    assert auc(result["bank"][:, 1]) > 0.6


def test_the_encoder_is_the_best_linear_autoencoder() -> None:
    encoder = Encoder.fit(HOST, 2)
    encoded = encoder.transform(HOST)
    standard = (encoder.limits.apply(HOST) - encoder.mean) / encoder.scale
    left = standard - encoded @ np.linalg.lstsq(encoded, standard, rcond=None)[0]
    sizes = np.linalg.svd(standard, compute_uv=False)
    assert np.isclose((left**2).sum(), (sizes[2:] ** 2).sum())
    assert np.isclose(encoded[:, 0].var(), 1)


def test_constant_and_impossible_columns() -> None:
    sizes = [[1.0], [1.0, 0.0], [5.0, 4.5, 0.5, 0.0], [1.0] * 10]
    assert [default_components(np.array(size)) for size in sizes] == [1, 1, 2, 9]
    assert np.isfinite(
        Encoder.fit(np.column_stack([HOST[:, 0], np.ones(ROWS)])).transform(np.ones((3, 2)))
    ).all()
    with pytest.raises(InvalidData, match="cannot be made"):
        Encoder.fit(HOST, 7)
    with pytest.raises(InvalidData, match="constant"):
        Encoder.fit(np.ones((5, 2)))


# --- rows without a label, several classes, files


def test_the_student_learns_from_common_rows_without_a_label() -> None:
    rng = np.random.default_rng(3)
    cause = rng.normal(size=(ROWS, 3))  # seen well by the host, badly by the guest
    guest = np.hstack([cause + rng.normal(size=cause.shape), rng.normal(size=(ROWS, 5))])
    host = cause @ rng.normal(size=(3, 4)) + 0.1 * rng.normal(size=(ROWS, 4))
    labels = np.where(cause @ [1.5, -1.0, 1.0] + 0.5 * rng.normal(size=ROWS) > 0, "good", "bad")
    few = [label if place < 80 else None for place, label in enumerate(labels[:1_800])]

    def bank() -> Any:
        model = vfl.TransferClassifier().fit(guest[:1_800], few)
        return model, vfl.current().facts.notes

    def shop() -> Any:
        return vfl.TransferClassifier().fit(host[:1_800])

    model, notes = vfl.simulate(accept_leakage=["representation"], bank=bank, shop=shop)["bank"]
    found = [half.predict_proba(guest[TEST])[:, 1] for half in (model, model.baselines_["guest"])]
    alone, own = (roc_auc_score(labels[TEST] == "good", positive) for positive in found)
    assert alone > own + 0.04
    assert notes == ["1720 of 1800 common rows have no label"]
    assert list(model.classes_) == ["bad", "good"]


CLASS_NAMES = np.array(["low", "middle", "high", "top"])
CLASSES = CLASS_NAMES[np.digitize(SCORE + RNG.normal(size=ROWS), [-1.5, 0.0, 1.5])]


def of_four_classes() -> vfl.Simulation:
    def bank() -> Any:
        model = vfl.TransferClassifier()
        model.fit(GUEST[:400], CLASSES[:400], rest=GUEST[400:1_800], rest_y=CLASSES[400:1_800])
        return model, model.joint_predict_proba(GUEST[TEST])

    def shop() -> Any:
        given: Any = np.int64(5)  # as from a loop over an array; a file holds it as a plain number
        model = vfl.TransferClassifier(components=given).fit(HOST[:400])
        model.joint_predict_proba(HOST[TEST])
        return model

    return vfl.simulate(accept_leakage=["representation"], bank=bank, shop=shop)


def halves(tmp_path: Path, trained: vfl.Simulation) -> dict[str, Path]:
    paths = {name: tmp_path / f"{name}.json" for name in ("bank", "shop")}
    trained["bank"][0].save(paths["bank"])
    trained["shop"].save(paths["shop"])
    return paths


def test_four_classes_and_files(tmp_path: Path) -> None:
    trained = of_four_classes()
    model, joint = trained["bank"]
    assert joint.shape == (600, 4)
    np.testing.assert_allclose(joint.sum(axis=1), 1)
    own = model.baselines_["guest"].predict_proba(GUEST[TEST])
    areas = [roc_auc_score(CLASSES[TEST], p, multi_class="ovr", labels=model.classes_) for p in (joint, own)]
    assert areas[0] > areas[1] + 0.01
    assert set(model.predict(GUEST[TEST])) <= set(CLASS_NAMES)

    paths = halves(tmp_path, trained)
    assert {path.stat().st_mode & 0o777 for path in paths.values()} == {0o600}
    np.testing.assert_array_equal(
        vfl.load(paths["bank"]).predict_proba(GUEST[TEST]), model.predict_proba(GUEST[TEST])
    )
    again = vfl.simulate(
        accept_leakage=["representation"],
        bank=lambda: vfl.load(paths["bank"]).joint_predict_proba(GUEST[TEST]),
        shop=lambda: vfl.load(paths["shop"]).joint_predict_proba(HOST[TEST]),
    )
    np.testing.assert_array_equal(again["bank"], joint)


def bent(path: Path, *keys: Any, to: Any) -> None:
    """Change one entry of a file."""
    told = json.loads(path.read_bytes())
    part = told
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    path.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("half", "keys", "to"),
    [
        ("bank", ("student", "left", 0), 0),  # a circle
        ("bank", ("student", "right", 0), 1_000_000),
        ("bank", ("student", "feature", 0), 4),
        ("bank", ("student", "roots", 1), 0),
        ("bank", ("student", "baseline"), [0.0, 0.0]),
        ("bank", ("weights", 0), 1e999),
        ("bank", ("folds", 0, "shifts", 0, "weights"), [[0.0], [0.0, 0.0]]),
        ("bank", ("lengths",), [6]),
        ("bank", ("classes",), ["bad"]),
        ("shop", ("scale", 0), 0.0),
        ("shop", ("axes",), [[1.0]]),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, trained: vfl.Simulation, half: str, keys: tuple[Any, ...], to: Any
) -> None:
    path = halves(tmp_path, trained)[half]
    assert isinstance(vfl.load(path), vfl.TransferClassifier)
    bent(path, *keys, to=to)
    with pytest.raises((SchemaMismatch, ConfigError), match=r"damaged|not a model"):
        vfl.load(path)


def test_trees_are_those_of_scikit_learn() -> None:
    for y in (SCORE > 0, np.digitize(SCORE, [-1, 1])):
        model = HistGradientBoostingClassifier(max_iter=7, random_state=0).fit(GUEST, y)
        trees = Trees.of(model)
        np.testing.assert_allclose(trees.predict_proba(GUEST), model.predict_proba(GUEST), atol=1e-12)
        assert trees.fits(4, trees.baseline.size)
        assert not trees.fits(3, trees.baseline.size)
