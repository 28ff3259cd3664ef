"""Encrypted inner products X^T [[r]] under Paillier, several residuals in one plaintext.

The residuals r_0 .. r_(m-1) of m rows are the coefficients of a polynomial, sum r_k Y^k with Y = 2^K, and the
entries x_k of a column those of sum x_k Y^(m-1-k). The ciphertext of the first to the power of the second
holds their product, whose coefficient ("digit") m - 1 is the inner product sum r_k x_k. Adding over the
ciphertexts of all rows stays inside, so one ciphertext per column returns. Compared with one residual per
ciphertext there are m times fewer ciphertexts to make, send and validate.

The other 2m - 2 digits are inner products of shifted vectors, which neither side may learn:

- The evaluator adds to EVERY digit an offset that makes it non-negative and a mask uniform in a range at
  least 2^64 times that of the digit. K has room for the sum, so no digit is negative, nothing is carried from
  digit to digit, and the whole stays below n / 2. Then it re-randomises with full width. The key holder
  decrypts masked digits: for any two matrices its view differs by a statistical distance of at most 2^-64
  per digit, which leaves more than 40 bits after summing over 2m - 1 digits, all columns and all steps of a
  training.
- The key holder returns digit m - 1 alone. The evaluator removes its mask and learns its own inner product,
  exactly, and no other digit.

Both statements hold against semi-honest parties. A key holder that encrypts residuals beyond the agreed bound
weakens the masks; an evaluator that deviates can have any digit opened.

Source: reading an inner product off one coefficient of a product of packed polynomials is the method of
Yasuda, Shimoyama, Kogure, Yokoyama, Koshiba, "Secure Pattern Matching using Somewhat Homomorphic
Encryption", CCSW 2013; with Y = 2^K it carries over to Paillier.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.fixedpoint import FixedPoint, decode
from vfl.crypto.fresh import FreshCiphertexts
from vfl.crypto.innerproduct import Evaluator, Format, KeyHolder
from vfl.crypto.paillier import PrivateKey, PublicKey
from vfl.crypto.paillier_tables import TableEncryptor
from vfl.crypto.rng import Rng
from vfl.errors import EncodingOverflow, InvalidCiphertext, MalformedMessage

__all__ = ["MASK_BITS", "Masks", "PaillierEvaluator", "PaillierKeyHolder", "PreparedMatrix"]

MASK_BITS = 64  # by how many bits a mask is wider than what it hides

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class PreparedMatrix:
    """An encoded matrix: exponents of shape (ciphertexts, slots, columns), and how many rows it has."""

    exponents: NDArray[np.int64] = field(repr=False)
    rows: int


@dataclass(frozen=True)
class Masks:
    """What to subtract from each opened number, and the number of rows, which bounds the result."""

    values: tuple[int, ...] = field(repr=False)
    rows: int


class _Layout:
    """How residuals and digits lie in a plaintext: a function of the format and the length of n alone.

    Attributes
    ----------
    bound : int
        Largest absolute value of a digit: every digit is a sum of at most `max_rows` products.
    digit_bits : int
        K, the bits of a masked digit.
    slots : int
        m, residuals per plaintext.
    """

    def __init__(self, format: Format, key: PublicKey) -> None:
        if format.max_rows < 1:
            raise EncodingOverflow(f"the largest number of rows must be positive, not {format.max_rows}")
        self.max_rows = format.max_rows
        self.residuals = FixedPoint(format.residual_bits, format.residual_bound)
        self.entries = FixedPoint(format.matrix_bits, 1.0)
        self.bound = self.bound_of(format.max_rows)
        # digit + offset is at most 2 bound < 2^range_bits, the mask is below 2^(range_bits + MASK_BITS)
        range_bits = (2 * self.bound).bit_length()
        self.mask_bits = range_bits + MASK_BITS
        self.digit_bits = self.mask_bits + 1
        available = key.limit.bit_length() - 1  # so that 2^available is a plaintext
        self.slots = (available // self.digit_bits + 1) // 2
        if self.slots < 1:
            raise EncodingOverflow(
                f"a masked sum over {format.max_rows} rows needs {self.digit_bits} bits, the plaintext has "
                f"{available}: take fewer rows, fewer fraction bits or a longer key"
            )
        self.number_bytes = (self.digit_bits + 7) // 8

    def bound_of(self, rows: int) -> int:
        return rows * self.residuals.limit * self.entries.limit

    def ciphertexts(self, rows: int) -> int:
        if not 1 <= rows <= self.max_rows:
            raise EncodingOverflow(f"{rows} rows, but the agreed bound covers 1 to {self.max_rows}")
        return -(-rows // self.slots)

    def padded(self, encoded: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows in groups of `slots`, the last filled with zeros: (ciphertexts, slots, ...)."""
        rows = len(encoded)
        count = self.ciphertexts(rows)
        blank = np.zeros((count * self.slots - rows, *encoded.shape[1:]), dtype=np.int64)
        return np.concatenate([encoded, blank]).reshape(count, self.slots, *encoded.shape[1:])

    def join(self, digits: list[int]) -> int:
        """Return sum digits[t] 2^(K t); the digits may be negative."""
        return sum(digit << self.digit_bits * t for t, digit in enumerate(digits))

    def split(self, plaintext: int) -> list[int]:
        """Return the 2m - 1 non-negative digits of a masked plaintext.

        Raises InvalidCiphertext if they cannot come from an evaluator that uses this layout and this key.
        """
        count, ones = 2 * self.slots - 1, (1 << self.digit_bits) - 1
        digits = [plaintext >> self.digit_bits * t & ones for t in range(count)]
        highest = 2 * self.bound + (1 << self.mask_bits) - 1
        if self.join(digits) != plaintext or max(digits) > highest:
            raise InvalidCiphertext(
                f"a ciphertext does not decrypt to {count} masked numbers of {self.digit_bits} bits: "
                "the peer computed it under another key or another format"
            )
        return digits


