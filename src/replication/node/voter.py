"""This member's voter: asks the policy about each proposal, and takes votes by hand.

A vote binds the digest of a proposal, so the voter does not wait until the proposal is committed: it votes
when it sees one that is validly signed, so that proposal, votes and tally can be in one block. Choices that
are ready in the same turn of the driver travel in one ballot under one signature. `ballots` has what was
said, and how it gets there.

A proposal may never be committed: its proposer lied, or too many were open. A vote on it has to be
remembered as long as the proposal could come back, and be voted on again with other words. Two rules bound
that. A proposer gets early votes on `MAX_EARLY_VOTES` proposals at a time; on others, the voter decides when
they are committed. And the policy is asked only about proposals that are committed, by block time, within
`FRESH_MS` of when they were made; so an earlier vote on one that is not can be forgotten once a block is
later than that.

Nothing here waits, except a policy that may block (`policy_thread`). All methods are called between two
writes, when what the application and the record say is durable.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from replication.consensus import ProposalStatus, VoteValue
from replication.identity.genesis import Genesis
from replication.identity.members import MemberSet
from replication.ledger.application import BlockExecution, VotingApplication
from replication.ledger.commands import ProposalCommand, VoteItem, decode_command
from replication.ledger.history import History, OpenProposal, RecordedVote
from replication.ledger.outcomes import Outcome, Reason, accepted, refused
from replication.node.ballots import Ballots
from replication.node.counters import Counters
from replication.node.policies import Choice, Incident, Policy
from replication.node.policy_thread import PolicyThread
from replication.node.tracing import Traces
from replication.ordering.application import command_digest
from replication.ordering.effects import ApplyBlock

__all__ = ["FRESH_MS", "MAX_EARLY_VOTES", "Voter"]

MAX_EARLY_VOTES: Final = 1_024
"""More than honest load needs at once; a lying proposer costs a megabyte or two of memory and disk."""

FRESH_MS: Final = 600_000
"""By how much the commit of a proposal may come after it was made, for the policy to be asked. Ten minutes:
proposals that waited through an outage of that length are still voted on; older ones are left to a person."""

MAX_AHEAD_MS: Final = 60_000
"""By how much the proposer's clock may be ahead for an early vote; it bounds how long that vote is
remembered."""

PURGE_MS: Final = 10_000
""""How much block time passes between two looks for what can be forgotten."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Stand:
    """A proposal that this voter has considered. `proposal_id` is empty until it is committed; until then,
    `offer` is the digest of the command that announced it, and `created_ms` when its proposer says it made
    it."""

    proposer: str
    proposal_id: str = ""
    offer: bytes = b""
    created_ms: int = 0


