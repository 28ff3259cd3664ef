"""Identity keys of parties: ECDSA over P-256 with SHA-256, and the certificate that carries one into TLS.

One key signs the handshake and proves the TLS connection, so a pinned certificate pins the signer. Every
signature names its context, which keeps a signature made for one purpose from serving another. What is signed
here begins with a fixed text, what TLS 1.3 signs with 64 spaces and a certificate with the byte 0x30, so none
of the three passes for another.

Keys, signature nonces and certificate serial numbers are drawn by the ``cryptography`` package from the
operating system's generator: the one randomness that does not come from :mod:`vfl.crypto.rng`.

Sources: NIST FIPS 186-5, section 6 (ECDSA); RFC 5280 (certificates); RFC 5480 (public keys); RFC 8446,
section 4.4.3 (what TLS 1.3 signs).
"""

import hashlib
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vfl.errors import InvalidKey, PeerAuthenticationError

__all__ = [
    "SIGNATURE_BYTES",
    "IdentityKey",
    "certificate_public_bytes",
    "certificate_server_name",
    "fingerprint",
    "self_signed_certificate",
    "verify",
]

SIGNATURE_BYTES = 64  # r and s, 32 bytes each, big-endian
_ALGORITHM = ec.ECDSA(hashes.SHA256())
_DOMAIN = b"vfl signature, version 1"


@final
class IdentityKey:
    """The private key of a party. Its text form shows the public fingerprint only."""

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(private.curve, ec.SECP256R1):
            raise InvalidKey(f"an identity key lies on P-256, not on {private.curve.name}")
        self._private = private

    @classmethod
    def generate(cls) -> "IdentityKey":
        """Return a new key, drawn by the ``cryptography`` package from the operating system's generator."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes) -> "IdentityKey":
        """Read an unencrypted PKCS #8 key.

        Raises
        ------
        InvalidKey
            If it is no such key, or not one on P-256.
        """
        try:
            private = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InvalidKey("the identity key is not an unencrypted PKCS #8 key in PEM form") from error
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise InvalidKey(f"an identity key lies on P-256, not a {type(private).__name__}")
        return cls(private)

    def to_pem(self) -> bytes:
        """Return the unencrypted PKCS #8 key. A secret: whoever writes it sets the file's mode to 0600."""
        return self._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def public_bytes(self) -> bytes:
        """The public key: SubjectPublicKeyInfo in DER, 91 bytes."""
        return _encode(self._private.public_key())

    def sign(self, context: str, message: bytes) -> bytes:
        """Return the signature, 64 bytes, over a message in a context such as "handshake"."""
        r, s = utils.decode_dss_signature(self._private.sign(_framed(context, message), _ALGORITHM))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def __repr__(self) -> str:
        """Show the fingerprint of the public key."""
        return f"IdentityKey({fingerprint(self.public_bytes)})"


def fingerprint(public_bytes: bytes) -> str:
    """Return SHA-256 of a public key as 16 groups of four hexadecimal digits, for people to compare."""
    digits = hashlib.sha256(public_bytes).hexdigest()
    return ":".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def verify(public_bytes: bytes, context: str, message: bytes, signature: bytes) -> None:
    """Check a signature; a return without an error means that it is the key holder's.

    Parameters
    ----------
    public_bytes : bytes
        The signer's public key, as :attr:`IdentityKey.public_bytes`.
    context : str
        The purpose it was signed for.
    message : bytes
        What was signed.
    signature : bytes
        64 bytes. ECDSA lets anyone turn one valid signature into a second one over the same message, so a
        signature must not serve as an identifier.

    Raises
    ------
    PeerAuthenticationError
        Names what failed: the key, the signature's size or the signature.
    """
    try:
        public = _decode(public_bytes)
    except InvalidKey as error:
        raise PeerAuthenticationError(f"{context}: {error}") from error
    if len(signature) != SIGNATURE_BYTES:
        raise PeerAuthenticationError(
            f"{context}: a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}"
        )
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        public.verify(utils.encode_dss_signature(r, s), _framed(context, message), _ALGORITHM)
    except InvalidSignature as error:
        raise PeerAuthenticationError(
            f"{context}: the signature does not verify under the key {fingerprint(public_bytes)}"
        ) from error


