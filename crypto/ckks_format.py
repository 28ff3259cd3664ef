"""What both sides of :mod:`vfl.crypto.ckks` agree on: scales, precision, flooding, and the bytes on the wire.

Every size follows from public numbers, and every byte that comes from a peer is checked here. Lengths and
integers are little-endian.

    public key       header (primes, format), b and A modulo the three primes           393,272 bytes
    vector           key id (32), then per 4,096 numbers: seed (32), c0                 131,104 bytes each
    masked products  key id (32), then per column: c0_0 + mask (15), c1                 131,087 bytes each
    opened products  per column: a number modulo q                                           15 bytes each

The key id is the SHA-256 of the public key.
"""

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

from vfl.crypto import ckks_ring
from vfl.crypto.ckks_ring import (
    COEFFICIENT_BITS,
    DEGREE,
    MODULI,
    MODULUS,
    PRIMES,
    SEED_BYTES,
    SLOTS,
    SPECIAL_PRIME,
    FloatArray,
    Integers,
    Residues,
)  # fmt: skip
from vfl.crypto.fresh import FreshCiphertexts
from vfl.crypto.innerproduct import Format
from vfl.errors import EncodingOverflow, InvalidCiphertext, InvalidKey, MalformedMessage

__all__ = [
    "CHUNK",
    "FLOODING_BITS",
    "LARGEST_ERROR",
    "NUMBER_BYTES",
    "PUBLIC_BYTES",
    "REPLY",
    "SLOTS",
    "FreshCKKSCiphertexts",
    "Items",
    "Scales",
    "accept",
    "accept_key",
    "agreed_precision",
    "check_values",
    "chunks",
    "encode",
    "header",
    "join_numbers",
    "key_id",
    "polynomials",
    "size",
    "split_numbers",
]

Items = NDArray[np.void]

FLOODING_BITS = 40
LARGEST_ERROR = 21  # in absolute value: the difference of the ones in two times 21 bits
_TAIL = 12 * math.sqrt(10.5)  # 12 sigma
NUMBER_BYTES = (MODULUS.bit_length() + 7) // 8
_POLYNOMIAL = ("<u8", (len(PRIMES), DEGREE))
CHUNK = np.dtype([("seed", "u1", SEED_BYTES), ("polynomial", *_POLYNOMIAL)])
REPLY = np.dtype([("number", "u1", NUMBER_BYTES), ("polynomial", *_POLYNOMIAL)])
_HEADER = struct.Struct("<8sI3QQdHH")
PUBLIC_BYTES = _HEADER.size + 2 * len(MODULI) * DEGREE * 8
_KEY_ID_BYTES = hashlib.sha256().digest_size


def agreed_precision(format: Format) -> float:
    """Return T, the error that both sides accept: what rounding to the fraction bits could cost at worst."""
    residual, matrix = 2.0 ** -(format.residual_bits + 1), 2.0 ** -(format.matrix_bits + 1)
    return format.max_rows * (format.residual_bound * matrix + residual)


