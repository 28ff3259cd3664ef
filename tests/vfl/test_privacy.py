"""Differentially private sums: epsilon is dp-accounting's own, the noise is there after drop-outs."""

import math
from functools import partial
from typing import Any

import dp_accounting
import numpy as np
import polars as pl
import pytest
from dp_accounting import rdp

import vfl
from tests.cohorts import policy
from vfl.errors import ConfigError, ConfigMismatch, InvalidData, VFLError
from vfl.membership import member
from vfl.privacy import ClientPrivacy, calibrated

NAMES = [f"silo{i}" for i in range(10)]
RULES = policy(10)


def spent(noise: float, sums: int, dimension: int) -> ClientPrivacy:
    privacy = ClientPrivacy(1.0, noise, 1e-6)
    for _ in range(sums):
        privacy.spend(privacy.encoding(RULES, dimension))
    return privacy


class TestAccountant:
    @pytest.mark.parametrize(
        ("noise", "sums", "dimension"), [(1.0, 1, 10), (4.0, 20, 1000), (20.0, 3, 100_000)]
    )
    def test_epsilon_is_its_own_figure(self, noise: float, sums: int, dimension: int) -> None:
        privacy = spent(noise, sums, dimension)
        figures = []
        for event in privacy.events():
            accountant = rdp.RdpAccountant()
            accountant.compose(event)
            figures.append(accountant.get_epsilon(privacy.delta))
        assert privacy.epsilon == min(figures)
        assert f"{sums} sum{'s' if sums > 1 else ''}: epsilon {privacy.epsilon:.4g} at delta 1e-06" in str(
            privacy
        )

    @pytest.mark.parametrize(("noise", "sums"), [(1.0, 1), (5.0, 20)])
    def test_it_is_that_of_gaussian_noise_but_for_the_rounding(self, noise: float, sums: int) -> None:
        """A continuous Gaussian of the same multiplier, in dp-accounting's own terms, costs at most 1 % less."""
        privacy = spent(noise, sums, 10_000)
        accountant = rdp.RdpAccountant()
        accountant.compose(dp_accounting.GaussianDpEvent(noise), sums)
        gaussian = accountant.get_epsilon(privacy.delta)
        assert gaussian <= privacy.epsilon <= 1.01 * gaussian

    def test_noise_for_an_epsilon(self) -> None:
        privacy = calibrated(2.0, 1e-6, clip=1.0, sums=5, policy=RULES, dimension=300)
        assert privacy.sums == 0 == privacy.epsilon
        for _ in range(5):
            privacy.spend(privacy.encoding(RULES, 300))
        assert 1.99 < privacy.epsilon <= 2.0

    def test_an_epsilon_that_nothing_gives(self) -> None:
        with pytest.raises(InvalidData, match="no noise gives epsilon"):
            calibrated(1e-9, 1e-12, clip=1.0, sums=10**6, policy=RULES, dimension=3)

    @pytest.mark.parametrize(
        "numbers", [(0.0, 1.0, 0.1), (1.0, math.nan, 0.1), (1.0, 1.0, 1.0), (1.0, 1.0, 0.0)]
    )
    def test_numbers(self, numbers: tuple[float, float, float]) -> None:
        with pytest.raises(InvalidData):
            ClientPrivacy(*numbers)

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        privacy = spent(1.0, 1, 5)
        monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
        with pytest.raises(ConfigError, match=r"vfl\[dp\]"):
            _ = privacy.epsilon


class TestSums:
    def test_the_noise_is_there_after_a_fifth_has_dropped_out(self) -> None:
        """It is at least that which epsilon was computed for; the parts are as long as the clip."""
        part = np.zeros(4000)
        part[:100] = 0.1
        privacies = {name: ClientPrivacy(1.0, 2.0, 1e-6) for name in NAMES}

        def act(name: str) -> tuple[np.ndarray, int]:
            total = vfl.secure_sum(part, privacy=privacies[name])
            return total, len(member().survivors)

        result = vfl.simulate_cohort({n: partial(act, n) for n in NAMES}, lost={"silo3": 1, "silo8": 1})
        total, survivors = result["silo0"]
        assert survivors == 8
        honest = RULES.minimum - RULES.colluders
        noise = (total - 8 * part).std()
        guaranteed = privacies["silo0"].noise_multiplier * privacies["silo0"].clip
        assert noise > guaranteed
        assert noise == pytest.approx(guaranteed * math.sqrt(survivors / honest), rel=0.05)
        assert result["silo9"][0].tolist() == total.tolist()
        alone = spent(2.0, 1, part.size)
        assert privacies["silo0"].epsilon == alone.epsilon > 0

    def test_means_are_over_those_that_remain(self) -> None:
        part = np.full(4096, 1 / 64)

        def act() -> np.ndarray:
            return vfl.secure_mean(part, privacy=ClientPrivacy(1.0, 2.0**-6, 1e-6))

        mean = vfl.simulate_cohort(dict.fromkeys(NAMES, act), lost={"silo1": 1})["silo0"]
        assert mean.mean() == pytest.approx(1 / 64, rel=0.05)

    @pytest.mark.parametrize(("values", "weight"), [(np.ones(2), 2), (pl.DataFrame({"a": [1.0]}), 1)])
    def test_private_means_have_no_weights(self, values: Any, weight: int) -> None:
        def act() -> Any:
            return vfl.secure_mean(values, weight, privacy=ClientPrivacy(1.0, 1.0, 1e-6))

        with pytest.raises(InvalidData, match="arrays with weight 1"):
            vfl.simulate_cohort(dict.fromkeys(NAMES, act))

    def test_a_client_with_less_noise_is_found_out(self) -> None:
        outcomes: dict[str, object] = {}

        def act(name: str) -> None:
            noise = 0.5 if name == "silo4" else 1.0
            try:
                outcomes[name] = vfl.secure_sum(np.ones(3), privacy=ClientPrivacy(1.0, noise, 1e-6))
            except VFLError as error:
                outcomes[name] = error

        vfl.simulate_cohort({name: partial(act, name) for name in NAMES})
        assert isinstance(outcomes["silo4"], ConfigMismatch)
        assert not isinstance(outcomes["silo0"], VFLError)
