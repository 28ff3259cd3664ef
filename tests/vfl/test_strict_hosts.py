"""A guest and several hosts: the estimators in one process and over TLS, their report and their audit logs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import linear_model
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import vfl
from tests.joint import GUEST, HOST, LABELS, ROWS, SCORE, TARGETS, TEST, TRAIN
from tests.several import HOSTS, make_parties
from vfl import audit
from vfl.config import load_config
from vfl.errors import ConfigMismatch, LocalProtocolError
from vfl.protocols.wire import Leakage

TABLES = {"retailer": HOST[:, :4], "insurer": HOST[:, 4:9], "club": HOST[:, 9:]}
COUNTS = np.random.default_rng(3).poisson(np.exp(SCORE / 3)).astype(float)


def train(
    model: Any, y: Any, hosts: tuple[str, ...], method: str = "predict", **given: Any
) -> vfl.Simulation:
    """Train and score; each party returns its half and what it was given."""
    from sklearn.base import clone

    def bank() -> Any:
        half = clone(model).fit(GUEST[TRAIN], y[TRAIN], **given)
        return half, getattr(half, method)(GUEST[TEST])

    def host(table: Any) -> Any:
        half = clone(model).fit(table[TRAIN])
        return half, getattr(half, method)(table[TEST])

    parties: dict[str, Any] = {name: lambda name=name: host(TABLES[name]) for name in hosts}
    return vfl.simulate(bank=bank, **parties)


def test_two_hosts_with_real_encryption_come_to_the_pooled_model() -> None:
    result = train(vfl.LogisticRegression(), LABELS, ("retailer", "insurer"), "predict_proba")
    columns = np.hstack([GUEST, HOST[:, :9]])
    pooled = make_pipeline(StandardScaler(), linear_model.LogisticRegression())
    pooled.fit(columns[TRAIN], LABELS[TRAIN])
    guest, probabilities = result["bank"]
    assert guest.converged_
    assert np.abs(probabilities - pooled.predict_proba(columns[TEST])).max() < 5e-3
    found = np.concatenate([half.coef_ for half, _ in result.values()]) * columns[TRAIN].std(axis=0)
    expected = pooled[1].coef_[0]
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)
    assert result["retailer"][1] is result["insurer"][1] is None
    for name in ("retailer", "insurer"):
        assert {record.leakage for record in result.view(name)} <= {
            Leakage.PUBLIC,
            Leakage.CIPHERTEXT,
            Leakage.CONTROL,
            Leakage.RESULT,
        }


@pytest.mark.usefixtures("open_products")
@pytest.mark.parametrize("case", ["linear", "poisson", "classes", "weighted"])
def test_three_hosts(case: str) -> None:
    model: Any = {"linear": vfl.LinearRegression(), "poisson": vfl.PoissonRegressor()}.get(
        case, vfl.LogisticRegression()
    )
    y = {"linear": TARGETS, "poisson": COUNTS, "classes": LABELS + (SCORE > 2)}.get(case, LABELS)
    given: dict[str, Any] = {"sample_weight": 1 + LABELS[TRAIN]} if case == "weighted" else {}
    several = train(model, y, tuple(TABLES), **given)["bank"][1]

    one = vfl.simulate(
        bank=lambda: model.fit(GUEST[TRAIN], y[TRAIN], **given).predict(GUEST[TEST]),
        shop=lambda: type(model)().fit(HOST[TRAIN]).predict(HOST[TEST]),
    )["bank"]
    if case in ("linear", "poisson"):
        assert np.linalg.norm(several - one) < 0.005 * np.linalg.norm(one)
    else:
        assert np.mean(several == one) >= 0.985


@pytest.mark.usefixtures("open_products")
def test_the_guest_sees_sums_over_hosts_and_hosts_see_nothing_of_each_other() -> None:
    result = train(vfl.LinearRegression(), TARGETS, ("retailer", "insurer"))
    kinds = {record.kind for record in result.transcript.records}
    assert {"glm.reshared", "glm.key", "glm.keys", "score.padded"} <= kinds
    assert "score.part" not in kinds
    retailer, insurer = result["retailer"][0], result["insurer"][0]
    padded: list[Any] = [record.message for record in result.view("bank") if record.kind == "score.padded"]
    parts = [message.z for message in padded]
    exact = [
        TABLES[name][TEST] @ half.coef_ + half.intercept_
        for name, half in (("retailer", retailer), ("insurer", insurer))
    ]
    for part, z in zip(parts, exact, strict=True):  # each alone is padded
        assert np.abs(part.view(np.int64)[:, 0] / 2**14 - z).min() > 1e3
    total = (parts[0] + parts[1]).view(np.int64)[:, 0]
    np.testing.assert_array_equal(total, sum(np.rint(z * 2**14) for z in exact))


@pytest.mark.usefixtures("open_products")
def test_one_host_with_other_rows_stops_all_and_is_named() -> None:
    def host(table: Any) -> Any:
        return lambda: vfl.LinearRegression().fit(table)

    with pytest.raises(ConfigMismatch, match="insurer") as caught:
        vfl.simulate(
            bank=lambda: vfl.LinearRegression().fit(GUEST, TARGETS),
            retailer=host(TABLES["retailer"]),
            insurer=host(TABLES["insurer"][1:]),
        )
    assert set(caught.value.differences) == {"rows"}


def test_the_exchange_is_for_one_host() -> None:
    def act(table: Any, *y: Any) -> Any:
        return lambda: vfl.LogisticRegression(security="exchange").fit(table, *y)

    with pytest.raises(LocalProtocolError, match="security='strict' takes several"):
        vfl.simulate(
            bank=act(GUEST, LABELS),
            retailer=act(TABLES["retailer"]),
            insurer=act(TABLES["insurer"]),
            accept_leakage=["score", "gradient"],
        )


SCRIPT = """
import sys
import vfl
config, table, output = sys.argv[1:]
with vfl.connect(config) as session:
    rows = vfl.align(vfl.read_table(table, text=["id"]), on="id")
    train, test = vfl.train_test_split(rows, on="id", test_size=0.3)
    guest = ["y"] if "y" in rows.columns else []
    model = vfl.LogisticRegression().fit(train.drop("id", *guest), *(train[name] for name in guest))
    probabilities = model.predict_proba(test.drop("id", *guest))
    if guest:
        vfl.record_metrics("joint", test["y"], probabilities[:, 1])
    model.save(output)
    print(session.folder)
