"""One member's replica: the normal case of the ordering protocol.

Steps are numbered as in the package docstring's sources: propose, prepare, lock and commit, decide. Each public
method is one input; it either raises and changes nothing, or returns the `Effects` to carry out before the next.

Admission order for everything that comes from a peer: position and size, shape, membership, repetition or
conflict, signature. A message that is late or repeated is answered, not refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from replication.errors import InvariantError, PeerError
from replication.identity.members import MemberSet
from replication.ordering import limits
from replication.ordering.application import Application, CommandError, Execution, command_digest
from replication.ordering.blocks import Block, BlockHeader, commands_root
from replication.ordering.certificates import Certificate, StatementCollector, check_certificate
from replication.ordering.effects import ApplyBlock, Behind, Effects, SaveBody, SaveSignState, Send
from replication.ordering.messages import (
    Acknowledgement,
    BlockProposal,
    CertificateMessage,
    CommandMessage,
    Heartbeat,
    Message,
)
from replication.ordering.pool import CommandPool, PoolFullError
from replication.ordering.signing import GuardedSigner, Signer, SignState
from replication.ordering.statements import Phase, Statement, StatementKey, is_signed_by_member

__all__ = ["BlockRefusedError", "Replica", "ReplicaSettings", "Restored"]

E_ = TypeVar("E_", bound=Execution)


class BlockRefusedError(PeerError):
    """A coordinator's block that this replica does not acknowledge."""

    reason: ClassVar[str] = "BLOCK_REFUSED"


@dataclass(frozen=True)
class ReplicaSettings:
    """Timing in milliseconds.

    `gather_ms`: how long the coordinator holds an incomplete batch so that votes arrive in the block of their
    proposal. `repeat_ms`: how long to wait before sending again. `heartbeat_ms`: a quarter of the idle timeout.
    """

    gather_ms: int = 5
    repeat_ms: int = 200
    heartbeat_ms: int = 200


@dataclass(frozen=True)
class Restored:
    """Durable state read back at start: the last committed header, its certificate (None for genesis), what was
    signed, and the bodies of prepared blocks above it."""

    header: BlockHeader
    certificate: Certificate | None
    sign_state: SignState
    bodies: tuple[Block, ...] = ()


@dataclass
class _Candidate(Generic[E_]):
    """The checked and executed block at the next height. `sent_ms`: when its step was last broadcast."""

    block: Block
    execution: E_
    sent_ms: int
    prepared: Certificate | None = None


