"""Links on shares against the functions themselves, within what their documentation says."""

from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from tests.support import DeterministicRng
from vfl.crypto.links import EXPONENTIAL, LOGISTIC, Chain
from vfl.crypto.product import LatticeBackend
from vfl.crypto.ring import RING
from vfl.errors import InvalidData
from vfl.protocols.arithmetic import Arithmetic
from vfl.protocols.channel import Party, memory_pair, run_local
from vfl.protocols.product import exchange_keys
from vfl.protocols.responses import FloatArray, Identity, Logarithmic, Logistic, Response
from vfl.protocols.wire import Role


def on_shares(response: Response, z: FloatArray, y: FloatArray, seed: int = 1) -> FloatArray:
    """Return opened residuals of scores shared at random."""
    channels = memory_pair(Party("bank", Role.GUEST), Party("shop", Role.HOST))
    rngs = [DeterministicRng(10 * seed + me) for me in (0, 1)]
    first = RING.uniform(rngs[0], *z.shape)
    shares = [first, RING.subtract(RING.encode(z, response.score_bits), first)]

    async def role(me: int) -> Any:
        backend = LatticeBackend(rngs[me])
        await exchange_keys(channels[me], backend)
        arithmetic = Arithmetic(channels[me], backend, rngs[me])
        return await response.residuals(arithmetic, shares[me], None if me else y)

    results = run_local(guest=role(0), host=role(1))
    return RING.decode(RING.add(results["guest"], results["host"]), response.residual_bits)


def test_the_logistic_chain_is_as_close_as_it_says() -> None:
    z = np.linspace(*LOGISTIC.reach, 500_001)
    assert np.abs(LOGISTIC.clear(z) - expit(z)).max() < 4.5e-5
    everywhere = np.linspace(-3000, 3000, 100_001)
    assert np.abs(LOGISTIC.clear(everywhere)).max() < 1.2


def test_the_exponential_chain_is_as_close_as_it_says() -> None:
    z = np.linspace(*EXPONENTIAL.reach, 500_001)
    relative = np.abs(EXPONENTIAL.clear(z) - np.exp(z)) / (np.exp(z) + 0.0025)
    assert relative.max() < 1.5e-4


@pytest.mark.parametrize("chain", [LOGISTIC, EXPONENTIAL, EXPONENTIAL.stretched(-0.5)])
def test_angles_fit_the_modulus(chain: Chain) -> None:
    assert all(abs(step.amplitude) < np.pi for step in chain.steps)
    assert np.abs(chain.clear(np.linspace(*chain.reach, 10_001))).max() < chain.largest


def test_logistic_residuals_on_shares() -> None:
    z = np.concatenate([np.linspace(-12, 12, 3000), np.linspace(-250, 250, 2000)]).reshape(-1, 2)
    y = (z > 0).astype(float)
    error = on_shares(Logistic(), z, y) - (LOGISTIC.clear(z) - y)
    assert 0 < np.abs(error).max() < LOGISTIC.rounding + 2**-18  # and that of scores and residuals
    assert abs(error.mean()) < 1e-6
    assert error.std() < 2e-6


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_residuals_of_amounts_on_shares(power: float) -> None:
    response = Logarithmic(power)
    low, high = np.array(response.reach)
    z = np.linspace(low, high, 3000)[:, None]
    y = np.random.default_rng(1).exponential(size=z.shape)
    y[::7] = 0
    y[5] = 3000.0 / 16
    right = np.exp((2 - power) * z) - y * np.exp((1 - power) * z)
    unit = np.exp((2 - power) * z) + y * np.exp((1 - power) * z) + 0.0025 * (1 + y)
    error = np.abs(on_shares(response, z, y) - right)
    rounding = EXPONENTIAL.rounding + 2**-18 * np.exp((1 - power) * z)  # of sines, and of amounts
    assert (error < 3e-4 * unit + rounding * (1 + y)).all()
    assert error.max() > 0


def test_ranges_follow_from_the_power() -> None:
    assert Logarithmic(1.0).reach == (-10, 6)
    assert Logarithmic(2.0).reach == (-6, 10)
    assert Logarithmic(1.5).reach == (-12, 12)
    assert Identity().reach is None


def test_amounts_in_other_units_are_refused() -> None:
    with pytest.raises(InvalidData, match="bank: amounts are 20 times"):
        on_shares(Logarithmic(2.0), np.zeros((10, 1)), np.full((10, 1), 20.0))


@pytest.mark.parametrize("response", [Logistic(), Logarithmic(1.0), Logarithmic(1.5)])
def test_scores_out_of_range_give_bounded_residuals(response: Response) -> None:
    z = np.array([[-1e6], [-4000.0], [4000.0], [1e6]])
    opened = on_shares(response, z, np.zeros_like(z))
    largest = 2 * EXPONENTIAL.largest + 1e6
    assert np.abs(opened).max() < (1.2 if isinstance(response, Logistic) else largest)
