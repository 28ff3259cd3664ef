"""Identity keys: signatures bound to key, context and message; certificates that are their own TLS root."""

import ssl
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils

from vfl.crypto.signatures import (
    SIGNATURE_BYTES,
    IdentityKey,
    certificate_public_bytes,
    certificate_server_name,
    fingerprint,
    self_signed_certificate,
    verify,
)
from vfl.errors import InvalidKey, PeerAuthenticationError

KEY = IdentityKey.generate()
OTHER = IdentityKey.generate()
NOW = datetime(2030, 5, 17, 12, 30, 15, 999, tzinfo=UTC)
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def pkcs8(private: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    encoding, encryption = serialization.Encoding.PEM, serialization.NoEncryption()
    return private.private_bytes(encoding, serialization.PrivateFormat.PKCS8, encryption)


def spki(public: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_a_signature_verifies() -> None:
    signature = KEY.sign("handshake", b"message")
    assert len(signature) == SIGNATURE_BYTES
    verify(KEY.public_bytes, "handshake", b"message", signature)
    verify(KEY.public_bytes, "", b"", KEY.sign("", b""))


def test_a_signature_is_plain_ecdsa_over_the_framed_message() -> None:
    """The wire format, written down once more: another implementation must be able to verify it."""
    signature = KEY.sign("Ünï", b"message")
    r, s = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:]))
    public = serialization.load_der_public_key(KEY.public_bytes)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    framed = b"vfl signature, version 1" + b"\x00\x05" + "Ünï".encode() + b"message"
    public.verify(utils.encode_dss_signature(r, s), framed, ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize(
    ("context", "message"),
    [("other", b"message"), ("handshake", b"another"), ("handshakem", b"essage"), ("", b"handshakemessage")],
)
def test_context_and_message_are_bound(context: str, message: bytes) -> None:
    signature = KEY.sign("handshake", b"message")
    with pytest.raises(PeerAuthenticationError, match=f"{context}: the signature does not verify"):
        verify(KEY.public_bytes, context, message, signature)


def test_another_key_is_refused_by_fingerprint() -> None:
    signature = KEY.sign("handshake", b"message")
    with pytest.raises(PeerAuthenticationError, match=fingerprint(OTHER.public_bytes)):
        verify(OTHER.public_bytes, "handshake", b"message", signature)


@pytest.mark.parametrize("position", range(0, SIGNATURE_BYTES, 7))
def test_a_flipped_bit_is_refused(position: int) -> None:
    signature = bytearray(KEY.sign("handshake", b"message"))
    signature[position] ^= 1
    with pytest.raises(PeerAuthenticationError, match="does not verify"):
        verify(KEY.public_bytes, "handshake", b"message", bytes(signature))


@pytest.mark.parametrize(
    ("r", "s"), [(0, 0), (0, 1), (1, 0), (ORDER, 1), (1, ORDER), (2**256 - 1, 2**256 - 1)]
)
def test_degenerate_signatures_are_refused(r: int, s: int) -> None:
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    with pytest.raises(PeerAuthenticationError, match="does not verify"):
        verify(KEY.public_bytes, "handshake", b"message", signature)


@pytest.mark.parametrize("size", [0, 63, 65, 72])
def test_signatures_of_another_size_are_refused(size: int) -> None:
    with pytest.raises(PeerAuthenticationError, match=f"64 bytes, not {size}"):
        verify(KEY.public_bytes, "handshake", b"message", bytes(size))


def compressed() -> bytes:
    """The same key with its point compressed: valid, but a second encoding."""
    numbers = serialization.load_der_public_key(KEY.public_bytes)
    assert isinstance(numbers, ec.EllipticCurvePublicKey)
    point = numbers.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    prefix = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    return prefix + point


@pytest.mark.parametrize(
    ("public", "reason"),
    [
        (b"", "SubjectPublicKeyInfo"),
        (KEY.public_bytes[:-1], "SubjectPublicKeyInfo"),
        (KEY.public_bytes[:-1] + bytes([KEY.public_bytes[-1] ^ 1]), "SubjectPublicKeyInfo"),
        (KEY.public_bytes + b"\0", "SubjectPublicKeyInfo"),
        (compressed(), "canonical"),
        (spki(ec.generate_private_key(ec.SECP384R1()).public_key()), "P-256"),
        (spki(ec.generate_private_key(ec.SECP256K1()).public_key()), "P-256"),
        (spki(ed25519.Ed25519PrivateKey.generate().public_key()), "P-256"),
    ],
    ids=["empty", "short", "off the curve", "long", "compressed", "P-384", "secp256k1", "Ed25519"],
)
def test_other_public_keys_are_refused(public: bytes, reason: str) -> None:
    with pytest.raises(PeerAuthenticationError, match=f"handshake: the public key .*{reason}"):
        verify(public, "handshake", b"message", KEY.sign("handshake", b"message"))


def test_pem_round_trip() -> None:
    pem = KEY.to_pem()
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    again = IdentityKey.from_pem(pem)
    assert again.public_bytes == KEY.public_bytes
    verify(KEY.public_bytes, "handshake", b"message", again.sign("handshake", b"message"))


def encrypted() -> bytes:
    private = ec.generate_private_key(ec.SECP256R1())
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"not a key",
        encrypted(),
        KEY.to_pem()[:100],
        pkcs8(ec.generate_private_key(ec.SECP384R1())),
        pkcs8(ed25519.Ed25519PrivateKey.generate()),
        pkcs8(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    ],
    ids=["empty", "text", "encrypted", "cut", "P-384", "Ed25519", "RSA"],
)
def test_other_private_keys_are_refused(pem: bytes) -> None:
    with pytest.raises(InvalidKey, match="identity key"):
        IdentityKey.from_pem(pem)


