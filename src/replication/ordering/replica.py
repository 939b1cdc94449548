"""One member's replica: its inputs. See the package docstring for how to drive it.

Each public method is one input; it either raises, in which case nothing came of the input itself, or returns
the `Effects` to carry out before the next.
"""

from __future__ import annotations

from typing import TypeVar

from replication.errors import PeerError
from replication.ordering.application import CommandError, Execution
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate, check_certificate
from replication.ordering.core import BlockRefusedError, Candidate, Restored
from replication.ordering.effects import Effects, KeepCommand
from replication.ordering.messages import (
    Acknowledgement,
    BlockProposal,
    BodyMessage,
    BodyRequest,
    CertificateMessage,
    CommandMessage,
    Heartbeat,
    Message,
    NewViewMessage,
    SuspectMessage,
    TimeoutCertificateMessage,
    TimeoutMessage,
    Witness,
)
from replication.ordering.pacemaker import ReplicaSettings
from replication.ordering.pool import PoolFullError
from replication.ordering.signing import SignState
from replication.ordering.statements import Phase, Statement, Timeout, is_signed_by_member
from replication.ordering.view_change import ViewChange

__all__ = ["BlockRefusedError", "Replica", "ReplicaSettings", "Restored"]

E_ = TypeVar("E_", bound=Execution)


