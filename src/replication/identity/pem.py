"""Certificates, keys and requests as PEM, read strictly: ECDSA P-256 and nothing else.

Errors are those of `roles`. What is read has the shape that it should have; whether it can be trusted is for
`tls`.
"""

from __future__ import annotations

from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from replication.identity.roles import CertificateMalformedError

__all__ = [
    "MAX_AUTHORITIES",
    "certificate_to_pem",
    "extension",
    "load_authorities",
    "load_authority",
    "load_certificate",
    "load_key",
    "requested_key",
]

MAX_AUTHORITIES: Final = 4
"""How many may be trusted at a time: two while one follows the other, and some for crashes on the way."""

_E = TypeVar("_E", bound=x509.ExtensionType)


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key of a certificate."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateMalformedError(
            "the private key is not an unencrypted PEM key. Check the file."
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateMalformedError("the private key of a certificate must be ECDSA P-256")
    return key


def requested_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key that a request, signed by it, wants certified."""
    try:
        request = x509.load_pem_x509_csr(pem)
        key, signed = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise CertificateMalformedError(
            "this is not a request for a certificate in PEM. Make a new one."
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not _is_p256(key) or not signed:
        raise CertificateMalformedError(
            "a request for a certificate must be signed by its own ECDSA P-256 key. Make a new one."
        )
    return key


def load_certificate(pem: bytes) -> x509.Certificate:
    """The one certificate in `pem`."""
    certificates = _load_pem(pem)
    if len(certificates) != 1:
        raise CertificateMalformedError(
            f"one certificate is expected, not {len(certificates)}. Check the file."
        )
    return _readable(certificates[0])


def load_authority(pem: bytes) -> x509.Certificate:
    """The one authority in `pem`."""
    return _as_authority(load_certificate(pem))


def load_authorities(pem: bytes) -> list[x509.Certificate]:
    """The authorities in `pem`, at most `MAX_AUTHORITIES`."""
    certificates = _load_pem(pem)
    if len(certificates) > MAX_AUTHORITIES:
        raise CertificateMalformedError(
            f"at most {MAX_AUTHORITIES} authorities are trusted at a time, not {len(certificates)}. Keep "
            "those that certificates in use were issued by."
        )
    return [_as_authority(_readable(certificate)) for certificate in certificates]


def _load_pem(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise CertificateMalformedError("this is not a certificate in PEM. Check the file.") from error


def _readable(certificate: x509.Certificate) -> x509.Certificate:
    try:
        public_key = certificate.public_key()
        _ = certificate.extensions
    except (
        ValueError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise CertificateMalformedError(f"the certificate cannot be read: {error}") from error
    if not _is_p256(public_key):
        raise CertificateMalformedError("the key of a certificate must be ECDSA P-256. Issue a new one.")
    return certificate


def _is_p256(public_key: object) -> bool:
    return isinstance(public_key, ec.EllipticCurvePublicKey) and isinstance(public_key.curve, ec.SECP256R1)


def _as_authority(authority: x509.Certificate) -> x509.Certificate:
    """Refuse all but a self-signed authority that may sign leaves and nothing else."""
    constraints = extension(authority, x509.BasicConstraints)
    usage = extension(authority, x509.KeyUsage)
    # Only an authority can have a path length (RFC 5280, section 4.2.1.9; reading any other fails above).
    if constraints is None or constraints.path_length != 0:
        raise CertificateMalformedError(
            "an authority's certificate must say that it is one, with path length 0"
        )
    if usage is None or not usage.key_cert_sign:
        raise CertificateMalformedError("an authority's certificate must allow its key to sign certificates")
    try:
        authority.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CertificateMalformedError("an authority's certificate must be signed by its own key") from error
    return authority


def extension(certificate: x509.Certificate, kind: type[_E]) -> _E | None:
    """The certificate's extension of that kind, if it has one."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def certificate_to_pem(certificate: x509.Certificate) -> bytes:
    """Back into PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)
