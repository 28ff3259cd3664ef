"""The short notebooks on horizontal learning run from top to bottom, and show what they say they show."""

from typing import Any

import pytest

from tests.notebooks import ROOT, figures_of

# Each runs after the notebook's own cells and prints what the assertions need.
GAN = """{
    "found": {name: [float(right), covered, float(spread)] for name, (right, covered, spread) in found.items()},
    "kinds": {name: len(np.unique(rows.y)) for name, rows in clients.items()},
    "apart": apart,
}"""
LEARNING = """{"finals": {name: share.tolist() for name, share in finals.items()}, "apart": apart}"""
INCENTIVES = """{
    "scores": scores,
    "efficiency": [everybody, whole + 0.1],
    "record": dict(zip(names, record[-1].tolist())),
    "accuracy": [plain[-1], weighted[-1]],
    "paid": paid,
}"""


def figures(name: str, expression: str) -> Any:
    return figures_of(ROOT / "notebooks" / name, expression)


@pytest.mark.slow
def test_five_clients_draw_all_ten_digits() -> None:
    shown = figures("09_federated_gan.ipynb", GAN)
    right, covered, spread = shown["found"]["five together"]
    assert max(shown["kinds"].values()) < 5
    assert covered == 10
    assert right > 0.85
    assert spread > 0.6
    assert max(shown["found"][f"client{i:03d} alone"][1] for i in range(2)) <= 5
    assert shown["apart"] < 1e-4


@pytest.mark.slow
def test_together_they_find_their_way_where_one_alone_does_not() -> None:
    shown = figures("10_federated_rl.ipynb", LEARNING)
    together = shown["finals"].pop("together")
    for place, alone in enumerate(shown["finals"].values()):
        elsewhere = [i for i in range(4) if i != place]
        assert sum(together[i] for i in elsewhere) > sum(alone[i] for i in elsewhere) + 0.2
    assert shown["apart"] < 1e-4


@pytest.mark.slow
def test_a_liar_earns_nothing() -> None:
    shown = figures("11_incentives.ipynb", INCENTIVES)
    assert shown["efficiency"][0] == pytest.approx(shown["efficiency"][1])
    values = shown["scores"]["Shapley"]
    assert min(values, key=values.__getitem__) == "liar"
    assert values["large"] == pytest.approx(values["twin"], rel=0.15)
    for amounts in shown["paid"].values():
        assert sum(amounts.values()) == 10_000
        assert amounts["liar"] == 0
    assert shown["record"]["liar"] < 0.4 < shown["record"]["large"]
    assert shown["accuracy"][1] > shown["accuracy"][0] - 0.01