class PaillierKeyHolder(KeyHolder):
    """The owner of a Paillier key and of the residuals.

    Parameters
    ----------
    format : Format
        The agreed numbers.
    private_key : PrivateKey
        Made for this session.

    Raises
    ------
    EncodingOverflow
        If not even one masked sum fits the key.
    """

    def __init__(self, format: Format, private_key: PrivateKey) -> None:
        self._private_key = private_key
        self._layout = _Layout(format, private_key.public_key)
        self._encryptor: TableEncryptor | None = None

    @property
    def public_bytes(self) -> bytes:
        """The modulus n and the proof that gcd(n, phi(n)) = 1."""
        return self._private_key.public_key.to_bytes()

    def encrypt(self, vector: FloatArray, rng: Rng) -> FreshCiphertexts:
        """Encrypt residuals, shape (rows,), in ceil(rows / slots) ciphertexts.

        The first call makes the tables of :class:`~vfl.crypto.paillier_tables.TableEncryptor` (0.2 s at 2048 bits).

        Raises
        ------
        EncodingOverflow
            If a residual is not finite or beyond the agreed bound, or there are more rows than agreed.
        """
        groups = self._layout.padded(self._layout.residuals.encode(vector))
        if self._encryptor is None:
            self._encryptor = TableEncryptor(self._private_key, rng)
        return self._encryptor.encrypt([self._layout.join(group) for group in groups.tolist()], rng)

    def open_masked(self, reply: FreshCiphertexts, columns: int) -> bytes:
        """Decrypt the reply and return digit m - 1 of each column, big-endian, ceil(K / 8) bytes each.

        Raises
        ------
        InvalidCiphertext
            If the reply has a wrong size, is no list of fresh ciphertexts or holds no masked digits.
        """
        layout = self._layout
        accepted = self._private_key.public_key.accept(reply, columns)
        plaintexts = self._private_key.decrypt(accepted)
        middle = [layout.split(plaintext)[layout.slots - 1] for plaintext in plaintexts]
        return b"".join(digit.to_bytes(layout.number_bytes, "big") for digit in middle)


