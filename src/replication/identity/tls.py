"""Transport certificates: a cluster's own authority, and the identity (cluster, role, name) in a certificate.

Certificates are ECDSA P-256, because gRPC cannot do TLS with Ed25519. The identity stands in a subject
alternative name of type URI, ``acp://<cluster id in hex>/<role>/<name>``; common names are for people and
never trusted. The first authority is made before the genesis file, which holds its certificate, and so pins
it by the cluster's id; leaf certificates are issued afterwards, and name the cluster. An authority can be
followed by another: who judges certificates has a file of the authorities to trust, one after the other.

A certificate opens a connection and carries a role. It never signs a vote: that is what the Ed25519 keys in
the genesis file are for.

Certificates and keys are PEM as bytes, as gRPC wants them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import re
from collections.abc import Collection, Sequence
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from replication.identity.pem import (
    certificate_to_pem,
    extension,
    load_authorities,
    load_authority,
    load_certificate,
    load_key,
    requested_key,
)
from replication.identity.private_files import require_private, write_private
from replication.identity.roles import (
    CertificateError,
    CertificateExpiredError,
    CertificateForeignError,
    CertificateMalformedError,
    CertificateNotYetValidError,
    CertificateWrongRoleError,
    Identity,
    Role,
    identity_from_sans,
)

__all__ = [
    "CertificateError",
    "CertificateExpiredError",
    "CertificateForeignError",
    "CertificateMalformedError",
    "CertificateNotYetValidError",
    "CertificateWrongRoleError",
    "Identity",
    "Role",
    "authority_of",
    "authority_with_key",
    "check_authorities",
    "check_authority",
    "check_certificate",
    "check_request",
    "create_authority",
    "create_request",
    "identity_from_certificate",
    "identity_from_sans",
    "issue",
    "issue_requested",
    "require_key_pair",
    "require_private",
    "write_private",
]

AUTHORITY_DAYS: Final = 3650
"""The authority's certificate is part of the genesis file; another authority can follow it."""

LEAF_DAYS: Final = 365
"""Certificates of nodes and clients are renewed within a year."""

CLOCK_ALLOWANCE: Final = dt.timedelta(minutes=5)
"""New certificates are valid from a little earlier, for hosts whose clock is behind."""

_DNS_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*",
    re.ASCII,
)
_LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")


# ---------------------------------------------------------------------------------------- making certificates


def create_authority(
    name: str, days: float = AUTHORITY_DAYS, not_before: dt.datetime | None = None
) -> tuple[bytes, bytes]:
    """A new authority for one cluster: (certificate, private key), both PEM.

    It may sign leaf certificates only (path length 0). The key belongs in a file by `write_private`, off the
    nodes.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    first, last = _validity(days, not_before)
    subject = _subject(name)
    builder = _builder(subject, subject, key.public_key(), first, last)
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate_to_pem(certificate), _key_pem(key)


def issue(
    authority_cert: bytes,
    authority_key: bytes,
    cluster_id: bytes,
    role: Role,
    name: str,
    hosts: Sequence[str] = (),
    days: float = LEAF_DAYS,
    not_before: dt.datetime | None = None,
) -> tuple[bytes, bytes]:
    """A new key and its certificate for `name` in `role`: (certificate, private key), both PEM.

    For everything in one place. Elsewhere keys stay where they are made (`create_request`).
    Raises as `issue_requested`.
    """
    identity = Identity(cluster_id, role, name)
    request, key = create_request(f"{role.value} {name}")
    certificate = issue_requested(
        authority_cert, authority_key, request, identity, hosts, days=days, not_before=not_before
    )
    return certificate, key


def create_request(name: str) -> tuple[bytes, bytes]:
    """A new private key and a request to certify it (PKCS #10): (request, private key), both PEM.

    The `name` is for people. What the certificate will say is decided by whoever issues it.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(_subject(name)).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM), _key_pem(key)


def check_request(request_pem: bytes) -> None:
    """Raise `CertificateMalformedError` unless it is PEM, of an ECDSA P-256 key, and signed by that key."""
    requested_key(request_pem)