"""


def test_three_processes_over_tls_leave_true_reports_and_logs(tmp_path: Path) -> None:
    parties = make_parties(tmp_path)
    tables = {"bank": GUEST} | {name: TABLES[name] for name in HOSTS}
    processes = {}
    for name, party in parties.items():
        frame = pl.DataFrame(tables[name]).with_columns(id=pl.Series([f"k{i}" for i in range(ROWS)]))
        frame = (
            frame.with_columns(y=LABELS)
            if name == "bank"
            else frame.sample(fraction=0.98, shuffle=True, seed=1)
        )
        frame.write_csv(tmp_path / f"{name}.csv")
        files = [party.config, tmp_path / f"{name}.csv", tmp_path / f"{name}.model"]
        command = [sys.executable, "-c", SCRIPT, *map(str, files)]
        processes[name] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = {name: process.communicate(timeout=120) for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    assert [process.returncode for process in processes.values()] == [0, 0, 0], said

    facts = {}
    for name, (out, _) in said.items():
        folder = Path(out.strip())
        facts[name] = json.loads((folder / "report.json").read_bytes())
        config = load_config(parties[name].config)
        summary = audit.verify(folder / "audit.jsonl", config.identity().public_bytes)
        sent = [row for row in facts[name]["messages"] if row["sender"] == name]
        assert summary.summary == {"outcome": "done"}
        assert summary.messages == sum(row["count"] for row in sent)
        assert summary.size == sum(row["size"] for row in sent)
        assert not {"score", "gradient"} & {row["leakage"] for row in facts[name]["messages"]}
    assert facts["bank"]["metrics"]["joint"]["auc"] > 0.8
    assert facts["bank"]["history_name"] == "distance"
    assert len(facts["bank"]["history"]) > 3
    assert facts["bank"]["parameters"]["security"] == "strict"
    page = (Path(said["bank"][0].strip()) / "report.html").read_text(encoding="utf-8")
    assert "Distance by iteration" in page
    assert "accept" not in page
    for name in HOSTS:
        assert facts[name]["metrics"] == {}
        sent = [row["message"] for row in facts["bank"]["messages"] if row["recipient"] == name]
        assert "glm.weights" in sent
