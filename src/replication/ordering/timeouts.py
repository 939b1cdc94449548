"""Timeouts, the certificates they make, and the floor a certificate puts under the next view.

A timeout certificate carries each member's own report and proves only the highest: under-reporting is
harmless, since the highest of a quorum counts, and over-reporting is impossible, since the highest must be
proven. (The structure is that of Jolteon, Gelashvili and others, 2022.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from replication.identity.members import MemberSet
from replication.ordering.certificates import Certificate, CertificateError, check_certificate
from replication.ordering.quorum import commit_quorum
from replication.ordering.statements import Phase, Statement, Timeout, is_signed_by_member

__all__ = [
    "Floor",
    "TimeoutCertificate",
    "TimeoutReport",
    "check_timeout_certificate",
    "check_timeout_report",
    "form_timeout_certificate",
]


@dataclass(frozen=True, slots=True)
class Floor:
    """What a view may build on: only heights above `height`, and at `height + 1` only `block_hash`, if
    given."""

    height: int
    block_hash: bytes | None = None

    def admits(self, height: int, block_hash: bytes) -> bool:
        """Whether a block may be prepared in the view."""
        if height - 1 != self.height:
            return height - 1 > self.height
        return self.block_hash is None or self.block_hash == block_hash


@dataclass(frozen=True)
class TimeoutReport:
    """A timeout with the certificates that prove it, and the coordinator's block its signer saw last."""

    timeout: Timeout
    committed: Certificate | None
    lock: Certificate | None
    seen: Statement | None = None


@dataclass(frozen=True)
class TimeoutCertificate:
    """Timeouts of a commit quorum of distinct members for one view, with proof of the highest report.

    `committed` is None when the highest committed height is that at which the epoch began.
    """

    timeouts: tuple[Timeout, ...]
    committed: Certificate | None
    lock: Certificate | None

    @property
    def epoch(self) -> int:
        return self.timeouts[0].epoch

    @property
    def view(self) -> int:
        """The view that is over."""
        return self.timeouts[0].view

    @cached_property
    def floor(self) -> Floor:
        """What the next view may build on."""
        height = max(timeout.committed_height for timeout in self.timeouts)
        return Floor(height, None if self.lock is None else self.lock.key.block_hash)

    def digest(self, cluster_id: bytes) -> bytes:
        """SHA-256 over the timeouts' sign-bytes and signatures, each with its length: the certificate's
        name."""
        hasher = sha256()
        for timeout in self.timeouts:
            for part in (timeout.sign_bytes(cluster_id), timeout.signature):
                hasher.update(len(part).to_bytes(4, "big") + part)
        return hasher.digest()


def check_timeout_report(
    report: TimeoutReport, cluster_id: bytes, members: MemberSet, base_height: int
) -> None:
    """Raise CertificateError unless the report is signed by its member and proven in full."""
    timeout = report.timeout
    _check_proofs(timeout, report.committed, report.lock, cluster_id, members, base_height)
    _check_signature(timeout, cluster_id, members)


def check_timeout_certificate(
    certificate: TimeoutCertificate, cluster_id: bytes, members: MemberSet, base_height: int
) -> None:
    """Raise CertificateError unless a commit quorum of distinct members timed out of exactly this view, and
    the highest of their reports is proven. `base_height` is the height at which the epoch began."""
    timeouts = certificate.timeouts
    quorum = commit_quorum(members.n)
    if not quorum <= len(timeouts) <= members.n:
        raise CertificateError(
            f"timeout certificate: {len(timeouts)} timeouts, {quorum} to {members.n} needed"
        )
    where = f"timeout certificate for view {certificate.view}"
    last = -1
    for timeout in timeouts:
        if timeout.signer not in members or timeout.epoch != members.epoch:
            raise CertificateError(f"{where}: {timeout.signer} is not a member in epoch {timeout.epoch}")
        position = members.index_of(timeout.signer)
        if position <= last:
            raise CertificateError(f"{where}: signers are repeated or not in member order")
        if timeout.view != certificate.view:
            raise CertificateError(f"{where}: {timeout.signer} timed out of view {timeout.view}")
        last = position
    highest = max(timeouts, key=lambda item: item.report)
    _check_proofs(highest, certificate.committed, certificate.lock, cluster_id, members, base_height)
    for timeout in timeouts:
        _check_signature(timeout, cluster_id, members)


def form_timeout_certificate(reports: Mapping[str, TimeoutReport], members: MemberSet) -> TimeoutCertificate:
    """The certificate over checked reports of one view, by member."""
    ordered = sorted(reports.values(), key=lambda report: members.index_of(report.timeout.signer))
    highest = max(ordered, key=lambda report: report.timeout.report)
    return TimeoutCertificate(tuple(report.timeout for report in ordered), highest.committed, highest.lock)


def _check_proofs(
    timeout: Timeout,
    committed: Certificate | None,
    lock: Certificate | None,
    cluster_id: bytes,
    members: MemberSet,
    base_height: int,
) -> None:
    where = f"timeout of {timeout.signer} for view {timeout.view}"
    if timeout.epoch != members.epoch:
        raise CertificateError(
            f"{where}: epoch {timeout.epoch}, but the members are those of {members.epoch}"
        )
    if timeout.committed_height < base_height or (committed is None) != (
        timeout.committed_height == base_height
    ):
        raise CertificateError(f"{where}: committed height {timeout.committed_height} is not proven")
    if (lock is None) != (timeout.lock is None):
        raise CertificateError(f"{where}: its lock is not proven")
    if committed is not None:
        if committed.key.height != timeout.committed_height:
            raise CertificateError(
                f"{where}: the proof of its committed height is for {committed.key.height}"
            )
        check_certificate(committed, Phase.COMMIT, cluster_id, members)
    if lock is not None and timeout.lock is not None:
        proven = (lock.key.view, lock.key.block_hash, lock.key.height)
        if proven != (timeout.lock.view, timeout.lock.block_hash, timeout.committed_height + 1):
            raise CertificateError(f"{where}: the proof of its lock is for another block, view or height")
        if timeout.lock.view > timeout.view:
            raise CertificateError(f"{where}: locked in view {timeout.lock.view}, which comes later")
        check_certificate(lock, Phase.PREPARE, cluster_id, members)


def _check_signature(timeout: Timeout, cluster_id: bytes, members: MemberSet) -> None:
    if not is_signed_by_member(timeout, cluster_id, members):
        raise CertificateError(f"the timeout of {timeout.signer} for view {timeout.view} is not signed by it")
