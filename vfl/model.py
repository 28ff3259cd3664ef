"""A party's half of a model on disk: readable JSON, decoded into typed structs, never pickled.

A file holds the class, the parameters and the fitted numbers of one party. It is written with mode 0600 through a
temporary file, so that it is there whole or not at all.
"""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl import data
from vfl.blocks import Limits
from vfl.errors import ConfigError, SchemaMismatch
from vfl.session import Session

__all__ = ["load", "plain", "save", "scored", "write_private"]

FloatArray = NDArray[np.float64]

FORMAT = 1


class _Half(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="vfl model", tag_field="kind"
):
    format: int
    estimator: str
    parameters: dict[str, Any]
    role: str
    model_id: str
    features: list[str]
    coef: list[list[float]]  # one row for each linear model
    intercept: list[float]
    errors: list[list[float | None]] | None = None  # None: not computed, or of a constant column
    lower: list[float | None]  # where columns are cut off; None: nowhere
    upper: list[float | None]
    classes: list[bool | int | float | str] | None = None
    target_mean: float | None = None
    target_scale: float | None = None


def scored(model: Any, session: Session, table: Any) -> FloatArray:
    """Return the values of a table that a party's half is about to score.

    Raises
    ------
    SchemaMismatch
        If the half belongs to the other role, or the columns are not those of the training in their order.
    PolicyRefused
        If the configuration does not allow the columns.
    InvalidData, MissingValues
    """
    if session.role.value != model.role_:
        raise SchemaMismatch(
            f"this half of the model was trained by the {model.role_}, {session.name} is the {session.role}"
        )
    features = data.features(table, session.name, minimum_rows=1)
    session.require_columns(features.names)
    data.same_columns(features.names, tuple(model.feature_names_in_), session.name)
    return features.values


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """Write this party's half of a fitted model.

    Parameters
    ----------
    model : estimator
        A fitted linear model.
    path : path
        Replaced if it exists.

    Raises
    ------
    ConfigError
        If the file cannot be written; an old one is left as it was.
    """
    classes = getattr(model, "classes_", None)
    half = _Half(
        format=FORMAT,
        estimator=type(model).__name__,
        parameters=plain(model.get_params()),
        role=model.role_,
        model_id=model.model_id_,
        features=[str(name) for name in model.feature_names_in_],
        coef=np.atleast_2d(model.coef_).tolist(),
        intercept=np.atleast_1d(model.intercept_).tolist(),
        errors=None if model.standard_errors_ is None else _rows(model.standard_errors_),
        lower=_finite(model.limits_.lower),
        upper=_finite(model.limits_.upper),
        classes=None if classes is None else classes.tolist(),
        target_mean=getattr(model, "target_mean_", None),
        target_scale=getattr(model, "target_scale_", None),
    )
    write_private(Path(path), msgspec.json.format(msgspec.json.encode(half), indent=2))


def load(path: str | os.PathLike[str]) -> Any:
    """Read a party's half of a model.

    Returns
    -------
    estimator
        Fitted, of the class that was saved.

    Raises
    ------
    ConfigError
        If the file is missing or is not a model of this library.
    SchemaMismatch
        If its parts do not fit together.
    """
    from vfl import stored

    kinds = _Half | stored.TransferGuest | stored.TransferHost | stored.FTLHalf
    try:
        half = msgspec.json.decode(Path(path).read_bytes(), type=kinds)
    except OSError as error:
        raise ConfigError(f"cannot read the model {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not a model of this library: {error}") from None
    if not isinstance(half, _Half):
        return stored.restored(half, path)
    kind = _kinds().get(half.estimator)
    if half.format != FORMAT or kind is None:
        raise ConfigError(
            f"{path}: unknown model {half.estimator} of format {half.format}; update vfl to read it"
        )
    _check_shapes(path, half)
    unknown = sorted(set(half.parameters) - set(kind().get_params()))
    if unknown:
        raise ConfigError(f"{path}: unknown parameters {', '.join(unknown)}; update vfl to read it")
    model = kind(**half.parameters)
    several = len(half.coef) > 1
    model.coef_ = np.array(half.coef if several else half.coef[0])
    model.intercept_ = np.array(half.intercept) if several else half.intercept[0]
    model.standard_errors_ = None
    if half.errors is not None:
        errors = np.array([_infinite(row, np.nan) for row in half.errors])
        model.standard_errors_ = errors if several else errors[0]
    model.limits_ = Limits(_infinite(half.lower, -np.inf), _infinite(half.upper, np.inf))
    model.feature_names_in_ = np.array(half.features, dtype=object)
    model.n_features_in_ = len(half.features)
    model.role_, model.model_id_ = half.role, half.model_id
    if half.classes is not None:
        model.classes_ = np.array(half.classes)
    for name, value in (("target_mean_", half.target_mean), ("target_scale_", half.target_scale)):
        if value is not None:
            setattr(model, name, value)
    return model


def _kinds() -> dict[str, Any]:
    from vfl import linear, tweedie

    return {name: getattr(module, name) for module in (linear, tweedie) for name in module.__all__}


def _check_shapes(path: str | os.PathLike[str], half: _Half) -> None:
    """Refuse parts that do not fit together."""
    columns, models = len(half.features), len(half.coef)
    lengths = {len(row) for row in half.coef} | {len(half.lower), len(half.upper)}
    numbers = [number for row in half.coef for number in row] + half.intercept
    classes = {1: 2}.get(models, models)
    if (
        lengths != {columns}
        or not 1 <= models == len(half.intercept)
        or not np.isfinite(numbers).all()
        or (half.errors is not None and [len(row) for row in half.errors] != [columns] * models)
        or (half.classes is not None and len(half.classes) != classes)
    ):
        raise SchemaMismatch(f"{path}: the weights do not fit the {columns} columns and the classes: damaged")


def _rows(errors: Any) -> list[list[float | None]]:
    return [_finite(row) for row in np.atleast_2d(errors)]


def _finite(limits: Any) -> list[float | None]:
    """Return numbers as JSON holds them: None for infinity and NaN."""
    return [float(limit) if np.isfinite(limit) else None for limit in limits]


def _infinite(limits: list[float | None], nothing: float) -> Any:
    return np.array([nothing if limit is None else limit for limit in limits], dtype=float)


def write_private(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 whole or not at all."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def plain(parameters: dict[str, Any]) -> dict[str, Any]:
    """Turn numpy scalars into what JSON holds; a dictionary of class weights served the training and stays behind."""
    kept = {name: value for name, value in parameters.items() if not isinstance(value, dict)}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in kept.items()}
