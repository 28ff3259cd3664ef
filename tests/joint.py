"""Two parties' tables and labels, and a training over them within this process."""

import warnings
from typing import Any

import numpy as np
from sklearn.base import clone

import vfl
from vfl.errors import LeakageWarning

ACCEPT = ["score", "gradient"]
RNG = np.random.default_rng(7)
ROWS = 700
GUEST = RNG.normal(size=(ROWS, 4)) * [1, 10, 0.01, 3] + [0, 5, 1, -2]
HOST = RNG.normal(size=(ROWS, 10))
HOST[:, 1] += 0.8 * HOST[:, 0] + 0.5 * (GUEST[:, 1] - 5) / 10
SCORE = 1.2 * GUEST[:, 0] + 0.1 * GUEST[:, 1] + HOST[:, :5] @ [1.0, -0.8, 0.5, 0.0, 1.1] - 1
LABELS = (RNG.random(ROWS) < 1 / (1 + np.exp(-SCORE))).astype(int)
TARGETS = 40 + 7 * SCORE + RNG.normal(size=ROWS)
POOLED = np.hstack([GUEST, HOST])
TRAIN, TEST = slice(0, 500), slice(500, ROWS)


def fit(
    model: Any,
    y: Any = LABELS,
    guest: Any = GUEST,
    host: Any = HOST,
    host_model: Any = None,
    method: str = "predict_proba",
    **given: Any,
) -> tuple[Any, Any, Any, vfl.Simulation]:
    """Return both fitted halves and the guest's predictions for the test rows."""

    def bank() -> Any:
        half = clone(model).fit(guest[TRAIN], y[TRAIN], **given)
        return half, getattr(half, method)(guest[TEST])

    def shop() -> Any:
        half = clone(host_model or model).fit(host[TRAIN])
        return half, getattr(half, method)(host[TEST])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeakageWarning)
        accepted = ACCEPT if model.security == "exchange" else []
        result = vfl.simulate(bank=bank, shop=shop, accept_leakage=accepted)
    assert result["shop"][1] is None
    return result["bank"][0], result["shop"][0], result["bank"][1], result