def issue_requested(
    authority_cert: bytes,
    authority_key: bytes,
    request_pem: bytes,
    identity: Identity,
    hosts: Sequence[str] = (),
    *,
    days: float = LEAF_DAYS,
    not_before: dt.datetime | None = None,
) -> bytes:
    """The certificate (PEM) of the key in a request, for `identity`; nothing else of the request is used.

    A node's certificate serves and connects. It is good for `hosts` (DNS names or IP addresses) and, without
    being told, for localhost and for the member's id where that is a DNS name. All other roles only connect,
    and have no hosts. Certificates do not outlive the authority's own. Of several authorities, the one that
    the key belongs to issues.

    Raises:
        CertificateError: a bad request, host or number of days; a key that is not the authority's; an
            authority that is no longer valid when the certificate would begin.
    """
    signer = load_key(authority_key)
    authority = _with_key(authority_cert, signer)
    first, last = _validity(days, not_before)
    last = min(last, authority.not_valid_after_utc)
    if last <= first:
        raise CertificateExpiredError(
            f"the authority's certificate expired on {last:%Y-%m-%d}. Nothing can be issued."
        )
    key, role = requested_key(request_pem), identity.role
    builder = _builder(_subject(f"{role.value} {identity.name}"), authority.subject, key, first, last)
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_purposes(role)), critical=False)
        .add_extension(_alternative_names(identity, hosts), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    return certificate_to_pem(certificate)


# --------------------------------------------------------------------------------------- judging certificates


def identity_from_certificate(certificate_pem: bytes) -> Identity:
    """The identity in a certificate. Says nothing about who issued it, or whether it is still good.

    Raises:
        CertificateMalformedError: not a certificate, or without exactly one identity.
    """
    return _identity(load_certificate(certificate_pem))


def check_certificate(
    cert_pem: bytes,
    authority_pem: bytes,
    now: dt.datetime,
    *,
    cluster_id: bytes | None = None,
    roles: Collection[Role] | None = None,
    name: str | None = None,
) -> Identity:
    """Judge a certificate as TLS would, and its identity as the cluster does; return the identity.

    Args:
        cert_pem: the certificate.
        authority_pem: the certificates of the authorities to trust; the one that issued it must be valid now.
        now: the time to judge by, with a time zone.
        cluster_id: the cluster that must be named; None to accept any.
        roles: the roles that will do; None to accept any.
        name: the name that must be named; None to accept any.

    Raises:
        CertificateMalformedError: not a certificate, or not of the shape that `issue` makes.
        CertificateForeignError: issued by another authority, or for another cluster.
        CertificateExpiredError, CertificateNotYetValidError: it, or the authority's, is not valid now.
        CertificateWrongRoleError: for another role or name.
    """
    authorities = load_authorities(authority_pem)
    certificate = load_certificate(cert_pem)
    authority = _issuer(certificate, authorities)
    _require_valid_at(authority, "the authority's certificate", now)
    _require_valid_at(certificate, "the certificate", now)
    identity = _identity(certificate)
    _require_leaf_shape(certificate, identity)
    if cluster_id is not None and identity.cluster_id != cluster_id:
        raise CertificateForeignError(
            f"the certificate is for cluster {identity.cluster_id.hex()}, this is {cluster_id.hex()}. "
            "Use the certificate that was issued for this cluster's genesis file."
        )
    if roles is not None and identity.role not in roles:
        wanted = " or ".join(sorted(role.value for role in roles))
        raise CertificateWrongRoleError(
            f"the certificate of {identity.name} is for the role {identity.role.value}, not for {wanted}. "
            "Use or issue a certificate for that role."
        )
    if name is not None and identity.name != name:
        raise CertificateWrongRoleError(
            f"the certificate is for {identity.name}, but must be for {name}. Use the certificate of {name}."
        )
    return identity


def check_authority(authority_pem: bytes, now: dt.datetime | None = None) -> None:
    """Judge an authority's certificate: its shape and its own signature, and its dates if `now` is given.

    Raises:
        CertificateMalformedError: not one self-signed P-256 authority with path length 0.
        CertificateExpiredError, CertificateNotYetValidError: not valid now.
    """
    authority = load_authority(authority_pem)
    if now is not None:
        _require_valid_at(authority, "the authority's certificate", now)


def check_authorities(authority_pem: bytes) -> bytes:
    """Judge the certificates of the authorities to trust, whatever their dates; return them without anything
    that stood between them.

    Raises:
        CertificateMalformedError: none, more than `MAX_AUTHORITIES`, or one that `check_authority` refuses.
    """
    return b"".join(map(certificate_to_pem, load_authorities(authority_pem)))


def authority_of(certificate_pem: bytes, authority_pem: bytes) -> bytes:
    """The one of several authorities that issued a certificate, PEM.

    Raises:
        CertificateForeignError: none of them did.
        CertificateMalformedError: one of the two is not what it should be.
    """
    return certificate_to_pem(_issuer(load_certificate(certificate_pem), load_authorities(authority_pem)))


def authority_with_key(key_pem: bytes, authority_pem: bytes) -> bytes:
    """The one of several authorities that a private key belongs to, PEM.

    Raises:
        CertificateMalformedError: none of them has that key, or one of the two is not what it should be.
    """
    return certificate_to_pem(_with_key(authority_pem, load_key(key_pem)))


def require_key_pair(cert_pem: bytes, key_pem: bytes) -> None:
    """Refuse a private key that does not belong to a certificate.

    Raises:
        CertificateMalformedError: one of the two is malformed, or they are not a pair.
    """
    if load_key(key_pem).public_key() != load_certificate(cert_pem).public_key():
        raise CertificateMalformedError(
            "the private key and the certificate are not a pair. Give the two that belong together."
        )


# -------------------------------------------------------------------------------------------------- internals


def _validity(days: float, not_before: dt.datetime | None) -> tuple[dt.datetime, dt.datetime]:
    if not days > 0:
        raise CertificateMalformedError(f"a certificate must be valid for more than 0 days, not {days}")
    if not_before is None:
        now = dt.datetime.now(dt.UTC)
        first, last = now - CLOCK_ALLOWANCE, now + dt.timedelta(days=days)
    else:
        _require_aware(not_before, "not_before")
        first, last = not_before, not_before + dt.timedelta(days=days)
    # Certificates count whole seconds; cut here, so that the dates compare as they will be written.
    return first.replace(microsecond=0), last.replace(microsecond=0)


def _require_aware(time: dt.datetime, what: str) -> None:
    if time.tzinfo is None:
        raise ValueError(f"{what} must carry a time zone: {time!r}")


def _subject(name: str) -> x509.Name:
    try:
        # RFC 5280 allows 64 characters; the name is for people, so it is cut and not refused.
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    except ValueError as error:
        raise CertificateMalformedError(f"{name!r:.80} cannot name a certificate: {error}") from error


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    first: dt.datetime,
    last: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(last)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _purposes(role: Role) -> list[x509.ObjectIdentifier]:
    if role is Role.NODE:
        return [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return [ExtendedKeyUsageOID.CLIENT_AUTH]


def _alternative_names(identity: Identity, hosts: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    if identity.role is Role.NODE:
        own = [identity.name] if _DNS_NAME.fullmatch(identity.name) else []
        names += [_host(host) for host in dict.fromkeys((*hosts, *_LOCAL_HOSTS, *own))]
    elif hosts:
        raise CertificateMalformedError(
            f"only nodes serve; a certificate of role {identity.role.value} has no hosts"
        )
    return x509.SubjectAlternativeName(list(dict.fromkeys(names)))


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if _DNS_NAME.fullmatch(host) is None:
            raise CertificateMalformedError(
                f"{host!r:.260} is neither an IP address nor a DNS name. Give hosts without port or scheme."
            ) from None
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _identity(certificate: x509.Certificate) -> Identity:
    names = extension(certificate, x509.SubjectAlternativeName)
    return identity_from_sans(
        names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else ()
    )


def _issuer(certificate: x509.Certificate, authorities: Sequence[x509.Certificate]) -> x509.Certificate:
    for authority in authorities:
        with contextlib.suppress(ValueError, TypeError, InvalidSignature):
            certificate.verify_directly_issued_by(authority)
            return authority
    raise CertificateForeignError(
        "the certificate was not issued by this cluster's authority. Issue a new one, or bring this "
        "cluster's ca.crt."
    )


def _with_key(authority_pem: bytes, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    for authority in load_authorities(authority_pem):
        if authority.public_key() == key.public_key():
            return authority
    raise CertificateMalformedError(
        "the authority's key and certificate are not a pair. Give the two that belong together."
    )


def _require_valid_at(certificate: x509.Certificate, what: str, now: dt.datetime) -> None:
    _require_aware(now, "now")
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < first:
        raise CertificateNotYetValidError(
            f"{what} is valid from {first:%Y-%m-%d %H:%M:%S} UTC, and this host's clock says "
            f"{now.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}. Check the clock, or wait."
        )
    if now > last:
        raise CertificateExpiredError(f"{what} expired on {last:%Y-%m-%d %H:%M:%S} UTC. Issue a new one.")


def _require_leaf_shape(certificate: x509.Certificate, identity: Identity) -> None:
    constraints = extension(certificate, x509.BasicConstraints)
    if constraints is None or constraints.ca:
        raise CertificateMalformedError("the certificate is one of an authority. A connection needs a leaf.")
    purposes = extension(certificate, x509.ExtendedKeyUsage)
    if purposes is None or set(purposes) != set(_purposes(identity.role)):
        raise CertificateMalformedError(
            f"the certificate's uses are not those of the role {identity.role.value}. Issue a new one."
        )