def test_the_text_form_shows_the_fingerprint_and_no_secret() -> None:
    assert repr(KEY) == f"IdentityKey({fingerprint(KEY.public_bytes)})"


def test_fingerprint() -> None:
    assert fingerprint(b"abc") == (
        "ba78:16bf:8f01:cfea:4141:40de:5dae:2223:b003:61a3:9617:7a9c:b410:ff61:f200:15ad"
    )


def test_certificate_contents() -> None:
    pem = self_signed_certificate(KEY, "North Bank", NOW)
    certificate = x509.load_pem_x509_certificate(pem)
    certificate.verify_directly_issued_by(certificate)
    assert certificate.subject.rfc4514_string() == "CN=North Bank"
    assert certificate.not_valid_before_utc == datetime(2030, 5, 16, 12, 30, 15, tzinfo=UTC)
    assert certificate.not_valid_after_utc == datetime(2032, 8, 19, 12, 30, 15, tzinfo=UTC)
    assert certificate_public_bytes(pem) == KEY.public_bytes
    assert certificate_server_name(pem) == "north-bank.vfl"


def test_times_in_another_zone_mean_the_same_instant() -> None:
    local = NOW.astimezone(timezone(timedelta(hours=-7)))
    certificate = x509.load_pem_x509_certificate(self_signed_certificate(KEY, "bank", local, days=1))
    assert certificate.not_valid_after_utc == datetime(2030, 5, 18, 12, 30, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "server_name"),
    [
        ("bank", "bank.vfl"),
        ("Bank of A. & B.", "bank-of-a-b.vfl"),
        ("*.example.com", "example-com.vfl"),
        ("银行", "party.vfl"),
        ("a" * 64, "a" * 63 + ".vfl"),
    ],
)
def test_server_names_are_one_plain_label(name: str, server_name: str) -> None:
    assert certificate_server_name(self_signed_certificate(KEY, name, NOW)) == server_name


@pytest.mark.parametrize("name", ["", "a" * 65])
def test_party_names_of_other_lengths_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 64 characters"):
        self_signed_certificate(KEY, name, NOW)


def test_a_time_without_zone_or_no_validity_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        self_signed_certificate(KEY, "bank", NOW.replace(tzinfo=None))
    with pytest.raises(ValueError, match="at least one day"):
        self_signed_certificate(KEY, "bank", NOW, days=0)


def test_bad_certificate_files_are_refused() -> None:
    pem = self_signed_certificate(KEY, "bank", NOW)
    for bad, reason in [(b"", "PEM"), (b"junk", "PEM"), (pem[:200], "PEM"), (pem * 2, "holds 2")]:
        with pytest.raises(InvalidKey, match=reason):
            certificate_public_bytes(bad)
        with pytest.raises(InvalidKey, match=reason):
            certificate_server_name(bad)


def foreign_certificate(
    private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, names: list[str] | None
) -> bytes:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder(subject, subject, private.public_key(), 1, NOW, NOW + timedelta(days=1))
    if names is not None:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_certificates_of_others_are_refused() -> None:
    p384, p256 = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256R1())
    for private in (rsa.generate_private_key(public_exponent=65537, key_size=2048), p384):
        with pytest.raises(InvalidKey, match="P-256"):
            certificate_public_bytes(foreign_certificate(private, None))
    with pytest.raises(InvalidKey, match="no DNS name"):
        certificate_server_name(foreign_certificate(p256, None))
    with pytest.raises(InvalidKey, match="2 DNS names"):
        certificate_server_name(foreign_certificate(p256, ["a.vfl", "b.vfl"]))


def party(folder: Path, name: str) -> tuple[Path, bytes]:
    """Write a party's key and certificate into one file, as the ssl module wants it."""
    key = IdentityKey.generate()
    pem = self_signed_certificate(key, name, datetime.now(UTC))
    path = folder / f"{name}.pem"
    path.write_bytes(key.to_pem() + pem)
    return path, pem


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, server_name: str) -> None:
    """Run a TLS handshake over memory, step by step, without a socket."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname=server_name),
        server.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    for end in ends:
        assert end.getpeercert()


def contexts(
    server: Path, client: Path, trusted_by_server: bytes, trusted_by_client: bytes
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    made = []
    for side, own, trusted in [
        (ssl.PROTOCOL_TLS_SERVER, server, trusted_by_server),
        (ssl.PROTOCOL_TLS_CLIENT, client, trusted_by_client),
    ]:
        context = ssl.SSLContext(side)
        context.load_cert_chain(own)
        context.load_verify_locations(cadata=trusted.decode())
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        made.append(context)
    return made[0], made[1]


def test_mutual_tls_with_pinned_certificates(tmp_path: Path) -> None:
    (bank, bank_pem), (retailer, retailer_pem) = party(tmp_path, "bank"), party(tmp_path, "retailer")
    server, client = contexts(bank, retailer, retailer_pem, bank_pem)
    shake_hands(server, client, certificate_server_name(bank_pem))


def test_mutual_tls_refuses_another_certificate_of_the_same_name(tmp_path: Path) -> None:
    bank, bank_pem = party(tmp_path, "bank")
    retailer, retailer_pem = party(tmp_path, "retailer")
    for folder in ("fake-bank", "fake-retailer"):
        (tmp_path / folder).mkdir()
    fake_bank, _ = party(tmp_path / "fake-bank", "bank")
    fake_retailer, _ = party(tmp_path / "fake-retailer", "retailer")
    for first, second in [(fake_bank, retailer), (bank, fake_retailer)]:
        server, client = contexts(first, second, retailer_pem, bank_pem)
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(server, client, "bank.vfl")
