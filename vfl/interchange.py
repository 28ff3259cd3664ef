"""Keys and ciphertexts to and from python-paillier (``phe``) and TenSEAL.

Nothing else in the package uses this module. phe is under the GPLv3 and not a requirement: it is imported when
one of its functions is called, after ``pip install vfl[phe]``. A private key or context in the other library has
none of the protection that sessions give: whoever holds it keeps it.

Objects, not bytes, are converted. Deserialising is the other library's work, so do it with files of your own:
malformed bytes from a peer can crash TenSEAL.

**phe.** Both ways for private keys, public keys and ciphertexts. A :class:`~vfl.crypto.paillier.PublicKey` carries
a proof of its modulus, which phe does not know, so that a public key of phe alone is refused.

**TenSEAL.** Contexts go both ways, with CKKS at N = 8192 and coefficient moduli of 60, 60 and 30 bits:
``tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 60, 30])``. Vectors go to TenSEAL. Two
directions do not exist:

* Vectors from TenSEAL: :mod:`vfl.crypto.ckks` sends c1 as the 32 bytes from which it is expanded. TenSEAL has
  nothing but whole ciphertexts, and the c1 of its encryptions is the expansion of no known seed.
* Secret keys to TenSEAL: a :class:`~vfl.crypto.ckks.CKKSKeyHolder` keeps its own modulo two of the three primes of a
  SEAL secret key.

Sources: python-paillier 1.5 (CSIRO's Data61), ``phe.paillier``. TenSEAL 0.3, ``tensealcontext.proto`` and
``tensors.proto``: the fields that are written here.
"""

import importlib
import struct
from collections.abc import Sequence
from typing import Any

import gmpy2
from gmpy2 import mpz
from tenseal import sealapi

from vfl.crypto import ckks_format, ckks_ring, fresh, paillier, seal
from vfl.crypto.ckks import CKKSKeyHolder
from vfl.crypto.ckks_ring import SLOTS
from vfl.crypto.innerproduct import Format
from vfl.crypto.rng import Rng
from vfl.errors import ConfigError, InvalidCiphertext, InvalidKey, KeyMismatch

__all__ = [
    "from_phe_ciphertexts",
    "from_phe_private_key",
    "from_phe_public_key",
    "from_tenseal_context",
    "from_tenseal_secret_key",
    "to_phe_ciphertexts",
    "to_phe_private_key",
    "to_phe_public_key",
    "to_tenseal_context",
    "to_tenseal_vectors",
]


def _phe() -> Any:
    try:
        return importlib.import_module("phe")
    except ImportError:
        raise ConfigError("python-paillier is not installed: pip install vfl[phe]") from None


def to_phe_public_key(key: paillier.PublicKey) -> Any:
    """Return the ``phe.PaillierPublicKey`` of the same modulus; the proof stays behind.

    Raises
    ------
    ConfigError
        If phe is not installed.
    """
    return _phe().PaillierPublicKey(int(key.n))


def from_phe_public_key(key: Any, proven: bytes | None = None) -> paillier.PublicKey:
    """Return a public key of phe, with the proof that its modulus is one.

    Parameters
    ----------
    key : phe.PaillierPublicKey
    proven : bytes, optional
        What the owner of the private key gets from ``from_phe_private_key(...).public_key.to_bytes()``. There is
        no proof without the private key, and a key without proof is refused.

    Raises
    ------
    ConfigError
        If phe is not installed.
    InvalidKey
        If `key` is no public key of phe, or the proof is missing or fails.
    KeyMismatch
        If the proof is of another modulus.
    """
    _check_type(key, _phe().PaillierPublicKey)
    if proven is None:
        raise InvalidKey(
            "a public key of phe has no proof that its modulus is one; ask its owner for "
            "from_phe_private_key(...).public_key.to_bytes()"
        )
    ours = paillier.PublicKey.from_bytes(proven)
    if ours.n != key.n:
        raise KeyMismatch(f"the proof is of another modulus than that of the phe key: {ours!r}")
    return ours


def to_phe_private_key(key: paillier.PrivateKey) -> Any:
    """Return the ``phe.PaillierPrivateKey`` of the same primes. Raises ConfigError if phe is not installed."""
    public = to_phe_public_key(key.public_key)
    return _phe().PaillierPrivateKey(public, int(key._at_p.prime), int(key._at_q.prime))


def from_phe_private_key(key: Any) -> paillier.PrivateKey:
    """Return the key of the same primes, whose public key carries the proof; takes about 0.2 s.

    Parameters
    ----------
    key : phe.PaillierPrivateKey

    Raises
    ------
    ConfigError
        If phe is not installed.
    InvalidKey
        If `key` is no private key of phe, or one that a peer would refuse: below 2,048 bits, a length that is no
        multiple of 8, factors that are not prime, unequally long or too close.
    """
    _check_type(key, _phe().PaillierPrivateKey)
    p, q = mpz(key.p), mpz(key.q)
    if not (gmpy2.is_prime(p, 40) and gmpy2.is_prime(q, 40)):
        raise InvalidKey("a factor in the phe key is not prime")
    ours = paillier.PrivateKey(p, q)
    paillier.PublicKey.from_bytes(ours.public_key.to_bytes())  # what a peer would check
    return ours


