"""Jobs: mistakes in their files, whole runs of two parties over the network, and the predictions afterwards."""

import json
import os
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from tests.parties import both, replace, two_parties
from vfl import audit
from vfl.cli.init import Created
from vfl.config import load_config
from vfl.datasets import synthetic
from vfl.errors import (
    ConfigError,
    ConfigMismatch,
    InvalidData,
    MissingValues,
    PeerAborted,
    PolicyRefused,
    SchemaMismatch,
)
from vfl.job import load_job
from vfl.linear import LinearRegression, LogisticRegression
from vfl.runner import COEFFICIENTS, EVALUATION, JobResult, predict_job, run_job

Parties = tuple[Created, Created]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Created:
    """A guest whose files nobody changes."""
    return two_parties(tmp_path_factory.mktemp("untouched"), rows=30)[0]


@pytest.fixture
def parties(tmp_path: Path) -> Parties:
    return two_parties(tmp_path)


def run_both(parties: Parties) -> tuple[JobResult | Exception, JobResult | Exception]:
    bank, shop = (load_job(party.job) for party in parties)
    return both(lambda: run_job(bank), lambda: run_job(shop))


def test_the_template_is_a_job(untouched: Created) -> None:
    job = load_job(untouched.job)
    assert job.guest
    assert job.kind == "logistic"
    assert job.estimator.get_params() == LogisticRegression().get_params()
    assert (job.data.identifiers, job.data.label, job.data.columns) == (("id",), "label", None)
    assert job.evaluate is not None
    assert job.evaluate.test_size == 0.3
    assert job.model_path == job.folder / "bank.model"
    assert job.config == load_config(untouched.config)


