"""What travels when hosts enrol in a cluster: invitation, request, bundle. All are JSON, and public.

* **Invitation**, from the authority to every host: the cluster's name, its authority's certificate, and the
  nonce of the genesis file to be. A genesis file serves as one too.
* **Request** to join, from a host to the authority: who it wants to be, in which role, and a request to
  certify the transport key that it made. Nodes and executors add their Ed25519 public key with the proof of
  possession, a node its address, and sign the whole with that key, so that nobody on the way can put in a
  transport key of their own. The same request renews a certificate, and says of a later member what `acp
  members add` asks for.
* **Bundle**, back from the authority: the genesis file and the certificate.

The parsers are strict, and verify every signature; what they return can be relied on. Whether the sender is
the one that was meant is for people: the file has to come from that host, or its digest has to be compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar, Final

import rfc8785

from replication.errors import OperatorError
from replication.identity.genesis import GENESIS_FORMAT, MAX_GENESIS_BYTES, Genesis, is_address, parse_genesis
from replication.identity.keys import SigningKey, verify
from replication.identity.members import admit_member_key, prove_possession
from replication.identity.names import is_member_id
from replication.identity.roles import Identity, Role
from replication.identity.signbytes import DIGEST_SIZE, enrolment_bytes
from replication.identity.tls import check_authority, check_request, identity_from_certificate

__all__ = [
    "SIGNERS",
    "Bundle",
    "EnrolmentError",
    "Invitation",
    "JoinRequest",
    "is_genesis",
    "make_bundle",
    "make_invitation",
    "make_request",
    "parse_bundle",
    "parse_invitation",
    "parse_request",
]

INVITATION_FORMAT: Final = "agent-consensus/invitation/1"
REQUEST_FORMAT: Final = "agent-consensus/join/1"
BUNDLE_FORMAT: Final = "agent-consensus/bundle/1"

MAX_BYTES: Final = 2 * MAX_GENESIS_BYTES
"""A bundle holds a genesis file; everything else is smaller."""

_REQUEST_KEYS: Final = ("format", "role", "name", "nonce", "tls_request")
_SIGNER_KEYS: Final = ("public_key", "possession", "signature")
_KEYS: Final = {
    Role.NODE.value: (*_REQUEST_KEYS, "address", *_SIGNER_KEYS),
    Role.EXECUTOR.value: (*_REQUEST_KEYS, *_SIGNER_KEYS),
}
SIGNERS: Final = frozenset({Role.NODE, Role.EXECUTOR})
"""The roles whose holders sign statements, with a key of their own."""


class EnrolmentError(OperatorError):
    """An invitation, a request or a bundle cannot be used, or does not belong here."""

    reason: ClassVar[str] = "ENROLMENT_REFUSED"


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a host has to know before it makes its request. `authority` is the certificate, PEM."""

    name: str
    nonce: bytes
    authority: bytes


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """A request whose signatures verify. Key and possession are empty unless the role is one of `SIGNERS`,
    the address unless it is node.

    `digest` is the SHA-256 of its canonical form, for people to compare."""

    role: Role
    name: str
    nonce: bytes
    tls_request: bytes
    digest: str
    address: str = ""
    public_key: bytes = b""
    possession: bytes = b""


@dataclass(frozen=True, slots=True)
class Bundle:
    """The answer to a request. The certificate has not been judged beyond its identity."""

    genesis: Genesis
    identity: Identity
    certificate: bytes


def make_invitation(invitation: Invitation) -> bytes:
    """The bytes of an invitation."""
    return _encode(
        {
            "format": INVITATION_FORMAT,
            "name": invitation.name,
            "nonce": invitation.nonce.hex(),
            "ca_certificate": invitation.authority.decode("ascii"),
        }
    )


def parse_invitation(raw: bytes) -> Invitation:
    """The invitation in `raw`, which may be a genesis file. Raises `EnrolmentError`, `CertificateError`,
    `GenesisError`."""
    if is_genesis(raw):
        genesis = parse_genesis(raw)
        return Invitation(genesis.name, genesis.nonce, genesis.ca_certificate)
    content = _object(raw, "invitation", INVITATION_FORMAT, ("format", "name", "nonce", "ca_certificate"))
    authority = content["ca_certificate"].encode()
    check_authority(authority)
    return Invitation(content["name"], _hex(content, "nonce", DIGEST_SIZE), authority)


def is_genesis(raw: bytes) -> bool:
    """Whether an invitation that was judged is the genesis file of a cluster that exists."""
    return _decode(raw, "invitation").get("format") == GENESIS_FORMAT


def make_request(
    invitation: Invitation,
    role: Role,
    name: str,
    tls_request: bytes,
    *,
    address: str = "",
    key: SigningKey | None = None,
) -> bytes:
    """The bytes of a request. A node gives its address and its key, an executor its key, others neither.

    Raises:
        EnrolmentError: the name or the address is none, or the role does not fit what is given.
    """
    content = {
        "format": REQUEST_FORMAT,
        "role": role.value,
        "name": name,
        "nonce": invitation.nonce.hex(),
        "tls_request": tls_request.decode("ascii"),
    }
    _require_name(name)
    if key is not None:
        content |= {"address": _require_address(address)} if role is Role.NODE else {}
        content |= {
            "public_key": key.public_key.hex(),
            "possession": prove_possession(key, name, invitation.nonce).hex(),
        }
        content["signature"] = key.sign(_signed(name, invitation.nonce, content)).hex()
    raw = _encode(content)
    parse_request(raw)
    return raw


