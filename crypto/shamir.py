"""Shamir's secret sharing of seeds of 32 bytes, over the integers modulo p = 2^256 + 297 (prime).

A secret is the value at zero of a polynomial of degree threshold - 1 whose other coefficients are uniform; the share
of the party at point x is its value there. `threshold` shares give the secret, fewer are independent of it.

Points are small, so Horner's rule reduces once at the end: intermediate values grow by the bits of x per step.

Received shares may be wrong. :func:`combine` needs exactly `threshold` right ones; :func:`correct` finds the
polynomial through all but (count - threshold) / 2 of any number of them, and says which ones are wrong.

Sources: Shamir, "How to share a secret", Communications of the ACM 22, 1979. Gao, "A new algorithm for decoding
Reed-Solomon codes", 2003 (interpolate, stop the extended Euclidean algorithm half way, divide); McEliece and Sarwate,
"On sharing secrets and Reed-Solomon codes", Communications of the ACM 24, 1981.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from gmpy2 import invert, mpz

from vfl.crypto.rng import Rng
from vfl.errors import CryptoError, InvalidData

__all__ = ["PRIME", "SECRET_BYTES", "SHARE_BYTES", "combine", "correct", "read_share", "split"]

SECRET_BYTES = 32
SHARE_BYTES = 33
PRIME = mpz((1 << 256) + 297)
_DRAWN = 48  # bytes of a coefficient before reduction: 2^-127 from uniform


def split(secret: bytes, threshold: int, points: Sequence[int], rng: Rng) -> list[bytes]:
    """Return the shares of a secret, SHARE_BYTES bytes each, in the order of the points.

    Parameters
    ----------
    secret : bytes
        SECRET_BYTES bytes.
    threshold : int
        Shares that give the secret.
    points : sequence of int
        Distinct, from 1 to 2^32 - 1: who holds the share.
    rng : Rng
    """
    if len(secret) != SECRET_BYTES:
        raise CryptoError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not 1 <= threshold <= len(points):
        raise CryptoError(f"{threshold} of {len(points)} shares cannot be required")
    _check_points(points)
    drawn = rng.bytes(_DRAWN * (threshold - 1))
    rest = [mpz(int.from_bytes(drawn[i : i + _DRAWN], "big")) % PRIME for i in range(0, len(drawn), _DRAWN)]
    coefficients = [*rest, mpz(int.from_bytes(secret, "big"))]
    return [_write(_horner(coefficients, x)) for x in points]


def _horner(coefficients: Sequence[mpz], x: int) -> mpz:
    value = mpz(0)
    for coefficient in coefficients:
        value = value * x + coefficient
    return value % PRIME


def _check_points(points: Sequence[int]) -> None:
    if len(set(points)) != len(points) or not all(0 < x < 1 << 32 for x in points):
        raise CryptoError("points must be distinct and lie between 1 and 2^32 - 1")


def _write(value: mpz) -> bytes:
    return int(value).to_bytes(SHARE_BYTES, "big")


def read_share(raw: bytes) -> mpz:
    """Return the number that a received share encodes.

    Raises
    ------
    InvalidData
        If it has another length or is not below the prime.
    """
    value = mpz(int.from_bytes(raw, "big"))
    if len(raw) != SHARE_BYTES or value >= PRIME:
        raise InvalidData(
            f"a share has {SHARE_BYTES} bytes and lies below the prime; {len(raw)} bytes do not"
        )
    return value


def combine(shares: Mapping[int, mpz], threshold: int) -> bytes | None:
    """Return the secret from the first `threshold` shares, or None if they belong to no secret of 32 bytes.

    A wrong share gives a wrong secret: compare it with a commitment or a public key, then try :func:`correct`.

    Raises
    ------
    CryptoError
        If there are fewer shares than the threshold.
    """
    if len(shares) < threshold:
        raise CryptoError(f"{len(shares)} shares of {threshold} that are needed")
    points = tuple(sorted(shares)[:threshold])
    return _secret(sum(w * shares[x] for w, x in zip(_weights(points), points, strict=True)) % PRIME)


def _secret(value: mpz) -> bytes | None:
    return int(value).to_bytes(SECRET_BYTES, "big") if value < 1 << 256 else None


@lru_cache(maxsize=64)
def _weights(points: tuple[int, ...]) -> list[mpz]:
    """Return the Lagrange weights at zero: prod x_m / (x_m - x_j) over m != j."""
    whole = mpz(1)
    for x in points:
        whole *= x
    weights = []
    for j in points:
        below = mpz(j)  # stands for the factor x_j of the product of all
        for m in points:
            if m != j:
                below *= m - j
        weights.append(whole * invert(below % PRIME, PRIME) % PRIME)
    return weights


def correct(shares: Mapping[int, mpz], threshold: int) -> tuple[bytes, frozenset[int]] | None:
    """Return the secret that all but at most (count - threshold) / 2 shares agree on, and the points that do not.

    Returns
    -------
    (bytes, frozenset of int) or None
        None if the shares are wrong in more places than that.
    """
    points = sorted(shares)
    product, slope = [mpz(1)], list[mpz]()  # prod (X - x), and the polynomial through all shares (Newton)
    for x in points:
        gap = (shares[x] - _value(slope, x)) * invert(_value(product, x), PRIME) % PRIME
        slope = _added(slope, [gap * c % PRIME for c in product])
        product = _added([mpz(0), *product], [-x * c % PRIME for c in product])
    before, now = product, slope
    u_before, u = list[mpz](), [mpz(1)]
    while 2 * len(now) > len(points) + threshold + 1 and now:  # degree at least (count + threshold) / 2
        quotient, rest = _divided(before, now)
        before, now = now, rest
        u_before, u = u, _added(u_before, [-c % PRIME for c in _times(quotient, u)])
    found, rest = _divided(now, u)
    if rest or len(found) > threshold:
        return None
    wrong = frozenset(x for x in points if _value(found, x) != shares[x])
    secret = _secret(_value(found, 0))
    return (secret, wrong) if secret is not None and 2 * len(wrong) <= len(points) - threshold else None


def _value(polynomial: Sequence[mpz], x: int) -> mpz:
    return _horner(polynomial[::-1], x)


def _trimmed(polynomial: list[mpz]) -> list[mpz]:
    while polynomial and polynomial[-1] == 0:
        polynomial.pop()
    return polynomial


def _added(a: list[mpz], b: list[mpz]) -> list[mpz]:
    if len(a) < len(b):
        a, b = b, a
    return _trimmed([(x + y) % PRIME for x, y in zip(a, b, strict=False)] + a[len(b) :])


def _times(a: list[mpz], b: list[mpz]) -> list[mpz]:
    result = [mpz(0)] * (len(a) + len(b))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            result[i + j] += x * y
    return _trimmed([c % PRIME for c in result])


def _divided(a: list[mpz], b: list[mpz]) -> tuple[list[mpz], list[mpz]]:
    rest, quotient = list(a), [mpz(0)] * max(0, len(a) - len(b) + 1)
    leading = invert(b[-1], PRIME)
    for i in reversed(range(len(quotient))):
        factor = quotient[i] = rest[i + len(b) - 1] * leading % PRIME
        for j, c in enumerate(b):
            rest[i + j] = (rest[i + j] - factor * c) % PRIME
    return _trimmed(quotient), _trimmed(rest)