MISTAKES = {
    "unknown key": (
        ('normalise = "exact"', 'normalize = "exact"'),
        ["line ", "'normalize'", "mean normalise?"],
    ),
    "unknown section": (("[save]", "[safe]"), ["'safe'", "did you mean save?"]),
    "unknown model": (
        ('kind = "logistic"', 'kind = "logistics"'),
        ["model.kind", "'logistics'", "did you mean logistic?"],
    ),
    "unknown policy": (
        ('nulls = "error"', 'nulls = "keep"'),
        ["data.nulls", "'keep'", "valid are error, drop"],
    ),
    "unknown parameter": (('he = "auto"', "max_itr = 3"), ["'max_itr'", "[model.parameters]", "max_iter?"]),
    "unknown encryption": (('he = "auto"', 'he = "ckss"'), ["model.parameters.he", "did you mean ckks?"]),
    "parameter of another type": (
        ('he = "auto"', "C = '1'"),
        ["model.parameters.C", "expected number, got text"],
    ),
    "parameter out of range": (('he = "auto"', "C = -1"), ["[model.parameters]", "C must be positive"]),
    "another parameter out of range": (
        ('he = "auto"', "max_iter = 0"),
        ["max_iter must be a positive integer"],
    ),
    "parameter of another model": (('he = "auto"', "alpha = 1.0"), ["'alpha'", "[model.parameters]"]),
    "no label": (('label = "label"', ""), ["[data] needs label", "bank is the guest"]),
    "label among the columns": (
        ('label = "label"', 'label = "y"\ncolumns = ["g0", "y"]'),
        ["data.columns", "y"],
    ),
    "identifier among the columns": (
        ('label = "label"', 'label = "y"\ncolumns = ["id"]'),
        ["data.columns", "id"],
    ),
    "unknown recipe": (('"exact"', '"exakt"'), ["data.normalise", "did you mean 'exact'?"]),
    "recipes for other columns": (('"exact"', '["exact", "exact"]'), ["data.normalise", "2 recipes for 1"]),
    "all rows held out": (("test_size = 0.3", "test_size = 1.0"), ["evaluate.test_size", "< 1.0"]),
    "a missing configuration": (('session = "bank.toml"', 'session = "x.toml"'), ["x.toml", "No such file"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_file_is_named(untouched: Created, mistake: str) -> None:
    (before, after), expected = MISTAKES[mistake]
    text = untouched.job.read_text()
    assert before in text
    path = untouched.job.with_name("mistaken.job.toml")
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(ConfigError) as caught:
        load_job(path)
    assert [part for part in expected if part not in str(caught.value)] == []


def test_the_line_of_a_parameter_is_right(untouched: Created) -> None:
    path = untouched.job.with_name("line.job.toml")
    path.write_text(untouched.job.read_text().replace('he = "auto"', "tol = true"))
    line = path.read_text().splitlines().index("tol = true") + 1
    with pytest.raises(ConfigError, match=f"line {line}: model.parameters.tol"):
        load_job(path)


def test_a_host_has_no_label(parties: Parties) -> None:
    replace(parties[1].job, 'on = "id"', 'on = "id"\nlabel = "h0"')
    with pytest.raises(ConfigError, match="shop is the host: leave it out"):
        load_job(parties[1].job)


def test_a_run_leaves_figures_scores_reports_logs_and_both_halves(parties: Parties) -> None:
    bank, shop = run_both(parties)
    assert isinstance(bank, JobResult)
    assert isinstance(shop, JobResult)
    assert (bank.own_rows, bank.common_rows, bank.columns, shop.columns) == (400, 360, 3, 9)
    assert bank.test_rows == shop.test_rows
    assert 0.2 < bank.test_rows / bank.common_rows < 0.4
    assert shop.metrics == {}
    assert bank.metrics["joint"]["auc"] > bank.metrics["guest only"]["auc"] + 0.02

    evaluation = pl.read_csv(bank.folder / EVALUATION)
    assert evaluation.columns == ["id", "label", "guest only", "joint"]
    assert len(evaluation) == bank.test_rows
    for model in ("guest only", "joint"):
        area = roc_auc_score(evaluation["label"].to_numpy(), evaluation[model].to_numpy())
        assert area == pytest.approx(bank.metrics[model]["auc"])
    truth = synthetic(400, 3, 9, seed=5, overlap=0.9).guest
    labels = dict(zip(truth["id"], truth["label"], strict=True))
    assert [labels[i] for i in evaluation["id"]] == evaluation["label"].to_list()

    for party, result in zip(parties, (bank, shop), strict=True):
        report = json.loads((result.folder / "report.json").read_bytes())
        assert report["metrics"] == result.metrics
        assert audit.verify(result.folder / "audit.jsonl").summary == {"outcome": "done"}
        files = [*result.folder.iterdir(), load_job(party.job).model_path]
        assert {path.stat().st_mode & 0o777 for path in files if path} == {0o600}
    assert not (shop.folder / EVALUATION).exists()


def test_a_run_with_inference_leaves_the_standard_errors_of_own_columns(parties: Parties) -> None:
    for party in parties:
        replace(party.job, 'he = "auto"', 'he = "auto"\ninference = true')
    results = run_both(parties)
    for result, columns in zip(results, (3, 9), strict=True):
        assert isinstance(result, JobResult), result
        table = pl.read_csv(result.folder / COEFFICIENTS)
        assert table.columns == ["model", "column", "coef", "se", "z", "p", "lower", "upper"]
        assert len(table) == columns
        assert (table["se"] > 0).all()
        assert (result.folder / COEFFICIENTS).stat().st_mode & 0o777 == 0o600


def test_the_same_customers_are_held_out_again_and_by_another_salt_others(parties: Parties) -> None:
    held_out = []
    for salt in ("", "", "other"):
        for party in parties:
            party.job.write_text(re.sub(r'salt = ".*"', f'salt = "{salt}"', party.job.read_text()))
        bank, _ = run_both(parties)
        assert isinstance(bank, JobResult)
        held_out.append(set(pl.read_csv(bank.folder / EVALUATION)["id"]))
    assert held_out[0] == held_out[1] != held_out[2]


def test_predictions_are_those_of_the_run_and_written_for_the_guest_alone(parties: Parties) -> None:
    run, _ = run_both(parties)
    assert isinstance(run, JobResult)
    bank, shop = (load_job(party.job) for party in parties)
    new = synthetic(400, 3, 9, seed=5, overlap=0.9)
    new.guest.drop("label").write_csv(bank.folder / "new.csv")
    new.host.write_csv(shop.folder / "new.csv")
    out = bank.folder / "scores.csv"
    out.write_text("old")
    counts = both(
        lambda: predict_job(bank, bank.folder / "new.csv", out),
        lambda: predict_job(shop, shop.folder / "new.csv", None),
    )
    assert counts == (360, 360)
    scores = pl.read_csv(out)
    assert scores.columns == ["id", "probability"]
    assert out.stat().st_mode & 0o777 == 0o600
    joined = pl.read_csv(run.folder / EVALUATION).join(scores, on="id")
    assert len(joined) == run.test_rows
    np.testing.assert_allclose(joined["probability"], joined["joint"])
    assert not list(shop.folder.glob("scores*"))


def test_a_linear_model(parties: Parties) -> None:
    for party in parties:
        replace(party.job, 'kind = "logistic"', 'kind = "linear"')
        replace(party.job, 'he = "auto"', 'he = "auto"\nalpha = 1.0\nmax_iter = 30')
    assert isinstance(load_job(parties[0].job).estimator, LinearRegression)
    bank, shop = run_both(parties)
    assert isinstance(bank, JobResult), bank
    assert isinstance(shop, JobResult), shop
    assert set(bank.metrics["joint"]) == {"r2", "rmse"}
    evaluation = pl.read_csv(bank.folder / EVALUATION)
    errors = evaluation["label"].to_numpy() - evaluation["joint"].to_numpy()
    assert bank.metrics["joint"]["rmse"] == pytest.approx(float(np.sqrt(np.mean(errors**2))))
    assert bank.metrics["joint"]["r2"] > bank.metrics["guest only"]["r2"]


@pytest.mark.parametrize("kind", ["poisson", "gamma", "tweedie"])
def test_a_model_of_amounts(parties: Parties, kind: str) -> None:
    path = parties[0].job.parent / "bank.csv"
    amount = (0.4 * pl.col("g0") + pl.col("label")).exp()
    table = pl.read_csv(path).with_columns(label=amount.round() if kind == "poisson" else amount)
    table.write_csv(path)
    for party in parties:
        replace(party.job, 'kind = "logistic"', f'kind = "{kind}"')
        replace(party.job, 'he = "auto"', 'he = "auto"\nalpha = 0.01')
    bank, _ = run_both(parties)
    assert isinstance(bank, JobResult), bank
    assert set(bank.metrics["joint"]) == {"d2", "deviance"}
    assert bank.metrics["joint"]["d2"] > bank.metrics["guest only"]["d2"] + 0.05
    page = (bank.folder / "report.html").read_text(encoding="utf-8")
    assert "Mean deviance" in page


def test_three_classes_are_refused_before_training(parties: Parties) -> None:
    path = parties[0].job.parent / "bank.csv"
    table = pl.read_csv(path)
    table.with_columns(label=pl.col("label") + (pl.col("g0") > 1)).write_csv(path)
    bank, shop = run_both(parties)
    assert isinstance(bank, InvalidData)
    assert "3 classes" in str(bank)
    assert isinstance(shop, PeerAborted)


def test_without_evaluation_all_rows_train(parties: Parties) -> None:
    for party in parties:
        text = party.job.read_text()
        party.job.write_text(text[: text.index("\n[evaluate]")])
    bank, shop = run_both(parties)
    assert isinstance(bank, JobResult)
    assert isinstance(shop, JobResult)
    assert (bank.test_rows, bank.metrics) == (0, {})
    assert not (bank.folder / EVALUATION).exists()
    assert not list(bank.folder.parents[1].glob("*.model"))


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        ("test_size = 0.3", "test_size = 0.25", "test_size"),
        ('salt = ""', 'salt = "x"', "salt"),
        ('"logistic"', '"linear"', "model"),
        ('normalise = "exact"', 'normalise = "casefold"', "recipe"),
        ('he = "auto"', "C = 2.0", "C"),
        ('he = "auto"', "max_iter = 9", "max_iter"),
    ],
)
def test_jobs_that_differ_are_refused_on_both_sides(
    parties: Parties, before: str, after: str, field: str
) -> None:
    replace(parties[0].job, before, after)
    for error in run_both(parties):
        assert isinstance(error, ConfigMismatch)
        assert field in error.differences
    folders = [next(party.job.parent.glob("runs/*")) for party in parties]
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders] == [["audit.jsonl"]] * 2
    assert not any(list(party.job.parent.glob("*.model")) for party in parties)


