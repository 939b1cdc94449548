"""The synchronous half of the driver: which inputs the replica gets in a turn, and what follows from what it
says.

`collect` feeds what is waiting and returns a batch; the driver makes it durable, sends, and calls `settle`.
The two alternate, and nothing else touches the replica or the application, except reads in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Final

from replication.errors import PeerError
from replication.ledger.application import BlockExecution, VotingApplication
from replication.ledger.commands import BallotCommand, decode_command
from replication.ledger.outcomes import Outcome, Reason, refused
from replication.node.contacts import Contacts
from replication.node.counters import Counters, PeerLog
from replication.node.inbox import Inbox
from replication.node.own_commands import OwnCommand, OwnCommands
from replication.node.tracing import Traces
from replication.node.turn import Batch
from replication.node.voter import Voter
from replication.ordering.application import CommandError, command_digest
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.effects import ApplyBlock, KeepCommand
from replication.ordering.messages import Heartbeat
from replication.ordering.pool import PoolFullError
from replication.ordering.replica import Replica

__all__ = ["SWEEP_MS", "Feeder", "PageDelivery", "Submission"]

TURN_BUDGET_NS: Final = 5_000_000
"""How long a turn takes messages in before it carries out what they ask for: others wait for the answers."""

MAX_SUBMISSIONS_A_TURN: Final = 256
"""So that a flood of own commands does not starve the messages of peers."""

MAX_REFUSED_A_TURN: Final = 8
"""Refused messages after which a turn ends. Correct members send few; a flood of bad signatures must not
keep what the others asked for from being carried out."""

MAX_TICKS_A_TURN: Final = 4

SWEEP_MS: Final = 200
"""How often own commands that wait are looked at, and after how long for the first time."""

MAX_REST_MS: Final = 5_000
"""The longest time between two looks at one command."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Submission:
    """A caller's command on its way to the replica."""

    command: bytes
    resign: Callable[[int], bytes | None] | None
    future: asyncio.Future[Outcome]


@dataclass(slots=True)
class PageDelivery:
    """Fetched blocks on their way to the replica. `done` fails with the PeerError of a refused block."""

    peer: str
    blocks: deque[tuple[Block, Certificate]]
    done: asyncio.Future[None]
    error: PeerError | None = None


