"""Is a received number a Paillier modulus? Structural checks and the proof that gcd(n, phi(n)) = 1.

Whoever computes under a peer's key relies on (m, r) -> (1 + n)^m r^n being a bijection onto the units
modulo n^2: only then does each ciphertext have one plaintext, and a uniform r hide everything else. That is
the case exactly when gcd(n, phi(n)) = 1. That n has no more than two prime factors is not needed by the
peer, so it is not proved.

Source: Goldberg, Reyzin, Sagga, Baldimtsi, "Efficient Noninteractive Certification of RSA Moduli and Beyond",
Asiacrypt 2019, eprint 2018/057, section 3.2 (the Paillier language). Parameters for 128 bits, alpha = 6370
and m = 11: Lindell and Nof, eprint 2018/987, section 6.2.3.

The proof. Challenges rho_1 .. rho_m are hashed from n; the prover, knowing phi(n), returns their n-th roots
sigma_i = rho_i^(1/n mod phi(n)). The verifier checks that n has no prime factor below alpha and that
sigma_i^n = rho_i. The roots show nothing: anybody can draw sigma_i first and call its power the challenge.

Soundness. Suppose a prime u divides gcd(n, phi(n)). As u divides n, the check leaves u > alpha. As u divides
phi(n), the order of the group of units, Cauchy's theorem gives an element of order u; raising to the power
n, a multiple of u, sends it to 1, so at most a fraction 1/u < 1/alpha of the units are n-th powers. A
hashed challenge is within 2^-128 of a uniform residue and the verifier refuses one that is not a unit, so
the m = 11 independent challenges all have roots with probability below 6370^-11 < 2^-139 for each n that a
prover tries. A prime n fulfils gcd(n, phi(n)) = 1 and is refused by a primality test.
"""

import hashlib
from collections.abc import Sequence

import gmpy2
from gmpy2 import mpz

from vfl.errors import InvalidKey

__all__ = ["ALPHA", "CHALLENGES", "MAX_BITS", "MIN_BITS", "check_modulus", "prove", "verify"]

ALPHA = 6370
CHALLENGES = 11
MIN_BITS = 2048
MAX_BITS = 8192

_DOMAIN = b"vfl Paillier modulus, gcd(n, phi(n)) = 1, version 1"
_SMALL_PRIMES = gmpy2.primorial(ALPHA)  # the product of all primes up to 6370, which itself is not prime


def check_modulus(n: mpz) -> None:
    """Refuse what cannot be a Paillier modulus, whatever the proof says.

    Raises
    ------
    InvalidKey
        Naming the reason: length, even, small factor, prime, perfect power.
    """
    bits = n.bit_length()
    if not MIN_BITS <= bits <= MAX_BITS:
        raise InvalidKey(f"the Paillier modulus has {bits} bits; {MIN_BITS} to {MAX_BITS} are allowed")
    if n.is_even():
        raise InvalidKey("the Paillier modulus is even")
    if gmpy2.gcd(n, _SMALL_PRIMES) != 1:
        raise InvalidKey(f"the Paillier modulus has a small prime factor, below {ALPHA}")
    if gmpy2.is_prime(n):
        raise InvalidKey("the Paillier modulus is prime")
    if gmpy2.is_power(n):
        raise InvalidKey("the Paillier modulus is a perfect power (a square or higher)")


def prove(p: mpz, q: mpz) -> tuple[mpz, ...]:
    """Return the n-th roots modulo n = p q of the hashed challenges.

    Parameters
    ----------
    p, q : mpz
        The primes, with gcd(n, (p - 1)(q - 1)) = 1.
    """
    n = p * q
    p_inverse = gmpy2.invert(p, q)

    def root(rho: mpz) -> mpz:
        # modulo p the exponent n counts modulo p - 1, where it equals q; and the other way round
        at_p = gmpy2.powmod_sec(rho % p, gmpy2.invert(q, p - 1), p)
        at_q = gmpy2.powmod_sec(rho % q, gmpy2.invert(p, q - 1), q)
        return at_p + p * ((at_q - at_p) * p_inverse % q)

    return tuple(root(rho) for rho in _challenges(n))


def verify(n: mpz, roots: Sequence[mpz]) -> None:
    """Check the proof for a modulus that :func:`check_modulus` has passed.

    Raises
    ------
    InvalidKey
        If a root is missing, out of range or wrong.
    """
    if len(roots) != CHALLENGES:
        raise InvalidKey(f"the proof of the Paillier key has {len(roots)} roots, not {CHALLENGES}")
    for number, (rho, sigma) in enumerate(zip(_challenges(n), roots, strict=True), start=1):
        unit = gmpy2.gcd(rho, n) == 1
        if not (unit and 0 < sigma < n and gmpy2.powmod(sigma, n, n) == rho):
            raise InvalidKey(
                f"the proof that gcd(n, phi(n)) = 1 fails at root {number} of {CHALLENGES}: "
                "the Paillier modulus is not square-free, or one of its primes divides another minus one"
            )


def _challenges(n: mpz) -> list[mpz]:
    size = (n.bit_length() + 7) // 8
    statement = _DOMAIN + size.to_bytes(2, "big") + int(n).to_bytes(size, "big")
    wide = size + 16  # 128 bits more than n, so that the reduction leaves no visible bias
    stream = hashlib.shake_256(statement).digest(CHALLENGES * wide)
    chunks = (stream[wide * i : wide * (i + 1)] for i in range(CHALLENGES))
    return [mpz(int.from_bytes(chunk, "big")) % n for chunk in chunks]
