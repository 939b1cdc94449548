"""Certificates: the same statement, signed by a commit quorum of distinct members."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from replication.errors import PeerError
from replication.identity.members import MemberSet
from replication.ordering.quorum import commit_quorum
from replication.ordering.statements import Phase, Statement, StatementKey, is_signed_by_member

__all__ = ["Certificate", "CertificateError", "StatementCollector", "check_certificate"]


class CertificateError(PeerError):
    """A certificate proves nothing: too few, duplicate, foreign or invalid signatures."""

    reason: ClassVar[str] = "CERTIFICATE_INVALID"


@dataclass(frozen=True)
class Certificate:
    """A statement key and the signatures under it, ordered by member. Immutable once checked."""

    key: StatementKey
    signatures: tuple[tuple[str, bytes], ...]


def check_certificate(certificate: Certificate, phase: Phase, cluster_id: bytes, members: MemberSet) -> None:
    """Raise CertificateError unless a commit quorum of distinct members signed exactly this key in `phase`.

    Every signature that is given must be valid: a certificate with a bad one is refused as a whole, so that
    what is stored and exported verifies signature by signature.
    """
    key = certificate.key
    where = f"{phase.value} certificate for height {key.height}, view {key.view}"
    if key.phase is not phase:
        raise CertificateError(f"{where}: its statements are of phase {key.phase.value}")
    if key.epoch != members.epoch:
        raise CertificateError(
            f"{where}: epoch {key.epoch}, but the members are those of epoch {members.epoch}"
        )
    quorum = commit_quorum(members.n)
    if not quorum <= len(certificate.signatures) <= members.n:
        raise CertificateError(
            f"{where}: {len(certificate.signatures)} signatures, {quorum} to {members.n} needed"
        )
    positions = [
        members.index_of(signer) if signer in members else -1 for signer, _ in certificate.signatures
    ]
    if -1 in positions:
        raise CertificateError(f"{where}: {certificate.signatures[positions.index(-1)][0]} is not a member")
    if any(left >= right for left, right in pairwise(positions)):
        raise CertificateError(f"{where}: signers are repeated or not in member order")
    for signer, signature in certificate.signatures:
        if not is_signed_by_member(Statement(key, signer, signature), cluster_id, members):
            raise CertificateError(f"{where}: the signature of {signer} does not verify")


class StatementCollector:
    """Adds up the statements of one phase until they make a certificate.

    Only statements with equal keys are added up: never those of different views, heights or blocks.
    """

    def __init__(self, phase: Phase, cluster_id: bytes, members: MemberSet) -> None:
        self._phase = phase
        self._cluster_id = cluster_id
        self._members = members
        self._quorum = commit_quorum(members.n)
        self._signatures: dict[StatementKey, dict[str, bytes]] = {}

    def signers(self, key: StatementKey) -> set[str]:
        """Members that signed exactly this key."""
        return set(self._signatures.get(key, ()))

    def add(self, statement: Statement) -> Certificate | None:
        """Count a statement; return the certificate when it completes the quorum, and only then.

        Checks membership, then repetition, and the signature last. Raises PeerError for an invalid statement.
        """
        key, signer = statement.key, statement.signer
        if key.phase is not self._phase or signer not in self._members:
            raise PeerError(f"{signer}: not a {self._phase.value} statement of a member")
        if signer in self._signatures.get(key, ()):
            return None
        if not is_signed_by_member(statement, self._cluster_id, self._members):
            raise PeerError(f"{signer}: the signature of its {self._phase.value} does not verify")
        found = self._signatures.setdefault(key, {})
        found[signer] = statement.signature
        if len(found) != self._quorum:
            return None
        ordered = sorted(found.items(), key=lambda item: self._members.index_of(item[0]))
        return Certificate(key, tuple(ordered))

    def clear(self) -> None:
        """Forget everything: the height is decided, or the view is over."""
        self._signatures.clear()
