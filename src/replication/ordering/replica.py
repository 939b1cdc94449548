"""One member's replica: its inputs. See the package docstring for how to drive it.

Each public method is one input; it either raises, in which case nothing came of the input itself, or returns
the `Effects` to carry out before the next.
"""

from __future__ import annotations

from typing import Final, TypeVar

from replication.errors import PeerError
from replication.identity import keys
from replication.ordering.application import CommandError, Execution, command_digest
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate, check_certificate
from replication.ordering.core import BlockRefusedError, Candidate, Restored
from replication.ordering.effects import Effects, KeepCommand
from replication.ordering.limits import MAX_WITNESSES
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
from replication.ordering.statements import Phase, Statement, Timeout
from replication.ordering.view_change import ViewChange

__all__ = ["BlockRefusedError", "Replica", "ReplicaSettings", "Restored"]

E_ = TypeVar("E_", bound=Execution)

_SELECTIONS_A_SWEEP: Final = 8


class Replica(ViewChange[E_]):
    """A replica of the log. See the package docstring for how to drive it."""

    def start(self, now_ms: int) -> Effects[E_]:
        """First input after a restart: take up the view and the block at issue, and repeat what was
        signed."""
        self._now_ms = now_ms
        if self._signer.state.epoch < self.members.epoch:
            # The block that ended the epoch was kept, and the crash came before the new epoch's state was.
            self._signer.begin_epoch(self.members.epoch)
        self._remember_record()
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
            if isinstance(message, Witness):
                self._on_witness(sender, message)  # said once only, and perhaps from an epoch to come
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
        self._lock_late()
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
        elif self._candidate is not None and self.is_coordinator and not self.timed_out:
            times.append(self._candidate.sent_ms + settings.repeat_ms)
        if self._has_to_open:
            times.append(self._asked_ms + settings.repeat_ms)
        if self._pool:
            times.append(self._swept_ms + settings.repeat_ms)
        watch_ms = self._watch_due_ms()
        if watch_ms is not None:
            times.append(watch_ms)
        return max(now_ms, min(times))

    # Restart.

    def _remember_record(self) -> None:
        """What others have signed, as far as this disk shows it: one of them may have to be told."""
        state, epoch = self._signer.state, self.members.epoch
        for certificate in (self._certificate, state.lock):
            if certificate is not None and certificate.key.epoch == epoch:
                self._record_certificate(certificate)
        if state.opened is not None and state.opened.epoch == epoch:
            for timeout in state.opened.timeouts:
                self._record(timeout)

    def _restore_command(self, command: bytes) -> None:
        try:
            self._pool.add(command, self._application.check(command), self._now_ms, own=True)
        except (CommandError, PoolFullError):
            return  # of an epoch that is over

    def _resume_block(self) -> None:
        """The block that was being voted on, if this view is still its view, and the statements about it."""
        state, now_ms = self._signer.state, self._now_ms
        for last in (state.commit, state.prepare):
            body = self._bodies.get(last.key.block_hash) if last is not None else None
            if last is None or body is None:
                continue
            if last.key == self._statement_key(last.key.phase, body):
                break
        else:
            return
        self._candidate = Candidate(body, self._execute(body), now_ms, now_ms)
        lock = self._current_lock()
        if lock is not None and lock.key.block_hash == body.hash and lock.key.view == self.view:
            self._candidate.prepared = lock
        for stored in (state.prepare, state.commit):
            if self._candidate is None:
                return  # the only member has committed it
            if stored is not None and stored.key == self._statement_key(stored.key.phase, body):
                self._acknowledge(stored)
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
        if message.overdue and self._pool.hold(checked.digest, self._now_ms) and not self.is_coordinator:
            self._send(self.coordinator, CommandMessage(command))

    def _is_void(self, command: bytes) -> bool:
        return command in self._application.select((command,), self._head.time_ms + 1).void

    def _sweep_pool(self) -> None:
        """Drop what waited too long or became void, send one's own commands again, and show what is
        overdue."""
        self._swept_ms = self._now_ms
        self._pool.expire(self._now_ms)
        if self._can_lead:
            return  # proposing drops what is void
        waiting = self._pool.commands()
        if waiting:
            selection = self._application.select(waiting, self._head.time_ms + 1)
            self._pool.discard(command_digest(command) for command in selection.void)
            self._excuse_coordinator(set(selection.commands))
        for command in self._pool.due(self._now_ms, self._settings.repeat_ms * 5):
            if not self.is_coordinator:
                self._send(self.coordinator, CommandMessage(command))
        self._show_overdue()

    @property
    def _can_lead(self) -> bool:
        """Whether this member coordinates and may propose. One that may not is no better than a follower."""
        is_open = self._is_open or self.view == 0
        return self.is_coordinator and is_open and not self.muted and not self.timed_out

    def _excuse_coordinator(self, ready: set[bytes]) -> None:
        """Do not hold the coordinator to commands that could not be ordered now, alone or with others.

        What must go alone hides the rest of a selection: so it is set aside, and the others looked at again.
        """
        time_ms = max(self._now_ms, self._head.time_ms + 1)
        waiting = [command for command in self._pool.held() if command not in ready]
        for _ in range(_SELECTIONS_A_SWEEP):
            if not waiting:
                return
            ready = set(self._application.select(waiting, time_ms).commands)
            if not ready:
                break
            waiting = [command for command in waiting if command not in ready]
        self._pool.excuse(waiting, self._now_ms)

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
        if sender in self.members or len(self._witnesses) < MAX_WITNESSES:
            self._witnesses.add(sender)
        self._consider_timeout()

    def _check_own(self, item: Statement | Timeout) -> None:
        """Anyone who signed this signs no more: the state that should remember it was rolled back."""
        if item.signer != self.member or self._is_remembered(item):
            return
        # By one's own key: the record may be as old as the state, and not know the members of that epoch.
        if not keys.verify(self._key.public_key, item.signature, item.sign_bytes(self._cluster_id)):
            return
        self._signer.mute(
            "a peer holds a statement of this member that its own state does not know: was a backup restored?"
        )
        if self._restored.spare_nonce:
            self._signer.state = SignState(self._signer.state.epoch, self._restored.spare_nonce)
            self._check_incarnation()

    def _is_remembered(self, item: Statement | Timeout) -> bool:
        """Whether the sign state is at least as new as this statement, or need not know of it."""
        state = self._signer.state
        if item.epoch != state.epoch:
            return item.epoch < state.epoch
        if state.epoch == self.members.epoch and state.nonce != self._application.incarnation(self.member):
            return True  # another incarnation signed it; this one waits for its epoch, and signs nothing here
        if isinstance(item, Timeout):
            return item.view <= state.timed_out_view
        last = state.last(item.key.phase)
        return last is not None and item.key.position <= last.key.position