class Feeder:
    """Feeds one replica. `now_ms` is the node's time in milliseconds since the Unix epoch (see `clock`)."""

    def __init__(
        self,
        replica: Replica[BlockExecution],
        application: VotingApplication,
        voter: Voter,
        contacts: Contacts,
        counters: Counters,
        traces: Traces | None = None,
    ) -> None:
        self.inbox = Inbox()
        self.own = OwnCommands()
        self.submissions: deque[Submission] = deque()
        self.greetings: dict[str, None] = {}
        self.page: PageDelivery | None = None
        self._replica = replica
        self._application = application
        self._voter = voter
        self._ballots = voter.ballots
        self._contacts = contacts
        self._counters = counters
        self._traces = traces
        self._peer_log = PeerLog(_log)
        self._epoch = replica.members.epoch
        self._view = replica.view
        self._swept_ms = 0
        self._unseen: list[bytes] = []
        self._settled: list[bytes] = []
        self._is_in_hurry = True

    @property
    def has_input(self) -> bool:
        """Whether another turn has something to do at once."""
        return bool(
            self._is_in_hurry
            or self.inbox
            or self.submissions
            or self.greetings
            or (self.page is not None and self.page.blocks)
            or (self._ballots.is_ready and not self._replica.muted)
        )

    def due_ms(self, now_ms: int) -> int:
        """When the next turn is wanted if nothing comes in."""
        due = self._replica.next_tick_ms(now_ms)
        if len(self.own) or self._ballots.has_pending:
            due = min(due, self._swept_ms + SWEEP_MS)
        return due

    def start(self, kept: Iterable[bytes], now_ms: int) -> Batch:
        """The first turn after a restart. `kept` are the commands that were restored, of which the replica
        knows."""
        for command in kept:
            if not isinstance(decode_command(command), BallotCommand):
                self.own.add(OwnCommand(command, command_digest(command), None, now_ms))
        batch = Batch()
        batch.add(self._replica.start(now_ms))
        return batch

    def collect(self, now_ms: int) -> Batch:
        """One turn: feed what waits, vote on what was seen, let time pass. Ends when a block is committed.

        Raises InvariantError, StorageError and whatever is unexpected; then nothing may be carried out.
        """
        self._counters.turns += 1
        self._is_in_hurry = False
        batch = Batch()
        batch.withdrawn += _take(self._settled)
        if self._replica.members.epoch != self._epoch:
            self._begin_epoch(batch, now_ms)
        if now_ms - self._swept_ms >= SWEEP_MS:
            self._sweep(batch, now_ms)
        self._feed_page(batch, now_ms)
        self._feed_own(batch, now_ms)
        self._feed_messages(batch, now_ms)
        self._unseen += batch.seen
        if self._traces is not None and batch.seen:
            self._traces.seen(batch.seen)
        if not batch.is_closed:
            self._vote(batch, now_ms)
            self._tick(batch, now_ms)
        return batch

    def settle(self, batch: Batch) -> None:
        """The batch is durable and sent: tell callers, and let the voter look at what was committed."""
        for applied in batch.committed:
            self._settle_block(applied)
        for entry, outcome in batch.answers:
            entry.finish(outcome)
        page = self.page
        if page is not None and not page.blocks:
            self.page = None
            if not page.done.done():
                if page.error is None:
                    page.done.set_result(None)
                else:
                    page.done.set_exception(page.error)
        if self._view != self._replica.view:
            self._view = self._replica.view
            self._counters.views += 1

    def close(self, error: Callable[[], Exception]) -> None:
        """Nothing more is fed: everyone who waits gets an error of this kind."""
        self.inbox.close()
        for entry in self.own.take_all():
            entry.fail(error())
        for submission in self.submissions:
            if not submission.future.done():
                submission.future.set_exception(error())
        self.submissions.clear()
        if self.page is not None and not self.page.done.done():
            self.page.done.cancel()
        self.page = None
        self._voter.close()

    # Inputs.

    def _feed_page(self, batch: Batch, now_ms: int) -> None:
        page = self.page
        while page is not None and page.blocks and not batch.is_closed:
            block, certificate = page.blocks.popleft()
            try:
                batch.add(self._replica.receive_committed(page.peer, block, certificate))
            except PeerError as error:
                self._refuse(page.peer, error, now_ms)
                page.error = error
                page.blocks.clear()

    def _feed_own(self, batch: Batch, now_ms: int) -> None:
        while self.greetings and not batch.is_closed:
            peer, _ = self.greetings.popitem()
            batch.add(self._replica.greet(peer, now_ms))
        for _ in range(min(len(self.submissions), MAX_SUBMISSIONS_A_TURN)):
            if batch.is_closed:
                return
            self._submit(batch, self.submissions.popleft(), now_ms)

    def _submit(self, batch: Batch, submission: Submission, now_ms: int) -> None:
        command, future = submission.command, submission.future
        if future.done():
            return
        known = self.own.get(command_digest(command))
        if known is not None:
            known.waiters.append((future, now_ms))
            return
        entry = OwnCommand(command, command_digest(command), submission.resign, now_ms)
        entry.waiters.append((future, now_ms))
        try:
            self._application.check(command)
            outcome = self._application.verdict(command)
            if outcome is not None:
                batch.answers.append((entry, outcome))
                return
            batch.add(self._replica.submit(command, now_ms))
        except (CommandError, PoolFullError) as error:
            entry.fail(error)
            return
        self._counters.submitted += 1
        self.own.add(entry)

    def _feed_messages(self, batch: Batch, now_ms: int) -> None:
        inbox, replica = self.inbox, self._replica
        if not inbox:
            return
        until, before = perf_counter_ns() + TURN_BUDGET_NS, self._counters.refused
        while inbox and not batch.is_closed:
            sender, message = inbox.take()
            self._counters.messages += 1
            if type(message) is Heartbeat:
                self._contacts.said(sender, message)
            height = replica.height
            try:
                batch.add(replica.receive(sender, message, now_ms))
            except PeerError as error:
                self._refuse(sender, error, now_ms)
                self._take_rest(batch, height, now_ms)
            if perf_counter_ns() > until or self._counters.refused - before >= MAX_REFUSED_A_TURN:
                break

    def _take_rest(self, batch: Batch, height: int, now_ms: int) -> None:
        """A refused message may have brought a valid certificate before what was wrong with it. If a block
        was committed by that, the batch has to end here."""
        if self._replica.height != height:
            batch.add(self._replica.greet(self._replica.member, now_ms))

    def _tick(self, batch: Batch, now_ms: int) -> None:
        replica = self._replica
        for _ in range(MAX_TICKS_A_TURN):
            height = replica.height
            try:
                batch.add(replica.tick(now_ms))
            except PeerError as error:  # of a block that had to wait for its parent
                self._refuse(replica.coordinator, error, now_ms)
                self._take_rest(batch, height, now_ms)
            if batch.is_closed or replica.next_tick_ms(now_ms) > now_ms:
                return

    def _refuse(self, sender: str, error: PeerError, now_ms: int) -> None:
        self._counters.refused += 1
        self._contacts.refused(sender)
        self._peer_log.refused(sender, error, now_ms)

    # Votes.

    def _vote(self, batch: Batch, now_ms: int) -> None:
        """Ballots go into the same batch as what made them possible: one sync for both."""
        if self._unseen:
            seen, self._unseen = self._unseen, []
            self._voter.seen(seen, self._replica.head.time_ms)
        may_sign = self._ballots.is_ready and not self._replica.muted
        ballots = self._ballots.take(now_ms) if may_sign else []
        self._replica.withdraw(_take(self._ballots.withdrawn))
        batch.withdrawn += _take(self._ballots.settled)
        for ballot in ballots:
            self._submit_ballot(batch, ballot, now_ms)

    def _submit_ballot(self, batch: Batch, ballot: bytes, now_ms: int) -> None:
        """A new ballot has to be on disk in any case: the one that held its votes before may be forgotten."""
        try:
            batch.add(self._replica.submit(ballot, now_ms))
        except PoolFullError:
            batch.persist.append(KeepCommand(ballot))

    def _submit_again(self, batch: Batch, command: bytes, now_ms: int) -> None:
        """Give the replica a command that nobody has to be told about. What it cannot take now comes again
        with a later sweep."""
        try:
            batch.add(self._replica.submit(command, now_ms))
        except PoolFullError:
            return
        except CommandError as error:
            _log.warning("this node's own command is not accepted: %s", error)

    # What follows.

    def _settle_block(self, applied: ApplyBlock[BlockExecution]) -> None:
        entries = applied.execution.entries
        self._counters.blocks += 1
        self._counters.entries += len(entries)
        for entry in entries:
            if entry.event_type == "vote":
                self._counters.recorded[entry.data["value"]] += 1
            elif entry.event_type == "tally":
                self._counters.decisions += 1
            elif entry.event_type == "evidence":
                self._counters.evidence += 1
        for digest in applied.execution.finished:
            poll = applied.execution.touched.get(digest)
            if poll is not None:  # decided by votes, and not because its time was over
                self._counters.decided.add(1000 * (applied.execution.time_ms - poll.proposal.proposed_ms))
        for own, outcome in self.own.take_finished(applied.execution.outcomes):
            own.finish(outcome)
            self._settled.append(own.digest)
        self._voter.committed(applied)
        if self._traces is not None:
            self._traces.committed(applied.execution)
        self._is_in_hurry = True

    def _sweep(self, batch: Batch, now_ms: int) -> None:
        """Look at own commands that have waited for a while: has it become clear that they can have no
        effect?

        Whatever can is given to the replica again, which does nothing if it still has it.
        """
        self._swept_ms = now_ms
        for entry in self.own.due(now_ms):
            entry.due_ms = now_ms + min(now_ms - entry.since_ms, MAX_REST_MS)
            outcome = self._application.verdict(entry.command)
            if outcome is None:
                self._submit_again(batch, entry.command, now_ms)
            else:
                self.own.forget(entry.digest)
                self._voter.look_for_refused({entry.digest: outcome})
                batch.answers.append((entry, outcome))
                batch.withdrawn.append(entry.digest)
        self._replica.withdraw(batch.withdrawn)
        for ballot in self._voter.sweep(now_ms, self._replica.head.time_ms):
            self._submit_again(batch, ballot, now_ms)

    def _begin_epoch(self, batch: Batch, now_ms: int) -> None:
        """What was signed in the old epoch is void, and the replica has dropped it: sign it again."""
        self._epoch = self._replica.members.epoch
        self._contacts.keep(self._replica.members)
        self._voter.begin_epoch(self._replica.members)
        for entry in self.own.take_all():
            batch.withdrawn.append(entry.digest)
            resign = entry.resign if self._replica.is_member else None
            command = None if resign is None else resign(self._epoch)
            if command is None:
                text = f"epoch {self._epoch} began before the command was ordered; send it again"
                batch.answers.append((entry, refused(Reason.EPOCH_OVER, text)))
                continue
            digest = command_digest(command)
            self.own.add(OwnCommand(command, digest, entry.resign, entry.since_ms, entry.waiters))
            self._submit_again(batch, command, now_ms)


def _take(items: list[bytes]) -> list[bytes]:
    """The content of a list that others fill, which is empty then."""
    taken = items[:]
    items.clear()
    return taken
