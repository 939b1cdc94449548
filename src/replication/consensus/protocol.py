"""A voting session in one process: `ConsensusProtocol`."""

from __future__ import annotations

import sys
import time  # noqa: TID251 - only as the default of `clock`; the cluster never uses it
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from fractions import Fraction
from typing import Any

from replication.consensus.analysis import AgreementCounts, find_blocs
from replication.consensus.canonical import MAX_SAFE_INTEGER, copy_evidence, is_text
from replication.consensus.chain import ChainGuard
from replication.consensus.config import ConsensusConfig, require_seconds
from replication.consensus.deadlines import Deadlines
from replication.consensus.errors import (
    AlreadyVotedError,
    InvalidConfigError,
    InvalidRequestError,
    ProposalExpiredError,
    ProposalLimitError,
    ProposalNotOpenError,
    UnknownProposalError,
    UnknownVoterError,
    VotingBlocsTruncatedWarning,
    shown,
)
from replication.consensus.model import (
    AuditEntry,
    Decision,
    Proposal,
    ProposalStatus,
    TallyResult,
    Vote,
    VoteValue,
)
from replication.consensus.rules import Electorate, Poll, bft_quorum, exact_fraction

__all__ = ["ConsensusProtocol"]


class ConsensusProtocol:
    """Runs proposals, votes and tallies of a fixed set of voters, and keeps an audit chain of everything.

    * `voter_ids`: the voters, distinct non-empty strings, in any order.
    * `weights`: positive weight by voter id; voters left out weigh 1. A float means the simplest fraction
      that rounds to it.
    * `config`: the rules; `ConsensusConfig()` if left out.
    * `clock`: returns the time in seconds. It is read once a call. This is the package's only clock; pass
      your own to replay a session or to test it.

    Raises `InvalidConfigError` (a `ValueError`) for no voters, duplicates and illegal weights.

    A proposal is past its expiry when the clock is later than `expires_at` (a vote at exactly that time
    counts). Every call that concerns proposals first records what has expired by then, so that nothing past
    its time is ever seen as open or takes up one of the places for open proposals. A request that is refused
    changes nothing else.

    propose, vote, tally and execute take the same time however many proposals there have been. One object is
    not safe for use by several threads at once.
    """

    def __init__(
        self,
        voter_ids: Iterable[str],
        weights: Mapping[str, float | Fraction] | None = None,
        config: ConsensusConfig | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config = ConsensusConfig() if config is None else _require_config(config)
        self._electorate = _electorate(voter_ids, weights)
        self._rules = config.rules()
        self._clock = clock
        self._proposals: dict[str, Proposal] = {}
        self._polls: dict[str, Poll] = {}  # of the open proposals only
        self._deadlines = Deadlines()
        self._audit_log: list[AuditEntry] = []
        self._guard = ChainGuard()
        self._agreement = AgreementCounts()  # of the proposals that are no longer open

    # -- the voters

    @property
    def voter_count(self) -> int:
        """The number of voters, n."""
        return self._electorate.n

    @property
    def voter_ids(self) -> list[str]:
        """The voters, in the order given; a copy."""
        return list(self._electorate.ids)

    @property
    def max_byzantine_faults(self) -> int:
        """f = floor((n - 1) / 3): how many voters may be faulty."""
        return self._electorate.max_faulty

    @property
    def bft_quorum(self) -> int:
        """2f + 1: the fewest voters that must take part in any decision."""
        return bft_quorum(self._electorate.n)

    @property
    def audit_log(self) -> list[AuditEntry]:
        """The audit entries, oldest first: a new list of the live entries."""
        return list(self._audit_log)

    # -- the life of a proposal

    def propose(
        self,
        proposer_id: str,
        action: str,
        target: str | None = None,
        evidence: dict[str, Any] | None = None,
        expiry_seconds: float | None = None,
    ) -> str:
        """Open a proposal and return its id: `prop-0001`, `prop-0002`, …

        `action` is any non-empty string (`ProposalAction` lists the well-known ones); `evidence` a JSON
        object, which is copied; `expiry_seconds` the time until it expires (None: the configuration's
        default; 0: never).

        Raises `UnknownVoterError` if the proposer is not a voter, `InvalidRequestError` for an illegal
        argument, and `ProposalLimitError` when too many proposals are open; all are `ValueError`.
        """
        self._require_voter(proposer_id)
        action = _require_text("action", action)
        if not action:
            raise InvalidRequestError("action must not be empty")
        target = None if target is None else _require_text("target", target)
        evidence = None if evidence is None else copy_evidence(evidence)
        lifetime = self._config.default_expiry_seconds if expiry_seconds is None else expiry_seconds
        require_seconds("expiry_seconds", lifetime)
        now = self._catch_up()
        expires_at = _deadline(now, lifetime)
        if len(self._polls) >= self._config.max_active_proposals:
            raise ProposalLimitError(
                f"There are {len(self._polls)} active proposals, and max_active_proposals allows no more: "
                "tally one, or wait until one expires"
            )
        self._config.approval.require_free(target, map(self._proposals.__getitem__, self._polls))
        proposal = Proposal(
            id=f"prop-{len(self._proposals) + 1:04d}",
            proposer_id=proposer_id,
            action=action,
            target=target,
            evidence=evidence,
            created_at=now,
            expires_at=expires_at,
        )
        self._append("propose", proposal.id, proposer_id, _propose_data(proposal), now)
        self._open(proposal)
        return proposal.id

    def vote(
        self, proposal_id: str, voter_id: str, value: VoteValue | str, reason: str | None = None
    ) -> Vote:
        """Cast a vote on an open proposal and return its record.

        `value` may be text: "approve", "reject" or "abstain". Raises `UnknownProposalError` (a `KeyError`);
        and as `ValueError`: `UnknownVoterError`, `InvalidRequestError` for an illegal value or reason,
        `ProposalExpiredError`, `ProposalNotOpenError` when it is decided, and `AlreadyVotedError` unless the
        configuration allows a vote to be changed.
        """
        proposal = self._require_proposal(proposal_id)
        self._require_voter(voter_id)
        value = _vote_value(value)
        reason = None if reason is None else _require_text("reason", reason)
        now = self._catch_up()
        poll = self._require_open(proposal)
        replaced = proposal.votes.get(voter_id)
        if replaced is not None and not self._config.allow_vote_change:
            raise AlreadyVotedError(
                f"Voter {shown(voter_id)} has already voted {replaced.value.value} on {proposal_id}, "
                "and allow_vote_change is off"
            )
        self._config.approval.require_reason(proposal, value, reason)
        vote = Vote(voter_id, value, now, reason)
        data = {
            "value": value.value,
            "reason": reason,
            "vote_hash": vote.hash,
            "replaces": None if replaced is None else replaced.hash,
        }
        self._append("vote", proposal_id, voter_id, data, now)
        poll.cast(voter_id, value)
        proposal.votes[voter_id] = vote
        return vote

    def tally(self, proposal_id: str) -> TallyResult:
        """Close the vote and return the decision: APPROVED, REJECTED or NO_QUORUM.

        Of a proposal that is decided, executed or expired, returns the result it already has, the same
        object. A proposal past its expiry is EXPIRED with decision NO_QUORUM, whatever the votes.

        Raises `UnknownProposalError` (a `KeyError`).
        """
        proposal = self._require_proposal(proposal_id)
        now = self._catch_up()
        if proposal.result is not None:
            return proposal.result
        return self._close(proposal, now, ProposalStatus.DECIDED)

    def execute(self, proposal_id: str) -> bool:
        """Mark an approved proposal as executed, and return whether this call did so.

        False, with nothing changed, unless it is DECIDED and APPROVED: a proposal is executed once. Raises
        `UnknownProposalError` (a `KeyError`).
        """
        proposal = self._require_proposal(proposal_id)
        now = self._catch_up()
        result = proposal.result
        if proposal.status is not ProposalStatus.DECIDED or result is None or not result.approved:
            return False
        self._append(
            "execute", proposal_id, None, {"action": proposal.action, "target": proposal.target}, now
        )
        proposal.status = ProposalStatus.EXECUTED
        return True

    # -- looking back

    def get_proposal(self, proposal_id: str) -> Proposal:
        """Return the live record of a proposal. Raises `UnknownProposalError` (a `KeyError`)."""
        proposal = self._require_proposal(proposal_id)
        self._catch_up()
        return proposal

    def list_proposals(self, status: ProposalStatus | str | None = None) -> list[Proposal]:
        """Return the proposals, oldest first; with `status`, only those (`ValueError` for a bad one)."""
        wanted = None if status is None else _status(status)
        self._catch_up()
        return [
            proposal for proposal in self._proposals.values() if wanted is None or proposal.status is wanted
        ]

    def get_voter_history(self, voter_id: str) -> list[tuple[str, Vote]]:
        """Return the voter's (proposal id, vote) pairs, oldest proposal first. Raises `UnknownVoterError`."""
        self._require_voter(voter_id)
        return [
            (proposal.id, proposal.votes[voter_id])
            for proposal in self._proposals.values()
            if voter_id in proposal.votes
        ]

    def voter_agreement_matrix(self) -> dict[str, dict[str, float]]:
        """Return {a: {b: rate}}: on which share of the proposals where both took a side they took the same.

        Every proposal with votes counts, open ones too, each with its latest votes. The rate is 1.0 with
        oneself and 0.0 with nothing in common.
        """
        counts = self._agreement.copy()
        for poll in self._polls.values():
            counts.record(poll.votes)
        return counts.matrix(self._electorate.ids)

    def detect_voting_blocs(self, threshold: float = 0.9) -> list[list[str]]:
        """Return the maximal groups of two or more voters who all agree with each other at least `threshold`.

        Each group is sorted; the largest come first, then in lexicographic order. The search is bounded:
        where there are too many groups to list, it emits a `VotingBlocsTruncatedWarning` and returns those it
        found.

        Raises `InvalidConfigError` (a `ValueError`) if the threshold is not in (0, 1].
        """
        blocs, complete = find_blocs(self.voter_agreement_matrix(), threshold)
        if not complete:
            warnings.warn(
                f"The search for voting blocs stopped at its step limit with {len(blocs)} found: "
                "there may be more, and larger ones",
                VotingBlocsTruncatedWarning,
                stacklevel=2,
            )
        return blocs

    def verify_audit_chain(self) -> bool:
        """Return whether the audit log is what was written: every hash, every link, and its length."""
        return self._guard.verify(self._audit_log)

    def summary(self) -> dict[str, Any]:
        """Return the state of the session as a dictionary of numbers, one flag and the list of voting blocs.

        `approved` and `rejected` count proposals by decision (an executed one is also approved), `open`,
        `executed` and `expired` by status.
        """
        proposals = self.list_proposals()
        statuses = Counter(proposal.status for proposal in proposals)
        decisions = Counter(proposal.result.decision for proposal in proposals if proposal.result is not None)
        return {
            "voter_count": self.voter_count,
            "max_byzantine_faults": self.max_byzantine_faults,
            "bft_quorum": self.bft_quorum,
            "total_proposals": len(proposals),
            "open": statuses[ProposalStatus.OPEN],
            "approved": decisions[Decision.APPROVED],
            "rejected": decisions[Decision.REJECTED],
            "executed": statuses[ProposalStatus.EXECUTED],
            "expired": statuses[ProposalStatus.EXPIRED],
            "audit_entries": len(self._audit_log),
            "audit_chain_valid": self.verify_audit_chain(),
            "voting_blocs": self.detect_voting_blocs(),
        }

    def render(self) -> str:
        """Return the summary as text for people, a few lines, headed "Agent Consensus Protocol Summary"."""
        facts = self.summary()
        blocs = "; ".join(", ".join(bloc) for bloc in facts["voting_blocs"]) or "none"
        chain = "valid" if facts["audit_chain_valid"] else "BROKEN"
        heading = "Agent Consensus Protocol Summary"
        lines = [
            heading,
            "=" * len(heading),
            f"Voters: {facts['voter_count']} (tolerates {facts['max_byzantine_faults']} faulty, "
            f"quorum at least {facts['bft_quorum']})",
            f"Proposals: {facts['total_proposals']} ({facts['open']} open, {facts['approved']} approved, "
            f"{facts['rejected']} rejected, {facts['executed']} executed, {facts['expired']} expired)",
            f"Audit chain: {facts['audit_entries']} entries, {chain}",
            f"Voting blocs: {blocs}",
        ]
        return "\n".join(lines)

    # -- state changes

    def _append(
        self, event_type: str, proposal_id: str, actor_id: str | None, data: dict[str, Any], now: float
    ) -> None:
        self._guard.extend(self._audit_log, event_type, proposal_id, actor_id, data, now)

    def _open(self, proposal: Proposal) -> None:
        self._proposals[proposal.id] = proposal
        poll = Poll.on(self._electorate, self._rules, proposal.action, proposal.proposer_id)
        self._polls[proposal.id] = poll
        if proposal.expires_at is not None:
            self._deadlines.add(proposal.expires_at, len(self._proposals), proposal.id, self._polls)

    def _catch_up(self) -> float:
        """Read the clock, record every proposal that has expired by then, and return the time."""
        now = _clock_reading(self._clock())
        for proposal_id in self._deadlines.pop_past(now):
            if proposal_id in self._polls:
                self._close(self._proposals[proposal_id], now, ProposalStatus.EXPIRED)
        return now

    def _close(self, proposal: Proposal, now: float, status: ProposalStatus) -> TallyResult:
        """End the vote on an open proposal: the only way out of OPEN."""
        poll = self._polls[proposal.id]
        expired = status is ProposalStatus.EXPIRED
        chain_valid = self._guard.verify_new(self._audit_log)
        result = poll.result(proposal.id, chain_valid, Decision.NO_QUORUM if expired else None)
        self._append("expired" if expired else "tally", proposal.id, None, _result_data(poll, result), now)
        self._agreement.record(poll.votes)
        del self._polls[proposal.id]
        proposal.status = status
        proposal.decided_at = now
        proposal.result = result
        return result

    def _require_voter(self, voter_id: object) -> None:
        if voter_id not in self._electorate:
            raise UnknownVoterError(voter_id)

    def _require_proposal(self, proposal_id: str) -> Proposal:
        proposal = self._proposals.get(proposal_id) if is_text(proposal_id) else None
        if proposal is None:
            raise UnknownProposalError(proposal_id)
        return proposal

    def _require_open(self, proposal: Proposal) -> Poll:
        """Return the poll of an open proposal, or raise the error that says why there is none."""
        poll = self._polls.get(proposal.id)
        if poll is not None:
            return poll
        if proposal.status is ProposalStatus.EXPIRED:
            raise ProposalExpiredError(
                f"Proposal {proposal.id} expired at {proposal.expires_at} s, it takes no more votes"
            )
        raise ProposalNotOpenError(
            f"Proposal {proposal.id} is not open for votes: it is {proposal.status.value}"
        )


def _electorate(voter_ids: object, weights: object) -> Electorate:
    """Return the electorate, or raise `InvalidConfigError` naming what is wrong with the arguments."""
    if isinstance(voter_ids, str) or not isinstance(voter_ids, Iterable):
        raise InvalidConfigError(f"voter_ids must be a collection of voter ids, got {shown(voter_ids)}")
    if weights is not None and not isinstance(weights, Mapping):
        raise InvalidConfigError(f"weights must map voter ids to numbers, got {shown(weights)}")
    exact: dict[str, Fraction | int] = {}
    for voter_id in voter_ids:
        if not is_text(voter_id) or not voter_id:
            raise InvalidConfigError(f"voter_ids must be non-empty text, got {shown(voter_id)}")
        if voter_id in exact:
            raise InvalidConfigError(
                f"Duplicate voter {shown(voter_id)} in voter_ids: every voter counts once"
            )
        exact[voter_id] = 1
    for voter_id, weight in (weights or {}).items():
        if voter_id not in exact:
            raise InvalidConfigError(f"Unknown voter {shown(voter_id)} in weights: not in voter_ids")
        exact[voter_id] = _weight(voter_id, weight)
    return Electorate(exact)


def _require_config(config: object) -> ConsensusConfig:
    if isinstance(config, ConsensusConfig):
        return config
    raise InvalidConfigError(f"config must be a ConsensusConfig or None, got {shown(config)}")


def _weight(voter_id: str, weight: object) -> Fraction:
    if isinstance(weight, int | float | Fraction) and not isinstance(weight, bool):
        with suppress(InvalidRequestError):  # NaN and infinities
            exact = exact_fraction(weight)
            if exact > 0:
                return exact
    raise InvalidConfigError(
        f"weights[{shown(voter_id)}] must be a positive, finite number (legal range: > 0), "
        f"got {shown(weight)}"
    )


def _require_text(name: str, value: object) -> str:
    """Return `value` as a plain string (a member of a string enumeration as its value)."""
    if isinstance(value, str) and is_text(value):
        return str.__str__(value)
    raise InvalidRequestError(f"{name} must be text that UTF-8 can encode, got {shown(value)}")


def _vote_value(value: object) -> VoteValue:
    if isinstance(value, VoteValue):
        return value
    for known in VoteValue:
        if value == known.value:
            return known
    raise InvalidRequestError(f"A vote's value must be one of approve, reject, abstain, got {shown(value)}")


def _status(status: object) -> ProposalStatus:
    for known in ProposalStatus:
        if status == known:
            return known
    raise InvalidRequestError(f"status must be one of {', '.join(ProposalStatus)}, got {shown(status)}")


def _clock_reading(now: object) -> float:
    if isinstance(now, bool) or not isinstance(now, int | float) or not abs(now) <= sys.float_info.max:
        raise InvalidRequestError(f"clock must return a finite number of seconds, got {shown(now)}")
    return _recordable(now)


def _deadline(now: float, lifetime: float) -> float | None:
    """Return when a proposal made now expires, in seconds; None for a lifetime of 0, which is for ever."""
    if lifetime == 0:
        return None
    expires_at = now + lifetime
    if expires_at > sys.float_info.max:
        raise InvalidRequestError(f"expiry_seconds must end at a finite time, got {shown(lifetime)}")
    return _recordable(expires_at)


def _recordable(seconds: float) -> float:
    """Return a time as a number that canonical JSON can hold; it takes no integers beyond 2**53 - 1."""
    return float(seconds) if abs(seconds) > MAX_SAFE_INTEGER else seconds


def _propose_data(proposal: Proposal) -> dict[str, Any]:
    return {
        "action": proposal.action,
        "target": proposal.target,
        # A copy of its own: the proposal's is in the reach of whoever holds the proposal.
        "evidence": None if proposal.evidence is None else copy_evidence(proposal.evidence),
        "is_critical": proposal.is_critical,
        "expires_at": proposal.expires_at,
    }


def _result_data(poll: Poll, result: TallyResult) -> dict[str, Any]:
    """What the chain says of a tally. Weights and threshold as text, since floats would not be exact."""
    return {
        "decision": result.decision.value,
        "approve_count": result.approve_count,
        "reject_count": result.reject_count,
        "abstain_count": result.abstain_count,
        "total_voters": result.total_voters,
        "quorum_required": result.quorum_required,
        "quorum_met": result.quorum_met,
        "approve_weight": str(poll.approve_weight),
        "reject_weight": str(poll.reject_weight),
        "threshold": str(poll.threshold),
        "is_critical": result.is_critical,
        "hash_chain_valid": result.hash_chain_valid,
    }
