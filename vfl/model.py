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

from vfl.errors import ConfigError, SchemaMismatch

__all__ = ["load", "save"]

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
    coef: list[float]
    intercept: float
    classes: list[bool | int | float | str] | None = None
    target_mean: float | None = None
    target_scale: float | None = None


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """Write this party's half of a fitted model.

    Parameters
    ----------
    model : LogisticRegression or LinearRegression
        Fitted.
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
        parameters=_plain(model.get_params()),
        role=model.role_,
        model_id=model.model_id_,
        features=[str(name) for name in model.feature_names_in_],
        coef=model.coef_.tolist(),
        intercept=model.intercept_,
        classes=None if classes is None else classes.tolist(),
        target_mean=getattr(model, "target_mean_", None),
        target_scale=getattr(model, "target_scale_", None),
    )
    write_private(Path(path), msgspec.json.format(msgspec.json.encode(half), indent=2))


def load(path: str | os.PathLike[str]) -> Any:
    """Read a party's half of a model.

    Returns
    -------
    LogisticRegression or LinearRegression, fitted

    Raises
    ------
    ConfigError
        If the file is missing or is not a model of this library.
    SchemaMismatch
        If its parts do not fit together.
    """
    from vfl import linear

    try:
        half = msgspec.json.decode(Path(path).read_bytes(), type=_Half)
    except OSError as error:
        raise ConfigError(f"cannot read the model {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not a model of this library: {error}") from None
    if half.format != FORMAT or half.estimator not in linear.__all__:
        raise ConfigError(
            f"{path}: unknown model {half.estimator} of format {half.format}; update vfl to read it"
        )
    if len(half.coef) != len(half.features) or not np.isfinite([*half.coef, half.intercept]).all():
        raise SchemaMismatch(f"{path}: {len(half.coef)} weights for {len(half.features)} columns")
    kind = getattr(linear, half.estimator)
    unknown = sorted(set(half.parameters) - set(kind().get_params()))
    if unknown:
        raise ConfigError(f"{path}: unknown parameters {', '.join(unknown)}; update vfl to read it")
    model = kind(**half.parameters)
    model.coef_, model.intercept_ = np.array(half.coef), half.intercept
    model.feature_names_in_ = np.array(half.features, dtype=object)
    model.n_features_in_ = len(half.features)
    model.role_, model.model_id_ = half.role, half.model_id
    if half.classes is not None:
        model.classes_ = np.array(half.classes)
    if half.target_mean is not None and half.target_scale is not None:
        model.target_mean_, model.target_scale_ = half.target_mean, half.target_scale
    return model


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


def _plain(parameters: dict[str, Any]) -> dict[str, Any]:
    """Turn numpy scalars into what JSON holds; a dictionary of class weights served the training and stays behind."""
    kept = {name: value for name, value in parameters.items() if not isinstance(value, dict)}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in kept.items()}
