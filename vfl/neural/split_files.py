"""A party's half of a split model on disk: typed fields and raw arrays in MessagePack, never pickled."""

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vfl.errors import ConfigError, SchemaMismatch
from vfl.model import write_private
from vfl.neural.backend import Arrays, arrays_of, restore
from vfl.neural.defences import Defended, Undefended
from vfl.neural.inputs import Inputs
from vfl.protocols.wire import Role

__all__ = ["MAGIC", "load", "save"]

MAGIC = b"vfl split model\n"
FORMAT = 1
DTYPES = {"<f4", "<f8", "<i8"}


class _Array(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    raw: bytes


class _Half(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: int
    role: Role
    model_id: str
    embedding: int
    hidden: list[int]
    top: list[int]
    max_iter: int | None
    batch_size: int | None
    learning_rate: float | None
    alpha: float
    categorical: list[str] | None
    random_state: int | None
    defence: Defended | Undefended
    names: list[str]
    categories: list[tuple[str, list[str]]]
    order: bytes
    rows: int
    secret: bytes  # of a host's noise
    widths: list[int]  # at the guest, of all hosts
    classes: list[bool | int | float | str]
    arrays: dict[str, _Array]


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """Write this party's half of a fitted model.

    Raises
    ------
    ConfigError
        If the file cannot be written; an old one is left as it was.
    """
    inputs, guest = model.inputs_, model.role_ == Role.GUEST.value
    arrays = {f"inputs.{name}": getattr(inputs, name) for name in ("lower", "upper", "mean", "scale")}
    half = _Half(
        format=FORMAT,
        role=Role(model.role_),
        model_id=model.model_id_,
        embedding=int(model.embedding),
        hidden=[int(width) for width in model.hidden],
        top=[int(width) for width in model.top],
        max_iter=model.max_iter,
        batch_size=model.batch_size,
        learning_rate=model.learning_rate,
        alpha=model.alpha,
        categorical=None if model.categorical is None else list(model.categorical),
        random_state=model.random_state,
        defence=model.defence,
        names=list(inputs.names),
        categories=list(inputs.categories.items()),
        order=model.plan_.seed,
        rows=model.plan_.rows,
        secret=b"" if guest else model.secret_,
        widths=list(model.widths_) if guest else [],
        classes=model.classes_.tolist() if guest else [],
        arrays={name: _packed(value) for name, value in (arrays | arrays_of(model._networks())).items()},
    )
    write_private(Path(path), MAGIC + msgspec.msgpack.encode(half))


def load(path: str | os.PathLike[str], raw: bytes) -> Any:
    """Return the model that the bytes of a file hold.

    Raises
    ------
    ConfigError
        If they are not a model of this version of the library.
    SchemaMismatch
        If its parts do not fit together.
    """
    from vfl.neural.split import SplitClassifier

    try:
        half = msgspec.msgpack.decode(raw.removeprefix(MAGIC), type=_Half)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not a model of this library: {error}") from None
    if half.format != FORMAT:
        raise ConfigError(f"{path}: a split model of format {half.format}; update vfl to read it")
    guest = half.role is Role.GUEST
    if guest != (len(half.classes) >= 2) or guest != bool(half.widths) or guest == bool(half.secret):
        raise SchemaMismatch(f"{path}: the parts do not belong to the {half.role}: damaged")
    arrays = {name: _unpacked(path, name, value) for name, value in half.arrays.items()}
    model = SplitClassifier(
        embedding=half.embedding,
        hidden=tuple(half.hidden),
        top=tuple(half.top),
        max_iter=half.max_iter,
        batch_size=half.batch_size,
        learning_rate=half.learning_rate,
        alpha=half.alpha,
        categorical=half.categorical,
        defence=half.defence,
        random_state=half.random_state,
    )
    try:
        model._check_parameters()
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    model.inputs_, model.role_, model.model_id_ = _inputs(path, half, arrays), half.role.value, half.model_id
    model.feature_names_in_ = np.array(half.names, dtype=object)
    model.n_features_in_ = len(half.names)
    model.plan_ = model._plan(half.rows, half.order.hex())
    model._build_bottom(0)
    if guest:
        model.widths_, model.classes_ = tuple(half.widths), np.array(half.classes)
        model._build_top(0)
    else:
        model.secret_ = half.secret
    restore(model._networks(), arrays)
    return model


def _inputs(path: str | os.PathLike[str], half: _Half, arrays: Arrays) -> Inputs:
    """Return how columns are read, and take its arrays out of the others."""
    categories = dict(half.categories)
    numeric = len([name for name in half.names if name not in categories])
    parts = {name: arrays.pop(f"inputs.{name}", np.zeros(0)) for name in ("lower", "upper", "mean", "scale")}
    shapes = {part.shape for part in parts.values()}
    if (
        shapes != {(numeric,)}
        or not set(categories) <= set(half.names)
        or np.isnan(list(parts.values())).any()
    ):
        raise SchemaMismatch(f"{path}: the limits do not fit the columns: damaged")
    return Inputs(tuple(half.names), categories, **parts)


def _packed(value: Any) -> _Array:
    array = np.ascontiguousarray(value).astype(np.asarray(value).dtype.newbyteorder("<"))
    return _Array(array.dtype.str, list(np.shape(value)), array.tobytes())


def _unpacked(path: str | os.PathLike[str], name: str, stored: _Array) -> Any:
    if stored.dtype not in DTYPES or any(size < 0 for size in stored.shape):
        raise SchemaMismatch(f"{path}: {name} is of no type that a model has")
    kind = np.dtype(stored.dtype)
    if len(stored.raw) != kind.itemsize * int(np.prod(stored.shape, dtype=object)):
        raise SchemaMismatch(f"{path}: {name} has another size than it states: damaged")
    return np.frombuffer(stored.raw, kind).reshape(stored.shape)
