"""Fast Paillier encryption under one's own key: powers r^n as products of tabulated ones.

Modulo p^2 the powers r^n of units are a cyclic group G of order p - 1, that of s^p. The key holder draws
bases h_1 .. h_k uniformly from G, tabulates their powers 0 .. 255 and takes the product of h_i^(d_i) with uniform
bytes d_i as the randomness modulo p^2; the same modulo q^2, independently. That is k products instead of an
exponentiation by p.

No assumption is added. Two different vectors d and d' collide when the product of h_i^(d_i - d'_i) is 1, which for
uniform h has probability g / (p - 1), g the greatest common divisor of p - 1 and all differences. g is one unless
some e > 1 divides all k differences, each with probability at most 1/2, so over uniform d, d' the collision
probability is at most 256^-k + (1 + 2^(15-k)) / (p - 1). By the leftover hash lemma the distance of the product
from uniform on G, given the bases, is at most sqrt((p - 1) 256^-k + 2^(15-k)) / 2 on average. With 8 k at least
log2 p + 128, and k at least 144 at 2048 bits, that is below 2^-64 for each ciphertext and prime: after 2^23
ciphertexts of one key the distance of all of them from exact encryptions is below 2^-40.

The short exponent of Damgard, Jurik, Nielsen, "A generalization of Paillier's public-key system with applications
to electronic voting", International Journal of Information Security 9, 2010, section 4.2, would take fewer
products still, but under an assumption of its own; docs/decisions/0006-paillier-tables.md compares.

Source of the lemma: Hastad, Impagliazzo, Levin, Luby, "A Pseudorandom Generator from any One-way Function", SIAM
Journal on Computing 28, 1999; in the form for collision probabilities Shoup, "A Computational Introduction to
Number Theory and Algebra", section 8.10.
"""

from collections.abc import Sequence
from typing import final

import numpy as np

from vfl.crypto.paillier import FreshCiphertexts, PrivateKey
from vfl.crypto.rng import Rng

__all__ = ["EXTRA_BITS", "TableEncryptor"]

EXTRA_BITS = 128  # entropy over log2 p; the distance from uniform is half as many bits


@final
class TableEncryptor:
    """Encryption by the key holder, within 2^-63 of :meth:`vfl.crypto.paillier.PrivateKey.encrypt`.

    Tables pay from some hundred ciphertexts on. They take 24 MB at 2048 bits and 51 MB at 3072, and belong to the
    key holder: never make them under somebody else's key, nor send them.

    Parameters
    ----------
    private_key : PrivateKey
        The key.
    rng : Rng
        For the bases.
    """

    def __init__(self, private_key: PrivateKey, rng: Rng) -> None:
        self._private_key = private_key
        self._bases = (private_key._at_p.prime.bit_length() + EXTRA_BITS + 7) // 8
        parts = (private_key._at_p, private_key._at_q)
        self._tables = [
            part.arithmetic.table(part.noise([part.draw(rng) for _ in range(self._bases)]), 256)
            for part in parts
        ]

    def __repr__(self) -> str:
        return f"TableEncryptor({self._private_key!r})"

    def encrypt(self, values: Sequence[int], rng: Rng) -> FreshCiphertexts:
        """Encrypt integers of at most half the modulus in absolute value.

        Raises
        ------
        EncodingOverflow
            If a value is beyond the limit of the public key.
        """
        key, shape = self._private_key.public_key, (2, len(values), self._bases)
        key._check_plaintexts(values)
        drawn = np.frombuffer(rng.bytes(2 * len(values) * self._bases), np.uint8).reshape(shape)
        at_p, at_q = (table(digits) for table, digits in zip(self._tables, drawn, strict=True))
        return key._hide(values, self._private_key._join_noise(at_p, at_q))