class PaillierEvaluator(Evaluator[PreparedMatrix, Masks]):
    """The owner of a matrix, computing under the peer's key.

    Parameters
    ----------
    format : Format
        The agreed numbers.
    public_key : PublicKey
        The peer's key, already checked; :meth:`from_public` checks it.
    """

    def __init__(self, format: Format, public_key: PublicKey) -> None:
        self._public_key = public_key
        self._layout = _Layout(format, public_key)

    @classmethod
    def from_public(cls, format: Format, public_bytes: bytes) -> "PaillierEvaluator":
        """Check the peer's key and make its evaluator.

        Raises
        ------
        InvalidKey
            If the key fails a check.
        EncodingOverflow
            If not even one masked sum fits the key.
        """
        return cls(format, PublicKey.from_bytes(public_bytes))

    def prepare(self, matrix: FloatArray) -> PreparedMatrix:
        """Encode a matrix, shape (rows, columns).

        Raises
        ------
        EncodingOverflow
            If an entry is not finite or beyond [-1, 1], or there are more rows than agreed.
        """
        encoded = self._layout.entries.encode(matrix)
        return PreparedMatrix(self._layout.padded(encoded), len(encoded))

    def masked_products(
        self, vector: FreshCiphertexts, prepared: PreparedMatrix, rng: Rng
    ) -> tuple[FreshCiphertexts, Masks]:
        """Return one fresh ciphertext per column, all its digits masked, and the masks of the middle digits.

        Raises
        ------
        InvalidCiphertext
            If the vector has a wrong size or is no list of fresh ciphertexts of this key.
        """
        layout = self._layout
        count, _, columns = prepared.exponents.shape
        residuals = self._public_key.accept(vector, count)
        products = residuals.polynomial_product(prepared.exponents, layout.digit_bits)
        masks = [self._draw_masks(rng) for _ in range(columns)]
        reply = products.add_plain([layout.join(digits) for digits in masks]).rerandomise(rng)
        return reply, Masks(tuple(digits[layout.slots - 1] for digits in masks), prepared.rows)

    def unmask(self, opened: bytes, masks: Masks) -> FloatArray:
        """Return X^T r, shape (columns,), each number the float64 nearest to the exact result.

        Raises
        ------
        MalformedMessage
            If the size is wrong or a number is beyond what `rows` residuals can give.
        """
        layout = self._layout
        return decode(
            self.unmask_integers(opened, masks), layout.residuals.fraction_bits + layout.entries.fraction_bits
        )

    def unmask_integers(self, opened: bytes, masks: Masks) -> list[int]:
        """Return the exact products, with the fraction bits of residuals and entries together.

        Raises
        ------
        MalformedMessage
            As :meth:`unmask`.
        """
        size, columns = self._layout.number_bytes, len(masks.values)
        if len(opened) != size * columns:
            raise MalformedMessage(
                f"expected {columns} opened numbers of {size} bytes, {size * columns} bytes in all; "
                f"the peer sent {len(opened)}"
            )
        numbers = (int.from_bytes(opened[size * j : size * (j + 1)], "big") for j in range(columns))
        products = [number - mask for number, mask in zip(numbers, masks.values, strict=True)]
        bound = self._layout.bound_of(masks.rows)
        outside = sum(abs(product) > bound for product in products)
        if outside:
            raise MalformedMessage(
                f"{outside} of {columns} opened numbers are beyond what {masks.rows} rows can give: "
                "the peer opened something else"
            )
        return products

    def vector_bytes(self, rows: int) -> int:
        """Bytes of `rows` encrypted residuals."""
        return self._layout.ciphertexts(rows) * self._public_key.width

    def reply_bytes(self, columns: int) -> int:
        """Bytes of the reply: one ciphertext per column."""
        return columns * self._public_key.width

    def opened_bytes(self, columns: int) -> int:
        """Bytes of the opened numbers: one digit per column."""
        return columns * self._layout.number_bytes

    def _draw_masks(self, rng: Rng) -> list[int]:
        """Return offset plus mask for each digit of one column."""
        layout = self._layout
        return [layout.bound + rng.bits(layout.mask_bits) for _ in range(2 * layout.slots - 1)]
