"""Certificates: the same statement, signed by a commit quorum of distinct members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from replication.errors import PeerError
from replication.identity.members import MemberSet
from replication.ordering.quorum import commit_quorum
from replication.ordering.statements import Phase, Statement, StatementKey, is_signed_by_member

__all__ = [
    "Certificate",
    "CertificateError",
    "ConflictingStatementError",
    "StatementCollector",
    "check_certificate",
]


class CertificateError(PeerError):
    """A certificate proves nothing: too few, duplicate, foreign or invalid signatures."""

    reason: ClassVar[str] = "CERTIFICATE_INVALID"


class ConflictingStatementError(PeerError):
    """One member signed two different blocks at one position. `first` and `second` prove it."""

    reason: ClassVar[str] = "EQUIVOCATION"

    def __init__(self, first: Statement, second: Statement) -> None:
        super().__init__(
            f"{second.signer} signed two {second.key.phase.value} statements at view {second.key.view}, height "
            f"{second.key.height}: {first.key.block_hash.hex()[:16]} and {second.key.block_hash.hex()[:16]}"
        )
        self.first = first
        self.second = second


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
    if any(left >= right for left, right in zip(positions, positions[1:], strict=False)):
        raise CertificateError(f"{where}: signers are repeated or not in member order")
    for signer, signature in certificate.signatures:
        if not is_signed_by_member(Statement(key, signer, signature), cluster_id, members):
            raise CertificateError(f"{where}: the signature of {signer} does not verify")


class StatementCollector:
    """Adds up the statements of one phase at one height until they make a certificate.

    Keeps the first statement of each member and position for ever (until `clear`), since the first of two
    conflicting ones is half of the evidence.
    """

    def __init__(self, phase: Phase, cluster_id: bytes, members: MemberSet) -> None:
        self._phase = phase
        self._cluster_id = cluster_id
        self._members = members
        self._quorum = commit_quorum(members.n)
        self._first: dict[tuple[str, tuple[int, int]], Statement] = {}

    def signers(self, key: StatementKey) -> set[str]:
        """Members that signed exactly this key."""
        return {statement.signer for statement in self._first.values() if statement.key == key}

    def add(self, statement: Statement) -> Certificate | None:
        """Count a statement; return the certificate when it completes the quorum, and only then.

        Checks membership, then repetition or conflict, and the signature last. Raises PeerError for a statement
        that is not valid and ConflictingStatementError for the second of two contradicting valid ones.
        """
        if statement.key.phase is not self._phase or statement.signer not in self._members:
            raise PeerError(f"{statement.signer}: not a {self._phase.value} statement of a member")
        slot = (statement.signer, statement.key.position)
        known = self._first.get(slot)
        if known is not None and known.key == statement.key:
            return None
        if not is_signed_by_member(statement, self._cluster_id, self._members):
            raise PeerError(f"{statement.signer}: the signature of its {self._phase.value} does not verify")
        if known is not None:
            raise ConflictingStatementError(known, statement)
        self._first[slot] = statement
        return self._certificate(statement.key)

    def _certificate(self, key: StatementKey) -> Certificate | None:
        found = {item.signer: item.signature for item in self._first.values() if item.key == key}
        if len(found) != self._quorum:
            return None
        ordered = sorted(found.items(), key=lambda item: self._members.index_of(item[0]))
        return Certificate(key, tuple(ordered))

    def clear(self) -> None:
        """Forget everything: the height is decided."""
        self._first.clear()
