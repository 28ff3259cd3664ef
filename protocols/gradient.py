"""The classic two-party gradient exchange for generalised linear models (box 3), without a third party.

    guest (labels y, matrix A, key)                     host (matrix B)
                                                        w_H = 0
    per batch
    1.                        <-- PartialScore --       z_H = B v_H
    2. r = link(A v_G + z_H) - y
       FreshCiphertexts [[r]] -- EncryptedResidual -->
    3.                        <-- MaskedGradient --     [[B^T r + mask]], re-randomised
       decrypt                -- OpenedGradient -->     B^T r, step
       step on A^T r

v is the look-ahead point of Nesterov's method, which both parties step alike on their own block. Each party may hand in
a matrix that it has whitened locally; that is block preconditioning and sends nothing.

Adversary: semi-honest, two parties. **This is the profile that leaks**, and it runs only when both configurations
accept it:

* the guest sees z_H of every row once per epoch (class ``score``). A guest that has seen a row set's z_H for as many
  epochs as the host has columns knows the span of B, and, B being whitened, B B^T;
* the host sees its own gradient of every batch (class ``gradient``). For a batch of at most about twice as many rows as
  the host has columns it can solve for the labels; batches of fewer than ``ROWS_PER_COLUMN`` = 16 rows per host column,
  or fewer than ``FEWEST_ROWS`` = 64 rows (of 16 rows all label vectors can be tried), are refused, and batches are the
  same rows in every epoch, so that epochs do not add equations with the same labels.

The guest's view of ciphertext replies is masked by the scheme's :class:`~vfl.crypto.innerproduct.Evaluator`.
Sources: Hardy et al., "Private federated learning on vertically partitioned data", arXiv 1711.10677, section 4 (with a
third party that holds the key; here the label holder does, and sees masked numbers where the third party saw
gradients); Nesterov, Soviet Math. Doklady 27 (1983).
"""

import abc
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.fresh import FreshCiphertexts
from vfl.crypto.innerproduct import Evaluator, Format, KeyHolder
from vfl.crypto.packing import PaillierEvaluator, PaillierKeyHolder
from vfl.crypto.paillier import PrivateKey
from vfl.crypto.paillier_proof import CHALLENGES
from vfl.crypto.rng import Rng
from vfl.errors import InvalidData
from vfl.protocols.channel import Channel
from vfl.protocols.wire import Array, Bytes, Ciphers, Declaration, Leakage, Message, Role

__all__ = [
    "FEWEST_ROWS",
    "ROWS_PER_COLUMN",
    "SCHEMES",
    "GuestSide",
    "Plan",
    "Scheme",
    "batch_rows",
    "guest",
    "guest_scores",
    "host",
    "host_scores",
    "make_format",
    "scheme",
    "smallest_batch",
]

FloatArray = NDArray[np.float64]
ROWS_PER_COLUMN = 16
FEWEST_ROWS = 64
SCHEMES = ("ckks", "paillier")


class PublicKey(Message, frozen=True, kw_only=True):
    """The guest's public key for this training, with its proof."""

    declaration = Declaration("gradient.key", Role.GUEST, Leakage.PUBLIC, "a fresh public key")
    key: Annotated[bytes, Bytes("key_bytes")]


class PartialScore(Message, frozen=True, kw_only=True):
    """z_H of a batch."""

    declaration = Declaration(
        "gradient.score", Role.HOST, Leakage.SCORE, "the host's part of each row's score, to the guest"
    )
    z: Annotated[FloatArray, Array("<f8", "rows")]


class EncryptedResidual(Message, frozen=True, kw_only=True):
    """[[r]] of a batch under the guest's key."""

    declaration = Declaration("gradient.residual", Role.GUEST, Leakage.CIPHERTEXT, "nothing but its size")
    r: Annotated[FreshCiphertexts, Ciphers("vector_bytes")]


