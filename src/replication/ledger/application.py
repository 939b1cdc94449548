"""The replicated application: voting, as the ordering protocol sees it.

`VotingApplication` is deterministic: it reads no clock and does no I/O but look-ups in the committed record
(`History`). It keeps open proposals in memory and nothing of what is finished. The parts: `admission` checks
commands, `rulings` has the conditions under which each takes effect, `execution` the effects, `selection`
chooses for a block, `state` is what is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from replication.consensus.approval import Missing
from replication.errors import InvariantError
from replication.identity.genesis import Genesis
from replication.identity.members import MemberSet
from replication.ordering.application import CheckedCommand, Selection
from replication.ordering.statements import Evidence, NewView

from .admission import Admission
from .commands import (
    BallotCommand,
    CoordinatorChangeCommand,
    EvidenceCommand,
    encode_command,
    make_rejoin,
)
from .execution import BlockExecution, execute_block, genesis_execution
from .history import History, OpenProposal
from .outcomes import Outcome, Reason, refused
from .rulings import Ruling, rule, rule_vote
from .selection import select
from .state import State

__all__ = ["BlockExecution", "Outcome", "Reason", "VotingApplication"]


class VotingApplication:
    """Implements `ordering.application.Application[BlockExecution]`.

    `history` must show what was committed before the next input comes: the driver writes each block to the
    store before it goes on.
    """

    def __init__(self, genesis: Genesis, history: History) -> None:
        self._genesis = genesis
        self._admission = Admission(genesis.cluster_id)
        self._state = State(genesis, history)

    # Where the record stands.

    @property
    def members(self) -> MemberSet:
        """Members of the current epoch."""
        return self._state.members

    @property
    def recorded_view(self) -> int:
        """Highest view of this epoch on record; 0 at the start of an epoch."""
        return self._state.recorded_view

    @property
    def base_height(self) -> int:
        """Height of the block that began the epoch; 0 for the first."""
        return self._state.totals.base_height

    @property
    def faulty(self) -> frozenset[str]:
        """Members that are proven faulty."""
        return frozenset(self._state.faulty)

    def incarnation(self, member: str) -> bytes:
        """Nonce of the incarnation in which a member may sign; empty for the disk it was made with."""
        return self._state.incarnations.get(member, b"")

    def is_faulty(self, member: str) -> bool:
        """Whether a member is proven faulty."""
        return member in self._state.faulty

    def open_proposals(self) -> Iterator[OpenProposal]:
        """All open proposals with their votes, by number."""
        return (poll.snapshot() for poll in self._state.polls())

    def open_proposal(self, name: str | bytes) -> OpenProposal | None:
        """The open proposal with this id or digest, with its votes."""
        digest = self._state.digest_of(name) if isinstance(name, str) else name
        poll = None if digest is None else self._state.poll(digest)
        return None if poll is None else poll.snapshot()

    def missing(self, proposal_id: str) -> tuple[Missing, ...]:
        """What an open proposal lacks for an approval; nothing for any other."""
        digest = self._state.digest_of(proposal_id)
        poll = None if digest is None else self._state.poll(digest)
        return () if poll is None else poll.missing()

    # Commands before they are ordered.

    def check(self, command: bytes) -> CheckedCommand:
        """Check size, shape, epoch, author and signature; cheap for a command that was checked lately.

        Raises EpochOverError for a command of another epoch, CommandError for any other fault.
        """
        admitted = self._admission.check(command, self.members)
        return CheckedCommand(
            admitted.digest,
            admitted.command.author,
            announce=admitted.wants_announcement,
            keep=admitted.is_kept,
        )

    def select(self, commands: Sequence[bytes], time_ms: int) -> Selection:
        """Choose among checked commands for a block at `time_ms` (see `selection`)."""
        return select(self._state, self._admission, commands, time_ms)

    def verdict(self, command: bytes) -> Outcome | None:
        """What the committed state says about a command for good: the first result of a repeat, or a
        refusal. None while it may still take effect, if only in part (a ballot). Raises CommandError if it
        is malformed."""
        admitted = self._admission.read(command)
        if isinstance(admitted.command, BallotCommand):
            verdicts = self.vote_verdicts(command)
            decided = [outcome for outcome in verdicts if outcome is not None]
            if len(decided) < len(verdicts):
                return None
            return next((outcome for outcome in decided if not outcome.accepted), decided[0])
        ruling = rule(self._state, admitted, self._state.totals.time_ms)
        return self._for_good(ruling, admitted.command.epoch)

    def vote_verdicts(self, command: bytes) -> list[Outcome | None]:
        """As `verdict`, for each vote of a ballot. Raises CommandError if it is malformed, or no ballot."""
        admitted = self._admission.read(command)
        ballot = admitted.command
        if not isinstance(ballot, BallotCommand):
            raise TypeError(f"a {type(ballot).__name__} holds no votes")
        return [
            self._for_good(rule_vote(self._state, ballot, item, mark), ballot.epoch)
            for item, mark in zip(ballot.votes, admitted.marks, strict=True)
        ]

    def _for_good(self, ruling: Ruling, epoch: int) -> Outcome | None:
        if ruling.final:
            return ruling.outcome
        if epoch < self.members.epoch:
            message = f"epoch {epoch} is over, and the command is not on record; sign it again for this epoch"
            return refused(Reason.EPOCH_OVER, message)
        return None

    # Blocks.

    def next_deadline_ms(self) -> int | None:
        """Block time after which a block is due even without commands; None when nothing is."""
        return self._state.next_deadline_ms

    def execute(self, height: int, time_ms: int, commands: Sequence[bytes]) -> BlockExecution:
        """Execute speculatively on top of the committed state. A command that has no effect spoils nothing.

        Raises CommandError for a command that `check` would refuse.
        """
        admitted = [self._admission.check(command, self.members) for command in commands]
        return execute_block(self._state, height, time_ms, admitted)

    def commit(self, execution: BlockExecution) -> None:
        """Make an execution the committed state. Raises InvariantError if it is not on top of that."""
        state = self._state
        if execution.base is not state.totals or execution.height != state.totals.height + 1:
            raise InvariantError(
                f"committing an execution of height {execution.height} on top of another state than it was "
                f"made for: height {state.totals.height}, audit size {state.totals.audit_size}"
            )
        state.merge(execution.totals, execution.touched, execution.finished)

    def genesis_execution(self) -> BlockExecution:
        """The execution of block 0."""
        return genesis_execution(self._genesis)

    # Commands that the replica makes.

    def view_command(self, opening: NewView) -> bytes:
        """The command that puts a new coordinator on record."""
        return encode_command(
            CoordinatorChangeCommand(
                opening.epoch, opening.view, opening.signer, opening.tc_digest, opening.signature
            )
        )

    def evidence_command(self, evidence: Evidence) -> bytes:
        """The command that puts on record that a member has contradicted itself."""
        return encode_command(EvidenceCommand(evidence.first, evidence.second))

    def rejoin_command(self, member: str, nonce: bytes, sign: Callable[[bytes], bytes]) -> bytes:
        """The command by which a member that lost its disk asks for a new incarnation."""
        return make_rejoin(sign, self._genesis.cluster_id, self.members.epoch, member=member, nonce=nonce)