def parse_request(raw: bytes) -> JoinRequest:
    """Judge a request.

    Raises:
        EnrolmentError: it is not of the one legal shape, or its signature does not verify.
        CertificateMalformedError: of the transport key's own request.
        KeyRefusedError, MemberSetError: of the member's key and its proof of possession.
    """
    given = _decode(raw, "request").get("role")
    keys = _KEYS.get(given, _REQUEST_KEYS) if isinstance(given, str) else _REQUEST_KEYS
    content = _object(raw, "request", REQUEST_FORMAT, keys)
    try:
        role = Role(content["role"])
    except ValueError:
        known = ", ".join(item.value for item in Role)
        raise EnrolmentError(f"the request's role {given!r:.80} is none. Roles are {known}.") from None
    name, nonce = _require_name(content["name"]), _hex(content, "nonce", DIGEST_SIZE)
    tls_request = content["tls_request"].encode()
    check_request(tls_request)
    digest = sha256(rfc8785.dumps(dict(content))).hexdigest()
    if role not in SIGNERS:
        return JoinRequest(role, name, nonce, tls_request, digest)
    address = _require_address(content["address"]) if role is Role.NODE else ""
    public_key, possession = _hex(content, "public_key", 32), _hex(content, "possession", 64)
    admit_member_key(name, public_key, nonce, possession)
    signed = _signed(name, nonce, {key: value for key, value in content.items() if key != "signature"})
    if not verify(public_key, _hex(content, "signature", 64), signed):
        raise EnrolmentError(
            f"the request of {name} was changed after it was signed: its signature does not verify. Have it "
            "made and sent again."
        )
    return JoinRequest(role, name, nonce, tls_request, digest, address, public_key, possession)


def make_bundle(genesis: Genesis, certificate: bytes) -> bytes:
    """The bytes of a bundle."""
    return _encode(
        {
            "format": BUNDLE_FORMAT,
            "genesis": genesis.raw.decode("utf-8"),
            "certificate": certificate.decode("ascii"),
        }
    )


def parse_bundle(raw: bytes) -> Bundle:
    """The bundle in `raw`. Raises `EnrolmentError`, `GenesisError`, `CertificateError`."""
    content = _object(raw, "bundle", BUNDLE_FORMAT, ("format", "genesis", "certificate"))
    certificate = content["certificate"].encode()
    return Bundle(
        parse_genesis(content["genesis"].encode()), identity_from_certificate(certificate), certificate
    )


def _signed(name: str, nonce: bytes, content: Mapping[str, str]) -> bytes:
    return enrolment_bytes(member=name, nonce=nonce, digest=sha256(rfc8785.dumps(dict(content))).digest())


def _encode(content: Mapping[str, str]) -> bytes:
    return json.dumps(content, indent=2).encode("ascii") + b"\n"


def _decode(raw: bytes, what: str) -> dict[str, Any]:
    if len(raw) > MAX_BYTES:
        raise EnrolmentError(f"the {what} is larger than {MAX_BYTES} bytes. Check that it is the right file.")
    try:
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise EnrolmentError(
            f"the {what} is not valid JSON: {error}. Copy it again from its source."
        ) from error
    if not isinstance(content, dict):
        raise EnrolmentError(f"the {what} must be a JSON object. Check that it is the right file.")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key is given twice in one object")
    return content


def _object(raw: bytes, what: str, form: str, keys: tuple[str, ...]) -> dict[str, str]:
    content = _decode(raw, what)
    if content.get("format") != form:
        raise EnrolmentError(
            f'the {what} has the format {content.get("format")!r:.80}, not "{form}". Check that it is the '
            "right file."
        )
    for key in (*keys, *content):
        if key not in content or key not in keys:
            problem = "is missing" if key not in content else "is not a known key"
            raise EnrolmentError(f"{key[:80]!r} of the {what} {problem}. Copy the file again.")
        if not isinstance(content[key], str) or not _is_unicode(content[key]):
            raise EnrolmentError(f"{key!r} of the {what} must be a string of Unicode text.")
    return content


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _hex(content: Mapping[str, str], key: str, size: int) -> bytes:
    text = content[key]
    if len(text) == 2 * size and set(text) <= set("0123456789abcdef"):
        return bytes.fromhex(text)
    raise EnrolmentError(f"{key!r} must be {size} bytes as {2 * size} lower-case hex digits")


def _require_name(name: str) -> str:
    if not is_member_id(name):
        raise EnrolmentError(f"{name!r:.100} cannot be a name. Use up to 64 of A-Z a-z 0-9 . _ - only.")
    return name


def _require_address(address: str) -> str:
    if not is_address(address):
        raise EnrolmentError(
            f"{address!r:.200} cannot be a node's address. Write HOST:PORT, IPv6 as [address]:port."
        )
    return address
