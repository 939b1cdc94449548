"""What tests of the voting library share: a clock that obeys, and votes written as letters."""

from __future__ import annotations

from replication.consensus import ConsensusProtocol, TallyResult, VoteValue

VALUES = {"A": VoteValue.APPROVE, "R": VoteValue.REJECT, "N": VoteValue.ABSTAIN}


class Clock:
    """A clock that stands still until `now`, in seconds, is set."""

    def __init__(self, now: float = 1000) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def cast(session: ConsensusProtocol, proposal_id: str, votes: str) -> None:
    """One letter a voter, in their order: A, R, N, or - for none."""
    for voter_id, letter in zip(session.voter_ids, votes, strict=False):
        if letter != "-":
            session.vote(proposal_id, voter_id, VALUES[letter])


def decide(session: ConsensusProtocol, votes: str, action: str = "quarantine") -> TallyResult:
    """Propose, cast the votes, tally."""
    proposal_id = session.propose(session.voter_ids[0], action)
    cast(session, proposal_id, votes)
    return session.tally(proposal_id)
