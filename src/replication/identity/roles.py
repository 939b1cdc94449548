"""Who is at the other end of a connection: cluster, role and name, as a certificate's URI states them.

The URI is ``acp://<cluster id in hex>/<role>/<name>``, a subject alternative name. This module only reads it;
whether the certificate can be trusted is for TLS on a connection, and for `tls.check_certificate` on a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from replication.errors import OperatorError
from replication.identity.names import is_member_id

__all__ = [
    "CertificateError",
    "CertificateExpiredError",
    "CertificateForeignError",
    "CertificateMalformedError",
    "CertificateNotYetValidError",
    "CertificateWrongRoleError",
    "Identity",
    "Role",
    "identity_from_sans",
]

_SCHEME: Final = "acp:"
_URI: Final = re.compile(r"acp://([0-9a-f]{64})/([a-z]+)/([A-Za-z0-9._-]{1,64})", re.ASCII)


class CertificateError(OperatorError):
    """A transport certificate (or the authority's) cannot be used. The subclass says why."""

    reason: ClassVar[str] = "CERTIFICATE_REFUSED"


class CertificateMalformedError(CertificateError):
    """Not a certificate, or not one of the shape that `issue` and `create_authority` make."""

    reason: ClassVar[str] = "CERTIFICATE_MALFORMED"


class CertificateExpiredError(CertificateError):
    """The certificate is past its last day."""

    reason: ClassVar[str] = "CERTIFICATE_EXPIRED"


class CertificateNotYetValidError(CertificateError):
    """The certificate's first day is still to come, or the clock of this host is behind."""

    reason: ClassVar[str] = "CERTIFICATE_NOT_YET_VALID"


class CertificateForeignError(CertificateError):
    """The certificate was issued by another authority, or names another cluster."""

    reason: ClassVar[str] = "CERTIFICATE_FOREIGN"


class CertificateWrongRoleError(CertificateError):
    """The certificate is good, but for another role or name than the one called for."""

    reason: ClassVar[str] = "CERTIFICATE_WRONG_ROLE"


class Role(StrEnum):
    """What the holder of a certificate may ask for. Which request needs which role is the node's to say."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    EXECUTOR = "executor"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is at the other end of a connection: a name in a role, in one cluster (its raw 32-byte id).

    Raises:
        CertificateMalformedError: the cluster id does not have 32 bytes, or the name is not an identifier.
    """

    cluster_id: bytes
    role: Role
    name: str

    def __post_init__(self) -> None:
        if type(self.cluster_id) is not bytes or len(self.cluster_id) != 32:
            raise CertificateMalformedError("the cluster id of a certificate must be 32 raw bytes")
        if not isinstance(self.role, Role):
            raise CertificateMalformedError(f"{self.role!r:.80} is not a role; known are {', '.join(Role)}")
        if not is_member_id(self.name):
            raise CertificateMalformedError(
                f"the name in a certificate must be 1 to 64 of A-Z a-z 0-9 . _ -, not {self.name!r:.80}"
            )

    @property
    def uri(self) -> str:
        """The identity as it stands in a certificate."""
        return f"acp://{self.cluster_id.hex()}/{self.role.value}/{self.name}"


def identity_from_sans(sans: Iterable[str | bytes]) -> Identity:
    """The identity among subject alternative names.

    gRPC lists those of a peer under ``x509_subject_alternative_name``, all types in one list.

    Raises:
        CertificateMalformedError: there is not exactly one identity, or it is not spelt as `Identity.uri`.
    """
    texts = [san.decode("utf-8", "replace") if isinstance(san, bytes) else san for san in sans]
    uris = [text for text in texts if text.lower().startswith(_SCHEME)]
    if len(uris) != 1:
        raise CertificateMalformedError(
            f"a certificate must name one identity (acp://cluster/role/name), this one names {len(uris)}. "
            "Issue a new one with this program."
        )
    match = _URI.fullmatch(uris[0])
    if match is None or match[2] not in set(Role):
        raise CertificateMalformedError(
            f"{uris[0]!r:.200} is not an identity acp://<cluster id, 64 hex digits>/<role>/<name>; "
            f"roles are {', '.join(Role)}"
        )
    return Identity(bytes.fromhex(match[1]), Role(match[2]), match[3])
