"""The voting rules: proposals, votes, tallies, and the hash chain that records them.

    from replication.consensus import ConsensusProtocol, VoteValue

    session = ConsensusProtocol(["anna", "ben", "cleo", "dan"])
    proposal_id = session.propose("anna", "quarantine", target="agent-7", evidence={"score": 0.97})
    for voter in ("anna", "ben", "cleo"):
        session.vote(proposal_id, voter, VoteValue.APPROVE)
    if session.tally(proposal_id).approved:
        session.execute(proposal_id)

Theory
------
Of n voters, up to f = floor((n - 1) / 3) may crash, lie or be taken over. Two rules follow from that, and no
configuration or weight can override them: at least 2f + 1 voters must take a side (so that the honest among
them outnumber the faulty), and at least f + 1 voters, by head count, must approve (so that the faulty alone
approve nothing). On top come the configured quorum, the majority or, for critical actions, supermajority of
the non-abstaining weight, and that more weight approves than rejects: a tie never approves.

Without a quorum, or past its expiry, a proposal ends in NO_QUORUM. That authorises nothing, and it is not a
rejection.

All arithmetic is exact. A float in the configuration means the simplest fraction that rounds to it, so two
thirds is two thirds, and a share that meets the threshold exactly passes on every machine.

Every event is an entry of a hash chain: SHA-256 over canonical JSON (RFC 8785) of its fields and the hash
before it.

Where things are
----------------
`protocol` runs a session in one process. `rules` counts one proposal (`Poll`) and knows when no missing vote
could change the outcome; the cluster's replicas use the same class. `chain` is the audit chain, `canonical`
its encoding, `analysis` finds who votes with whom, `model` holds the records, `config` the settings and
`errors` the refusals.

Not here: signatures, keys, networks, files and clocks. Nothing in this package reads any of them; the only
exception is the default clock of `ConsensusProtocol`.
"""

from __future__ import annotations

from replication.consensus.config import ConsensusConfig
from replication.consensus.model import (
    AuditEntry,
    Decision,
    Proposal,
    ProposalAction,
    ProposalStatus,
    TallyResult,
    Vote,
    VoteValue,
)
from replication.consensus.protocol import ConsensusProtocol

__all__ = [
    "AuditEntry",
    "ConsensusConfig",
    "ConsensusProtocol",
    "Decision",
    "Proposal",
    "ProposalAction",
    "ProposalStatus",
    "TallyResult",
    "Vote",
    "VoteValue",
]
