"""Evidence by itself, without the record around it: it proves itself to whoever knows the member's key."""

from __future__ import annotations

from collections.abc import Mapping

from replication.identity.members import MemberSet

from .blame import SignedEvidence
from .records import Entry
from .signatures import CurrentEpoch, SignatureChecker

__all__ = ["verify_evidence"]


def verify_evidence(data: Mapping[str, object], cluster_id: bytes, members: MemberSet) -> str:
    """Verify the data of an evidence entry; return the member that it proves to have contradicted itself.

    Args:
        data: the entry's data, as JSON values.
        cluster_id: of the genesis file that is trusted.
        members: of the epoch in which both statements were signed.

    Raises:
        VerificationError: a signature is not the accused's, the statements do not contradict each other, or
            they are of another epoch than `members`.
    """
    entry = Entry(0, "evidence", "", "cluster", dict(data), 0, "", b"")
    return SignedEvidence.read(entry, SignatureChecker(cluster_id, CurrentEpoch(members))).accused
