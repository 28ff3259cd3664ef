"""What a benchmark trains, told to both processes in a file, and the configuration that joins them."""

from typing import Literal

import msgspec

Model = Literal["logistic", "poisson", "multinomial"]


class Link(msgspec.Struct, frozen=True):
    """A line to imitate: megabits per second, and the delay of each direction in milliseconds."""

    megabits: float
    delay_ms: float


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One training.

    Attributes
    ----------
    data : str or None
        Folder with guest.csv and host.csv; None generates `rows` with so many columns.
    held_out : int
        Generated rows beyond `rows` that are scored and not trained on.
    iterations : int or None
        Passes over all rows, each in one batch; None trains with the estimator's defaults.
    he : str or None
        Encryption of the exchange profile.
    warm : bool
        Train once on a few rows before the clock starts.
    """

    model: Model = "logistic"
    security: Literal["strict", "exchange"] = "strict"
    data: str | None = None
    label: str = "y"
    id: str = "id"
    rows: int = 0
    guest_columns: int = 0
    host_columns: int = 0
    held_out: int = 0
    seed: int = 1
    iterations: int | None = None
    he: str | None = None
    warm: bool = False
    verbose: bool = False
    link: Link | None = None