def test_a_leakage_that_one_side_does_not_accept_is_refused_by_name(tmp_path: Path) -> None:
    parties = two_parties(tmp_path, security="exchange", accept=("score", "gradient"))
    replace(parties[1].config, '["score", "gradient"]', '["score"]')
    bank, shop = run_both(parties)
    assert isinstance(bank, PolicyRefused)
    assert isinstance(shop, PolicyRefused)
    assert "shop does not accept the leakage gradient" in str(bank)


def test_a_column_that_the_policy_does_not_name_is_refused(parties: Parties) -> None:
    replace(parties[0].config, 'columns = ["*"]', 'columns = ["g0", "g1"]')
    bank, shop = run_both(parties)
    assert isinstance(bank, PolicyRefused)
    assert "g2" in str(bank)
    assert isinstance(shop, PeerAborted)
    assert "PolicyRefused" in str(shop)
    replace(parties[0].job, 'on = "id"', 'on = "id"\ncolumns = ["g0", "g1"]')
    bank, shop = run_both(parties)
    assert isinstance(bank, JobResult), bank
    assert bank.columns == 2


def test_a_missing_label_stops_both_and_leaves_no_model(parties: Parties) -> None:
    path = parties[0].job.parent / "bank.csv"
    table = pl.read_csv(path)
    table.with_columns(pl.when(pl.col("g0") < 1).then(pl.col("label"))).write_csv(path)
    bank, shop = run_both(parties)
    assert isinstance(bank, MissingValues)
    assert isinstance(shop, PeerAborted)
    assert not any(list(party.job.parent.glob("*.model")) for party in parties)


