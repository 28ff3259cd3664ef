"""The words and figures of a report: what metrics and leakage classes mean, how numbers are written."""

from collections.abc import Mapping

from vfl.protocols.wire import OPT_IN, Leakage
from vfl.report.facts import JOINT

__all__ = [
    "HISTORIES",
    "OF_DATA",
    "class_level",
    "class_name",
    "class_rank",
    "class_words",
    "duration",
    "figure",
    "main_model",
    "metric_name",
    "metric_words",
    "plain",
    "signed",
]

_METRICS = {
    "auc": ("AUC", "chance that a randomly drawn positive row scores above a randomly drawn negative one"),
    "gini": ("Gini", "2 AUC − 1: 0 is chance, 1 is perfect"),
    "ks": ("KS", "largest gap between the score distributions of the two classes, 0 to 1"),
    "log_loss": ("Log loss", "penalty for confident mistakes; lower is better"),
    "brier": ("Brier score", "mean squared error of the probabilities; lower is better"),
    "r2": ("R²", "share of the variance that is explained, 1 at best"),
    "rmse": ("RMSE", "typical size of an error, in units of the target; lower is better"),
    "d2": ("D²", "share of the deviance that is explained, 1 at best"),
    "deviance": (
        "Mean deviance",
        "penalty for expectations that are off, by the model's family; lower is better",
    ),
    "mae": ("MAE", "mean absolute error, in units of the target; lower is better"),
    "base_rate": ("Positives", "share of positive rows in the evaluated data"),
    "rows": ("Rows", "rows the figures rest on"),
}
OF_DATA = {"base_rate", "rows"}
HISTORIES = {
    "distance": "It estimates what the scores of the training rows still lack, as a root mean square.",
    "held-out residual": "It is the mean square over the rows that training held out.",
}
"""What a curve of a training shows, by its name."""

_PLAIN = {
    Leakage.PAYLOAD: (
        "Columns of common rows",
        "Values of the sender's columns for the rows that both have, as they are. The recipient asked for them.",
    ),
    Leakage.ROW_GRADIENT: (
        "Gradients of rows",
        "A gradient for each row. The recipient reads the row's label off it; with noise, off those of many epochs.",
    ),
    Leakage.NOISY_LABEL: (
        "Randomised labels",
        "A label of each row that was drawn once: a little more often the true one than chance. Single labels stay "
        "uncertain whatever the recipient computes; how labels go with its columns can be learned from many rows.",
    ),
    Leakage.REPRESENTATION: (
        "Representations",
        "A few numbers for each common row, made of the sender's columns, and rounded or with noise. With some rows of "
        "known values the recipient can work back to much of what the columns say.",
    ),
    Leakage.SCORE: (
        "Partial scores",
        "One number for each common row: the sender's part of its score. Over many rounds such numbers tell the "
        "recipient about the sender's columns.",
    ),
    Leakage.GRADIENT: (
        "Gradients",
        "Sums over a batch of rows that steer the recipient's part of the model. Over small batches such sums "
        "tell about single labels.",
    ),
    Leakage.INTERSECTION: (
        "Common rows",
        "Which of its own rows the recipient shares with the sender, or how many. The others stay unknown.",
    ),
    Leakage.RESULT: (
        "Results",
        "What the call was made for: the recipient's own weights, the scores of the rows that were scored, or a figure "
        "of the model's quality. From a score the guest knows the others' part of it.",
    ),
    Leakage.AGGREGATE: (
        "Sums",
        "In a training a few numbers an iteration, each a sum over all rows and the columns of all parties; in secure "
        "aggregation sums over at least so many parties as the policy requires. They say nothing of single rows.",
    ),
    Leakage.CIPHERTEXT: (
        "Encrypted values",
        "Freshly encrypted numbers. Without the key they are noise; whoever holds the key finds numbers that the "
        "sender masked.",
    ),
    Leakage.UNIFORM: (
        "Masked values",
        "Numbers hidden under fresh random masks or keys. The recipient learns how many there are.",
    ),
    Leakage.PUBLIC: (
        "Agreed facts",
        "Parameters, sizes, public keys and proofs. They describe the run, not any customer.",
    ),
    Leakage.CONTROL: ("Control", "Signals to go on or to stop."),
}
"""Class to its name and meaning in plain words, the most telling first."""
OPEN, RESULT, NONE = (
    ("open", "accepted leakage"),
    ("result", "agreed result"),
    ("none", "nothing about customers"),
)


def main_model(models: Mapping[str, object]) -> str | None:
    """Return the model that the page speaks of first: the joint one, or else the first."""
    return JOINT if JOINT in models else next(iter(models), None)


def metric_name(metric: str) -> str:
    """Return how a metric is called on the page."""
    return _METRICS[metric][0] if metric in _METRICS else metric


def metric_words(metric: str) -> str | None:
    """Return what a metric means, or None for one that this version does not know."""
    return _METRICS[metric][1] if metric in _METRICS else None


def class_level(leakage: str) -> tuple[str, str]:
    """Return the style and the mark of a leakage class on the page."""
    if leakage in OPT_IN:
        return OPEN
    return RESULT if leakage in (Leakage.INTERSECTION, Leakage.RESULT, Leakage.AGGREGATE) else NONE


def class_rank(leakage: str) -> int:
    """Return a sort key: the most telling class first."""
    return list(_PLAIN).index(Leakage(leakage))


def class_name(leakage: str) -> str:
    """Return how a leakage class is called on the page."""
    return _PLAIN[Leakage(leakage)][0]


def class_words(leakage: str) -> str:
    """Return what a message of the class tells its recipient."""
    return _PLAIN[Leakage(leakage)][1]


def figure(metric: str, value: float) -> str:
    """Return a metric's value: a count, a percentage or four decimals."""
    if metric == "rows":
        return f"{value:,.0f}"
    return f"{value:.1%}" if metric == "base_rate" else f"{value:,.4f}"


def signed(value: float) -> str:
    """Return a difference with its sign, to four decimals."""
    return f"{value:+,.4f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Return seconds as a person reads them, e.g. ``"2 min 05 s"``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def plain(value: object) -> str:
    """Return a parameter as text."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "none"}[value]
    return str(value)
