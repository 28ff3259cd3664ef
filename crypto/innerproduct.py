"""Encrypted inner products X^T [[r]] with a masked answer: what a scheme must offer to the gradient exchange.

The key holder encrypts a vector r, the evaluator multiplies by its own plaintext matrix X, adds masks and makes the
result fresh, the key holder decrypts nothing but masked numbers, and the evaluator removes its masks. Two schemes
implement it: Paillier (:mod:`vfl.crypto.packing`) and CKKS (:mod:`vfl.crypto.ckks`).

Sizes of everything that is sent follow from public numbers alone, so both sides compute them beforehand.
"""

import abc
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.fresh import FreshCiphertexts
from vfl.crypto.rng import Rng

__all__ = ["Evaluator", "Format", "KeyHolder"]

FloatArray = NDArray[np.float64]
PreparedT = TypeVar("PreparedT")
MasksT = TypeVar("MasksT")


@dataclass(frozen=True)
class Format:
    """The numbers both sides agree on before anything is encrypted.

    Attributes
    ----------
    max_rows : int
        Longest vector r that will be encrypted (rows).
    residual_bound : float
        Largest absolute value in r. Matrix entries are at most 1 in absolute value.
    residual_bits, matrix_bits : int
        Fraction bits of the encoded r and of the encoded matrix.
    """

    max_rows: int
    residual_bound: float
    residual_bits: int = 24
    matrix_bits: int = 20


class KeyHolder(abc.ABC):
    """The side that owns the key and the secret vector r."""

    @property
    @abc.abstractmethod
    def public_bytes(self) -> bytes:
        """Canonical encoding of the public key, with its proof where the scheme needs one."""

    @abc.abstractmethod
    def encrypt(self, vector: FloatArray, rng: Rng) -> FreshCiphertexts:
        """Encrypt r, shape (rows,). Raises EncodingOverflow beyond the agreed bound."""

    @abc.abstractmethod
    def open_masked(self, reply: FreshCiphertexts, columns: int) -> bytes:
        """Validate and decrypt the evaluator's reply to `columns` masked fixed-width numbers.

        Raises InvalidCiphertext.
        """


class Evaluator(abc.ABC, Generic[PreparedT, MasksT]):
    """The side that owns the matrix; made from the peer's validated public key."""

    @abc.abstractmethod
    def prepare(self, matrix: FloatArray) -> PreparedT:
        """Encode a matrix, shape (rows, columns), entries in [-1, 1], once for any number of products."""

    @abc.abstractmethod
    def masked_products(
        self, vector: FreshCiphertexts, prepared: PreparedT, rng: Rng
    ) -> tuple[FreshCiphertexts, MasksT]:
        """Validate [[r]] and return the fresh, masked X^T [[r]] and the masks to keep.

        Raises InvalidCiphertext.
        """

    @abc.abstractmethod
    def unmask(self, opened: bytes, masks: MasksT) -> FloatArray:
        """Remove the masks from what the key holder opened: X^T r, shape (columns,).

        Raises MalformedMessage if a number lies outside the possible range.
        """

    @abc.abstractmethod
    def vector_bytes(self, rows: int) -> int:
        """Size in bytes of an encrypted vector of `rows` numbers."""

    @abc.abstractmethod
    def reply_bytes(self, columns: int) -> int:
        """Size in bytes of a reply for `columns` inner products."""

    @abc.abstractmethod
    def opened_bytes(self, columns: int) -> int:
        """Size in bytes of `columns` opened masked numbers."""
