"""Executing a block: from the committed state and some commands to the audit entries they make.

Nothing here changes the committed state. A `Draft` lies over it: it copies the proposals that the block
touches, and no others. The order of a block's entries:

1. what was due at the block's time, by deadline and number;
2. the commands, in the order of the block; one that cannot take effect leaves no entry;
3. the tallies of proposals that this block has settled, in the order in which it first touched them. A vote
   touches its proposal; evidence touches all on which the accused has voted, by number; and the first block
   of an epoch touches everything that is open, since the electorate is another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from replication.consensus.model import AuditEntry, ProposalStatus, VoteValue
from replication.identity.genesis import Genesis, Rules
from replication.identity.members import MemberSet
from replication.identity.merkle import merkle_root
from replication.ordering.statements import Signed, Statement

from .admission import Admitted
from .commands import (
    BallotCommand,
    CloseCommand,
    CoordinatorChangeCommand,
    EvidenceCommand,
    MembershipCommand,
    ProposalCommand,
    ReceiptCommand,
    RejoinCommand,
)
from .entries import new_entry
from .evidence_json import parse_evidence
from .history import (
    FinishedProposal,
    RecordedReceipt,
    RecordedVote,
    Totals,
    advance,
    entry_timestamp,
    genesis_entry,
    genesis_totals,
    proposal_id_of,
    read_finished,
    read_open,
)
from .outcomes import Outcome, Reason, accepted, refused
from .polls import OpenPoll
from .rulings import Ruling, rule, rule_vote
from .state import State

__all__ = ["BlockExecution", "execute_block", "genesis_execution"]

CLUSTER = "cluster"
"""Actor of what the cluster does by itself."""


@dataclass(frozen=True)
class BlockExecution:
    """The outcome of a block. Implements `ordering.application.Execution`.

    `outcomes` says for each command, by its digest, what became of it; `vote_outcomes` the same for each vote
    of a ballot. `totals` is where the record stands afterwards.
    """

    height: int
    time_ms: int
    entries: tuple[AuditEntry, ...]
    entries_root: bytes
    totals: Totals
    outcomes: Mapping[bytes, Outcome] = field(default_factory=dict, repr=False)
    vote_outcomes: Mapping[bytes, tuple[Outcome, ...]] = field(default_factory=dict, repr=False)
    touched: Mapping[bytes, OpenPoll] = field(default_factory=dict, repr=False)
    finished: Mapping[bytes, FinishedProposal] = field(default_factory=dict, repr=False)
    base: Totals | None = field(default=None, repr=False)

    @property
    def audit_size(self) -> int:
        """Length of the audit chain after the block."""
        return self.totals.audit_size

    @property
    def audit_head(self) -> bytes:
        """Last hash of the audit chain after the block."""
        return self.totals.audit_head

    @property
    def is_empty(self) -> bool:
        """Whether the block changed nothing."""
        return not self.entries

    @property
    def recorded_view(self) -> int:
        """Highest view on record after the block; 0 if it ends its epoch."""
        return self.totals.recorded_view


def genesis_execution(genesis: Genesis) -> BlockExecution:
    """The execution of block 0: entry 0."""
    entry = genesis_entry(genesis)
    root = merkle_root([bytes.fromhex(entry.hash)])
    return BlockExecution(0, genesis.created_ms, (entry,), root, genesis_totals(genesis, entry))


def execute_block(state: State, height: int, time_ms: int, commands: Sequence[Admitted]) -> BlockExecution:
    """Execute checked commands on top of the committed state, which stays as it is."""
    draft = _Draft(state, time_ms, is_alone=len(commands) == 1)
    for digest in list(state.due_before(time_ms)):
        poll = draft.poll(digest)
        if poll is not None:
            draft.decide(poll, poll.deadline[1], CLUSTER)
    for command in commands:
        if command.digest not in draft.outcomes:
            draft.apply(command)
    for digest in draft.touched:
        poll = draft.poll(digest)
        if poll is not None and poll.is_settled:
            draft.decide(poll, "settled", CLUSTER)
    entries = tuple(draft.entries)
    return BlockExecution(
        height=height,
        time_ms=time_ms,
        entries=entries,
        entries_root=merkle_root([bytes.fromhex(entry.hash) for entry in entries]),
        totals=advance(state.totals, height, time_ms, entries, state.nonce),
        outcomes=draft.outcomes,
        vote_outcomes=draft.vote_outcomes,
        touched=draft.own_polls,
        finished=draft.results,
        base=state.totals,
    )


class _Draft:
    """The state in the middle of a block. Implements `rulings.View`."""

    def __init__(self, state: State, time_ms: int, *, is_alone: bool) -> None:
        totals = state.totals
        self.time_ms = time_ms
        self.entries: list[AuditEntry] = []
        self.outcomes: dict[bytes, Outcome] = {}
        self.vote_outcomes: dict[bytes, tuple[Outcome, ...]] = {}
        self.own_polls: dict[bytes, OpenPoll] = {}
        self.results: dict[bytes, FinishedProposal] = {}
        self.touched: dict[bytes, None] = {}
        self.open_count = state.open_count
        self.recorded_view = totals.recorded_view
        self.faulty: Mapping[str, int] = totals.faulty
        self._state = state
        self._is_alone = is_alone
        self._proposals = totals.proposals
        self._size = totals.audit_size
        self._head = totals.audit_head.hex()
        self._timestamp = entry_timestamp(time_ms)
        self._requests: dict[tuple[str, str], bytes] = {}
        if state.begins_epoch:
            self.touched.update(dict.fromkeys(poll.proposal.digest for poll in state.polls()))

    # What the rulings ask.

    @property
    def rules(self) -> Rules:
        return self._state.rules

    @property
    def nonce(self) -> bytes:
        return self._state.nonce

    @property
    def members(self) -> MemberSet:
        return self._state.members

    @property
    def incarnations(self) -> Mapping[str, bytes]:
        return self._state.incarnations

    @property
    def rejoined_ms(self) -> Mapping[str, int]:
        return self._state.rejoined_ms

    def poll(self, digest: bytes) -> OpenPoll | None:
        if digest in self.results:
            return None
        return self.own_polls.get(digest) or self._state.poll(digest)

    def polls(self) -> Iterator[OpenPoll]:
        made = (digest for digest in self.own_polls if self._state.poll(digest) is None)
        committed = [poll.proposal.digest for poll in self._state.polls()]
        for digest in (*committed, *made):
            poll = self.poll(digest)
            if poll is not None:
                yield poll

    def finished(self, digest: bytes) -> FinishedProposal | None:
        found = self.results.get(digest)
        if found is not None or digest in self.own_polls:
            return found
        return self._state.finished(digest)

    def request(self, proposer: str, request_id: str) -> bytes | None:
        found = self._requests.get((proposer, request_id))
        return self._state.request(proposer, request_id) if found is None else found

    def vote(self, digest: bytes, voter: str) -> RecordedVote | None:
        poll = self.own_polls.get(digest) or self._state.poll(
            digest
        )  # finished in this block: its votes are here
        return self._state.vote(digest, voter) if poll is None else poll.votes.get(voter)

    # Effects.

    def apply(self, admitted: Admitted) -> None:
        """Execute one command, or find out why it has no effect."""
        command = admitted.command
        if command.epoch != self.members.epoch:
            message = f"epoch {command.epoch} of the command is not the current one, {self.members.epoch}"
            outcome = refused(Reason.EPOCH_OVER, message)
        elif isinstance(command, BallotCommand):
            votes = tuple(self._vote(admitted, command, index) for index in range(len(command.votes)))
            self.vote_outcomes[admitted.digest] = votes
            outcome = next((vote for vote in votes if not vote.accepted), votes[0])
        else:
            ruling = rule(self, admitted, self.time_ms)
            outcome = ruling.outcome or self._execute(admitted)
        self.outcomes[admitted.digest] = outcome

    def _execute(self, admitted: Admitted) -> Outcome:
        command = admitted.command
        match command:
            case ProposalCommand():
                return self._propose(command, admitted.mark)
            case CloseCommand():
                return self._close(command)
            case ReceiptCommand():
                return self._receipt(command, admitted.mark)
            case CoordinatorChangeCommand():
                return self._record_coordinator(command)
            case EvidenceCommand():
                return self._record_evidence(command)
            case MembershipCommand():
                return self._change_members(command)
            case RejoinCommand():
                return self._rejoin(command)
            case BallotCommand():
                raise TypeError("votes are executed one by one")

    def _propose(self, command: ProposalCommand, digest: bytes) -> Outcome:
        proposal_id = proposal_id_of(self._proposals + 1)
        data = {
            "epoch": command.epoch,
            "request_id": command.request_id,
            "action": command.action,
            "target": command.target,
            "evidence": parse_evidence(command.evidence),
            "window_ms": command.window_ms,
            "expiry_ms": command.expiry_ms,
            "created_ms": command.created_ms,
            "digest": digest.hex(),
            "signature": command.signature.hex(),
        }
        entry = self._add("propose", proposal_id, command.proposer, data)
        self._proposals += 1
        self.open_count += 1
        self._requests[command.proposer, command.request_id] = digest
        proposal = read_open(entry, self.time_ms)
        self.own_polls[digest] = OpenPoll(proposal, self._state.electorate, self._state.voting_rules)
        return accepted(proposal_id, entry.sequence)

    def _vote(self, admitted: Admitted, ballot: BallotCommand, index: int) -> Outcome:
        item, mark = ballot.votes[index], admitted.marks[index]
        ruling = rule_vote(self, ballot, item, mark)
        if ruling.outcome is not None:
            if ruling.contradicts is not None:
                self._record_double_vote(
                    ballot.voter, item.proposal_digest, ruling, admitted.vote_data[index]
                )
            return ruling.outcome
        poll = self._writable(item.proposal_digest)
        data = admitted.vote_data[index]
        entry = self._add("vote", poll.proposal.id, ballot.voter, data)
        vote = RecordedVote(
            ballot.voter, VoteValue(item.value), item.revision, mark, entry.sequence, entry.data
        )
        poll.record(vote, is_faulty=ballot.voter in self.faulty)
        self.touched[item.proposal_digest] = None
        return accepted(poll.proposal.id, entry.sequence)

    def _close(self, command: CloseCommand) -> Outcome:
        poll = self._writable(command.proposal_digest)
        close = {"epoch": command.epoch, "signature": command.signature.hex()}
        sequence = self.decide(poll, "closed", command.closer, close=close)
        return accepted(poll.proposal.id, sequence)

    def decide(self, poll: OpenPoll, cause: str, actor: str, **more: Any) -> int:
        """Take the tally of an open proposal; returns the sequence of its entry."""
        event_type = "expired" if cause == "expired" else "tally"
        data = {**poll.tally_data(cause, self.faulty), **more}
        proposal = poll.proposal
        entry = self._add(event_type, proposal.id, actor, data)
        self.results[proposal.digest] = read_finished(proposal, entry, self.members.epoch)
        self.open_count -= 1
        return entry.sequence

    def _receipt(self, command: ReceiptCommand, mark: bytes) -> Outcome:
        digest = command.proposal_digest
        finished = self.finished(digest)
        if finished is None:
            raise LookupError("a receipt was ruled to be on a finished proposal")
        data = {
            "epoch": command.epoch,
            "digest": digest.hex(),
            "outcome": command.outcome,
            "detail": command.detail,
            "executed_ms": command.executed_ms,
            "signature": command.signature.hex(),
        }
        entry = self._add("execute", finished.id, command.executor, data)
        receipt = RecordedReceipt(command.executor, command.outcome, mark, entry.sequence)
        status = ProposalStatus.EXECUTED if command.outcome == "succeeded" else finished.status
        self.results[digest] = replace(finished, status=status, receipts=(*finished.receipts, receipt))
        return accepted(finished.id, entry.sequence)

    def _record_coordinator(self, command: CoordinatorChangeCommand) -> Outcome:
        data = {
            "epoch": command.epoch,
            "view": command.view,
            "tc_digest": command.tc_digest.hex(),
            "signature": command.signature.hex(),
        }
        entry = self._add("coordinator", "", command.coordinator, data)
        self.recorded_view = command.view
        return accepted("", entry.sequence)

    def _record_evidence(self, command: EvidenceCommand) -> Outcome:
        first, second = statement_data(command.first), statement_data(command.second)
        sequence = self._blame("", command.accused, "statements", first, second)
        return accepted("", sequence)

    def _record_double_vote(
        self, voter: str, digest: bytes, ruling: Ruling, second: Mapping[str, Any]
    ) -> None:
        first, poll = ruling.contradicts, self.poll(digest)
        if first is not None and poll is not None:
            self._blame(poll.proposal.id, voter, "votes", first.data, second)

    def _blame(
        self, proposal_id: str, accused: str, kind: str, first: Mapping[str, Any], second: Mapping[str, Any]
    ) -> int:
        """Put on record that a member has contradicted itself; its votes are abstentions from now on."""
        data = {
            "epoch": self.members.epoch,
            "accused": accused,
            "kind": kind,
            "first": dict(first),
            "second": dict(second),
        }
        entry = self._add("evidence", proposal_id, CLUSTER, data)
        self.faulty = {**self.faulty, accused: entry.sequence}
        for digest in [poll.proposal.digest for poll in self.polls() if accused in poll.votes]:
            self._writable(digest).discount(accused)
            self.touched[digest] = None
        return entry.sequence

    def _change_members(self, command: MembershipCommand) -> Outcome:
        finished = self.finished(command.proposal_digest)
        proposal_id = "" if finished is None else finished.id
        data = {
            "epoch": command.epoch,
            "change": parse_evidence(command.change),
            "digest": command.proposal_digest.hex(),
            "signature": command.signature.hex(),
        }
        return self._end_epoch(proposal_id, command.member, data)

    def _rejoin(self, command: RejoinCommand) -> Outcome:
        data = {
            "epoch": command.epoch,
            "change": {"change": "rejoin", "id": command.member, "nonce": command.nonce.hex()},
            "signature": command.signature.hex(),
        }
        return self._end_epoch("", command.member, data)

    def _end_epoch(self, proposal_id: str, actor: str, data: dict[str, Any]) -> Outcome:
        if not self._is_alone:
            return refused(Reason.NOT_ALONE, "a change of members must be alone in its block", proposal_id)
        return accepted(proposal_id, self._add("membership", proposal_id, actor, data).sequence)

    # Means.

    def _add(self, event_type: str, proposal_id: str, actor: str, data: Mapping[str, Any]) -> AuditEntry:
        entry = new_entry(self._size, event_type, proposal_id, actor, data, self._timestamp, self._head)
        self.entries.append(entry)
        self._size, self._head = self._size + 1, entry.hash
        return entry

    def _writable(self, digest: bytes) -> OpenPoll:
        """This block's own copy of an open proposal."""
        poll = self.own_polls.get(digest)
        if poll is None:
            committed = self._state.poll(digest)
            if committed is None:
                raise LookupError("a command was ruled to be on an open proposal")
            poll = self.own_polls[digest] = committed.copy()
        return poll


def statement_data(item: Signed) -> dict[str, Any]:
    """A signed statement as it stands in an evidence entry; its signer and epoch are those of the entry."""
    if isinstance(item, Statement):
        return {
            "phase": item.key.phase.value,
            "view": item.key.view,
            "height": item.key.height,
            "block_hash": item.key.block_hash.hex(),
            "signature": item.signature.hex(),
        }
    lock = item.lock
    return {
        "phase": "timeout",
        "view": item.view,
        "committed_height": item.committed_height,
        "lock": None if lock is None else {"view": lock.view, "block_hash": lock.block_hash.hex()},
        "signature": item.signature.hex(),
    }
