"""What was verified, for people and programs. Digests and hashes are raw bytes; times are milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .tally import APPROVED

__all__ = ["CertificateReport", "ExportReport"]


@dataclass(frozen=True, slots=True)
class ExportReport:
    """A whole record that verified.

    A record that ends earlier than the cluster's is still whole: compare `height` and `block_hash` with what
    the nodes, or a record seen before, say. `decisions` counts by "approved", "rejected", "no_quorum" and
    "expired"; `events` by event type. `signatures` is how many were verified (one for all votes of a ballot).
    `epoch` is that of the next block, `faulty` are the members of it that are proven faulty.
    """

    cluster_id: bytes
    height: int
    time_ms: int
    block_hash: bytes
    audit_size: int
    audit_head: bytes
    blocks: int
    entries: int
    signatures: int
    proposals: int
    open_proposals: int
    executed: int
    decisions: Mapping[str, int]
    events: Mapping[str, int]
    epoch: int = 0
    faulty: tuple[str, ...] = ()

    @property
    def head(self) -> bytes:
        """The last hash of the audit chain."""
        return self.audit_head


@dataclass(frozen=True, slots=True)
class CertificateReport:
    """A decision that verified. `votes` are those on record when it was taken, in order, as they were signed;
    those of the `excluded`, who are proven faulty, count as abstentions. `signers` committed the block."""

    cluster_id: bytes
    proposal_id: str
    proposer: str
    action: str
    target: str
    evidence: Mapping[str, object]
    digest: bytes
    decision: str
    cause: str
    votes: Mapping[str, str]
    height: int
    time_ms: int
    block_hash: bytes
    tally_sequence: int
    signers: tuple[str, ...]
    signatures: int
    epoch: int = 0
    excluded: tuple[str, ...] = ()

    @property
    def authorises(self) -> bool:
        """Whether the action may be carried out: only ever by an approval."""
        return self.decision == APPROVED

    @property
    def expired(self) -> bool:
        """Whether the proposal lapsed undecided, which is not a rejection."""
        return self.cause == "expired"
