"""What every step of a replica stands on: its state, signing, sending, and the one way in which it advances.

`NormalCase` (propose, prepare, lock, decide), `ViewChange` (suspect, time out, open a view) and `Replica`
(the inputs) build on this, each in a module of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from replication.errors import InvariantError, PeerError
from replication.identity.members import MemberSet
from replication.ordering import limits
from replication.ordering.application import Application, CommandError, Execution, command_digest
from replication.ordering.blame import FirstStatements
from replication.ordering.blocks import Block, BlockHeader, commands_root
from replication.ordering.certificates import Certificate, StatementCollector
from replication.ordering.effects import ApplyBlock, Effects, SaveBody, SaveSignState, Send
from replication.ordering.messages import CertificateMessage, CommandMessage, Message, Witness
from replication.ordering.pacemaker import Pacemaker, ReplicaSettings
from replication.ordering.pool import CommandPool, PoolFullError
from replication.ordering.signing import GuardedSigner, Signer, SignState
from replication.ordering.statements import Evidence, Phase, Signed, StatementKey
from replication.ordering.timeouts import Floor, TimeoutCertificate

__all__ = ["BlockRefusedError", "Candidate", "ReplicaCore", "Restored"]

E_ = TypeVar("E_", bound=Execution)


class BlockRefusedError(PeerError):
    """A coordinator's block that this replica does not acknowledge."""

    reason: ClassVar[str] = "BLOCK_REFUSED"


@dataclass(frozen=True)
class Restored:
    """Durable state read back at start.

    The last committed header and its certificate (None for genesis), what was signed, the bodies of prepared
    blocks above it, the own commands that were kept, and the height of the block with which the current
    epoch began. The application comes restored to the same height. `spare_nonce` are 32 random bytes, used
    if it turns out that the sign state is older than what this member has signed, or than its last rejoin.
    """

    header: BlockHeader
    certificate: Certificate | None
    sign_state: SignState
    bodies: tuple[Block, ...] = ()
    commands: tuple[bytes, ...] = ()
    spare_nonce: bytes = b""
    base_height: int = 0


@dataclass
class Candidate(Generic[E_]):
    """The block at issue in the current view. `since_ms`: when it came up here; `sent_ms`: when its step was
    last broadcast; `prepared`: its prepare certificate of this view."""

    block: Block
    execution: E_
    since_ms: int
    sent_ms: int
    prepared: Certificate | None = None


