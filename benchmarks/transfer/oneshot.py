"""Held-out AUC of one-shot transfer and of its baselines over random overlaps."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

import vfl
from vfl.distillation import boosted, score

Floats = NDArray[np.float64]


class Tables:
    """Both parties' columns in the same order of rows, and the labels; rows whose id is divisible by 5 are held out."""

    def __init__(self, folder: Path, label: str, key: str) -> None:
        guest = pl.read_csv(folder / "guest.csv").sort(key)
        host = pl.read_csv(folder / "host.csv").sort(key)
        common = guest.select(key).join(host.select(key), on=key)[key].implode()
        guest, host = (table.filter(pl.col(key).is_in(common)) for table in (guest, host))
        test = guest[key].to_numpy() % 5 == 0
        self.train, self.test = np.flatnonzero(~test), np.flatnonzero(test)
        self.y = guest[label].to_numpy()
        self.guest = guest.drop(key, label).to_numpy().astype(np.float64)
        self.host = host.drop(key).to_numpy().astype(np.float64)
        self.pooled = np.hstack([self.guest, self.host])

    def auc(self, scores: Floats) -> float:
        """Return the AUC of scores of the held-out rows."""
        return float(roc_auc_score(self.y[self.test], scores))

    def trees(self, columns: Floats, rows: NDArray[np.int64]) -> float:
        """Return the held-out AUC of boosted trees trained on some rows in the clear."""
        return self.auc(score(boosted(columns[rows], self.y[rows].astype(np.float64)), columns[self.test]))


def transfer(tables: Tables, common: NDArray[np.int64], rest: NDArray[np.int64]) -> tuple[float, float, int]:
    """Return the AUC with the host's representations and by the guest alone, and the bytes that crossed."""

    def bank() -> Any:
        model = vfl.TransferClassifier()
        given = {"rest": tables.guest[rest], "rest_y": tables.y[rest]} if len(rest) else {}
        model.fit(tables.guest[common], tables.y[common], **given)
        traffic = vfl.current().channel.bytes
        joint = model.joint_predict_proba(tables.guest[tables.test])
        assert joint is not None
        alone = model.predict_proba(tables.guest[tables.test])
        return joint[:, 1], alone[:, 1], traffic["sent"] + traffic["received"]

    def shop() -> None:
        model = vfl.TransferClassifier()
        model.fit(tables.host[common], rest=tables.host[rest] if len(rest) else None)
        model.joint_predict_proba(tables.host[tables.test])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vfl.errors.LeakageWarning)
        joint, alone, sent = vfl.simulate(accept_leakage=["representation"], bank=bank, shop=shop)["bank"]
    return tables.auc(joint), tables.auc(alone), sent


def measure(folder: Path, overlap: float, seeds: int, label: str, key: str) -> dict[str, float]:
    """Return mean and spread (largest minus smallest) of each AUC over random overlaps."""
    tables = Tables(folder, label, key)
    guest, joint = tables.trees(tables.guest, tables.train), tables.trees(tables.pooled, tables.train)
    figures: dict[str, list[float]] = {"guest_auc": [guest], "joint_auc": [joint]}
    bytes_ = 0
    for seed in range(seeds):
        shuffled = np.random.default_rng(seed).permutation(tables.train)
        common, rest = np.split(shuffled, [max(1, round(overlap * len(shuffled)))])
        together, alone, bytes_ = transfer(tables, common, rest)
        found = {
            "overlap_auc": tables.trees(tables.pooled, common),
            "transfer_auc": together,
            "transfer_alone_auc": alone,
        }
        print(
            f"seed {seed}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()), flush=True
        )
        for name, value in found.items():
            figures.setdefault(name, []).append(value)
    result: dict[str, float] = {
        "overlap": overlap,
        "overlap_rows": len(common),
        "seeds": seeds,
        "bytes": bytes_,
    }
    for name, values in figures.items():
        result |= {
            name: round(float(np.mean(values)), 4),
            f"{name}_spread": round(max(values) - min(values), 4),
        }
    return result
