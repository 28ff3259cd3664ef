"""Train and use one model over different columns of the same customers, without showing each other the data.

The names below are everything a user needs; they are imported when first used, so that ``import vfl`` is light.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from vfl.adapter import Simulated
    from vfl.aggregation import secure_mean, secure_statistics, secure_sum
    from vfl.alignment import align, train_test_split
    from vfl.data import read_table
    from vfl.ftl import FTLClassifier
    from vfl.horizontal.training import federate
    from vfl.identifiers import Key
    from vfl.linear import LinearRegression, LogisticRegression
    from vfl.membership import aggregate, join
    from vfl.model import load
    from vfl.neural.defences import Defended, Marvell, RandomisedLabels, Undefended
    from vfl.neural.source import NeuralClassifier
    from vfl.neural.split import SplitClassifier
    from vfl.outcome import record_metrics
    from vfl.overlap import Spine, enrich, intersection_size, intersection_sum, spine
    from vfl.privacy import ClientPrivacy
    from vfl.rehearsal import simulate_cohort
    from vfl.session import Session, connect, current
    from vfl.simulation import Simulation, simulate
    from vfl.streaming import AlignedFiles, align_files
    from vfl.transfer import TransferClassifier
    from vfl.tweedie import GammaRegressor, PoissonRegressor, TweedieRegressor

__all__ = [
    "AlignedFiles",
    "ClientPrivacy",
    "Defended",
    "FTLClassifier",
    "GammaRegressor",
    "Key",
    "LinearRegression",
    "LogisticRegression",
    "Marvell",
    "NeuralClassifier",
    "PoissonRegressor",
    "RandomisedLabels",
    "Session",
    "Simulated",
    "Simulation",
    "Spine",
    "SplitClassifier",
    "TransferClassifier",
    "TweedieRegressor",
    "Undefended",
    "__version__",
    "aggregate",
    "align",
    "align_files",
    "connect",
    "current",
    "enrich",
    "federate",
    "intersection_size",
    "intersection_sum",
    "join",
    "load",
    "read_table",
    "record_metrics",
    "secure_mean",
    "secure_statistics",
    "secure_sum",
    "simulate",
    "simulate_cohort",
    "spine",
    "train_test_split",
]

_HOMES = {
    "GammaRegressor": "tweedie",
    "AlignedFiles": "streaming",
    "ClientPrivacy": "privacy",
    "Defended": "neural.defences",
    "FTLClassifier": "ftl",
    "Key": "identifiers",
    "LinearRegression": "linear",
    "LogisticRegression": "linear",
    "Marvell": "neural.defences",
    "NeuralClassifier": "neural.source",
    "PoissonRegressor": "tweedie",
    "RandomisedLabels": "neural.defences",
    "Session": "session",
    "Simulated": "adapter",
    "Simulation": "simulation",
    "SplitClassifier": "neural.split",
    "TransferClassifier": "transfer",
    "TweedieRegressor": "tweedie",
    "Undefended": "neural.defences",
    "Spine": "overlap",
    "aggregate": "membership",
    "align": "alignment",
    "align_files": "streaming",
    "connect": "session",
    "current": "session",
    "enrich": "overlap",
    "federate": "horizontal.training",
    "intersection_size": "overlap",
    "intersection_sum": "overlap",
    "join": "membership",
    "load": "model",
    "read_table": "data",
    "record_metrics": "outcome",
    "secure_mean": "aggregation",
    "secure_statistics": "aggregation",
    "secure_sum": "aggregation",
    "simulate": "simulation",
    "simulate_cohort": "rehearsal",
    "spine": "overlap",
    "train_test_split": "alignment",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vfl' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"vfl.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