def self_signed_certificate(key: IdentityKey, name: str, now: datetime, days: int = 825) -> bytes:
    """Return a certificate for mutual TLS that is its own root, in PEM form.

    Parameters
    ----------
    key : IdentityKey
        The party's key, which signs it.
    name : str
        The party's name, 1 to 64 characters: the subject's common name. It is public.
    now : datetime
        The time, with a time zone. The certificate is valid from a day before, because clocks differ.
    days : int
        Days for which it is valid from now on.

    Returns
    -------
    bytes
        The peer pins exactly this certificate. TLS checks it under :func:`certificate_server_name`.
    """
    if not 1 <= len(name) <= 64:
        raise ValueError(f"a party's name has 1 to 64 characters, not {len(name)}")
    if now.tzinfo is None or days < 1:
        raise ValueError("a certificate needs a time with a time zone and at least one day of validity")
    start = now.astimezone(UTC).replace(microsecond=0)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    public = key._private.public_key()
    builder = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=subject, public_key=public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - timedelta(days=1))
        .not_valid_after(start + timedelta(days=days))
    )
    for extension, critical in _extensions(public, name):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(key._private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def certificate_public_bytes(pem: bytes) -> bytes:
    """Return the public key, as :attr:`IdentityKey.public_bytes`, of a PEM file with one certificate.

    Raises
    ------
    InvalidKey
        If the file holds no certificate or several, or one whose key is not on P-256.
    """
    public = _load_certificate(pem).public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise InvalidKey(f"the certificate's key must lie on P-256; it is a {type(public).__name__}")
    encoded = _encode(public)
    _decode(encoded)
    return encoded


def certificate_server_name(pem: bytes) -> str:
    """Return the DNS name in a party's certificate, "<name>.vfl": TLS compares it instead of an address.

    Raises
    ------
    InvalidKey
        If the file holds no certificate or several, or one without exactly one DNS name.
    """
    try:
        names = _load_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise InvalidKey("the certificate has no DNS name; one was expected") from error
    dns = names.get_values_for_type(x509.DNSName)
    if len(dns) != 1:
        raise InvalidKey(f"the certificate has {len(dns)} DNS names, one was expected")
    return dns[0]


def _load_certificate(pem: bytes) -> x509.Certificate:
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise InvalidKey("the certificate is not in PEM form") from error
    if len(certificates) != 1:
        raise InvalidKey(f"the file holds {len(certificates)} certificates, one was expected")
    return certificates[0]


def _extensions(public: ec.EllipticCurvePublicKey, name: str) -> list[tuple[x509.ExtensionType, bool]]:
    """Return what a certificate needs that serves as its own root, as a TLS server and as a TLS client."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower())[:63].strip("-") or "party"
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    )
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return [
        (x509.SubjectAlternativeName([x509.DNSName(f"{label}.vfl")]), False),
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (
            x509.KeyUsage(
                digital_signature=True, key_cert_sign=True, encipher_only=False, decipher_only=False, **usage
            ),
            True,
        ),
        (x509.ExtendedKeyUsage(both), False),
        (x509.SubjectKeyIdentifier.from_public_key(public), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(public), False),
    ]


def _framed(context: str, message: bytes) -> bytes:
    label = context.encode()
    return _DOMAIN + len(label).to_bytes(2, "big") + label + message


def _encode(public: ec.EllipticCurvePublicKey) -> bytes:
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@lru_cache(maxsize=1 << 14)
def _decode(public_bytes: bytes) -> ec.EllipticCurvePublicKey:
    try:
        public = serialization.load_der_public_key(public_bytes)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidKey("the public key is not a SubjectPublicKeyInfo in DER form") from error
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise InvalidKey("the public key does not lie on P-256")
    if _encode(public) != public_bytes:  # one key, one encoding: otherwise one key had several fingerprints
        raise InvalidKey("the public key is not in its canonical encoding")
    return public