class MaskedGradient(Message, frozen=True, kw_only=True):
    """[[B^T r + mask]]: the guest decrypts only masked numbers."""

    declaration = Declaration(
        "gradient.masked", Role.HOST, Leakage.CIPHERTEXT, "masked numbers, independent of the data"
    )
    g: Annotated[FreshCiphertexts, Ciphers("reply_bytes")]


class OpenedGradient(Message, frozen=True, kw_only=True):
    """B^T r + mask in the clear: the host takes its mask away."""

    declaration = Declaration(
        "gradient.opened", Role.GUEST, Leakage.GRADIENT, "the host's own gradient of a batch, to the host"
    )
    g: Annotated[bytes, Bytes("opened_bytes")]


class EpochEnd(Message, frozen=True, kw_only=True):
    """Whether the guest goes on."""

    declaration = Declaration(
        "gradient.epoch", Role.GUEST, Leakage.CONTROL, "how many epochs the training took"
    )
    stop: bool


def smallest_batch(host_columns: int) -> int:
    """Return the fewest rows a batch may have (rows)."""
    return max(FEWEST_ROWS, ROWS_PER_COLUMN * host_columns)


@dataclass(frozen=True)
class Plan:
    """What both parties have agreed on before the first batch.

    Attributes
    ----------
    rows : int
        Rows that train, the first ones of both matrices.
    validation_rows : int
        Rows after those, scored once per epoch for early stopping (0 for none).
    batch_rows : int
        Rows per batch; the last batch takes what is left, so that none is smaller.
    epochs : int
        At most this many passes.
    step : float
        Step length in the whitened space, decaying as 1 / (1 + epoch (1 - 1/batches)).
    momentum : float
    host_columns : int
    residual_bound : float
        Largest absolute weighted residual.
    """

    rows: int
    validation_rows: int
    batch_rows: int
    epochs: int
    step: float
    momentum: float
    host_columns: int
    residual_bound: float

    def __post_init__(self) -> None:
        floor = smallest_batch(self.host_columns)
        if min(self.batch_rows, self.rows) < floor:
            raise InvalidData(
                f"a batch of {min(self.batch_rows, self.rows)} rows would let the host solve for labels: with "
                f"{self.host_columns} host columns at least {floor} rows are needed; add rows or drop columns"
            )

    @property
    def batches(self) -> list[slice]:
        """The row ranges, the same in every epoch."""
        count = max(1, self.rows // self.batch_rows)
        starts = [i * self.batch_rows for i in range(count)] + [self.rows]
        return [slice(start, stop) for start, stop in itertools.pairwise(starts)]

    @property
    def largest_batch(self) -> int:
        """Rows of the largest batch."""
        return self.rows - (len(self.batches) - 1) * self.batch_rows

    def steps(self) -> Iterator[tuple[int, float, list[slice]]]:
        """Yield epoch number, step length and batches."""
        batches = self.batches
        for epoch in range(self.epochs):
            yield epoch, self.step / (1 + epoch * (1 - 1 / len(batches))), batches

    @property
    def validation(self) -> slice:
        """The row range that only scores."""
        return slice(self.rows, self.rows + self.validation_rows)


@dataclass
class Nesterov:
    """One party's block of weights under Nesterov's accelerated gradient method.

    Attributes
    ----------
    penalty : ndarray, shape (columns, columns)
        Hessian of the local L2 penalty in the coordinates of the weights.
    """

    penalty: FloatArray
    momentum: float
    weights: FloatArray = field(init=False)
    _velocity: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        self.weights = np.zeros(len(self.penalty))
        self._velocity = np.zeros(len(self.penalty))

    @property
    def ahead(self) -> FloatArray:
        """The point at which the next gradient is taken."""
        return self.weights + self.momentum * self._velocity

    def move(self, gradient: FloatArray, step: float) -> None:
        """Step along the mean gradient of the data plus that of the penalty."""
        self._velocity = self.momentum * self._velocity - step * (gradient + self.penalty @ self.ahead)
        self.weights = self.weights + self._velocity


@dataclass(frozen=True)
class GuestSide:
    """What the guest brings besides its matrix.

    Attributes
    ----------
    residual : callable
        (scores, rows) -> residual times sample weight, shape (rows,).
    finished : callable
        (epoch, training scores, validation scores) -> bool: called after every epoch.
    """

    residual: Callable[[FloatArray, slice], FloatArray]
    finished: Callable[[int, FloatArray, FloatArray], bool]


class Scheme(abc.ABC):
    """An encryption scheme for one training: both roles derive it from agreed parameters.

    Attributes
    ----------
    key_bytes : int
        Size of the public key in bytes.
    """

    key_bytes: int

    @abc.abstractmethod
    def generate(self, rng: Rng) -> KeyHolder:
        """Return a key holder with a fresh key."""

    @abc.abstractmethod
    def evaluator(self, public_bytes: bytes) -> Evaluator[Any, Any]:
        """Validate a public key and return an evaluator under it. Raises InvalidKey."""


@final
class PaillierScheme(Scheme):
    """Paillier with several residuals per plaintext."""

    def __init__(self, layout: Format, key_bits: int) -> None:
        self._format, self._key_bits = layout, key_bits
        self.key_bytes = (1 + CHALLENGES) * (key_bits // 8)

    def generate(self, rng: Rng) -> KeyHolder:
        """Return a key holder with a fresh modulus."""
        return PaillierKeyHolder(self._format, PrivateKey.generate(rng, self._key_bits))

    def evaluator(self, public_bytes: bytes) -> Evaluator[Any, Any]:
        """Check the modulus and its proof."""
        return PaillierEvaluator.from_public(self._format, public_bytes)


@final
class CKKSScheme(Scheme):
    """CKKS with rows in slots."""

    def __init__(self, layout: Format) -> None:
        from vfl.crypto import ckks  # loads TenSEAL

        self._format, self._ckks = layout, ckks
        self.key_bytes = ckks.PUBLIC_BYTES

    def generate(self, rng: Rng) -> KeyHolder:
        """Return a key holder with a fresh key; SEAL draws the key from the operating system itself."""
        return self._ckks.CKKSKeyHolder(self._format, rng)

    def evaluator(self, public_bytes: bytes) -> Evaluator[Any, Any]:
        """Check the parameters and every residue of the key."""
        return self._ckks.CKKSEvaluator.from_public(self._format, public_bytes)


def scheme(name: str, layout: Format, key_bits: int) -> Scheme:
    """Return the scheme that both parties agreed on: ``"ckks"``, or ``"paillier"`` with a modulus of `key_bits`."""
    return CKKSScheme(layout) if name == "ckks" else PaillierScheme(layout, key_bits)


def _silent(done: int, total: int) -> None:
    """Report no progress."""


Progress = Callable[[int, int], None]


async def guest(
    host: Channel,
    matrix: FloatArray,
    penalty: FloatArray,
    side: GuestSide,
    plan: Plan,
    scheme: Scheme,
    rng: Rng,
    progress: Progress = _silent,
) -> FloatArray:
    """Train the guest's block; the host runs :func:`host`.

    Parameters
    ----------
    host : Channel
    matrix : ndarray, shape (rows + validation rows, guest columns)
    penalty : ndarray, shape (guest columns, guest columns)
    side : GuestSide
    plan : Plan
    scheme : Scheme
        A key is generated for this training alone.
    rng : Rng
    progress : callable
        (batches done, batches at most).

    Returns
    -------
    ndarray, shape (guest columns,)

    Leakage
    -------
    The guest learns z_H of every row at every epoch; the host learns its gradient of every batch.
    """
    key = scheme.generate(rng)
    sizes = scheme.evaluator(key.public_bytes)
    await host.send(PublicKey(key=key.public_bytes))
    block = Nesterov(penalty, plan.momentum)
    scores = np.zeros(plan.rows)
    for epoch, step, batches in plan.steps():
        for number, rows in enumerate(batches):
            z_host = (await host.recv(PartialScore, rows=rows.stop - rows.start)).z
            scores[rows] = matrix[rows] @ block.ahead + _finite(z_host, host)
            r = side.residual(scores[rows], rows)
            await host.send(EncryptedResidual(r=key.encrypt(r, rng)))
            masked = (await host.recv(MaskedGradient, reply_bytes=sizes.reply_bytes(plan.host_columns))).g
            await host.send(OpenedGradient(g=key.open_masked(masked, plan.host_columns)))
            block.move(matrix[rows].T @ r / len(r), step)
            progress(epoch * len(batches) + number + 1, plan.epochs * len(batches))
        validation = await guest_scores(host, matrix[plan.validation] @ block.weights)
        stop = side.finished(epoch, scores, validation)
        await host.send(EpochEnd(stop=stop))
        if stop:
            break
    return block.weights


async def host(
    guest: Channel,
    matrix: FloatArray,
    penalty: FloatArray,
    plan: Plan,
    scheme: Scheme,
    rng: Rng,
    progress: Progress = _silent,
) -> FloatArray:
    """Train the host's block; the guest runs :func:`guest`.

    Parameters
    ----------
    guest : Channel
    matrix : ndarray, shape (rows + validation rows, host columns)
    penalty : ndarray, shape (host columns, host columns)
    plan : Plan
    scheme : Scheme
    rng : Rng
    progress : callable

    Returns
    -------
    ndarray, shape (host columns,)

    Leakage
    -------
    As for :func:`guest`.
    """
    evaluator = scheme.evaluator((await guest.recv(PublicKey, key_bytes=scheme.key_bytes)).key)
    largest = np.maximum(np.abs(matrix).max(axis=0), 1e-12)
    prepared = [evaluator.prepare(matrix[rows] / largest) for rows in plan.batches]
    block = Nesterov(penalty, plan.momentum)
    for epoch, step, batches in plan.steps():
        for number, rows in enumerate(batches):
            count = rows.stop - rows.start
            await guest.send(PartialScore(z=matrix[rows] @ block.ahead))
            r = (await guest.recv(EncryptedResidual, vector_bytes=evaluator.vector_bytes(count))).r
            masked, masks = evaluator.masked_products(r, prepared[number], rng)
            await guest.send(MaskedGradient(g=masked))
            opened = (
                await guest.recv(OpenedGradient, opened_bytes=evaluator.opened_bytes(plan.host_columns))
            ).g
            block.move(evaluator.unmask(opened, masks) * largest / count, step)
            progress(epoch * len(batches) + number + 1, plan.epochs * len(batches))
        await host_scores(guest, matrix[plan.validation] @ block.weights)
        if (await guest.recv(EpochEnd)).stop:
            break
    return block.weights


def _finite(z: FloatArray, peer: Channel) -> FloatArray:
    if not np.isfinite(z).all():
        raise InvalidData(f"{peer.peer.name} sent scores that are not finite: its training has diverged")
    return z


async def guest_scores(host: Channel, own: FloatArray) -> FloatArray:
    """Return own scores plus the host's, shape (rows,); the guest learns the host's part of each."""
    if not len(own):
        return own
    return own + _finite((await host.recv(PartialScore, rows=len(own))).z, host)


async def host_scores(guest: Channel, own: FloatArray) -> FloatArray | None:
    """Give the guest the host's part of each row's score; return None, which is what the host learns."""
    if len(own):
        await guest.send(PartialScore(z=own))
    return None


def batch_rows(rows: int, host_columns: int) -> int:
    """Return the default batch: a sixth of the rows, within [256, 4096] and never below the floor."""
    return max(smallest_batch(host_columns), min(4096, max(256, math.ceil(rows / 6))))


def make_format(plan: Plan) -> Format:
    """Return the fixed-point format that both parties derive from the plan."""
    return Format(max_rows=plan.largest_batch, residual_bound=plan.residual_bound)
