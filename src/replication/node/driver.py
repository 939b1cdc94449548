"""The driver: the asyncio shell around one replica. Everything that changes state passes through its one
task.

Inputs (commands of one's own, messages of peers, fetched blocks, time) are queued. Each turn of the task
feeds those that are there to the replica, and then carries out what they ask for together: first everything
is made durable, then it sends, then it tells whoever waits. So a burst of messages costs one sync (group
commit), and nothing leaves before what it promises is on disk. A block ends a turn's inputs, since the next
input may look up in the store what the block changed. `feeder` has the synchronous half.

Writing happens in one worker thread, so that the loop goes on receiving. While it runs, nothing else touches
the replica, the application, the store or the journal: the task waits for it, and reads wait for the task.

Whatever goes wrong in storage, or with an invariant, ends the driver at once (`fatal`): it sends and answers
nothing more, and the process has to end. What a peer does wrong is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from replication.consensus import VoteValue
from replication.identity.genesis import Genesis
from replication.identity.keys import SigningKey
from replication.ledger.application import Outcome, VotingApplication
from replication.ledger.journal import JournalState, SignJournal
from replication.ledger.store import Store
from replication.node.ballots import Ballots
from replication.node.catchup import CatchUp, Page
from replication.node.changes import Changes
from replication.node.clock import NodeClock
from replication.node.contacts import Contacts
from replication.node.counters import Counters
from replication.node.driver_terms import (
    DriverSettings,
    DriverStatus,
    NodeStoppingError,
    NoQuorumError,
    NotSigningError,
    PeerState,
    Transport,
)
from replication.node.feeder import SWEEP_MS, Feeder, PageDelivery, Submission
from replication.node.policies import Policy
from replication.node.recorder import Recorder
from replication.node.tracing import Traces
from replication.node.turn import Batch
from replication.node.voter import Voter
from replication.ordering.messages import Message
from replication.ordering.replica import Replica, ReplicaSettings, Restored

__all__ = [
    "Changes",
    "Driver",
    "DriverSettings",
    "DriverStatus",
    "NoQuorumError",
    "NodeStoppingError",
    "NotSigningError",
    "PeerState",
    "Transport",
]

T_ = TypeVar("T_")

NONCE_BYTES: Final = 32
MAX_CAST_ROUNDS: Final = 4
"""A vote by hand may have to wait for an earlier one, and be signed again in a new epoch, before it is
clear."""

_log = logging.getLogger(__name__)


class Driver:
    """Owns the replica, the store and the journal of a running node.

    `fatal` never completes in a healthy node. It fails with the StorageError or InvariantError (or any
    unexpected error) that stopped the driver: whoever runs the node awaits it and ends the process with an
    error. From that moment on nothing more is signed, written, sent or answered.

    `changes` tells watchers that the record grew.
    """

    def __init__(
        self,
        *,
        member: str,
        genesis: Genesis,
        key: SigningKey,
        store: Store,
        journal: SignJournal,
        journal_state: JournalState,
        application: VotingApplication,
        transport: Transport,
        policy: Policy,
        settings: DriverSettings | None = None,
        replica_settings: ReplicaSettings | None = None,
        clock: Callable[[], int] | None = None,
        members_changed: Callable[[], None] | None = None,
        traces: Traces | None = None,
    ) -> None:
        """Make a driver in a running event loop; nothing happens before `start`.

        `store` and `journal` stay the caller's to close, after `stop`. `clock` gives this host's time in
        milliseconds since the Unix epoch and never goes back; the default is a `NodeClock`.
        `members_changed` is called when an epoch has begun, whose members the application then has. `traces`
        are told what happens to proposals.
        """
        self._loop = asyncio.get_running_loop()
        self._settings = settings or DriverSettings()
        self._clock = clock or NodeClock()
        self._store = store
        self._application = application
        self._transport = transport
        self._counters = Counters()
        self._recorder = Recorder(store, journal)
        self._contacts = Contacts(member, self._settings.contact_ms)
        ballots = Ballots(
            member=member,
            cluster_id=genesis.cluster_id,
            members=application.members,
            key=key,
            application=application,
            history=store,
        )
        self._kept = ballots.restore(journal_state.commands, self._clock())
        self._replica = Replica(
            member,
            genesis.cluster_id,
            application.members,
            key,
            application,
            _restored(store, journal_state, tuple(self._kept)),
            replica_settings,
        )
        self._voter = Voter(
            member=member,
            genesis=genesis,
            policy=policy,
            application=application,
            history=store,
            ballots=ballots,
            policy_timeout_ms=self._settings.policy_timeout_ms,
            clock=self._clock,
            wake=self._wake,
            counters=self._counters,
            traces=traces,
        )
        self._feeder = Feeder(self._replica, application, self._voter, self._contacts, self._counters, traces)
        self._catch_up = CatchUp(
            fetch=transport.fetch_blocks,
            deliver=self._deliver,
            height=lambda: self._replica.height,
            candidates=self._fetch_candidates,
            fail=self._fail,
            timeout_seconds=self._settings.fetch_timeout_ms / 1000,
            counters=self._counters,
        )
        self.fatal: asyncio.Future[None] = self._loop.create_future()
        self.changes = Changes(self._replica.height, self._replica.head.audit_size)
        self._member = member
        self._members_changed = members_changed
        self._epoch = self._replica.members.epoch
        self._connected: set[str] = set()
        self._looked_ms = 0
        self._worker = ThreadPoolExecutor(1, "recorder")
        self._waker: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._readers: deque[tuple[Callable[[Store], object], asyncio.Future[object]]] = deque()
        self._withdrawn: list[bytes] = []
        self._is_writing = False
        self._is_stopping = False
        self._is_closed = False
        self._checked_quorum_ms = 0

    # Life.

    async def start(self) -> None:
        """Take up where the last run ended: repeat what was signed, resubmit kept commands, vote on what is
        open. Messages and commands may come from now on. Raises what `fatal` would if that fails."""
        batch = self._feeder.start(self._kept, self._clock())
        self._kept = []
        self._voter.consider_open(
            (proposal, self._store.entry(proposal.sequence).data["created_ms"])
            for proposal in self._application.open_proposals()
        )
        await self._carry_out(batch)
        self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        """Finish the batch at hand, fail what still waits with NodeStoppingError, and end all tasks. May be
        called more than once, and after `fatal` failed."""
        self._is_stopping = True
        self._wake()
        await self._catch_up.stop()
        if self._task is not None:
            await asyncio.wait({self._task})
        self._close()
        self._worker.shutdown(wait=True)

    # Commands of one's own.

    async def submit(self, command: bytes, resign: Callable[[int], bytes | None] | None = None) -> Outcome:
        """Have a command of one's own ordered; returns its outcome once the block that holds it is durable
        here, or once the committed state says for good what it would be (a repeat, a refusal).

        `resign` makes the same command for a new epoch, or None to give it up; it is called when the epoch
        changes before the command was committed. Cancelling the caller withdraws nothing.

        Raises:
            CommandError: no member would accept the command.
            PoolFullError: too many commands of this member are waiting.
            NoQuorumError: no quorum of nodes has been in contact for too long; the command may commit later.
            NodeStoppingError: the node stops; the command may commit later.
            NotSigningError: this node is not a member.
        """
        if self._is_stopping or self._task is None:
            raise _stopping()
        if not self._replica.is_member:
            raise NotSigningError(f"this node orders nothing now: {self._replica.muted}. Ask a member.")
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._feeder.submissions.append(Submission(command, resign, future))
        self._wake()
        return await future

    async def cast(self, proposal_id: str, value: VoteValue, reason: str = "") -> Outcome:
        """Cast this member's vote by hand, on a committed proposal. Repeating the same vote gives the first
        outcome; another one is refused with ALREADY_VOTED unless the rules allow changes.

        Refusals are outcomes, not errors: UNKNOWN_PROPOSAL, PROPOSAL_NOT_OPEN, PROPOSAL_EXPIRED,
        ALREADY_VOTED.

        Raises:
            NotSigningError: this member may have forgotten what it has signed.
            NoQuorumError, NodeStoppingError, CommandError, PoolFullError: as `submit`.
        """
        outcome: Outcome | bytes = b""
        for _ in range(MAX_CAST_ROUNDS):
            if self._replica.muted:
                raise NotSigningError(f"{self._member} casts no votes now: {self._replica.muted}")
            step = await self.read(lambda _: self._voter.cast(proposal_id, value, reason, self._clock()))
            if isinstance(step, Outcome):
                return step
            outcome = await self.submit(step, lambda _: self._voter.resign(proposal_id, self._clock()))
        if isinstance(outcome, Outcome):
            return outcome
        raise _stopping()

    async def read(self, function: Callable[[Store], T_]) -> T_:
        """Run a short read of the store (or of the application's state) at a moment when nothing writes, on
        the loop's thread. Everything that looks at the store or the application goes through here; what it
        sees is durable. Keep each call to a few milliseconds: page through what is long."""
        if self._is_closed:
            raise _stopping()
        if not self._is_writing:
            return function(self._store)
        future: asyncio.Future[T_] = self._loop.create_future()
        self._readers.append((function, future))  # type: ignore[arg-type]  # a pair of one and the same type
        return await future

    # Peers.

    async def receive(self, sender: str, message: Message) -> None:
        """Take in a message of a node, whose name the transport has authenticated. Returns at once while
        there is room in the sender's share of the queue, else when there is: that is the back-pressure."""
        if sender in self._replica.members:
            self._contacts.heard(sender, self._clock())
        await self._feeder.inbox.put(sender, message)
        self._wake()

    def peer_connected(self, peer: str) -> None:
        """The transport can send to `peer` (again). Greets it with what it is known to have signed."""
        self._connected.add(peer)
        self._feeder.greetings[peer] = None
        self._wake()

    def peer_disconnected(self, peer: str) -> None:
        """The connection to `peer` is gone. It still counts as in contact until `contact_ms` has passed."""
        self._connected.discard(peer)

    # What can be asked.

    @property
    def can_progress(self) -> bool:
        """Whether a commit quorum of members, this one included, has been heard from lately."""
        return self._contacts.has_quorum(self._replica.members, self._clock())

    def status(self) -> DriverStatus:
        """A snapshot for status answers and metrics."""
        replica = self._replica
        head = replica.head
        self._counters.fsyncs = self._recorder.fsyncs
        return DriverStatus(
            epoch=replica.members.epoch,
            view=replica.view,
            coordinator=replica.coordinator,
            height=head.height,
            audit_size=head.audit_size,
            audit_head=head.audit_head,
            pending=replica.pending_count,
            peers=self._contacts.states(replica.members, self._clock()),
            muted=replica.muted,
            suspected=replica.suspected,
            can_progress=self.can_progress,
            counters=self._counters,
            inbox=len(self._feeder.inbox),
        )

    # The task.

    async def _run(self) -> None:
        try:
            while not self._is_stopping:
                await self._wait_for_input()
                await self._carry_out(self._feeder.collect(self._clock()))
                self._check_quorum()
                self._follow_members()
                self._look_for_more()
        except Exception as error:
            self._fail(error)

    async def _wait_for_input(self) -> None:
        """Return when there is something to do. Lets the loop run once in any case."""
        if self._feeder.has_input:
            await asyncio.sleep(0)
            return
        now_ms = self._clock()
        due_ms = self._feeder.due_ms(now_ms)
        if self._feeder.own:
            due_ms = min(due_ms, self._checked_quorum_ms + SWEEP_MS)
        self._waker = self._loop.create_future()
        timer = self._loop.call_later(max(due_ms - now_ms, 1) / 1000, self._wake)
        try:
            await self._waker
        finally:
            timer.cancel()
            self._waker = None

    def _wake(self) -> None:
        waker = self._waker
        if waker is not None and not waker.done():
            waker.set_result(None)

    async def _carry_out(self, batch: Batch) -> None:
        """Persist, send, tell: in this order."""
        early, late = batch.split_sends()
        for send in early:
            self._transport.send(send.to, send.message)
        self._withdrawn += batch.withdrawn
        if batch.persist:
            withdrawn, self._withdrawn = self._withdrawn, []
            self._is_writing = True
            began = time.perf_counter_ns()
            try:
                await self._loop.run_in_executor(self._worker, self._recorder.write, batch.persist, withdrawn)
            except BaseException:
                batch.give_up(_stopping)
                raise
            self._is_writing = False
            self._counters.writes.add((time.perf_counter_ns() - began) // 1000)
            if self.fatal.done():
                batch.give_up(_stopping)
                return
        for send in late:
            self._transport.send(send.to, send.message)
        self._feeder.settle(batch)
        if batch.committed:
            head = batch.committed[-1].block.header
            self.changes.grew(head.height, head.audit_size)
        for behind in batch.behind:
            self._catch_up.behind(behind.peer, behind.height)
        self._serve_readers()

    def _serve_readers(self) -> None:
        while self._readers:
            function, future = self._readers.popleft()
            if future.done():
                continue
            try:
                future.set_result(function(self._store))
            except Exception as error:  # the reader's to deal with
                future.set_exception(error)

    def _check_quorum(self) -> None:
        """Tell callers who have waited too long that nothing can be committed now."""
        now_ms = self._clock()
        if now_ms - self._checked_quorum_ms < SWEEP_MS:
            return
        self._checked_quorum_ms = now_ms
        if self._feeder.own and not self.can_progress:
            self._feeder.own.give_up_waiting(now_ms - self._settings.no_quorum_after_ms, self._no_quorum)

    def _no_quorum(self) -> NoQuorumError:
        members, now_ms = self._replica.members, self._clock()
        present = sum(peer in members for peer in self._contacts.reachable(now_ms))
        return NoQuorumError(
            f"{self._member} is in contact with {present} of the {members.n - 1} other nodes, too few to "
            "commit anything. The request is kept and may still be committed when they return; repeat it "
            "with the same request id to learn its result."
        )

    def _fail(self, error: BaseException) -> None:
        """Stop for good: nothing that was not durable is sent or answered."""
        _log.critical("the node stops: %s: %s", type(error).__name__, error)
        self._is_stopping = True
        if not self.fatal.done():
            self.fatal.set_exception(error)
        self._close()

    def _close(self) -> None:
        self._is_stopping = self._is_closed = True
        self._feeder.close(_stopping)
        self.changes.close(_stopping)
        readers, self._readers = self._readers, deque()
        for _, future in readers:
            if not future.done():
                future.set_exception(_stopping())

    # Catching up.

    async def _deliver(self, peer: str, page: Page) -> None:
        done: asyncio.Future[None] = self._loop.create_future()
        self._feeder.page = PageDelivery(peer, deque(page), done)
        self._wake()
        await done

    def _fetch_candidates(self) -> list[str]:
        """Peers to fetch from, those that said they are furthest first. Members send nothing to one that is
        not in their epoch, so a connection is enough."""
        peers = self._contacts.states(self._replica.members, self._clock())
        heard = [peer for peer, state in peers.items() if state.reachable]
        return sorted(heard, key=lambda peer: -peers[peer].height) + sorted(self._connected.difference(heard))

    def _look_for_more(self) -> None:
        """Nobody may tell a node what was committed that is not a member yet, or not any more: it asks."""
        now_ms = self._clock()
        if now_ms - self._looked_ms < self._settings.look_ms:
            return
        self._looked_ms = now_ms
        if not (self._replica.is_member and self.can_progress):
            self._catch_up.look()

    def _follow_members(self) -> None:
        """Tell whoever has to know that an epoch has begun."""
        epoch = self._replica.members.epoch
        if epoch != self._epoch:
            self._epoch = epoch
            if self._members_changed is not None:
                self._members_changed()


def _restored(store: Store, journal_state: JournalState, commands: tuple[bytes, ...]) -> Restored:
    """What the replica has to know of the last run."""
    header, certificate = store.head()
    if header.height < journal_state.committed_height:
        _log.error(
            "the record ends at block %d, but this member has signed what rests on block %d: the record was "
            "rolled back. What is missing is fetched from the other nodes.",
            *(header.height, journal_state.committed_height),
        )
    return Restored(
        header=header,
        certificate=certificate,
        sign_state=journal_state.sign_state,
        bodies=journal_state.bodies,
        commands=commands,
        spare_nonce=os.urandom(NONCE_BYTES),
        base_height=store.totals().base_height,
    )


def _stopping() -> NodeStoppingError:
    return NodeStoppingError(
        "the node stops. The request may still be committed; repeat it when the node is back, with the same "
        "request id."
    )