class Voter:
    """See the module. `wake` is called when a vote became ready by itself. Times are milliseconds since the
    Unix epoch."""

    def __init__(
        self,
        *,
        member: str,
        genesis: Genesis,
        policy: Policy,
        application: VotingApplication,
        history: History,
        ballots: Ballots,
        policy_timeout_ms: int,
        clock: Callable[[], int],
        wake: Callable[[], None],
        counters: Counters,
        traces: Traces | None = None,
    ) -> None:
        self.ballots = ballots
        self._member = member
        self._genesis = genesis
        self._policy = policy
        self._application = application
        self._history = history
        self._clock = clock
        self._wake = wake
        self._counters = counters
        self._traces = traces
        approval = genesis.rules.approval
        self._gives_reasons = approval.reason_required or any(
            own.reason_required for own in approval.actions.values()
        )
        self._stands: dict[bytes, _Stand] = {}
        self._digests: dict[str, bytes] = {}
        self._offers: dict[bytes, bytes] = {}
        self._early: Counter[str] = Counter()
        self._purged_ms = 0
        self._thread: PolicyThread | None = None
        if policy.kind == "python":
            self._thread = PolicyThread(
                policy, policy_timeout_ms / 1000, self._stands.__contains__, self._answered
            )

    def close(self) -> None:
        """Ask the policy nothing more."""
        if self._thread is not None:
            self._thread.close()

    # What comes in.

    def seen(self, commands: Iterable[bytes], head_ms: int) -> None:
        """Proposals were announced; most are not committed yet. They passed all checks of form and signature.
        `head_ms` is the time of the last committed block."""
        if self._policy.kind == "manual":
            return
        for raw in commands:
            command = decode_command(raw)
            if isinstance(command, ProposalCommand):
                self._consider_early(raw, command, head_ms)

    def committed(self, applied: ApplyBlock[BlockExecution]) -> None:
        """A block is durable: look at its proposals, at ballots of one's own, and forget what is finished."""
        execution = applied.execution
        self.ballots.ordered(execution.vote_outcomes)
        for entry in execution.entries:
            if entry.event_type == "propose":
                self._opened(
                    entry.proposal_id or "", bytes.fromhex(entry.data["digest"]), entry.data["created_ms"]
                )
            elif entry.event_type in ("tally", "expired"):
                self._finished(entry.proposal_id or "")
        if self._offers:
            self.look_for_refused(execution.outcomes)

    def consider_open(self, proposals: Iterable[tuple[OpenProposal, int]]) -> None:
        """At start: vote on what is open and was not voted on. Each proposal comes with the time at which
        its proposer says it was made."""
        for proposal, created_ms in proposals:
            self._opened(proposal.id, proposal.digest, created_ms)

    def sweep(self, now_ms: int, head_ms: int) -> list[bytes]:
        """Look after what waits. Returns ballots to give to the replica again."""
        if head_ms - self._purged_ms >= PURGE_MS:
            self._purged_ms = head_ms
            self.ballots.forget(head_ms - FRESH_MS - MAX_AHEAD_MS)
            for digest, stand in list(self._stands.items()):
                if stand.offer and stand.created_ms < head_ms - FRESH_MS and digest not in self.ballots:
                    self._drop_early(digest, stand)
        return self.ballots.sweep(now_ms)

    def begin_epoch(self, members: MemberSet) -> None:
        """Proposals that were not committed are void, and so are ballots of the old epoch."""
        for digest, stand in list(self._stands.items()):
            if not stand.proposal_id:
                self._drop_early(digest, stand)
        self.ballots.begin_epoch(members)

    # Votes by hand.

    def cast(self, proposal_id: str, value: VoteValue, reason: str, now_ms: int) -> Outcome | bytes:
        """Say something on a committed proposal: the outcome if it is clear, else the ballot to wait for
        before asking again. A repetition of the last vote is no new vote."""
        proposal = self._application.open_proposal(proposal_id)
        if proposal is None:
            return self._cast_late(proposal_id, value, reason)
        recorded = self.ballots.recorded(proposal)
        last = self.ballots.last(proposal.digest)
        if last is not None and (recorded is None or recorded.revision < last.revision):
            return self.ballots.pending_in(proposal.digest) or self.ballots.sign_alone(
                proposal.digest, now_ms
            )
        revision = 0
        if recorded is not None:
            if (recorded.value, recorded.data["reason"]) == (value, reason):
                return accepted(proposal_id, recorded.sequence)
            if not self._genesis.rules.allow_vote_change:
                return self._voted_before(proposal_id, recorded)
            revision = recorded.revision + 1
        if value is not VoteValue.ABSTAIN and not reason and self._needs_reason(proposal.action):
            # Before anything is signed: a vote that was signed is the one that this member has cast.
            text = f"a vote on {proposal_id} needs a reason: the rules of this cluster ask for one"
            return refused(Reason.REASON_REQUIRED, text, proposal_id)
        self._note(proposal.digest, proposal.proposer, proposal_id)
        self.ballots.cast(VoteItem(proposal.digest, value, revision, reason, now_ms))
        self._counters.cast[value.value] += 1
        return self.ballots.sign_alone(proposal.digest, now_ms)

    def resign(self, proposal_id: str, now_ms: int) -> bytes | None:
        """In a new epoch: a new ballot for the vote that was cast by hand; None when it is not wanted any
        more."""
        digest = self._digests.get(proposal_id, b"")
        return self.ballots.sign_alone(digest, now_ms) if digest in self.ballots else None

    def _cast_late(self, proposal_id: str, value: VoteValue, reason: str) -> Outcome:
        finished = self._history.finished_by_id(proposal_id)
        if finished is None:
            return refused(Reason.UNKNOWN_PROPOSAL, f"there is no proposal {proposal_id}", proposal_id)
        recorded = self._history.vote(finished.digest, self._member)
        if recorded is not None and (recorded.value, recorded.data["reason"]) == (value, reason):
            return accepted(proposal_id, recorded.sequence)
        if recorded is not None and not self._genesis.rules.allow_vote_change:
            return self._voted_before(proposal_id, recorded)
        if finished.status is ProposalStatus.EXPIRED:
            return refused(Reason.PROPOSAL_EXPIRED, f"{proposal_id} has expired", proposal_id)
        text = f"{proposal_id} is decided ({finished.decision.value}); a vote cannot change that"
        return refused(Reason.PROPOSAL_NOT_OPEN, text, proposal_id)

    def _needs_reason(self, action: str) -> bool:
        return self._genesis.rules.approval.needs_reason(action)

    def _voted_before(self, proposal_id: str, recorded: RecordedVote) -> Outcome:
        text = f"{self._member} has voted {recorded.value.value} on {proposal_id} before"
        return refused(Reason.ALREADY_VOTED, text, proposal_id, recorded.sequence)

    # Considering proposals.

    def _consider_early(self, raw: bytes, command: ProposalCommand, head_ms: int) -> None:
        digest = command.digest(self._genesis.cluster_id)
        if digest in self._stands:
            self.ballots.came_up(digest)
            return
        if digest in self.ballots:  # voted on before a restart
            self._expect(digest, raw, command)
            self.ballots.came_up(digest)
            return
        if not head_ms - FRESH_MS <= command.created_ms <= self._clock() + MAX_AHEAD_MS:
            return
        if self._early.get(command.proposer, 0) >= MAX_EARLY_VOTES:
            return
        if self._application.verdict(raw) is not None:
            return  # committed already, or refused for good
        self._expect(digest, raw, command)
        evidence = json.loads(command.evidence)
        self._ask(digest, self._incident(command, evidence, command.created_ms))

    def _expect(self, digest: bytes, raw: bytes, command: ProposalCommand) -> None:
        """Remember a proposal that is not committed."""
        stand = _Stand(command.proposer, offer=command_digest(raw), created_ms=command.created_ms)
        self._stands[digest] = stand
        self._offers[stand.offer] = digest
        self._early[command.proposer] += 1

    def _opened(self, proposal_id: str, digest: bytes, created_ms: int) -> None:
        """A proposal is committed, and open unless the same block has decided it."""
        stand = self._stands.get(digest)
        if stand is not None or digest in self.ballots:
            self._note(digest, "", proposal_id)
            self.ballots.came_up(digest)
            return
        if self._policy.kind == "manual":
            return
        proposal = self._application.open_proposal(digest)
        if proposal is None or self.ballots.recorded(proposal) is not None:
            return
        if proposal.proposed_ms - created_ms > FRESH_MS:
            _log.warning(
                "%s was made %d s before it was committed; its vote is left to a person. Check the clock of "
                "%s.",
                *(proposal_id, (proposal.proposed_ms - created_ms) // 1000, proposal.proposer),
            )
            return
        self._note(digest, proposal.proposer, proposal_id)
        evidence = json.loads(proposal.evidence_json)
        self._ask(digest, self._incident(proposal, evidence, created_ms))

    def _note(self, digest: bytes, proposer: str, proposal_id: str) -> None:
        """Remember a committed proposal until it is finished."""
        stand = self._stands.setdefault(digest, _Stand(proposer))
        self._digests[proposal_id] = digest
        if stand.offer:
            self._end_early(stand)
        stand.proposal_id = proposal_id

    def _finished(self, proposal_id: str) -> None:
        digest = self._digests.pop(proposal_id, None)
        if digest is not None:
            self._stands.pop(digest, None)
            self.ballots.finished(digest)

    def look_for_refused(self, outcomes: Mapping[bytes, Outcome]) -> None:
        """Announced proposals that were refused, by digest of their commands. They could be ordered again;
        but nobody waits for that."""
        refusals = [digest for digest, outcome in outcomes.items() if not outcome.accepted]
        for digest in [self._offers[offer] for offer in refusals if offer in self._offers]:
            if digest in self.ballots:
                self.ballots.refused(digest, self._clock())
            else:
                self._drop_early(digest, self._stands[digest])

    def _drop_early(self, digest: bytes, stand: _Stand) -> None:
        self._end_early(stand)
        del self._stands[digest]

    def _end_early(self, stand: _Stand) -> None:
        """The proposal is committed or void: its proposer may have another early vote."""
        self._offers.pop(stand.offer, None)
        stand.offer = b""
        self._early[stand.proposer] -= 1
        if not self._early[stand.proposer]:
            del self._early[stand.proposer]

    # Asking the policy.

    def _incident(
        self, source: ProposalCommand | OpenProposal, evidence: Mapping[str, Any], created_ms: int
    ) -> Incident:
        return Incident(
            proposer=source.proposer,
            action=source.action,
            target=source.target,
            evidence=evidence,
            critical=self._genesis.rules.approval.is_critical(source.action),
            window_ms=source.window_ms,
            expiry_ms=source.expiry_ms,
            created_ms=created_ms,
            voter=self._member,
        )

    def _ask(self, digest: bytes, incident: Incident) -> None:
        if self._traces is not None:
            self._traces.asked(digest)
        if self._thread is not None:
            self._thread.ask(digest, incident)
        else:
            self._chosen(digest, self._policy.decide(incident))

    def _answered(self, digest: bytes, choice: Choice | None) -> None:
        """The policy's thread came back."""
        self._chosen(digest, choice)
        self._wake()

    def _chosen(self, digest: bytes, choice: Choice | None) -> None:
        """Cast what the policy chose, unless the proposal is finished or a person was faster."""
        if choice is None or digest not in self._stands or digest in self.ballots:
            return
        reason = choice.reason or ("by policy" if self._gives_reasons else "")
        self.ballots.cast(VoteItem(digest, choice.value, 0, reason, self._clock()))
        self._counters.cast[choice.value.value] += 1
        if self._traces is not None:
            self._traces.chosen(digest, choice.value.value)
