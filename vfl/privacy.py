"""Differential privacy of sums whose noise the clients add themselves, with dp-accounting as the accountant.

    privacy = vfl.ClientPrivacy(clip=1.0, noise_multiplier=4.0, delta=1e-6)
    with vfl.join("silo1.toml"):
        for _ in range(10):
            total = vfl.secure_sum(update, privacy=privacy)
    print(privacy)      # 10 sums: epsilon 4.013 at delta 1e-06, by dp-accounting 0.6.0

What is protected is whether a client took part and with what. Everybody who sees the sums is an adversary: the
aggregator, the other clients, the public. The noise is sized for the clients that are sure to be there and honest,
`minimum` less `colluders` of the policy, so drop-outs and colluders that leave their noise away do not weaken it. It
takes the package dp-accounting: ``pip install vfl[dp]``.
"""

import math
from typing import Any

from vfl.crypto.noisy import NoisyEncoding
from vfl.errors import EncodingOverflow, InvalidData
from vfl.extras import load
from vfl.protocols.secagg.policy import Policy

__all__ = ["ClientPrivacy", "calibrated"]


class ClientPrivacy:
    """A clip, a noise, and what the sums made with them have cost so far.

    Parameters
    ----------
    clip : float
        Largest Euclidean length of a client's vector; longer ones are scaled down.
    noise_multiplier : float
        Standard deviation, over `clip`, of the guaranteed noise in each number of a sum.
    delta : float
        Of (epsilon, delta)-differential privacy, above 0 and below 1.

    Attributes
    ----------
    sums : int
        Made so far.
    """

    def __init__(self, clip: float, noise_multiplier: float, delta: float) -> None:
        if not (0 < clip < math.inf and 0 < noise_multiplier < math.inf and 0 < delta < 1):
            raise InvalidData("clip and noise_multiplier are positive and finite, delta lies between 0 and 1")
        self.clip, self.noise_multiplier, self.delta = clip, noise_multiplier, delta
        self.sums = 0
        self._costs = [(0.0, 0.0), (0.0, 0.0)]

    def encoding(self, policy: Policy, dimension: int) -> NoisyEncoding:
        """Return the encoding of a vector under a policy."""
        parties, honest = len(policy.names), policy.minimum - policy.colluders
        return NoisyEncoding(dimension, self.clip, self.noise_multiplier, parties, honest)

    def spend(self, encoding: NoisyEncoding) -> None:
        """Note that a sum was made, or begun: its cost counts from the moment in which it is tried."""
        self.sums += 1
        costs = zip(self._costs, encoding.costs(), strict=True)
        self._costs = [(rho + more, xi + extra) for (rho, xi), (more, extra) in costs]

    def events(self) -> tuple[Any, Any]:
        """Return two of dp-accounting's events, each of which covers all sums so far."""
        package = accounting()
        first, second = (package.ZCDpEvent(rho, xi) for rho, xi in self._costs)
        return first, second

    @property
    def epsilon(self) -> float:
        """Epsilon of all sums so far at `delta`: the least that dp-accounting's Renyi accountant gives.

        Raises
        ------
        ConfigError
            If dp-accounting is not installed.
        """
        if not self.sums:
            return 0.0
        return min(_epsilon(event, self.delta) for event in self.events())

    def __str__(self) -> str:
        """Return what has been spent, in words."""
        from importlib.metadata import version

        count = "1 sum" if self.sums == 1 else f"{self.sums} sums"
        spent = f"epsilon {self.epsilon:.4g} at delta {self.delta:g}"
        return f"{count}: {spent}, by dp-accounting {version('dp-accounting')}"


def calibrated(
    epsilon: float, delta: float, *, clip: float, sums: int, policy: Policy, dimension: int
) -> ClientPrivacy:
    """Return the privacy with the least noise that keeps so many sums within epsilon, to a part in 10,000.

    Raises
    ------
    InvalidData
        If no noise from 2^-10 times the clip to the largest possible one does.
    """

    def cost(noise: float) -> float:
        tried = ClientPrivacy(clip, noise, delta)
        costs = tried.encoding(policy, dimension).costs(sums)
        return min(_epsilon(accounting().ZCDpEvent(rho, xi), delta) for rho, xi in costs)

    low = high = 2.0**-10
    try:
        while cost(high) > epsilon:
            low, high = high, 2 * high
    except EncodingOverflow:
        raise InvalidData(f"no noise gives epsilon {epsilon:g} at delta {delta:g} for {sums} sums") from None
    while high > low * 1.0001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if cost(middle) > epsilon else (low, middle)
    return ClientPrivacy(clip, high, delta)


def _epsilon(event: Any, delta: float) -> float:
    accountant = accounting().rdp.RdpAccountant()
    accountant.compose(event)
    return float(accountant.get_epsilon(delta))


def accounting() -> Any:
    """Return dp-accounting, which is installed by the extra [dp]."""
    missing = "differential privacy takes the package dp-accounting: pip install vfl[dp]"
    load("dp_accounting.rdp", missing)
    return load("dp_accounting", missing)
