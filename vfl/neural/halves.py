"""A party's half of a network on shares, on disk: readable JSON, decoded into a typed struct, never pickled."""

import base64
import binascii
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vfl import model
from vfl.crypto.ring import RING, Share
from vfl.errors import ConfigError, SchemaMismatch

__all__ = ["Half", "restore", "save"]

FORMAT = 1


class Half(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="vfl network", tag_field="kind"
):
    """What a file holds; weights are 32-bit residues, little-endian, limb by limb, in base64."""

    format: int
    parameters: dict[str, Any]
    role: str
    model_id: str
    features: list[str]
    mean: list[float]
    scale: list[float]
    columns: list[int]
    outputs: int
    weights: str
    classes: list[bool | int | float | str] | None = None
    offset: list[float] | None = None


def save(network: Any, path: str | os.PathLike[str]) -> None:
    """Write this party's half of a fitted network with mode 0600.

    Raises
    ------
    ConfigError
        If the file cannot be written; an old one is left as it was.
    """
    classes = getattr(network, "classes_", None)
    half = Half(
        format=FORMAT,
        parameters=model.plain(network.get_params()),
        role=network.role_,
        model_id=network.model_id_,
        features=[str(name) for name in network.feature_names_in_],
        mean=network.mean_.tolist(),
        scale=network.scale_.tolist(),
        columns=list(network.columns_),
        outputs=network.outputs_,
        weights=base64.b64encode(network.share_.astype("<u4").tobytes()).decode(),
        classes=None if classes is None else classes.tolist(),
        offset=None if classes is None else network.offset_.tolist(),
    )
    model.write_private(Path(path), msgspec.json.format(msgspec.json.encode(half), indent=2))


def restore(path: str | os.PathLike[str], half: Half) -> Any:
    """Return the fitted network that a file holds.

    Raises
    ------
    ConfigError
        If it is of another format.
    SchemaMismatch
        If its parts do not fit together.
    """
    from vfl.neural.source import NeuralClassifier

    unknown = sorted(set(half.parameters) - set(NeuralClassifier().get_params()))
    if half.format != FORMAT or unknown:
        raise ConfigError(f"{path}: a network of format {half.format} {unknown or ''}; update vfl to read it")
    network = NeuralClassifier(**half.parameters)
    network.share_ = _weights(path, half, network.hidden_units)
    network.mean_, network.scale_ = np.array(half.mean), np.array(half.scale)
    network.columns_, network.outputs_ = (half.columns[0], half.columns[1]), half.outputs
    network.feature_names_in_, network.n_features_in_ = (
        np.array(half.features, dtype=object),
        len(half.features),
    )
    network.role_, network.model_id_ = half.role, half.model_id
    if half.classes is not None:
        network.classes_, network.offset_ = np.array(half.classes), np.array(half.offset)
    return network


def _weights(path: str | os.PathLike[str], half: Half, units: Any) -> Share:
    """Return the share of the weights, if all parts fit together."""
    try:
        raw = np.frombuffer(base64.b64decode(half.weights, validate=True), "<u4")
        share = raw.reshape(RING.limbs, sum(half.columns), units).astype(np.uint32)
    except (binascii.Error, ValueError, TypeError):
        share = np.zeros((RING.limbs, 0, 0), np.uint32)
    own = len(half.features) + (half.role == "guest")
    classes = {1: 2}.get(half.outputs, half.outputs)
    if (
        not share.size
        or (share >= np.array(RING.primes)[:, None, None]).any()
        or len(half.columns) != 2
        or half.columns[half.role != "guest"] != own
        or not len(half.mean) == len(half.scale) == len(half.features)
        or not np.isfinite(half.mean + half.scale).all()
        or not all(value > 0 for value in half.scale)
        or (half.classes is not None and len(half.classes) != classes)
        or (half.role == "guest") != (half.classes is not None)
        or (half.classes is not None and len(half.offset or ()) != half.outputs)
    ):
        raise SchemaMismatch(
            f"{path}: weights, columns and classes of the network do not fit together: damaged"
        )
    return share