def to_phe_ciphertexts(ciphertexts: paillier.FreshCiphertexts, exponent: int = 0) -> list[Any]:
    """Return one ``phe.EncryptedNumber`` per ciphertext.

    phe does not keep computed ciphertexts from being sent, so only fresh ones are taken: rerandomise others first.

    Parameters
    ----------
    ciphertexts : FreshCiphertexts
    exponent : int
        phe reads the integer m as m 16^`exponent`. It takes |m| <= n / 3 - 1 only and raises OverflowError when it
        decrypts more.

    Raises
    ------
    ConfigError
        If phe is not installed.
    TypeError
        If the ciphertexts are not fresh.
    """
    if not isinstance(ciphertexts, paillier.FreshCiphertexts):
        raise TypeError(f"only fresh ciphertexts may leave: rerandomise these {type(ciphertexts).__name__}")
    module, public = _phe(), to_phe_public_key(ciphertexts.key)
    return [module.EncryptedNumber(public, int(value), exponent) for value in ciphertexts._values]


def from_phe_ciphertexts(
    key: paillier.PublicKey, numbers: Sequence[Any], exponent: int = 0
) -> paillier.Ciphertexts:
    """Return the encrypted integers m of numbers m 16^`exponent`.

    The numbers are checked as they are, without phe's ``obfuscate``. This is safe whether they were obfuscated or
    not, since the result cannot be sent before it is rerandomised. Numbers that phe has computed without fresh
    randomness are refused where that can be seen: ``obfuscate()`` them.

    Parameters
    ----------
    key : PublicKey
    numbers : sequence of phe.EncryptedNumber
    exponent : int
        The exponent of all of them, fixed beforehand. By default phe gives each float an exponent that depends on
        its magnitude and sends it in the clear: encrypt with a fixed ``precision``.

    Raises
    ------
    ConfigError
        If phe is not installed.
    InvalidCiphertext
        If one is no number of phe, has another exponent, or fails :meth:`~vfl.crypto.paillier.PublicKey.accept`.
    KeyMismatch
        If one belongs to another key.
    """
    count, encrypted = len(numbers), _phe().EncryptedNumber
    if not all(isinstance(number, encrypted) for number in numbers):
        raise InvalidCiphertext(f"not all of {count} objects are phe.EncryptedNumber")
    if any(number.public_key.n != key.n for number in numbers):
        raise KeyMismatch(f"not all of {count} numbers of phe belong to {key!r}")
    others = sum(number.exponent != exponent for number in numbers)
    if others:
        raise InvalidCiphertext(
            f"{others} of {count} numbers of phe have another exponent than {exponent}; exponents of their own "
            "show magnitudes: encode all with one `precision` and state its exponent"
        )
    values = [number.ciphertext(be_secure=False) for number in numbers]
    if any(not isinstance(value, int) or not 0 < value < key.n_squared for value in values):
        raise InvalidCiphertext(f"not all of {count} numbers of phe are integers from 1 to n^2 - 1")
    raw = b"".join(value.to_bytes(key.width, "big") for value in values)
    return key.accept(fresh.ReceivedCiphertexts(raw), count)


def _check_type(key: object, kind: type) -> None:
    if not isinstance(key, kind):
        raise InvalidKey(f"expected a phe.{kind.__name__}, not {type(key).__name__}")


def to_tenseal_context(format: Format, public_bytes: bytes) -> Any:
    """Return a public TenSEAL context with a key of :mod:`vfl.crypto.ckks`.

    Parameters
    ----------
    format : Format
        The one that the key was made for.
    public_bytes : bytes
        :attr:`CKKSKeyHolder.public_bytes`, from a peer as well.

    Raises
    ------
    EncodingOverflow
        If the format leaves no room for precision and flooding.
    InvalidKey
        If size, parameters, format or residues of the key are not what they must be.
    """
    import tenseal

    scale = ckks_format.Scales.of(format).residual
    parameters = _saved(seal.context().key_context_data().parms())
    key = seal.public_key(ckks_format.accept_key(format, public_bytes))
    public = _field(1, _saved(key))
    # automatic relinearisation, rescaling and switching of moduli, as TenSEAL has by default
    settings = b"\x10\x07" + b"\x19" + struct.pack("<d", scale)
    return tenseal.context_from(_field(1, parameters) + _field(2, public + settings))