class ReplicaCore(Generic[E_]):
    """State of a replica, and the helpers that all steps share."""

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
        self._key = key
        self._application = application
        self._settings = settings or ReplicaSettings()
        self._signer = GuardedSigner(member, cluster_id, key, restored.sign_state)
        self._flushed_state = restored.sign_state
        self._restored = restored
        self._head = restored.header
        self._certificate = restored.certificate
        self._base_height = restored.base_height
        self._pool = CommandPool()
        self._blame = FirstStatements()
        self._witnesses: set[str] = set()
        """Who has shown what it knows of this member's statements; not all need be members now."""
        self._candidate: Candidate[E_] | None = None
        self._bodies = {block.hash: block for block in restored.bodies if block.height == self.height + 1}
        self._executions: dict[bytes, E_] = {}
        self._wanted: Certificate | None = None
        self._now_ms = 0
        self._swept_ms = 0
        self._beat_ms: int | None = None
        self._out: Effects[E_] = Effects()
        self._reset_epoch()

    def _reset_epoch(self) -> None:
        """What belongs to one epoch: its views, its collections, its floor."""
        self.view = 0
        self._opened: TimeoutCertificate | None = None
        self._floor: Floor | None = Floor(self._base_height)
        self._is_open = False
        self._pacemaker = Pacemaker(self.members, self._settings)
        self._pacemaker.entered_ms = self._now_ms
        self._is_witnessed = False
        listed = self.members.get(self.member)
        self.is_member = listed is not None and listed.public_key == self._key.public_key
        """Whether this epoch's members include this one, with the key that it has."""
        self._prepares = StatementCollector(Phase.PREPARE, self._cluster_id, self.members)
        self._commits = StatementCollector(Phase.COMMIT, self._cluster_id, self.members)

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

    @property
    def muted(self) -> str:
        """Why this member signs nothing for now; empty when it may sign."""
        if self._signer.muted:
            return self._signer.muted
        if not self.is_member:
            what = "has another key" if self.member in self.members else "is not a member"
            return f"{self.member} {what} in epoch {self.members.epoch}"
        state = self._signer.state
        if state.epoch > self.members.epoch or state.rests_on > self.height:
            return (
                f"the record ends at block {self.height}, below what this member has signed in epoch "
                f"{state.epoch}; waiting until it has caught up"
            )
        if not self._is_witnessed:
            needed = min(self.members.max_faulty + 1, self.members.n - 1)
            if sum(name in self.members for name in self._witnesses) < needed:
                return f"waiting to hear from {needed} other members what this one has signed"
            self._is_witnessed = True  # for this epoch: witnesses are never forgotten
        return ""

    @property
    def sign_state(self) -> SignState:
        """What this member has promised."""
        return self._signer.state

    @property
    def timed_out(self) -> bool:
        """Whether this member has given up the current view."""
        return self._signer.state.timed_out_view >= self.view

    # Blocks.

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

    def _execute(self, block: Block) -> E_:
        """The outcome of a block at the next height, executed once."""
        execution = self._executions.get(block.hash)
        if execution is None:
            execution = self._application.execute(block.height, block.header.time_ms, block.commands)
            self._executions[block.hash] = execution
        return execution

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
        return execution

    def _keep_body(self, block: Block) -> None:
        """A block that may become locked must never be nowhere."""
        if block.hash in self._bodies:
            return
        self._bodies[block.hash] = block
        self._out.persist.append(SaveBody(block))
        if len(self._bodies) > limits.MAX_BODIES:
            del self._bodies[next(key for key in self._bodies if key not in self._wanted_bodies(block))]

    def _wanted_bodies(self, newest: Block) -> set[bytes]:
        """Hashes of the blocks that must stay, however many views go by."""
        lock, candidate, floor = self._signer.state.lock, self._candidate, self._floor
        wanted = {
            newest.hash,
            None if lock is None else lock.key.block_hash,
            None if candidate is None else candidate.block.hash,
            None if floor is None else floor.block_hash,
        }
        return {key for key in wanted if key is not None}

    @staticmethod
    def _matches(header: BlockHeader, execution: E_) -> bool:
        claimed = (header.audit_size, header.audit_head, header.entries_root)
        return claimed == (execution.audit_size, execution.audit_head, execution.entries_root)

    # The one way in which the committed state advances.

    def _commit(self, block: Block, certificate: Certificate) -> None:
        if block.height != self.height + 1 or block.header.parent != self._head.hash:
            raise InvariantError(f"committing block {block.height} on top of block {self.height}")
        execution = self._execute(block)
        if not self._matches(block.header, execution):
            raise InvariantError(
                f"block {block.height} is certified, but executing it here gives another record "
                f"(audit head {execution.audit_head.hex()}, the block says {block.header.audit_head.hex()})"
            )
        self._application.commit(execution)
        self._head, self._certificate = block.header, certificate
        self._candidate = self._wanted = None
        self._bodies.clear()
        self._executions.clear()
        self._prepares.clear()
        self._commits.clear()
        self._pacemaker.committed()
        self._pool.discard(command_digest(command) for command in block.commands)
        applied = ApplyBlock(block, certificate, execution)
        # The certificate may rest on a statement that this input made. That is on disk first, or a crash
        # between the two leaves a record that knows more of this member than its own sign state does.
        self._save_sign_state()
        self._out.persist.append(applied)
        self._out.committed.append(applied)
        if self._application.members.epoch != self.members.epoch:
            self._begin_epoch()

    def _begin_epoch(self) -> None:
        """The committed block ended its epoch. Statements and commands of the old epoch are void."""
        known, self.members = self.members, self._application.members
        self._base_height = self.height
        self._pool.clear()
        self._blame.clear()
        self._signer.begin_epoch(self.members.epoch)
        self._reset_epoch()
        self._check_incarnation()
        for member in self.members.ids:
            if member not in known and member != self.member:
                # Greeted as a stranger, if at all: now it is told that nothing of its own is known here.
                self._send(member, Witness())

    def _check_incarnation(self) -> None:
        """A disk that the record does not know must not sign: ask to be let in."""
        state = self._signer.state
        if not self.is_member or state.nonce == self._application.incarnation(self.member):
            return
        self._signer.mute(
            "this disk is not the one that the record knows; waiting for its rejoin to be ordered"
        )
        if not state.nonce:
            # A backup from before an earlier rejoin: the disk that was there at the beginning has no name.
            if not self._restored.spare_nonce:
                return
            state = self._signer.state = SignState(state.epoch, self._restored.spare_nonce)
        self._submit_own(self._application.rejoin_command(self.member, state.nonce, self._key.sign))

    def _submit_own(self, command: bytes) -> None:
        """Have a command of the replica's own ordered. It is sent again until it is committed."""
        try:
            self._pool.add(command, self._application.check(command), self._now_ms, own=True)
        except (CommandError, PoolFullError):
            return  # it can wait for the next occasion
        self._send(None, CommandMessage(command))

    # Blame.

    def _record(self, item: Signed) -> None:
        """Remember a verified statement, and put it on record if its signer contradicts itself."""
        evidence = self._blame.record(item)
        if evidence is not None:
            self._accuse(evidence)

    def _record_certificate(self, certificate: Certificate) -> None:
        for evidence in self._blame.record_certificate(certificate):
            self._accuse(evidence)

    def _accuse(self, evidence: Evidence) -> None:
        if evidence.accused == self.member:
            self._signer.mute("there is evidence that this member's key has signed two statements")
        if evidence.accused == self.coordinator:
            self._pacemaker.distrust(f"{evidence.accused} has signed two statements")
        self._submit_own(self._application.evidence_command(evidence))

    # Sending.

    def _statement_key(self, phase: Phase, block: Block) -> StatementKey:
        return StatementKey(phase, self.members.epoch, self.view, block.height, block.hash)

    def _send(self, to: str | None, message: Message) -> None:
        self._out.send.append(Send(to, message))

    def _send_newest_commit(self, to: str) -> None:
        if self._certificate is not None:
            self._send(to, CertificateMessage(self._certificate))

    def _flush(self) -> Effects[E_]:
        """Hand out what this input asked for. A body must be kept before the promise that rests on it."""
        self._save_sign_state()
        out, self._out = self._out, Effects()
        return out

    def _save_sign_state(self) -> None:
        if self._signer.state is not self._flushed_state:
            self._flushed_state = self._signer.state
            self._out.persist.append(SaveSignState(self._flushed_state))
