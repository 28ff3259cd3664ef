"""What the server of a simulated training sees, into a :class:`vfl.views.View`; and the way back from its bytes."""

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, cast

import numpy as np

from vfl.errors import AuditError, InvalidData, MalformedMessage
from vfl.horizontal.combining import Secure
from vfl.horizontal.communication import Codec, Full, Quantised, RandomK, Sketched, TopK
from vfl.horizontal.models import Network
from vfl.horizontal.optimisation import Local
from vfl.horizontal.plan import Plan, Work
from vfl.horizontal.vectors import Vector
from vfl.protocols.horizontal import GlobalModel, Update
from vfl.views import View

__all__ = ["ServerView", "codec_of", "facts_of", "local_of", "network_of", "update_of"]

CODECS: dict[str, type[Codec]] = {kind.__name__: kind for kind in (Full, Quantised, RandomK, Sketched, TopK)}


class ServerView:
    """Writes what a simulated server sees into a view.

    Parameters
    ----------
    view : View
    plan : Plan
    """

    def __init__(self, view: View, plan: Plan) -> None:
        self.view, self._plan = view, plan
        view.facts |= facts_of(plan.model, plan.local) | {
            "codec": {"name": type(plan.codec).__name__, **asdict(plan.codec)},
            "controlled": plan.strategy.controlled,
        }
        how = plan.aggregation
        if isinstance(how, Secure) and plan.privacy is None:
            kept = ("bound", "fraction_bits", "largest_weight")
            view.facts["secure"] = {name: getattr(how, name) for name in kept}

    def model(self, number: int, vector: Vector) -> None:
        """Note the model that a round starts from."""
        self.view.add("sent", "all", GlobalModel(number=number, vector=vector.copy()))

    def updates(self, number: int, works: Mapping[str, Work]) -> None:
        """Note updates that arrive as they are; what secure aggregation carries is noted by the cohort."""
        seed = self._plan.common_seed(number)
        for name, work in works.items():
            if work.raw:
                rows = len(self._plan.clients[name])
                self.view.add("received", name, Update(number=number, rows=rows, seed=seed, raw=work.raw))


def facts_of(model: Any, local: Local) -> dict[str, Any]:
    """Return what every party of a training knows: the model's shape and how clients train."""
    facts: dict[str, Any] = {"kind": "federation", "local": asdict(local)}
    if isinstance(model, Network):
        classes = None if model.classes is None else np.asarray(model.classes).tolist()
        facts["network"] = {
            "layers": list(model.layers),
            "classes": classes,
            "activation": model.activation,
            "penalty": model.penalty,
        }
    return facts


def network_of(view: View) -> Network | None:
    """Return the network of a recorded training; None if its model was another one.

    Raises
    ------
    AuditError
        If the view's facts describe none.
    """
    kept = view.facts.get("network")
    if kept is None:
        return None
    try:
        classes = None if kept["classes"] is None else np.array(kept["classes"])
        layers = tuple(int(layer) for layer in kept["layers"])
        return Network(layers, classes, str(kept["activation"]), float(kept["penalty"]))
    except (KeyError, TypeError, ValueError, InvalidData):
        raise AuditError("the transcript's facts describe no network") from None


def local_of(view: View) -> Local:
    """Return how the clients of a recorded training train.

    Raises
    ------
    AuditError
        If the view's facts do not say it.
    """
    return cast(Local, _made(Local, view.facts.get("local")))


def codec_of(view: View) -> Codec:
    """Return how the updates of a recorded training travelled.

    Raises
    ------
    AuditError
        If the view's facts do not say it.
    """
    kept = dict(view.facts.get("codec") or {})
    kind = CODECS.get(str(kept.pop("name", "")))
    if kind is None:
        raise AuditError("the transcript's facts name no codec")
    return cast(Codec, _made(kind, kept))


def _made(kind: Any, kept: Any) -> Any:
    known = {f.name for f in fields(kind)} if is_dataclass(kind) else set()
    try:
        if set(kept) != known:
            raise AuditError(f"the transcript's facts on {kind.__name__} are not those of this version")
        return kind(**kept)
    except (TypeError, ValueError, InvalidData):
        raise AuditError(f"the transcript's facts on {kind.__name__} make no sense") from None


def update_of(view: View, message: Update, size: int) -> Vector:
    """Return the change of the model, shape (size,), that the server makes of a recorded update.

    Raises
    ------
    AuditError
        If the bytes are not those of the recorded codec.
    """
    whole = size * (2 if view.facts.get("controlled") else 1)
    try:
        return codec_of(view).decode(message.raw, whole, message.seed)[:size]
    except (MalformedMessage, ValueError, IndexError):
        raise AuditError("an update's bytes are not those of the transcript's codec") from None