def from_tenseal_context(format: Format, context: Any) -> bytes:
    """Return the public key of a TenSEAL context as :meth:`CKKSEvaluator.from_public` takes it.

    Parameters
    ----------
    format : Format
        The vectors and matrices that the key will be used for.
    context : tenseal.Context
        Public or with a secret key, with public-key encryption.

    Raises
    ------
    EncodingOverflow
        If the format leaves no room for precision and flooding.
    InvalidKey
        If scheme, degree, moduli or type of encryption are others than those of :mod:`vfl.crypto.ckks`.
    """
    _check_context(context)
    public = _moved(context.public_key().data, sealapi.PublicKey())
    polynomials = seal.residues(public.data(), 2, len(ckks_ring.MODULI))
    public_bytes = ckks_format.header(format) + polynomials.astype("<u8").tobytes()
    ckks_format.Scales.of(format)
    ckks_format.accept_key(format, public_bytes)
    return public_bytes


def from_tenseal_secret_key(format: Format, rng: Rng, context: Any) -> CKKSKeyHolder:
    """Return a key holder with the secret and the public key of a TenSEAL context.

    A CKKS key opens ``OPENINGS_PER_KEY`` numbers at most, and the count begins anew with every key holder: use one
    per key. Numbers that TenSEAL itself decrypts have no flooding, and showing them to anybody shows equations in
    the secret key (Li and Micciancio, eprint 2020/1533).

    Parameters
    ----------
    format : Format
    rng : Rng
        For the flooding.
    context : tenseal.Context

    Raises
    ------
    EncodingOverflow
        If the format leaves no room for precision and flooding.
    InvalidKey
        If the context has no secret key, other parameters than those of :mod:`vfl.crypto.ckks`, or a public key
        that does not belong to the secret one.
    """
    _check_context(context)
    if not context.has_secret_key():
        raise InvalidKey("the TenSEAL context is public: a key holder needs the secret key")
    secret = _moved(context.secret_key().data, sealapi.SecretKey())
    public = _moved(context.public_key().data, sealapi.PublicKey())
    return CKKSKeyHolder(format, rng, seal.key_pair(secret, public))


def to_tenseal_vectors(format: Format, context: Any, vector: fresh.FreshCiphertexts, rows: int) -> list[Any]:
    """Return an encrypted vector of :mod:`vfl.crypto.ckks` as vectors of at most 4,096 numbers each.

    They fill the modulus up: TenSEAL can decrypt and add them, but has no room for a product.

    Parameters
    ----------
    format : Format
        The one that the key was made for.
    context : tenseal.Context
        With the key of the vector; the vectors are linked to it. Decrypting takes its secret key.
    vector : FreshCiphertexts
        From :meth:`CKKSKeyHolder.encrypt`, or received.
    rows : int
        Numbers in the vector.

    Raises
    ------
    InvalidKey
        If the context has other parameters than those of :mod:`vfl.crypto.ckks`.
    InvalidCiphertext
        If the vector has a wrong size, key or range, or zero or repeated polynomials.
    """
    import tenseal

    key = ckks_format.key_id(from_tenseal_context(format, context))
    scale = ckks_format.Scales.of(format).residual
    count = ckks_format.chunks(rows)
    items = ckks_format.accept(vector, ckks_format.CHUNK, count, key, "encrypted vector")
    c1 = ckks_ring.expand([seed.tobytes() for seed in items["seed"]])
    vectors = []
    for chunk, pair in enumerate(zip(ckks_format.polynomials(items), c1, strict=True)):
        encrypted = seal.ciphertext(*pair)
        encrypted.scale = scale
        size = _varint(min(rows - SLOTS * chunk, SLOTS))
        raw = _field(1, size) + _field(2, _saved(encrypted)) + b"\x19" + struct.pack("<d", scale)
        vectors.append(tenseal.ckks_vector_from(context, raw))
    return vectors


def _check_context(context: Any) -> None:
    """Refuse other parameters (SEAL's ids are hashes of scheme, degree and moduli) and symmetric contexts."""
    theirs, ours = context.seal_context().data, seal.context()
    if (theirs.key_parms_id(), theirs.first_parms_id()) != (ours.key_parms_id(), ours.first_parms_id()):
        raise InvalidKey(
            "the TenSEAL context has other parameters: take CKKS with poly_modulus_degree "
            f"{ckks_ring.DEGREE} and coeff_mod_bit_sizes [60, 60, 30]"
        )
    try:
        context.has_public_key()
    except ValueError:
        raise InvalidKey("the TenSEAL context is symmetric: it has no public key to exchange") from None


def _moved(source: Any, target: Any) -> Any:
    """Copy a SEAL object of TenSEAL, which has types of its own, into one of ``sealapi``."""
    with seal._file() as path:
        source.save(path)
        target.load(seal.context(), path)
    return target


def _saved(source: Any) -> bytes:
    """Return a SEAL object in SEAL's own stream format."""
    with seal._file() as path:
        source.save(path)
        with open(path, "rb") as file:
            return file.read()


def _field(number: int, body: bytes) -> bytes:
    """Return a length-delimited field of a protocol buffer."""
    return bytes([number << 3 | 2]) + _varint(len(body)) + body


def _varint(number: int) -> bytes:
    return bytes([number & 127 | 128]) + _varint(number >> 7) if number > 127 else bytes([number])