class Replica(Generic[E_]):
    """A replica of the log. See the package docstring for how to drive it."""

    def __init__(
        self,
        member: str,
        cluster_id: bytes,
        members: MemberSet,
        key: Signer,
        application: Application[E_],
        restored: Restored,
        settings: ReplicaSettings | None = None,
    ) -> None:
        self.member = member
        self.members = members
        self.view = 0
        self._cluster_id = cluster_id
        self._application = application
        self._settings = settings or ReplicaSettings()
        self._signer = GuardedSigner(member, cluster_id, key, restored.sign_state)
        self._flushed_state = restored.sign_state
        self._head = restored.header
        self._certificate = restored.certificate
        self._pool = CommandPool()
        self._prepares = StatementCollector(Phase.PREPARE, cluster_id, members)
        self._commits = StatementCollector(Phase.COMMIT, cluster_id, members)
        self._candidate: _Candidate[E_] | None = None
        self._deferred: tuple[str, BlockProposal] | None = None
        self._heartbeat_ms: int | None = None
        self._swept_ms = 0
        self._restored_bodies = {
            block.hash: block for block in restored.bodies if block.height == self.height + 1
        }
        self._out: Effects[E_] = Effects()

    # What an observer may ask.

    @property
    def height(self) -> int:
        """Height of the last committed block."""
        return self._head.height

    @property
    def head(self) -> BlockHeader:
        """Header of the last committed block."""
        return self._head

    @property
    def latest_certificate(self) -> Certificate | None:
        """Commit certificate of the head; None at genesis."""
        return self._certificate

    @property
    def coordinator(self) -> str:
        """Member that coordinates the current view."""
        return self.members.ids[self.view % self.members.n]

    @property
    def is_coordinator(self) -> bool:
        return self.coordinator == self.member

    @property
    def pending_count(self) -> int:
        """Commands known here that are not committed yet."""
        return len(self._pool)

    # Inputs.

    def start(self, now_ms: int) -> Effects[E_]:
        """First input after a restart: take up the block that was being voted on, and repeat what was signed."""
        last = self._signer.state.prepare
        body = self._restored_bodies.get(last.key.block_hash) if last is not None else None
        if last is not None and body is not None:
            self._candidate = _Candidate(body, self._execute(body), now_ms)
            lock = self._signer.state.lock
            if lock is not None and lock.key.block_hash == body.hash:
                self._candidate.prepared = lock
            self._acknowledge(last, now_ms)
            commit = self._signer.state.commit
            if commit is not None and commit.key.block_hash == body.hash:
                self._acknowledge(commit, now_ms)
            self._repeat_step(now_ms, everyone=True)
        self._restored_bodies = {}
        return self._flush()

    def submit(self, command: bytes, now_ms: int) -> Effects[E_]:
        """Have one's own command ordered; it is kept and repeated until it is committed.

        Raises CommandError for a command that no member would accept and PoolFullError.
        """
        checked = self._application.check(command)
        if self._pool.add(command, checked, now_ms):
            if checked.announce:
                self._send(None, CommandMessage(command))
            elif not self.is_coordinator:
                self._send(self.coordinator, CommandMessage(command))
        return self._flush()

    def withdraw(self, digests: list[bytes]) -> None:
        """Stop repeating commands of one's own that can no longer take effect."""
        self._pool.discard(digests)

    def receive(self, sender: str, message: Message, now_ms: int) -> Effects[E_]:
        """Take in a message from a member, authenticated by the transport. Raises PeerError for an invalid one."""
        if sender not in self.members or sender == self.member:
            raise PeerError(f"{sender} is not another member of epoch {self.members.epoch}")
        try:
            match message:
                case CommandMessage():
                    self._on_command(sender, message.command, now_ms)
                case BlockProposal():
                    self._on_block_proposal(sender, message, now_ms)
                case Acknowledgement():
                    self._on_acknowledgement(sender, message.statement, now_ms)
                case CertificateMessage():
                    self._on_certificate(sender, message.certificate, now_ms)
                case Heartbeat():
                    self._on_heartbeat(sender, message, now_ms)
        except PeerError:
            self._out = Effects()
            raise
        return self._flush()

    def receive_committed(self, sender: str, block: Block, certificate: Certificate) -> Effects[E_]:
        """Take in a fetched block with its commit certificate. A height already known changes nothing."""
        if block.height <= self.height:
            return self._flush()
        if block.height != self.height + 1 or block.header.parent != self._head.hash:
            raise PeerError(f"{sender} sent block {block.height}, which does not follow block {self.height}")
        if certificate.key.height != block.height or certificate.key.block_hash != block.hash:
            raise PeerError(f"{sender} sent block {block.height} with the certificate of another block")
        check_certificate(certificate, Phase.COMMIT, self._cluster_id, self.members)
        self._check_shape(block)
        self._commit(block, self._execution_of(block), certificate)
        return self._flush()

    def tick(self, now_ms: int) -> Effects[E_]:
        """Time passed, or the effects of another input were carried out: build, repeat, send heartbeats."""
        if self._deferred is not None and self._deferred[1].block.height <= self.height + 1:
            (sender, message), self._deferred = self._deferred, None
            return self.receive(sender, message, now_ms)
        if self._candidate is None:
            self._propose(now_ms)
        elif self.is_coordinator and now_ms - self._candidate.sent_ms >= self._settings.repeat_ms:
            self._repeat_step(now_ms)
        if now_ms - self._swept_ms >= self._settings.repeat_ms:
            self._sweep_pool(now_ms)
        if self._heartbeat_ms is None or now_ms - self._heartbeat_ms >= self._settings.heartbeat_ms:
            self._heartbeat_ms = now_ms
            head = self._head
            self._send(
                None, Heartbeat(self.view, self.height, head.audit_size, head.audit_head, self._certificate)
            )
        return self._flush()

    def next_tick_ms(self, now_ms: int) -> int:
        """When `tick` is wanted next, if nothing else happens before."""
        times = [now_ms if self._heartbeat_ms is None else self._heartbeat_ms + self._settings.heartbeat_ms]
        if self._deferred is not None and self._deferred[1].block.height <= self.height + 1:
            times.append(now_ms)
        if self.is_coordinator and self._candidate is None:
            oldest, deadline = self._pool.oldest_ms(), self._application.next_deadline_ms()
            if oldest is not None and now_ms < oldest + self._settings.gather_ms:
                times.append(oldest + self._settings.gather_ms)
            if deadline is not None:
                times.append(deadline + 1)
        elif self.is_coordinator and self._candidate is not None:
            times.append(self._candidate.sent_ms + self._settings.repeat_ms)
        return max(now_ms, min(times))

    # Commands.

    def _sweep_pool(self, now_ms: int) -> None:
        """Drop what waited too long, and send one's own commands to the coordinator again."""
        self._swept_ms = now_ms
        self._pool.expire(now_ms, self.member)
        if not self.is_coordinator:
            for command in self._pool.due(self.member, now_ms, self._settings.repeat_ms * 5):
                self._send(self.coordinator, CommandMessage(command))

    def _on_command(self, sender: str, command: bytes, now_ms: int) -> None:
        try:
            checked = self._application.check(command)
        except CommandError as error:
            raise PeerError(f"{sender} passed on a command that is not valid: {error}") from error
        try:
            if self.is_coordinator and not self._pool.add(command, checked, now_ms):
                return
        except PoolFullError as error:
            raise PeerError(f"{sender}: {error}") from error
        if checked.announce:
            self._out.seen.append(command)

    # Propose (the coordinator's part).

    def _propose(self, now_ms: int) -> None:
        if not self.is_coordinator:
            return
        time_ms = max(now_ms, self._head.time_ms + 1)
        deadline, oldest = self._application.next_deadline_ms(), self._pool.oldest_ms()
        is_due = deadline is not None and time_ms > deadline
        if not is_due and oldest is None:
            return
        selection = self._application.select(self._pool.commands(), time_ms)
        self._pool.discard(command_digest(command) for command in selection.void)
        commands = self._fitting(selection.commands)
        if not commands and not is_due:
            return
        if (
            not is_due
            and not selection.complete
            and oldest is not None
            and now_ms - oldest < self._settings.gather_ms
        ):
            return
        self._propose_block(commands, time_ms, now_ms)

    @staticmethod
    def _fitting(commands: tuple[bytes, ...]) -> tuple[bytes, ...]:
        size = 0
        for count, command in enumerate(commands):
            size += len(command)
            if size > limits.MAX_BLOCK_BYTES or count >= limits.MAX_BLOCK_COMMANDS:
                return commands[:count]
        return commands

    def _propose_block(self, commands: tuple[bytes, ...], time_ms: int, now_ms: int) -> None:
        height = self.height + 1
        execution = self._application.execute(height, time_ms, commands)
        header = BlockHeader(
            cluster_id=self._cluster_id,
            epoch=self.members.epoch,
            height=height,
            parent=self._head.hash,
            time_ms=time_ms,
            commands_root=commands_root(commands),
            entries_root=execution.entries_root,
            audit_size=execution.audit_size,
            audit_head=execution.audit_head,
        )
        block = Block(header, commands)
        key = self._key(Phase.PROPOSE, block)
        if not self._signer.may_sign(key):
            # A block was signed at this position before a crash lost its body; only another view can go on.
            return
        statement = self._signer.sign(key)
        self._candidate = _Candidate(block, execution, now_ms)
        self._out.persist.append(SaveBody(block))
        self._send(None, BlockProposal(statement, block, self._certificate))
        self._acknowledge(self._sign(self._key(Phase.PREPARE, block)), now_ms)

    # Prepare.

    def _on_block_proposal(self, sender: str, message: BlockProposal, now_ms: int) -> None:
        block, statement = message.block, message.statement
        key = statement.key
        if block.height <= self.height:
            if self._certificate is not None:
                self._send(sender, CertificateMessage(self._certificate))
            return
        if key != self._key(Phase.PROPOSE, block) or statement.signer != sender or sender != self.coordinator:
            raise BlockRefusedError(
                f"{sender} sent a block for view {key.view}, height {key.height} under a statement that does not name "
                f"this block or is not the statement of {self.coordinator}, the coordinator of view {self.view}"
            )
        if block.height > self.height + 1:
            self._catch_up_to_parent(sender, message, now_ms)
            return
        if self._candidate is not None and self._candidate.block.hash == block.hash:
            self._answer_repeat(block, now_ms)
            return
        if not self._signer.may_sign(self._key(Phase.PREPARE, block)):
            raise BlockRefusedError(
                f"{sender} sent another block at (view, height) {key.position}, which is taken"
            )
        self._check_follows(sender, block, now_ms)
        if not is_signed_by_member(statement, self._cluster_id, self.members):
            raise BlockRefusedError(
                f"the signature of {sender} over its block {block.height} does not verify"
            )
        execution = self._checked_execution(sender, block)
        self._candidate = _Candidate(block, execution, now_ms)
        self._out.persist.append(SaveBody(block))
        self._acknowledge(self._sign(self._key(Phase.PREPARE, block)), now_ms)

    def _catch_up_to_parent(self, sender: str, message: BlockProposal, now_ms: int) -> None:
        """A block too far ahead: its parent certificate may finish the block at hand, or shows what to fetch."""
        parent = message.parent_certificate
        if parent is None:
            raise BlockRefusedError(
                f"{sender} sent block {message.block.height} without its parent's certificate"
            )
        self._on_certificate(sender, parent, now_ms)
        # Executing on top needs the parent on disk first: `tick` takes the message up when it is.
        self._deferred = (sender, message)

    def _check_follows(self, sender: str, block: Block, now_ms: int) -> None:
        header = block.header
        if header.parent != self._head.hash:
            raise BlockRefusedError(
                f"block {block.height} of {sender} does not name block {self.height} as its parent"
            )
        earliest = max(self._head.time_ms + 1, now_ms - limits.MAX_BLOCK_AGE_MS)
        latest = now_ms + limits.MAX_CLOCK_AHEAD_MS
        if not earliest <= header.time_ms <= latest:
            raise BlockRefusedError(
                f"block {block.height} of {sender} has time {header.time_ms} ms, outside {earliest} to {latest}: "
                "check the clocks of both hosts"
            )
        self._check_shape(block)

    def _check_shape(self, block: Block) -> None:
        header = block.header
        if header.cluster_id != self._cluster_id or header.epoch != self.members.epoch:
            raise BlockRefusedError(f"block {block.height} belongs to another cluster or epoch")
        if len(block.commands) > limits.MAX_BLOCK_COMMANDS:
            raise BlockRefusedError(f"block {block.height} has {len(block.commands)} commands")
        if sum(map(len, block.commands)) > limits.MAX_BLOCK_BYTES:
            raise BlockRefusedError(f"block {block.height} is larger than {limits.MAX_BLOCK_BYTES} bytes")
        if commands_root(block.commands) != header.commands_root:
            raise BlockRefusedError(f"block {block.height} does not hold the commands that its header names")

    def _checked_execution(self, sender: str, block: Block) -> E_:
        """Check and execute a block that is not certified yet, and compare with what its header claims."""
        try:
            for command in block.commands:
                self._application.check(command)
            execution = self._execute(block)
        except CommandError as error:
            raise BlockRefusedError(
                f"block {block.height} of {sender} holds an invalid command: {error}"
            ) from error
        if not self._matches(block.header, execution):
            raise BlockRefusedError(
                f"block {block.height} of {sender} claims another outcome than its commands have: "
                f"audit size {block.header.audit_size} against {execution.audit_size}"
            )
        if execution.is_empty and not block.commands:
            raise BlockRefusedError(f"block {block.height} of {sender} is empty and nothing was due")
        return execution

    def _answer_repeat(self, block: Block, now_ms: int) -> None:
        """The coordinator asks again: repeat the stored statement."""
        stored = self._signer.state.prepare
        if stored is not None and stored.key == self._key(Phase.PREPARE, block):
            self._acknowledge(stored, now_ms)

    # Lock and commit.

    def _on_acknowledgement(self, sender: str, statement: Statement, now_ms: int) -> None:
        key = statement.key
        if statement.signer != sender:
            raise PeerError(f"{sender} passed on a statement of {statement.signer}")
        if key.height <= self.height:
            if key.height < self.height and self._certificate is not None:
                self._send(sender, CertificateMessage(self._certificate))
            return
        candidate = self._candidate
        if not self.is_coordinator or candidate is None or key.height != self.height + 1:
            raise PeerError(
                f"{sender} acknowledged height {key.height}, view {key.view}, which is not being voted on"
            )
        if key.epoch != self.members.epoch or key.view != self.view:
            raise PeerError(f"{sender} acknowledged view {key.view} of epoch {key.epoch}")
        if key.block_hash != candidate.block.hash:
            raise PeerError(f"{sender} acknowledged a block that was not proposed")
        self._collect(statement, now_ms)

    def _acknowledge(self, statement: Statement, now_ms: int) -> None:
        """Give one's own statement to the coordinator, who may be oneself."""
        if self.is_coordinator:
            self._collect(statement, now_ms)
        else:
            self._send(self.coordinator, Acknowledgement(statement))

    def _collect(self, statement: Statement, now_ms: int) -> None:
        collector = self._prepares if statement.key.phase is Phase.PREPARE else self._commits
        certificate = collector.add(statement)
        if certificate is None:
            return
        if certificate.key.phase is Phase.PREPARE:
            self._send(None, CertificateMessage(certificate))
            self._lock(certificate, now_ms)
        else:
            self._decide(certificate)

    def _on_certificate(self, sender: str, certificate: Certificate, now_ms: int) -> None:
        key = certificate.key
        if key.height <= self.height:
            return
        check_certificate(certificate, key.phase, self._cluster_id, self.members)
        if key.phase is Phase.PROPOSE:
            raise PeerError(f"{sender} sent a certificate of block proposals, which prove nothing")
        is_at_hand = self._candidate is not None and self._candidate.block.hash == key.block_hash
        if key.height > self.height + 1 or not is_at_hand:
            certified = key.height if key.phase is Phase.COMMIT else key.height - 1
            if certified > self.height:
                self._out.behind.append(Behind(sender, certified))
        elif key.phase is Phase.COMMIT:
            self._decide(certificate)
        elif key.view == self.view:
            self._lock(certificate, now_ms)

    def _lock(self, certificate: Certificate, now_ms: int) -> None:
        """Lock on a prepare certificate of this view for the block at hand, and say so."""
        candidate = self._candidate
        if candidate is None or candidate.block.hash != certificate.key.block_hash:
            raise InvariantError(f"locking on block {certificate.key.height} without its body")
        key = self._key(Phase.COMMIT, candidate.block)
        if not self._signer.may_sign(key):
            return
        candidate.prepared = certificate
        candidate.sent_ms = now_ms
        self._signer.lock(certificate)
        self._acknowledge(self._sign(key), now_ms)

    # Decide.

    def _decide(self, certificate: Certificate) -> None:
        candidate = self._candidate
        if candidate is None or candidate.block.hash != certificate.key.block_hash:
            raise InvariantError(f"deciding block {certificate.key.height} without its body")
        self._send_decision(certificate)
        self._commit(candidate.block, candidate.execution, certificate)

    def _send_decision(self, certificate: Certificate) -> None:
        if self.is_coordinator:
            self._send(None, CertificateMessage(certificate))

    def _commit(self, block: Block, execution: E_, certificate: Certificate) -> None:
        """The one way in which the committed state advances."""
        if block.height != self.height + 1 or block.header.parent != self._head.hash:
            raise InvariantError(f"committing block {block.height} on top of block {self.height}")
        if not self._matches(block.header, execution):
            raise InvariantError(
                f"block {block.height} is certified, but executing it here gives another record "
                f"(audit head {execution.audit_head.hex()}, the block says {block.header.audit_head.hex()})"
            )
        self._application.commit(execution)
        self._head, self._certificate, self._candidate = block.header, certificate, None
        self._prepares.clear()
        self._commits.clear()
        self._pool.discard(command_digest(command) for command in block.commands)
        applied = ApplyBlock(block, certificate, execution)
        self._out.persist.append(applied)
        self._out.committed.append(applied)

    def _on_heartbeat(self, sender: str, message: Heartbeat, now_ms: int) -> None:
        if message.latest is not None and message.latest.key.height > self.height:
            self._on_certificate(sender, message.latest, now_ms)

    # Helpers.

    def _repeat_step(self, now_ms: int, *, everyone: bool = False) -> None:
        """The coordinator sends the current step again to those who have not answered it."""
        candidate, proposed = self._candidate, self._signer.state.propose
        if candidate is None or proposed is None or proposed.key != self._key(Phase.PROPOSE, candidate.block):
            return
        candidate.sent_ms = now_ms
        phase = Phase.PREPARE if candidate.prepared is None else Phase.COMMIT
        collector = self._prepares if phase is Phase.PREPARE else self._commits
        answered = set() if everyone else collector.signers(self._key(phase, candidate.block))
        for member in self.members.ids:
            if member == self.member or member in answered:
                continue
            # A member that restarted may have lost the block: it gets both.
            self._send(member, BlockProposal(proposed, candidate.block, self._certificate))
            if candidate.prepared is not None:
                self._send(member, CertificateMessage(candidate.prepared))

    def _key(self, phase: Phase, block: Block) -> StatementKey:
        return StatementKey(phase, self.members.epoch, self.view, block.height, block.hash)

    def _sign(self, key: StatementKey) -> Statement:
        return self._signer.sign(key)

    def _execute(self, block: Block) -> E_:
        return self._application.execute(block.height, block.header.time_ms, block.commands)

    def _execution_of(self, block: Block) -> E_:
        if self._candidate is not None and self._candidate.block.hash == block.hash:
            return self._candidate.execution
        return self._execute(block)

    @staticmethod
    def _matches(header: BlockHeader, execution: E_) -> bool:
        claimed = (header.audit_size, header.audit_head, header.entries_root)
        return claimed == (execution.audit_size, execution.audit_head, execution.entries_root)

    def _send(self, to: str | None, message: Message) -> None:
        self._out.send.append(Send(to, message))

    def _flush(self) -> Effects[E_]:
        """Hand out what this input asked for. The sign state goes last: a body must be kept before its promise."""
        out, self._out = self._out, Effects()
        if self._signer.state is not self._flushed_state:
            self._flushed_state = self._signer.state
            out.persist.append(SaveSignState(self._flushed_state))
        return out
