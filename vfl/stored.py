"""Files of the two transfer estimators: typed structs of numbers, checked when they are read.

:func:`vfl.load` reads them like those of :mod:`vfl.model`.
"""

import os
from typing import Any

import msgspec
import numpy as np

from vfl.blocks import Limits
from vfl.distillation import FOLDS, MODELS, PENALTIES, Fold, Shift, Teacher
from vfl.errors import ConfigError, SchemaMismatch
from vfl.model import plain
from vfl.representations import Encoder
from vfl.trees import Trees

__all__ = ["FTLHalf", "TransferGuest", "TransferHost", "of_ftl", "of_transfer", "restored"]

FORMAT = 1
Numbers = list[float]
Classes = list[bool | int | float | str]


class _Trees(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    columns: int
    baseline: Numbers
    roots: list[int]
    feature: list[int]
    threshold: Numbers
    left: list[int]
    right: list[int]
    value: Numbers


class _Shift(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bias: Numbers
    slope: float
    weights: list[Numbers]


class _Fold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shifts: list[_Shift]
    trees: list[_Trees]


class _Common(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    format: int
    parameters: dict[str, Any]
    model_id: str
    features: list[str]


class TransferGuest(_Common, frozen=True, kw_only=True, tag="vfl transfer, guest"):
    """A guest's half of a TransferClassifier."""

    classes: Classes
    lengths: list[int]
    own: _Trees
    overlap: _Trees
    student: _Trees
    folds: list[_Fold]
    weights: Numbers


class TransferHost(_Common, frozen=True, kw_only=True, tag="vfl transfer, host"):
    """A host's half of a TransferClassifier."""

    lower: Numbers
    upper: Numbers
    mean: Numbers
    scale: Numbers
    axes: list[Numbers]


class FTLHalf(_Common, frozen=True, kw_only=True, tag="vfl federated transfer"):
    """A half of an FTLClassifier: phi and classes at the guest, scores at the host."""

    weights: list[Numbers]
    mean: Numbers
    scale: Numbers
    phi: list[Numbers] | None = None
    classes: Classes | None = None
    losses: Numbers | None = None
    scores: int | None = None


def of_transfer(model: Any) -> bytes:
    """Return the file of a fitted TransferClassifier."""
    if model.role_ == "host":
        encoder = model.encoder_
        limits = {"lower": encoder.limits.lower.tolist(), "upper": encoder.limits.upper.tolist()}
        parts = {name: getattr(encoder, name).tolist() for name in ("mean", "scale", "axes")}
        return _encoded(TransferHost(**_head(model), **limits, **parts))
    half = TransferGuest(
        **_head(model),
        classes=model.classes_.tolist(),
        lengths=list(model.lengths_),
        own=_plain_trees(model.baselines_["guest"]),
        overlap=_plain_trees(model.baselines_["overlap"]),
        student=_plain_trees(model.student_),
        folds=[
            _Fold(
                [_Shift(shift.bias.tolist(), shift.slope, shift.weights.tolist()) for shift in fold.shifts],
                [_plain_trees(trees) for trees in fold.trees],
            )
            for fold in model.teacher_.folds
        ],
        weights=model.teacher_.weights.tolist(),
    )
    return _encoded(half)


def of_ftl(model: Any) -> bytes:
    """Return the file of a fitted FTLClassifier."""
    given: dict[str, Any] = {"scores": model.scores_} if model.role_ == "host" else {}
    if model.role_ == "guest":
        given = {"phi": model.phi_.tolist(), "classes": model.classes_.tolist(), "losses": model.loss_curve_}
    parts = {name: getattr(model, f"{name}_").tolist() for name in ("weights", "mean", "scale")}
    return _encoded(FTLHalf(**_head(model), **parts, **given))


def restored(half: TransferGuest | TransferHost | FTLHalf, path: str | os.PathLike[str]) -> Any:
    """Return the fitted estimator of a file that was decoded.

    Raises
    ------
    ConfigError
        If it is of another format.
    SchemaMismatch
        If its parts do not fit together.
    """
    from vfl.ftl import FTLClassifier
    from vfl.transfer import TransferClassifier

    kind: Any = FTLClassifier if isinstance(half, FTLHalf) else TransferClassifier
    unknown = sorted(set(half.parameters) - set(kind().get_params()))
    if half.format != FORMAT or unknown:
        raise ConfigError(f"{path}: format {half.format}, parameters {unknown}: update vfl to read it")
    model = kind(**half.parameters)
    model.feature_names_in_ = np.array(half.features, dtype=object)
    model.model_id_ = half.model_id
    fill: Any = {TransferGuest: _fill_guest, TransferHost: _fill_host, FTLHalf: _fill_ftl}[type(half)]
    try:
        fits = fill(model, half)
    except ValueError:  # rows of a matrix of different lengths
        fits = False
    if not fits:
        raise SchemaMismatch(f"{path}: its parts do not fit the {len(half.features)} columns: damaged")
    return model


def _fill_guest(model: Any, half: TransferGuest) -> bool:
    columns, components = len(half.features), sum(half.lengths)
    scores = 1 if len(half.classes) == 2 else len(half.classes)
    inputs = scores + columns + components, scores + components, columns + components
    model.role_, model.classes_, model.lengths_ = "guest", np.array(half.classes), tuple(half.lengths)
    model.student_ = _trees(half.student)
    model.baselines_ = {"guest": _trees(half.own), "overlap": _trees(half.overlap)}
    folds = tuple(_fold(fold) for fold in half.folds)
    model.teacher_ = Teacher(folds, np.array(half.weights))
    shifts = [shift for fold in folds for shift in fold.shifts]
    return (
        len(half.classes) >= 2
        and min(half.lengths, default=0) >= 1
        and (len(folds), len(half.weights)) == (FOLDS, MODELS)
        and _numbers(model.teacher_.weights, (MODELS,))
        and all(len(fold.shifts) == len(PENALTIES) and len(fold.trees) == len(inputs) for fold in folds)
        and all(_numbers(shift.bias, (scores,)) and _numbers(shift.slope, ()) for shift in shifts)
        and all(_numbers(shift.weights, (components, scores)) for shift in shifts)
        and all(t.fits(n, scores) for fold in folds for t, n in zip(fold.trees, inputs, strict=True))
        and model.student_.fits(columns, scores)
        and model.baselines_["guest"].fits(columns, scores)
        and model.baselines_["overlap"].fits(columns + components, scores)
    )


def _fill_host(model: Any, half: TransferHost) -> bool:
    lower, upper, mean, scale, axes = (
        np.array(part, dtype=float) for part in (half.lower, half.upper, half.mean, half.scale, half.axes)
    )
    model.role_, model.encoder_ = "host", Encoder(Limits(lower, upper), mean, scale, axes)
    columns = len(half.features)
    vectors = all(_numbers(part, (columns,)) for part in (lower, upper, mean, scale))
    return vectors and _numbers(axes, (columns, axes.shape[-1])) and axes.size > 0 and bool((scale > 0).all())


def _fill_ftl(model: Any, half: FTLHalf) -> bool:
    columns, width = len(half.features), model.width
    model.weights_, model.mean_, model.scale_ = (np.array(p) for p in (half.weights, half.mean, half.scale))
    whole = _numbers(model.weights_, (columns + 1, width)) and bool((model.scale_ > 0).all())
    whole = whole and _numbers(model.mean_, (columns,)) and _numbers(model.scale_, (columns,))
    if half.phi is None or half.classes is None or half.losses is None:
        model.role_, model.scores_ = "host", half.scores
        return whole and half.scores is not None and half.scores >= 1
    model.role_, model.phi_, model.classes_ = "guest", np.array(half.phi), np.array(half.classes)
    model.loss_curve_ = half.losses
    scores = 1 if len(half.classes) == 2 else len(half.classes)
    return whole and len(half.classes) >= 2 and _numbers(model.phi_, (scores, width))


# --- parts


def _head(model: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "parameters": plain(model.get_params()),
        "model_id": model.model_id_,
        "features": [str(name) for name in model.feature_names_in_],
    }


def _encoded(half: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(half), indent=0)


def _plain_trees(trees: Trees) -> _Trees:
    parts = {name: getattr(trees, name) for name in _Trees.__struct_fields__}
    return _Trees(**{name: part if name == "columns" else part.tolist() for name, part in parts.items()})


def _trees(part: _Trees) -> Trees:
    places = ("roots", "feature", "left", "right")
    arrays: dict[str, Any] = {name: np.array(getattr(part, name), dtype=np.int64) for name in places}
    numbers = {
        name: np.array(getattr(part, name), dtype=float) for name in ("baseline", "threshold", "value")
    }
    return Trees(columns=part.columns, **arrays, **numbers)


def _fold(part: _Fold) -> Fold:
    shifts = tuple(Shift(np.array(s.bias), s.slope, np.array(s.weights, dtype=float)) for s in part.shifts)
    return Fold(shifts, tuple(_trees(trees) for trees in part.trees))


def _numbers(array: Any, shape: tuple[int, ...]) -> bool:
    return np.shape(array) == shape and bool(np.isfinite(array).all())
