"""The normal case of a view: propose, prepare, lock and commit, decide.

Admission order for everything that comes from a peer: position and size, shape, membership, repetition or
conflict, signature. A message that is late or repeated is answered, not refused.
"""

from __future__ import annotations

from typing import TypeVar

from replication.errors import PeerError
from replication.ordering import limits
from replication.ordering.application import Execution, command_digest
from replication.ordering.blocks import Block, BlockHeader, commands_root
from replication.ordering.certificates import Certificate, check_certificate
from replication.ordering.core import BlockRefusedError, Candidate, ReplicaCore
from replication.ordering.effects import Behind
from replication.ordering.messages import (
    Acknowledgement,
    BlockProposal,
    BodyMessage,
    BodyRequest,
    CertificateMessage,
)
from replication.ordering.statements import NewView, Phase, Statement, is_signed_by_member

__all__ = ["NormalCase"]

E_ = TypeVar("E_", bound=Execution)


class NormalCase(ReplicaCore[E_]):
    """What coordinator and followers do while a view lasts."""

    _deferred: tuple[str, BlockProposal] | None = None
    _opening: NewView | None = None
    _seen: Statement | None = None

    def _reset_epoch(self) -> None:
        super()._reset_epoch()
        self._deferred = self._opening = self._seen = None

    # Propose (the coordinator's part).

    def _propose(self) -> None:
        """Propose the next block, if this member coordinates, has opened its view, and there is something to
        do."""
        if not self.is_coordinator or self._candidate is not None or self.muted or self.timed_out:
            return
        floor = self._floor
        if floor is None or self.height < floor.height or not (self._is_open or self.view == 0):
            return
        if self.height == floor.height and floor.block_hash is not None:
            self._propose_again(floor.block_hash)
        else:
            self._propose_new()

    def _propose_again(self, block_hash: bytes) -> None:
        """Carry on with the block that the timeout certificate has a prepare certificate for."""
        body = self._bodies.get(block_hash)
        if body is not None:
            self._propose_block(body)

    def _propose_new(self) -> None:
        now_ms = self._now_ms
        time_ms = max(now_ms, self._head.time_ms + 1)
        deadline, oldest = self._application.next_deadline_ms(), self._pool.oldest_ms()
        is_due = deadline is not None and time_ms > deadline
        opening = self._unrecorded_opening()
        if opening:
            self._propose_block(self._new_block(opening, time_ms))
            return
        if not is_due and oldest is None:
            return
        selection = self._application.select(self._pool.commands(), time_ms)
        self._pool.discard(command_digest(command) for command in selection.void)
        commands = self._fitting(selection.commands)
        if not commands and not is_due:
            return
        waited = oldest is None or now_ms - oldest >= self._settings.gather_ms
        if not is_due and not selection.complete and not waited:
            return
        self._propose_block(self._new_block(commands, time_ms))

    def _unrecorded_opening(self) -> tuple[bytes, ...]:
        """The command that puts this view on record, unless it is there already. It gets a block of its
        own."""
        if self._opening is None or self._application.recorded_view >= self.view:
            return ()
        return (self._application.view_command(self._opening),)

    @staticmethod
    def _fitting(commands: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """As many commands as fit into a block."""
        size = 0
        for count, command in enumerate(commands):
            size += len(command)
            if size > limits.MAX_BLOCK_BYTES or count >= limits.MAX_BLOCK_COMMANDS:
                return commands[:count]
        return commands

    def _new_block(self, commands: tuple[bytes, ...], time_ms: int) -> Block:
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
        self._executions[block.hash] = execution
        return block

    def _propose_block(self, block: Block) -> None:
        key = self._statement_key(Phase.PROPOSE, block)
        prepare = self._statement_key(Phase.PREPARE, block)
        if not self._signer.may_sign(key) or not self._signer.may_sign(prepare):
            # Something was signed here before a restart, and cannot go on: only another view can.
            self._executions.pop(block.hash, None)
            return
        statement = self._signer.sign(key)
        self._record(statement)
        self._keep_body(block)
        self._candidate = Candidate(block, self._execute(block), self._now_ms, self._now_ms)
        self._send(None, BlockProposal(statement, block, self._certificate))
        self._acknowledge(self._signer.sign(prepare))

    # Prepare.

    def _on_block_proposal(self, sender: str, message: BlockProposal) -> None:
        block, statement = message.block, message.statement
        key = statement.key
        if key.epoch < self.members.epoch or block.height <= self.height:
            self._send_newest_commit(sender)
            return
        if key.epoch > self.members.epoch or key.view > self.view:
            if message.parent_certificate is not None:
                self._on_certificate(sender, message.parent_certificate)
            return
        if key.view < self.view:
            self._send_newest_view(sender)
            return
        if (
            key != self._statement_key(Phase.PROPOSE, block)
            or statement.signer != sender
            or sender != self.coordinator
        ):
            raise BlockRefusedError(
                f"{sender} sent a block for view {key.view}, height {key.height} under a statement that "
                f"does not name this block, or is not that of {self.coordinator}, coordinator of {self.view}"
            )
        if block.height > self.height + 1:
            self._learn_from_parent(sender, message)
            return
        if not is_signed_by_member(statement, self._cluster_id, self.members):
            raise BlockRefusedError(
                f"the signature of {sender} over its block {block.height} does not verify"
            )
        self._record(statement)
        self._seen = statement
        self._is_open = True
        self._pacemaker.heard(self._now_ms)
        if self._candidate is not None:
            self._answer_repeat(sender, block)
        else:
            self._prepare(sender, block)

    def _prepare(self, sender: str, block: Block) -> None:
        """Check the coordinator's block in full, and acknowledge it."""
        key = self._statement_key(Phase.PREPARE, block)
        if self.muted or self.timed_out or not self._signer.may_sign(key):
            return
        try:
            self._check_follows(sender, block)
            execution = self._checked_execution(sender, block)
            self._check_content(sender, block, execution)
        except BlockRefusedError as error:
            self._executions.pop(block.hash, None)
            self._pacemaker.distrust(str(error))
            raise
        self._candidate = Candidate(block, execution, self._now_ms, self._now_ms)
        self._keep_body(block)
        self._acknowledge(self._signer.sign(key))

    def _check_follows(self, sender: str, block: Block) -> None:
        header, now_ms = block.header, self._now_ms
        if header.parent != self._head.hash:
            raise BlockRefusedError(
                f"block {block.height} of {sender} does not name block {self.height} as its parent"
            )
        if self._floor is None or not self._floor.admits(block.height, block.hash):
            raise BlockRefusedError(
                f"block {block.height} of {sender} is not what view {self.view} must carry on with: "
                f"{self._floor}"
            )
        self._check_shape(block)
        if self._is_carried_on(block):
            return  # a commit quorum found its time and content right when it was new
        earliest = max(self._head.time_ms + 1, now_ms - limits.MAX_BLOCK_AGE_MS)
        latest = now_ms + self._settings.clock_ahead_ms
        if not earliest <= header.time_ms <= latest:
            raise BlockRefusedError(
                f"block {block.height} of {sender} has time {header.time_ms} ms, outside {earliest} to "
                f"{latest}: check the clocks of both hosts"
            )

    def _is_carried_on(self, block: Block) -> bool:
        """Whether the timeout certificate of this view prescribes this very block."""
        floor = self._floor
        return floor is not None and floor.height == block.height - 1 and floor.block_hash == block.hash

    def _check_content(self, sender: str, block: Block, execution: E_) -> None:
        """A new block must do something, and the first of a view must record the view and no other."""
        if self._is_carried_on(block):
            return
        if execution.is_empty and not block.commands:
            raise BlockRefusedError(f"block {block.height} of {sender} is empty and nothing was due")
        # A block that ends an epoch leaves 0: the next epoch begins in view 0.
        is_recorded = self._application.recorded_view == self.view
        if execution.recorded_view != self.view and not (is_recorded and execution.recorded_view == 0):
            raise BlockRefusedError(
                f"block {block.height} of {sender} leaves view {execution.recorded_view} on record in "
                f"view {self.view}"
            )

    def _answer_repeat(self, sender: str, block: Block) -> None:
        """The coordinator asks again: repeat the stored statements. Another block at this position is
        refused."""
        candidate = self._candidate
        if candidate is None or candidate.block.hash != block.hash:
            raise BlockRefusedError(f"{sender} sent another block {block.height} in view {self.view}")
        for stored in (self._signer.state.prepare, self._signer.state.commit):
            if stored is not None and stored.key == self._statement_key(stored.key.phase, block):
                self._acknowledge(stored)

    def _learn_from_parent(self, sender: str, message: BlockProposal) -> None:
        """A block too far ahead: its parent certificate may finish the block at hand, or shows what to
        fetch."""
        parent = message.parent_certificate
        if parent is None or parent.key.height != message.block.height - 1:
            return
        self._on_certificate(sender, parent)
        # Executing on top needs the parent on disk first: `tick` takes the message up when it is.
        self._deferred = (sender, message)

    # Lock and commit.

    def _on_acknowledgement(self, sender: str, statement: Statement) -> None:
        key = statement.key
        if statement.signer != sender:
            raise PeerError(f"{sender} passed on a statement of {statement.signer}")
        if key.epoch < self.members.epoch or key.height <= self.height:
            if key.height < self.height or key.epoch < self.members.epoch:
                self._send_newest_commit(sender)
            return
        if key.view < self.view:
            self._send_newest_view(sender)
            return
        if key.phase is Phase.PROPOSE:
            raise PeerError(f"{sender} sent a block's proposal as an acknowledgement")
        if key.epoch > self.members.epoch or key.view > self.view or key.height > self.height + 1:
            return  # this member is behind, and will learn so from certificates
        candidate = self._candidate
        if candidate is not None and key.block_hash == candidate.block.hash and self.is_coordinator:
            self._collect(statement)
        elif is_signed_by_member(statement, self._cluster_id, self.members):
            self._record(statement)

    def _acknowledge(self, statement: Statement) -> None:
        """Give one's own statement to the coordinator, who may be oneself."""
        self._record(statement)
        if self.is_coordinator:
            self._collect(statement)
        else:
            self._send(self.coordinator, Acknowledgement(statement))

    def _collect(self, statement: Statement) -> None:
        collector = self._prepares if statement.key.phase is Phase.PREPARE else self._commits
        certificate = collector.add(statement)
        self._record(statement)
        if certificate is None:
            return
        self._send(None, CertificateMessage(certificate))
        if certificate.key.phase is Phase.PREPARE:
            self._lock(certificate)
        else:
            self._decide(certificate)

    def _on_certificate(self, sender: str, certificate: Certificate) -> None:
        key = certificate.key
        if key.height <= self.height:
            return
        if key.epoch > self.members.epoch:
            self._out.behind.append(Behind(sender, key.height))
            return
        if key.phase is Phase.PROPOSE:
            raise PeerError(f"{sender} sent a certificate of block proposals, which prove nothing")
        check_certificate(certificate, key.phase, self._cluster_id, self.members)
        self._record_certificate(certificate)
        if sender == self.coordinator:
            self._pacemaker.heard(self._now_ms)
        if key.phase is Phase.COMMIT:
            self._on_commit_certificate(sender, certificate)
        elif key.height > self.height + 1:
            self._out.behind.append(Behind(sender, key.height - 1))
        else:
            self._on_prepare_certificate(sender, certificate)

    def _on_commit_certificate(self, sender: str, certificate: Certificate) -> None:
        """Final, from whichever view it is."""
        key = certificate.key
        if key.height == self.height + 1 and key.block_hash in self._bodies:
            self._enter_by(certificate)
            self._decide(certificate)
        else:
            self._out.behind.append(Behind(sender, key.height))

    def _on_prepare_certificate(self, sender: str, certificate: Certificate) -> None:
        """Lock and answer COMMIT in the certificate's own view; a later view's raises the lock, no more."""
        key = certificate.key
        self._enter_by(certificate)
        if key.view < self.view or self.timed_out:
            self._signer.lock(certificate)
            return
        if key.block_hash in self._bodies:
            self._lock(certificate)
        else:
            self._wanted = certificate
            self._send(sender, BodyRequest(key.block_hash))

    def _current_lock(self) -> Certificate | None:
        """The prepare certificate this member is locked on; one for a committed height is void."""
        lock = self._signer.state.lock
        if lock is None or lock.key.height != self.height + 1 or lock.key.epoch != self.members.epoch:
            return None
        return lock

    def _lock(self, certificate: Certificate) -> None:
        """Lock on a prepare certificate of this view for a block at hand, and say so.

        From then on it is the block at issue, even if the coordinator showed this member another one.
        """
        body, now_ms = self._bodies[certificate.key.block_hash], self._now_ms
        candidate = self._candidate
        if candidate is None or candidate.block.hash != body.hash:
            candidate = self._candidate = Candidate(body, self._execute(body), now_ms, now_ms)
        if candidate.prepared is None:
            candidate.prepared, candidate.sent_ms = certificate, now_ms
        key = self._statement_key(Phase.COMMIT, body)
        if self.muted or self.timed_out or not self._signer.may_sign(key):
            return  # while this member is muted, `tick` looks again
        self._signer.lock(certificate)
        self._acknowledge(self._signer.sign(key))

    def _lock_late(self) -> None:
        """Lock on a certificate that came while this member was muted."""
        candidate = self._candidate
        if candidate is None or candidate.prepared is None:
            return
        commit = self._signer.state.commit
        if commit is None or commit.key != self._statement_key(Phase.COMMIT, candidate.block):
            self._lock(candidate.prepared)

    # Decide.

    def _decide(self, certificate: Certificate) -> None:
        self._commit(self._bodies[certificate.key.block_hash], certificate)

    # Bodies of blocks that are locked and not here.

    def _on_body_request(self, sender: str, block_hash: bytes) -> None:
        body = self._bodies.get(block_hash)
        if body is not None:
            self._send(sender, BodyMessage(body))

    def _on_body(self, sender: str, block: Block) -> None:
        """A body that was asked for: a commit quorum has prepared this very block."""
        wanted = self._wanted
        is_wanted = wanted is not None and wanted.key.block_hash == block.hash
        if block.height != self.height + 1 or not (is_wanted or self._is_carried_on(block)):
            return
        if block.hash in self._bodies:
            return
        if block.header.parent != self._head.hash:
            raise BlockRefusedError(f"{sender} sent the body of block {block.height} with another parent")
        self._check_shape(block)
        self._checked_execution(sender, block)
        self._keep_body(block)
        if is_wanted and wanted is not None and wanted.key.view == self.view:
            self._lock(wanted)
        self._wanted = None

    # Given by `ViewChange`.

    def _send_newest_view(self, to: str) -> None:
        raise NotImplementedError

    def _enter_by(self, certificate: Certificate) -> None:
        raise NotImplementedError

    # Helpers.

    def _repeat_step(self, *, everyone: bool = False) -> None:
        """The coordinator sends the current step again to those who have not answered it."""
        candidate, proposed = self._candidate, self._signer.state.propose
        if candidate is None or not self.is_coordinator or self.timed_out:
            return
        candidate.sent_ms = self._now_ms
        if proposed is None or proposed.key != self._statement_key(Phase.PROPOSE, candidate.block):
            return
        phase = Phase.PREPARE if candidate.prepared is None else Phase.COMMIT
        collector = self._prepares if phase is Phase.PREPARE else self._commits
        answered = set() if everyone else collector.signers(self._statement_key(phase, candidate.block))
        for member in self.members.ids:
            if member == self.member or member in answered:
                continue
            # A member that restarted may have lost the block: it gets both.
            self._send(member, BlockProposal(proposed, candidate.block, self._certificate))
            if candidate.prepared is not None:
                self._send(member, CertificateMessage(candidate.prepared))
