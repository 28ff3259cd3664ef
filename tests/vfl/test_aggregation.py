"""Secure sums, means and statistics in one process against the same figures over all rows in one place."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vfl
from vfl.aggregation import Statistics
from vfl.errors import (
    CohortTooSmall,
    ConfigMismatch,
    EncodingOverflow,
    InvalidData,
    LocalProtocolError,
    MissingValues,
    PeerAborted,
    VFLError,
)
from vfl.membership import member
from vfl.protocols.wire import Leakage

NAMES = ["age", "dose"]
RNG = np.random.default_rng(6)
ROWS = {
    f"silo{i}": np.column_stack([RNG.integers(0, 100, 80 + 30 * i), RNG.gamma(2.0, 3.0, 80 + 30 * i)])
    for i in range(4)
}
KINDS: dict[str, Callable[[Any], Any]] = {
    "pandas": lambda rows: pd.DataFrame(rows, columns=NAMES),
    "polars": lambda rows: pl.DataFrame(rows, schema=NAMES),
    "pyarrow": lambda rows: pa.table(dict(zip(NAMES, rows.T, strict=True))),
}


def everywhere(call: Callable[[Any], Any], data: dict[str, Any] = ROWS, **options: Any) -> Any:
    """Make a call at all clients; return what the first client got, which is what all others got."""
    acts = {name: partial(call, rows) for name, rows in data.items()}
    return vfl.simulate_cohort(acts, **options)


def pooled(*without: str) -> Any:
    return np.concatenate([rows for name, rows in ROWS.items() if name not in without])


class TestSum:
    def test_arrays_of_any_shape(self) -> None:
        own = {name: rows[:6].reshape(3, 2, 2) for name, rows in ROWS.items()}
        result = everywhere(vfl.secure_sum, own)
        for name in own:
            assert result[name].shape == (3, 2, 2)
            np.testing.assert_allclose(result[name], sum(own.values()), rtol=0, atol=1e-9)

    def test_integers_are_exact(self) -> None:
        own = {name: len(rows) for name, rows in ROWS.items()}
        total = everywhere(vfl.secure_sum, own)["silo1"]
        assert isinstance(total, float)
        assert total == len(pooled())

    def test_the_precision_is_what_was_asked_for(self) -> None:
        own = {name: np.array([0.3, -0.7]) for name in ROWS}
        result = everywhere(lambda x: vfl.secure_sum(x, bound=1.0, fraction_bits=4), own)["silo0"]
        assert result.tolist() == [4 * 5 / 16, -4 * 11 / 16]

    @pytest.mark.parametrize("kind", KINDS)
    def test_columns_of_frames(self, kind: str) -> None:
        frames = {name: KINDS[kind](rows) for name, rows in ROWS.items()}
        total = everywhere(vfl.secure_sum, frames)["silo2"]
        mean = everywhere(vfl.secure_mean, frames)["silo2"]
        assert type(total) is type(mean) is type(frames["silo2"])
        np.testing.assert_allclose(np.asarray(total)[0], pooled().sum(axis=0), rtol=0, atol=1e-8)
        np.testing.assert_allclose(np.asarray(mean)[0], pooled().mean(axis=0), rtol=0, atol=1e-6)
        assert list(getattr(total, "column_names", total.columns))[:2] == NAMES or kind == "pyarrow"

    def test_means_are_weighted(self) -> None:
        weights = {name: len(rows) for name, rows in ROWS.items()}
        own = {name: (rows.mean(axis=0), weights[name]) for name, rows in ROWS.items()}
        result = everywhere(lambda x: vfl.secure_mean(x[0], weight=x[1], bound=100.0), own)["silo0"]
        np.testing.assert_allclose(result, pooled().mean(axis=0), rtol=0, atol=1e-8)

    def test_a_lost_client_is_not_in_it(self) -> None:
        result = everywhere(
            lambda rows: (vfl.secure_sum(rows.sum(axis=0)), member().survivors), lost={"silo2": 1}
        )
        assert result["silo2"] is None
        for name in ("silo0", "silo1", "silo3"):
            np.testing.assert_allclose(result[name][0], pooled("silo2").sum(axis=0), rtol=0, atol=1e-8)
            assert result[name][1] == ("silo0", "silo1", "silo3")

    def test_nothing_but_the_sum_is_seen(self) -> None:
        result = everywhere(lambda rows: vfl.secure_sum(rows[:3, 0]))
        for transcript in result.transcripts.values():
            classes = {record.leakage for record in transcript.records}
            assert classes == {
                Leakage.CONTROL, Leakage.PUBLIC, Leakage.CIPHERTEXT, Leakage.UNIFORM, Leakage.AGGREGATE
            }  # fmt: skip


class TestRefusals:
    def test_too_few_remain(self) -> None:
        with pytest.raises(PeerAborted, match="stopped with CohortTooSmall"):
            everywhere(vfl.secure_sum, dict.fromkeys(ROWS, 1.0), lost={"silo0": 1, "silo1": 1}, minimum=4)

    def test_another_call_is_named(self) -> None:
        bounds = dict(zip(ROWS, (10.0, 10.0, 10.0, 20.0), strict=True))
        outcomes: dict[str, Any] = {}

        def act(name: str) -> None:
            try:
                outcomes[name] = vfl.secure_sum(1.0, bound=bounds[name])
            except VFLError as error:
                outcomes[name] = error

        vfl.simulate_cohort({name: partial(act, name) for name in ROWS})
        assert isinstance(outcomes["silo3"], ConfigMismatch)
        assert "bound 20" in str(outcomes["silo3"])
        assert outcomes["silo0"] == outcomes["silo1"] == outcomes["silo2"] == 3.0

    def test_nobody_agrees(self) -> None:
        with pytest.raises((ConfigMismatch, CohortTooSmall, PeerAborted)):
            vfl.simulate_cohort(
                {name: partial(vfl.secure_sum, 1.0, bound=1.0 + i) for i, name in enumerate(ROWS)}
            )

    @pytest.mark.parametrize(
        ("call", "error", "text"),
        [
            (lambda x: vfl.secure_sum(x, bound=1.0), EncodingOverflow, "bound 1.0"),
            (lambda x: vfl.secure_sum(x * np.nan), EncodingOverflow, "not finite"),
            (lambda x: vfl.secure_sum("text"), InvalidData, "no array of numbers"),
            (lambda x: vfl.secure_sum([]), InvalidData, "empty"),
            (lambda x: vfl.secure_sum(x, bound=-1.0), InvalidData, "bound must be positive"),
            (lambda x: vfl.secure_mean(x, weight=0), InvalidData, "a weight is an integer"),
            (lambda x: vfl.secure_mean(pl.DataFrame({"a": [1.0, None]})), MissingValues, "null"),
            (
                lambda x: vfl.secure_mean(pl.DataFrame({"a": [1.0]}), weight=2),
                InvalidData,
                "leave weight away",
            ),
            (lambda x: vfl.secure_statistics(x, low=0, high=10), InvalidData, "outside low and high"),
            (lambda x: vfl.secure_statistics(x, low=10, high=0), InvalidData, "below its high"),
            (lambda x: vfl.secure_statistics(x, low=[0, 0, 0], high=10), InvalidData, "each of 2 columns"),
            (lambda x: vfl.secure_statistics(x, low=0, high=99, quantiles=[0.0]), InvalidData, "levels"),
        ],
    )
    def test_what_cannot_be_summed(self, call: Any, error: type[VFLError], text: str) -> None:
        with pytest.raises(error, match=text):
            everywhere(call)

    def test_outside_of_a_cohort(self) -> None:
        with pytest.raises(LocalProtocolError, match="no cohort"):
            vfl.secure_sum(1.0)

    def test_the_simulation_knows_its_clients(self) -> None:
        with pytest.raises(LocalProtocolError, match="no client is named siloX"):
            everywhere(vfl.secure_sum, dict.fromkeys(ROWS, 1.0), lost={"siloX": 1})


def check(found: Statistics, rows: Any, low: Any, high: Any, levels: tuple[float, ...], bins: int) -> None:
    for i, (name, column) in enumerate(found.items()):
        values, ends = rows[:, i], (low[i], high[i])
        assert (name, column.rows) == (NAMES[i], len(values))
        span = ends[1] - ends[0]
        np.testing.assert_allclose(column.mean, values.mean(), rtol=0, atol=1e-7 * span)
        np.testing.assert_allclose(column.variance, values.var(ddof=1), rtol=1e-6, atol=1e-7 * span**2)
        assert column.histogram.sum() == len(values)
        counts, edges = np.histogram(values, bins, ends)
        assert np.abs(np.cumsum(counts) - np.cumsum(column.histogram)).max() <= (
            np.isclose(values[:, None], edges).sum()
        )
        for level in levels:
            true = np.quantile(values, level, method="inverted_cdf")
            assert -1e-9 * span <= column.quantiles[level] - true <= 2.0**-20 * span + 1e-9 * span


class TestStatistics:
    @pytest.mark.parametrize("kind", KINDS)
    def test_like_all_rows_in_one_place(self, kind: str) -> None:
        low, high, levels = [0.0, 0.0], [100.0, 80.0], (0.01, 0.5, 0.9, 1.0)
        frames = {name: KINDS[kind](rows) for name, rows in ROWS.items()}
        result = everywhere(
            lambda t: vfl.secure_statistics(t, low=low, high=high, quantiles=levels, bins=7), frames
        )
        for name in ROWS:
            check(result[name], pooled(), low, high, levels, 7)
            assert result[name].survivors == tuple(ROWS)

    @pytest.mark.parametrize("call", [1, 2, 4])
    def test_a_client_is_lost_on_the_way(self, call: int) -> None:
        result = everywhere(lambda t: vfl.secure_statistics(t, low=0, high=100), lost={"silo1": call})
        found = result["silo3"]
        assert found.survivors == ("silo0", "silo2", "silo3")
        column, values = found["x1"], pooled("silo1")[:, 1]
        for level in (0.25, 0.5, 0.75):
            if call < 4:  # else the search began with four
                true = np.quantile(values, level, method="inverted_cdf")
                assert 0 <= column.quantiles[level] - true <= 1.1 * 100 * 2.0**-20
        if call <= 2:
            np.testing.assert_allclose(column.variance, values.var(ddof=1), rtol=1e-6)
        assert column.rows == len(pooled() if call > 1 else values)

    @settings(max_examples=8, deadline=None)
    @given(st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=6), min_size=3, max_size=3))
    def test_few_rows_and_ties(self, columns: list[list[int]]) -> None:
        data = {f"s{i}": np.array(c, dtype=float)[:, None] for i, c in enumerate(columns)}
        rows = np.concatenate(list(data.values()))
        result = everywhere(lambda t: vfl.secure_statistics(t, low=-3, high=3, bins=6), data)["s0"]["x0"]
        for level, found in result.quantiles.items():
            true = np.quantile(rows, level, method="inverted_cdf")
            assert -1e-8 <= found - true <= 6 * 2.0**-20 + 1e-8
        assert result.std == pytest.approx(rows.std(ddof=1) if len(rows) > 1 else 0.0, abs=1e-5)
