"""Held-out AUC of one-shot transfer and of its baselines over random overlaps."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

import vfl
from vfl.trees import boosted

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


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

    def auc(self, probabilities: Floats) -> float:
        """Return the AUC over the held-out rows; of more than two classes the mean of each against the rest."""
        y = self.y[self.test]
        if probabilities.shape[1] == 2:
            return float(roc_auc_score(y, probabilities[:, 1]))
        return float(roc_auc_score(y, probabilities, multi_class="ovr", labels=np.unique(self.y)))

    def trees(self, columns: Floats, rows: Rows) -> float:
        """Return the held-out AUC of boosted trees trained on some rows in the clear."""
        places = np.unique(self.y, return_inverse=True)[1].astype(np.float64)
        return self.auc(boosted(columns[rows], places[rows]).predict_proba(columns[self.test]))


@dataclass(frozen=True)
class Overlap:
    """Which rows are common, which of these have a label, and the others, which all have one or are nobody's."""

    common: Rows
    known: Rows
    rest: Rows

    @classmethod
    def of(cls, train: Rows, overlap: float, labelled: int | None, seed: int) -> "Overlap":
        """Draw the common rows; with `labelled` so many of them are the only ones with a label."""
        shuffled = np.random.default_rng(seed).permutation(train)
        common, rest = np.split(shuffled, [max(1, round(overlap * len(shuffled)))])
        if labelled is None:
            return cls(common, common, rest)
        return cls(common, common[:labelled], rest[:0])


def transfer(tables: Tables, overlap: Overlap) -> tuple[float, float, int]:
    """Return the AUC with the host's representations and by the guest alone, and the bytes that crossed."""
    common, rest = overlap.common, overlap.rest

    def bank() -> Any:
        model = vfl.TransferClassifier()
        given = {"rest": tables.guest[rest], "rest_y": tables.y[rest]} if len(rest) else {}
        labels = np.where(np.isin(common, overlap.known), tables.y[common].astype(float), np.nan)
        model.fit(tables.guest[common], labels, **given)
        traffic = vfl.current().channel.bytes
        joint = model.joint_predict_proba(tables.guest[tables.test])
        return joint, model.predict_proba(tables.guest[tables.test]), traffic["sent"] + traffic["received"]

    def shop() -> None:
        model = vfl.TransferClassifier()
        model.fit(tables.host[common], rest=tables.host[rest] if len(rest) else None)
        model.joint_predict_proba(tables.host[tables.test])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vfl.errors.LeakageWarning)
        joint, alone, sent = vfl.simulate(accept_leakage=["representation"], bank=bank, shop=shop)["bank"]
    return tables.auc(joint), tables.auc(alone), sent


def measure(
    folder: Path, overlap: float, seeds: int, label: str, key: str, labelled: int | None
) -> dict[str, float]:
    """Return mean and spread (largest minus smallest) of each AUC over random overlaps."""
    tables = Tables(folder, label, key)
    figures: dict[str, list[float]] = {"joint_auc": [tables.trees(tables.pooled, tables.train)]}
    for seed in range(seeds):
        drawn = Overlap.of(tables.train, overlap, labelled, seed)
        together, alone, sent = transfer(tables, drawn)
        found = {
            "guest_auc": tables.trees(tables.guest, np.concatenate([drawn.known, drawn.rest])),
            "overlap_auc": tables.trees(tables.pooled, drawn.known),
            "transfer_auc": together,
            "transfer_alone_auc": alone,
        }
        print(
            f"seed {seed}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()), flush=True
        )
        for name, value in found.items():
            figures.setdefault(name, []).append(value)
    result: dict[str, float] = {"overlap": overlap, "overlap_rows": len(drawn.common), "seeds": seeds}
    result |= {"labelled_overlap_rows": len(drawn.known), "bytes": sent}
    for name, values in figures.items():
        result |= {
            name: round(float(np.mean(values)), 4),
            f"{name}_spread": round(max(values) - min(values), 4),
        }
    return result