@pytest.mark.parametrize(
    ("before", "after", "error", "text"),
    [
        ('path = "bank.csv"', 'path = "none.csv"', ConfigError, "none.csv"),
        ('label = "label"', 'label = "labels"', SchemaMismatch, "labels"),
        ('label = "label"', 'label = "label"\ncolumns = ["g7"]', SchemaMismatch, "g7"),
        ('on = "id"', 'on = "ids"', SchemaMismatch, "ids"),
        ('model = "bank.model"', 'model = "none/bank.model"', ConfigError, "none"),
    ],
)
def test_what_this_party_can_know_is_refused_before_the_peer_is_called(
    parties: Parties, before: str, after: str, error: type[Exception], text: str
) -> None:
    replace(parties[0].job, before, after)
    with pytest.raises(error, match=text):
        run_job(load_job(parties[0].job))
    assert not (parties[0].job.parent / "runs").exists()


def test_too_few_rows_to_hold_out_any(parties: Parties) -> None:
    for party in parties:
        replace(party.job, "test_size = 0.3", "test_size = 0.000001")
    bank, shop = run_both(parties)
    assert isinstance(bank, InvalidData)
    assert isinstance(shop, InvalidData)
    assert "leaves 0 to evaluate and 360 to train" in str(bank)


@pytest.mark.parametrize(
    ("party", "out", "text"),
    [(0, None, "bank is the guest; name the file"), (1, "x.csv", "leave --out away")],
)
def test_only_the_guest_gets_scores(parties: Parties, party: int, out: str | None, text: str) -> None:
    job = load_job(parties[party].job)
    with pytest.raises(ConfigError, match=text):
        predict_job(job, Path("new.csv"), None if out is None else Path(out))


@pytest.mark.skipif(os.geteuid() == 0, reason="everything may be written to by root")
def test_a_folder_that_may_not_be_written_to_is_named_before(parties: Parties) -> None:
    parties[0].job.parent.chmod(0o500)
    with pytest.raises(ConfigError, match="cannot write"):
        run_job(load_job(parties[0].job))
