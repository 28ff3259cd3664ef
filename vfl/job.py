"""Job files: what ``vfl run`` and ``vfl predict`` shall do, as TOML with typed sections; one file per party."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_type_hints

import msgspec

from vfl.config import Config, Section, decode_toml, load_config
from vfl.errors import ConfigError
from vfl.identifiers import Duplicates
from vfl.linear import LinearRegression, LogisticRegression
from vfl.protocols.wire import Role
from vfl.recipes import recipe
from vfl.tweedie import GammaRegressor, PoissonRegressor, TweedieRegressor

__all__ = ["DataSection", "EvaluateSection", "Job", "load_job"]

_ESTIMATORS: dict[str, Any] = {
    "logistic": LogisticRegression,
    "linear": LinearRegression,
    "poisson": PoissonRegressor,
    "gamma": GammaRegressor,
    "tweedie": TweedieRegressor,
}


class DataSection(Section, frozen=True):
    """Which table, and which of its columns are what; a label is the guest's alone."""

    path: str
    on: str | tuple[str, ...]
    normalise: str | tuple[str, ...] = "exact"
    nulls: Literal["error", "drop"] = "error"
    duplicates: Duplicates = "error"
    label: str | None = None
    columns: tuple[str, ...] | None = None

    @property
    def identifiers(self) -> tuple[str, ...]:
        """The identifier columns."""
        return (self.on,) if isinstance(self.on, str) else self.on


class ModelSection(Section, frozen=True):
    """Which estimator, with which parameters."""

    kind: Literal["logistic", "linear", "poisson", "gamma", "tweedie"] = "logistic"
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)


class EvaluateSection(Section, frozen=True):
    """Which share of the common rows is held out, and the text that chooses which."""

    test_size: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.3
    salt: str = ""


class SaveSection(Section, frozen=True):
    """Where this party's half of the model goes."""

    model: str


class _File(Section, frozen=True):
    session: str
    data: DataSection
    model: ModelSection = ModelSection()
    evaluate: EvaluateSection | None = None
    save: SaveSection | None = None


@dataclass(frozen=True)
class Job:
    """A job file with the configuration it names; the estimator is new."""

    config: Config
    data: DataSection
    estimator: Any
    kind: str
    evaluate: EvaluateSection | None
    model_path: Path | None
    folder: Path

    @property
    def guest(self) -> bool:
        """Whether this party holds the labels."""
        return self.config.party.role is Role.GUEST


def load_job(path: str | os.PathLike[str]) -> Job:
    """Read a job file and the configuration that it names.

    Raises
    ------
    ConfigError
        Naming the file, the line, the key and the nearest valid name; also for the estimator's parameters.
    """
    path = Path(path)
    file = decode_toml(path, _File)
    estimator = _estimator(path, file.model)
    folder = path.resolve().parent
    config = load_config(folder / file.session)
    guest, data = config.party.role is Role.GUEST, file.data
    if guest and data.label is None:
        raise ConfigError(
            f"{path}: [data] needs label: {config.party.name} is the guest, who holds the labels"
        )
    if not guest and data.label is not None:
        raise ConfigError(f"{path}: [data] has a label, but {config.party.name} is the host: leave it out")
    try:
        recipe(data.normalise, len(data.identifiers))
    except ConfigError as error:
        raise ConfigError(f"{path}: data.normalise: {error}") from None
    used = {*data.identifiers, data.label} & set(data.columns or ())
    if used:
        raise ConfigError(
            f"{path}: data.columns names {', '.join(sorted(map(str, used)))}, which is no feature"
        )
    model_path = None if file.save is None else folder / file.save.model
    return Job(config, data, estimator, file.model.kind, file.evaluate, model_path, folder)


def _estimator(path: Path, section: ModelSection) -> Any:
    """Return the estimator; its signature is the schema of [model.parameters]."""
    kind = _ESTIMATORS[section.kind]
    hints = get_type_hints(kind.__init__)
    fields = [(name, hints[name], default) for name, default in kind().get_params().items()]
    parameters = msgspec.defstruct("Parameters", fields, bases=(Section,), frozen=True)
    model = msgspec.defstruct(
        "Model", [("parameters", parameters, parameters())], bases=(ModelSection,), frozen=True
    )
    file = msgspec.defstruct("File", [("model", model, model())], bases=(_File,), frozen=True)
    decode_toml(path, cast(type[Section], file))
    estimator = kind(**section.parameters)
    try:
        estimator.check_parameters()
    except ValueError as error:
        raise ConfigError(f"{path}: [model.parameters]: {error}") from None
    return estimator