@final
@dataclass(frozen=True)
class Scales:
    """The scales, the flooding and the range that follow from a format.

    With n = N/2 slots, R = `max_rows`, C chunks of up to n rows, b = `residual_bound`, f and g the fraction
    bits of residual and matrix, D_x and D_r the scales and D = D_x D_r, the constant coefficient of a product
    is m_0 = D <x, r> / n. Both sides agree on the precision T = R (b 2^-(g + 1) + 2^-(f + 1)), the worst error
    of R fixed-point products. Then:

    * D is the largest power of 2 with D (R b + T) / n <= q / 2^13, so that a number opened under a wrong key
      lies in the possible range with a probability of about 2^-12 only;
    * the noise is at most B = 12 sigma sqrt(|x|^2 + 2 N + 1) but for a probability below 2^-102 (Hoeffding):
      it is linear in errors that are sums of 42 centred bits, of standard deviation sigma = sqrt(10.5). Those
      of r meet the polynomials of x, of norm |x| <= D_x sqrt(R/n) + sqrt(C N) / 2 altogether, that of the
      public key meets u, the new e_1 meets s, and e_0 stands alone;
    * the flooding is uniform in [-F, F], F = 2^40 B: in units of <x, r> an error up to F n / D, which grows
      with D_x;
    * the coefficients of x are rounded by at most 1/2. On a chunk of k rows that shifts m_0 by at most
      sqrt(N)/2 times the norm of m_r, b D_r sqrt(k/n). In units of <x, r> and over all chunks it is at most
      W b / D_x with W = sqrt(N)/2 sqrt(C n R) (Cauchy), and as independent errors would add up it has a mean
      square of b^2 R n / (12 D_x^2);
    * r is encoded at 2^-shift D_r, below 2^58 / b, which is as fine as float64; rounding it costs at most
      2^shift W / D_r, and float64 less than 2^-46 R b;
    * D_x^2 is about D b / (24 sigma 2^40), which makes the mean squares of flooding and rounding equal, but D_x
      is large enough for W b / D_x <= T/2. What is left of T has to cover the rest.

    The usual error is far below T. At 100,000 rows with b = 1 and the default bits F n / D is 5 10^-5, the
    rounding has a standard deviation of 2 10^-5 and T is 0.05; a sum of products of uniform numbers has one of 100.

    Attributes
    ----------
    product_bits, matrix_bits, shift : int
        Base-2 logarithms of D and D_x; the shift of r.
    flood : int
        F, 2^FLOODING_BITS times the noise.
    limit : int
        Largest possible absolute value of m_0 + noise + flooding.
    """

    product_bits: int
    matrix_bits: int
    shift: int
    flood: int
    limit: int

    @classmethod
    def of(cls, format: Format) -> Self:
        """Derive the scales.

        Raises
        ------
        EncodingOverflow
            If the format is not usable, or the modulus has no room for its precision and the flooding.
        """
        bits = (format.residual_bits, format.matrix_bits)
        if format.max_rows < 1 or not 2.0**-40 <= format.residual_bound <= 2.0**40 or min(bits) < 0:
            raise EncodingOverflow(
                "CKKS needs at least one row, a bound between 2^-40 and 2^40 and no negative fraction bits, not "
                f"{format.max_rows}, {format.residual_bound} and {bits}"
            )
        rows, bound = format.max_rows, format.residual_bound
        total, precision = rows * bound, agreed_precision(format)
        largest = 1.001 * total  # a little above R b, for the rounding of the encodings
        product_bits = math.floor(math.log2(MODULUS) - 13 - math.log2((largest + precision) / SLOTS))
        worst = math.sqrt(DEGREE) / 2 * math.sqrt(chunks(rows) * SLOTS * rows)
        balanced = (product_bits + math.log2(bound / (2 * _TAIL)) - FLOODING_BITS) / 2
        matrix_bits = math.ceil(max(balanced, math.log2(2 * worst * bound / precision)))
        residual_bits = min(product_bits - matrix_bits, 58 - math.ceil(math.log2(bound)))
        norm = 2.0**matrix_bits * math.sqrt(rows / SLOTS) + math.sqrt(chunks(rows) * DEGREE) / 2
        noise = math.ceil(_TAIL * math.sqrt(norm**2 + 2 * DEGREE + 1))
        flood, unit = noise << FLOODING_BITS, math.ldexp(1 / SLOTS, product_bits)  # m_0 of <x, r> = 1
        rounding = worst * (bound / 2.0**matrix_bits + 2.0**-residual_bits) + total / 2.0**46
        if matrix_bits >= COEFFICIENT_BITS or rounding + 1.001 * flood / unit > precision:
            raise EncodingOverflow(
                f"{rows} rows within {bound} at {format.residual_bits} and {format.matrix_bits} fraction bits leave "
                f"no room for {FLOODING_BITS} bits of flooding in CKKS; agree on fewer rows or fewer fraction bits"
            )
        shift = product_bits - matrix_bits - residual_bits
        return cls(product_bits, matrix_bits, shift, flood, int(largest * unit) + flood + noise)

    @property
    def matrix(self) -> float:
        """D_x."""
        return 2.0**self.matrix_bits

    @property
    def residual(self) -> float:
        """D_r."""
        return 2.0 ** (self.product_bits - self.matrix_bits)

    def decode(self, opened: int, mask: int) -> float:
        """Remove a mask and return <x, r>. Raises MalformedMessage if that is outside the possible range."""
        centred = (opened - mask + MODULUS // 2) % MODULUS - MODULUS // 2
        if abs(centred) > self.limit:
            raise MalformedMessage(
                "an opened product is outside the possible range: the peer decrypts with another key, or its "
                "vector is not within the agreed bound"
            )
        return math.ldexp(centred * SLOTS, -self.product_bits)


@final
class FreshCKKSCiphertexts(FreshCiphertexts):
    """An encrypted vector, or masked products."""

    def __init__(self, key: bytes, items: Items) -> None:
        self._raw = key + items.tobytes()

    def to_bytes(self) -> bytes:
        """Return the key id and the items, each of fixed width."""
        return self._raw


def chunks(rows: int) -> int:
    """Return how many ciphertexts hold `rows` numbers."""
    return -(-rows // SLOTS)


def size(layout: np.dtype[np.void], count: int) -> int:
    """Return the size in bytes of a key id and `count` items."""
    return _KEY_ID_BYTES + count * layout.itemsize


def key_id(public_bytes: bytes) -> bytes:
    """Return the SHA-256 of a public key."""
    return hashlib.sha256(public_bytes).digest()


def header(format: Format) -> bytes:
    """Encode the scheme's name, degree and primes, and the format that the scales follow from."""
    form = (format.max_rows, format.residual_bound, format.residual_bits, format.matrix_bits)
    return _HEADER.pack(b"vfl.ckks", DEGREE, *PRIMES, SPECIAL_PRIME, *form)


def accept_key(format: Format, public_bytes: bytes) -> Residues:
    """Validate a peer's public key and return b and A, shape (2, 3, DEGREE), the special prime last.

    Raises
    ------
    InvalidKey
        If its size, parameters, format or residues are not what they must be.
    """
    if len(public_bytes) != PUBLIC_BYTES:
        raise InvalidKey(f"a CKKS public key has {PUBLIC_BYTES} bytes, the peer's has {len(public_bytes)}")
    expected, actual = _HEADER.unpack(header(format)), _HEADER.unpack_from(public_bytes)
    if actual != expected:
        raise InvalidKey(f"the peer's CKKS key is for other parameters: expected {expected}, has {actual}")
    polynomials = np.frombuffer(public_bytes, "<u8", offset=_HEADER.size).reshape(2, len(MODULI), DEGREE)
    if not (polynomials < MODULI).all():
        raise InvalidKey("the peer's CKKS key has numbers that are not residues of its primes")
    if not polynomials.any(axis=2).all():
        raise InvalidKey("the peer's CKKS key has a polynomial that is zero")
    return polynomials.astype(np.uint64)


def accept(received: FreshCiphertexts, layout: np.dtype[np.void], count: int, key: bytes, what: str) -> Items:
    """Parse ciphertexts that may come from a peer.

    Parameters
    ----------
    received : FreshCiphertexts
    layout : dtype
        CHUNK or REPLY.
    count : int
        How many the schedule says.
    key : bytes
        Id of the key they must be under.
    what : str
        Their name in errors.

    Raises
    ------
    InvalidCiphertext
        If size, key or range are wrong, a polynomial is zero or an item is repeated.
    """
    raw = received.to_bytes()
    if len(raw) != size(layout, count):
        raise InvalidCiphertext(
            f"{what}: expected {size(layout, count)} bytes for {count} ciphertexts, received {len(raw)}"
        )
    if raw[:_KEY_ID_BYTES] != key:
        raise InvalidCiphertext(f"{what}: expected the key {key.hex()[:16]}, received {raw.hex()[:16]}")
    items = np.frombuffer(raw, layout, offset=_KEY_ID_BYTES)
    outside = np.count_nonzero(items["polynomial"] >= MODULI[: len(PRIMES)])
    if outside:
        raise InvalidCiphertext(f"{what}: {outside} numbers are not residues of the primes")
    if not items["polynomial"].any(axis=2).all():
        raise InvalidCiphertext(f"{what}: a polynomial is zero, so that its ciphertext hides nothing")
    if len({item["polynomial"].tobytes() for item in items}) < count:
        raise InvalidCiphertext(f"{what}: a ciphertext is repeated")
    return items


def polynomials(items: Items) -> Residues:
    """Return the polynomials of accepted items, aligned: shape (count, 2, DEGREE)."""
    return np.ascontiguousarray(items["polynomial"]).astype(np.uint64, copy=False)


def join_numbers(numbers: list[int]) -> bytes:
    """Encode numbers modulo q in NUMBER_BYTES each."""
    return b"".join(number.to_bytes(NUMBER_BYTES, "little") for number in numbers)


def split_numbers(raw: bytes, count: int) -> list[int]:
    """Decode `count` numbers modulo q. Raises ValueError if the size or a number is wrong."""
    if len(raw) != count * NUMBER_BYTES:
        raise ValueError(f"expected {count * NUMBER_BYTES} bytes for {count} numbers, received {len(raw)}")
    starts = range(0, len(raw), NUMBER_BYTES)
    numbers = [int.from_bytes(raw[start : start + NUMBER_BYTES], "little") for start in starts]
    if any(number >= MODULUS for number in numbers):
        raise ValueError("a number is not below the modulus")
    return numbers


def check_values(values: FloatArray, dimensions: int, max_rows: int, bound: float) -> None:
    """Refuse an array that the agreed format does not hold; the text counts and shows no value.

    Raises
    ------
    EncodingOverflow
        If there are too many rows, or numbers that are not finite or beyond the bound.
    """
    if values.ndim != dimensions or not values.size:
        raise ValueError(
            f"expected {dimensions} dimensions and at least one number, not shape {values.shape}"
        )
    if len(values) > max_rows:
        raise EncodingOverflow(f"{len(values)} rows exceed the agreed {max_rows}; agree on a larger format")
    outside = values.size - int(np.count_nonzero(np.abs(values) <= bound))  # NaN compares false
    if outside:
        raise EncodingOverflow(
            f"{outside} of {values.size} values are not finite or exceed the agreed bound {bound}; clean or "
            "rescale them, or agree on a larger bound"
        )


def encode(values: FloatArray, scale: float) -> Integers:
    """Return numbers, shape (..., rows), as polynomials of SLOTS each, the last filled up: (..., chunks, DEGREE)."""
    *shape, rows = values.shape
    filled = np.zeros((*shape, chunks(rows) * SLOTS))
    filled[..., :rows] = values
    return ckks_ring.encode(filled.reshape(-1, SLOTS), scale).reshape(*shape, -1, DEGREE)