class Replica(ViewChange[E_]):
    """A replica of the log. See the package docstring for how to drive it."""

    def start(self, now_ms: int) -> Effects[E_]:
        """First input after a restart: take up the view and the block at issue, and repeat what was
        signed."""
        self._now_ms = now_ms
        if self._signer.state.epoch < self.members.epoch:
            # The block that ended the epoch was kept, and the crash came before the new epoch's state was.
            self._signer.begin_epoch(self.members.epoch, self._signer.state.nonce)
        self._restore_view()
        self._pacemaker.entered_ms = now_ms
        self._check_incarnation()
        for command in self._restored.commands:
            self._restore_command(command)
        self._resume_block()
        return self._flush()

    def submit(self, command: bytes, now_ms: int) -> Effects[E_]:
        """Have one's own command ordered; it is kept and repeated until it is committed or withdrawn.

        Raises CommandError for a command that no member would accept, and PoolFullError.
        """
        self._now_ms = now_ms
        checked = self._application.check(command)
        if self._pool.add(command, checked, now_ms, own=True):
            if checked.keep:
                self._out.persist.append(KeepCommand(command))
            if checked.announce:
                self._out.seen.append(command)
                self._send(None, CommandMessage(command))
            elif not self.is_coordinator:
                self._send(self.coordinator, CommandMessage(command))
        return self._flush()

    def withdraw(self, digests: list[bytes]) -> None:
        """Stop repeating commands of one's own that can no longer take effect."""
        self._pool.discard(digests)

    def greet(self, peer: str, now_ms: int) -> Effects[E_]:
        """A connection to a member is up: tell it what is known of its own statements, and where this one
        is."""
        self._now_ms = now_ms
        if peer in self.members and peer != self.member:
            statements, timeout = self._blame.newest(peer)
            self._send(peer, Witness(statements, timeout))
            self._send(peer, self._heartbeat())
        return self._flush()

    def receive(self, sender: str, message: Message, now_ms: int) -> Effects[E_]:
        """Take in a message from a peer, whose name the transport has authenticated. Raises PeerError.

        A peer that is no member of this epoch is told how its epoch ended.
        """
        self._now_ms = now_ms
        if sender == self.member:
            raise PeerError(f"{sender} is this member itself")
        if sender not in self.members:
            if not isinstance(message, CertificateMessage):
                self._send_newest_commit(sender)
                return self._flush()
            if message.certificate.key.epoch <= self.members.epoch:
                return self._flush()
        self._dispatch(sender, message)
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
        self._record_certificate(certificate)
        self._enter_by(certificate)
        self._commit(block, certificate)
        return self._flush()

    def tick(self, now_ms: int) -> Effects[E_]:
        """Time passed, or the effects of another input were carried out: build, repeat, suspect, send
        heartbeats."""
        self._now_ms = now_ms
        deferred = self._deferred
        if deferred is not None and deferred[1].block.height <= self.height + 1:
            self._deferred = None
            return self.receive(*deferred, now_ms)
        self._open_view()
        if self._candidate is None:
            self._propose()
        elif self.is_coordinator and now_ms - self._candidate.sent_ms >= self._settings.repeat_ms:
            self._repeat_step()
        self._watch_coordinator()
        if now_ms - self._swept_ms >= self._settings.repeat_ms:
            self._sweep_pool()
        if self._beat_ms is None or now_ms - self._beat_ms >= self._settings.heartbeat_ms:
            self._beat_ms = now_ms
            self._send(None, self._heartbeat())
        return self._flush()

    def next_tick_ms(self, now_ms: int) -> int:
        """When `tick` is wanted next, if nothing else happens before."""
        settings = self._settings
        times = [now_ms if self._beat_ms is None else self._beat_ms + settings.heartbeat_ms]
        deferred = self._deferred
        if deferred is not None and deferred[1].block.height <= self.height + 1:
            times.append(now_ms)
        if self.is_coordinator and self._candidate is None:
            oldest, deadline = self._pool.oldest_ms(), self._application.next_deadline_ms()
            if oldest is not None and now_ms < oldest + settings.gather_ms:
                times.append(oldest + settings.gather_ms)
            if deadline is not None and now_ms <= deadline:
                times.append(deadline + 1)
        elif self._candidate is not None and self.is_coordinator:
            times.append(self._candidate.sent_ms + settings.repeat_ms)
        if not self.is_coordinator and not self.timed_out:
            times.append(max(self._suspicion_due_ms(), now_ms + 1))
        if self.timed_out:
            times.append(self._complained_ms + settings.repeat_ms)
        return max(now_ms, min(times))

    # Restart.

    def _restore_command(self, command: bytes) -> None:
        try:
            self._pool.add(command, self._application.check(command), self._now_ms, own=True)
        except (CommandError, PoolFullError):
            return  # of an epoch that is over

    def _resume_block(self) -> None:
        """The block that was being voted on, if this view is still its view, and the statements about it."""
        state = self._signer.state
        last = state.prepare
        body = self._bodies.get(last.key.block_hash) if last is not None else None
        if last is None or body is None or last.key != self._statement_key(Phase.PREPARE, body):
            return
        self._candidate = Candidate(body, self._execute(body), self._now_ms)
        lock = self._current_lock()
        if lock is not None and lock.key.block_hash == body.hash and lock.key.view == self.view:
            self._candidate.prepared = lock
        self._is_open = self.is_coordinator
        self._acknowledge(last)
        commit = state.commit
        if commit is not None and commit.key == self._statement_key(Phase.COMMIT, body):
            self._acknowledge(commit)
        self._repeat_step(everyone=True)

    # Messages.

    def _dispatch(self, sender: str, message: Message) -> None:
        match message:
            case CommandMessage():
                self._on_command(sender, message)
            case BlockProposal():
                self._on_block_proposal(sender, message)
            case Acknowledgement():
                self._on_acknowledgement(sender, message.statement)
            case CertificateMessage():
                self._on_certificate(sender, message.certificate)
            case Heartbeat():
                self._on_heartbeat(sender, message)
            case SuspectMessage():
                self._on_suspect(sender, message.suspect)
            case TimeoutMessage():
                self._on_timeout(sender, message.report)
            case TimeoutCertificateMessage():
                self._on_timeout_certificate(sender, message.certificate)
            case NewViewMessage():
                self._on_new_view(sender, message)
            case Witness():
                self._on_witness(sender, message)
            case BodyRequest():
                self._on_body_request(sender, message.block_hash)
            case BodyMessage():
                self._on_body(sender, message.block)

    def _on_command(self, sender: str, message: CommandMessage) -> None:
        command = message.command
        try:
            checked = self._application.check(command)
            if message.overdue and self._is_void(command):
                return
            is_new = self._pool.add(command, checked, self._now_ms)
        except CommandError as error:
            raise PeerError(f"{sender} passed on a command that is not valid: {error}") from error
        except PoolFullError as error:
            raise PeerError(f"{sender}: {error}") from error
        if is_new and checked.announce:
            self._out.seen.append(command)
        entry = self._pool.get(checked.digest)
        if message.overdue and entry is not None and not entry.held:
            entry.held = True
            entry.added_ms = self._now_ms if is_new else entry.added_ms
            if not self.is_coordinator:
                self._send(self.coordinator, CommandMessage(command))

    def _is_void(self, command: bytes) -> bool:
        return command in self._application.select((command,), self._head.time_ms + 1).void

    def _sweep_pool(self) -> None:
        """Drop what waited too long or became void, send one's own commands again, and show what is
        overdue."""
        self._swept_ms = self._now_ms
        self._pool.expire(self._now_ms)
        if self.is_coordinator:
            return  # proposing drops what is void
        waiting = self._pool.commands()
        if waiting:
            void = self._application.select(waiting, self._head.time_ms + 1).void
            self._pool.discard(self._application.check(command).digest for command in void)
        for command in self._pool.due(self._now_ms, self._settings.repeat_ms * 5):
            self._send(self.coordinator, CommandMessage(command))
        self._show_overdue()

    def _on_heartbeat(self, sender: str, message: Heartbeat) -> None:
        if message.latest is not None and message.latest.key.height > self.height:
            self._on_certificate(sender, message.latest)
        if message.epoch < self.members.epoch or message.height < self.height:
            self._send_newest_commit(sender)
        if message.epoch != self.members.epoch:
            return
        if message.view < self.view:
            self._send_newest_view(sender)
        elif message.view == self.view and sender == self.coordinator:
            self._pacemaker.heard(self._now_ms)

    def _heartbeat(self) -> Heartbeat:
        head = self._head
        return Heartbeat(
            self.members.epoch, self.view, self.height, head.audit_size, head.audit_head, self._certificate
        )

    def _on_witness(self, sender: str, message: Witness) -> None:
        """A peer shows this member's own newest statements: is the sign state here as new as they are?"""
        for statement in message.statements:
            self._check_own(statement)
        if message.timeout is not None:
            self._check_own(message.timeout)
        self._witnesses.add(sender)
        self._consider_timeout()

    def _check_own(self, item: Statement | Timeout) -> None:
        """Anyone who signed this signs no more: the state that should remember it was rolled back."""
        state = self._signer.state
        if item.signer != self.member or item.epoch != self.members.epoch or state.epoch != item.epoch:
            return
        if state.nonce != self._application.incarnation(self.member):
            return  # another incarnation signed it; this one waits for its own epoch, and signs nothing here
        if isinstance(item, Timeout):
            remembered = item.view <= state.timed_out_view
        else:
            last = state.last(item.key.phase)
            remembered = last is not None and item.key.position <= last.key.position
        if remembered or not is_signed_by_member(item, self._cluster_id, self.members):
            return
        self._signer.mute(
            "a peer holds a statement of this member that its own state does not know: was a backup restored?"
        )
        if self._restored.spare_nonce:
            self._signer.state = SignState(self.members.epoch, self._restored.spare_nonce)
            self._check_incarnation()
