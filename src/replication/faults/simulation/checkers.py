"""What must hold in every simulation, checked while it runs, by code that shares nothing with what it judges.

* agreement: no two correct members commit different blocks at one height (A1);
* validity: every committed block has a certificate of Q distinct members, follows its parent in hash and
time, holds
  only commands that are valid, and does what its header says when it is executed once more (A2, A3);
* durability: what was told is still there after a restart (A4);
* belief: what a correct member locks on, and what it enters a view by, is signed by Q members and proven;
* one signature: no correct member lets out two statements of which it may make only one, nor one that is not
  durable yet (A5);
* record: all applications are at one head (A6);
* blame: nobody is accused but the guilty (A8).

Progress (A7) is judged by the world, after it has healed a quorum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from replication.errors import CallerError
from replication.faults.simulation.judge import clash
from replication.identity import keys
from replication.identity.members import MemberSet
from replication.ordering.blocks import Block, commands_root
from replication.ordering.certificates import Certificate
from replication.ordering.effects import ApplyBlock
from replication.ordering.messages import (
    Acknowledgement,
    BlockProposal,
    CertificateMessage,
    Message,
    TimeoutMessage,
)
from replication.ordering.signing import SignState
from replication.ordering.statements import Phase, Signed, Statement, StatementKey, Timeout
from replication.ordering.timeouts import TimeoutCertificate

if TYPE_CHECKING:
    from replication.faults.simulation.host import Host
    from replication.faults.simulation.world import World

__all__ = ["Checkers"]

RECENT = 24


@dataclass
class _Spoken:
    """What one correct member has said so far."""

    positions: dict[tuple[int, Phase, int, int], bytes] = field(default_factory=dict)
    timeouts: dict[tuple[int, int], Timeout] = field(default_factory=dict)
    recent: list[Signed] = field(default_factory=list)


class Checkers:
    """Watches all correct members of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.chain: list[Block] = []
        self.certificate_views: list[int] = []
        self._application, self._head, _, _ = world.kit.restore(())
        self._members: list[MemberSet] = []
        self._proven: set[tuple[int, Certificate]] = set()
        self._spoken: dict[str, _Spoken] = {}
        self._believed: set[tuple[StatementKey, tuple[tuple[str, bytes], ...]]] = set()
        self._openings: set[TimeoutCertificate] = set()
        self._epochs: dict[int, MemberSet] = {0: self._application.members}
        self._cluster_id = world.kit.cluster_id
        self._latest_clock_ms = 0

    @property
    def application(self) -> Any:
        """The checkers' own copy of the state, at the highest height that any correct member has."""
        return self._application

    def _violate(self, rule: str, detail: str) -> None:
        self._world.engine.violate(rule, detail)

    # Restarts.

    def booted(self, host: Host) -> None:
        """A4: nothing that was told is lost."""
        if not host.is_faulty and host.disk.height < host.told_height:
            self._violate("durability", f"{host.endpoint} told of {host.told_height}, has {host.disk.height}")
        if host.is_faulty:
            return
        for block, certificate in host.disk.blocks[len(self.chain) :]:
            self._extend(host, block, certificate)  # written, but the process died before it told anyone

    # Commits.

    def committed(self, host: Host, applied: ApplyBlock[Any]) -> None:
        """A correct member tells that a block is final."""
        if host.is_faulty:
            return
        block, certificate = applied.block, applied.certificate
        height = block.height
        if height == len(self.chain) + 1:
            self._extend(host, block, certificate)
        elif not 1 <= height <= len(self.chain):
            self._violate("agreement", f"{host.endpoint} committed height {height}, nobody {height - 1}")
            return
        known = self.chain[height - 1] if height <= len(self.chain) else block
        if known.hash != block.hash:
            self._violate(
                "agreement",
                f"height {height}: {host.endpoint} committed {block.hash.hex()[:12]} in view "
                f"{certificate.key.view}, another {known.hash.hex()[:12]} in view "
                f"{self.certificate_views[height - 1]}",
            )
            return
        if (height, certificate) not in self._proven:
            self._check_certificate(host, block, certificate)
        at_height = host.replica is not None and host.replica.height == height
        if at_height and host.application.head != block.header.audit_head:
            self._violate("record", f"{host.endpoint} has another audit head at height {height}")

    def _extend(self, host: Host, block: Block, certificate: Certificate) -> None:
        """The first to commit a height: look at the block itself."""
        where = f"block {block.height} of {host.endpoint}"
        self._latest_clock_ms = max(self._latest_clock_ms, self._world.latest_clock_ms())
        header, application = block.header, self._application
        members = application.members
        ahead = self._world.settings.clock_ahead_ms
        if header.parent != self._head.hash or header.height != self._head.height + 1:
            self._violate("validity", f"{where} does not follow its parent")
        if header.cluster_id != self._world.kit.cluster_id or header.epoch != members.epoch:
            self._violate("validity", f"{where} is of another cluster or epoch {header.epoch}")
        if header.time_ms <= self._head.time_ms:
            self._violate("validity", f"{where} is not later than its parent")
        if header.time_ms > self._latest_clock_ms + ahead:
            self._violate(
                "validity", f"{where} is from the future: {header.time_ms - self._latest_clock_ms} ms"
            )
        if header.commands_root != commands_root(block.commands):
            self._violate("validity", f"{where} has other commands than its header names")
        if not block.commands and application.next_deadline_ms() is None:
            self._violate("validity", f"{where} is empty and nothing was due")
        try:
            for command in block.commands:
                application.check(command)
            execution = application.execute(block.height, header.time_ms, block.commands)
        except CallerError as error:
            self._violate("validity", f"{where} holds an invalid command: {error}")
            return
        claimed = (header.audit_size, header.audit_head, header.entries_root)
        if claimed != (execution.audit_size, execution.audit_head, execution.entries_root):
            self._violate("validity", f"{where} claims another outcome than its commands have")
        application.commit(execution)
        self._world.kit.written(application, ApplyBlock(block, certificate, execution))
        self._epochs.setdefault(application.members.epoch, application.members)
        self._members.append(members)
        self.chain.append(block)
        self.certificate_views.append(certificate.key.view)
        self._head = header
        guilty = self._world.guilty
        for accused in self._world.kit.accused(application):
            if accused not in guilty:
                self._violate("blame", f"{where} accuses {accused}, which did nothing wrong")

    def _check_certificate(self, host: Host, block: Block, certificate: Certificate) -> None:
        where = f"certificate of {host.endpoint} for height {block.height}"
        key, members = certificate.key, self._members[block.height - 1]
        quorum = _quorum(members.n)
        wanted = (Phase.COMMIT, members.epoch, block.height, block.hash)
        if (key.phase, key.epoch, key.height, key.block_hash) != wanted:
            self._violate("validity", f"{where} is about something else: {key}")
        signers = {signer for signer, _ in certificate.signatures}
        if len(signers) != len(certificate.signatures) or len(signers) < quorum:
            self._violate("validity", f"{where} has {len(signers)} signers, {quorum} are needed")
        for signer, signature in certificate.signatures:
            member = members.get(signer)
            signed = key.sign_bytes(self._world.kit.cluster_id, signer)
            if member is None or not keys.verify(member.public_key, signature, signed):
                self._violate("validity", f"{where}: {signer} did not sign it")
        self._proven.add((block.height, certificate))

    # What is written down.

    def promised(self, host: Host, before: SignState, after: SignState) -> None:
        """A5: promises only grow within an epoch and an incarnation. Called for each sign state that a
        correct member makes durable."""
        if host.is_faulty:
            return
        if after.lock is not None and after.lock is not before.lock:
            self._check_proof(host, "lock", after.lock.key, after.lock.signatures, Phase.PREPARE)
        if after.opened is not None and after.opened is not before.opened:
            self._check_opening(host, after.opened)
        if (after.epoch, after.nonce) != (before.epoch, before.nonce):
            if after.epoch < before.epoch:
                self._violate("one signature", f"{host.endpoint} goes back from epoch {before.epoch}")
            return
        for phase in Phase:
            old, new = before.last(phase), after.last(phase)
            if new == old:
                continue
            if new is None or (old is not None and new.key.position <= old.key.position):
                self._violate(
                    "one signature", f"{host.endpoint} takes back {phase.value}: {old} becomes {new}"
                )
            elif new.key.view <= before.timed_out_view:
                self._violate(
                    "one signature", f"{host.endpoint} signs {_short(new.key)} in a view it gave up"
                )
        if after.timed_out_view < before.timed_out_view:
            self._violate("one signature", f"{host.endpoint} forgets that it gave up a view")
        lock, kept = before.lock, after.lock
        if lock is None or lock.key.height != host.disk.height + 1 or lock.key.epoch != before.epoch:
            return
        if kept is None or kept.key.height < lock.key.height or kept.key.view < lock.key.view:
            self._violate("one signature", f"{host.endpoint} forgets its lock {_short(lock.key)}")

    def _check_proof(
        self,
        host: Host,
        what: str,
        key: StatementKey,
        signatures: tuple[tuple[str, bytes], ...],
        phase: Phase,
    ) -> None:
        """What a correct member believes must be signed by Q members of its epoch."""
        if (key, signatures) in self._believed:
            return
        self._believed.add((key, signatures))
        members = self._members_of(key.epoch)
        if members is None:
            return  # of an epoch that nobody has told of yet
        signers = {signer for signer, _ in signatures}
        if key.phase is not phase or len(signers) < len(signatures) or len(signers) < _quorum(members.n):
            self._violate("belief", f"{host.endpoint}: {what} {_short(key)} has {len(signers)} signers")
        for signer, signature in signatures:
            if not self._is_authentic(members, signer, signature, key.sign_bytes(self._cluster_id, signer)):
                self._violate("belief", f"{host.endpoint}: {what} {_short(key)}: {signer} did not sign it")

    def _check_opening(self, host: Host, opened: TimeoutCertificate) -> None:
        if opened in self._openings:
            return
        self._openings.add(opened)
        members = self._members_of(opened.epoch)
        if members is None:
            return
        signers = {timeout.signer for timeout in opened.timeouts}
        views = {timeout.view for timeout in opened.timeouts}
        if len(signers) < len(opened.timeouts) or len(signers) < _quorum(members.n) or len(views) != 1:
            self._violate(
                "belief", f"{host.endpoint} entered a view by timeouts of {sorted(signers)} for {views}"
            )
        for item in opened.timeouts:
            if not self._is_authentic(
                members, item.signer, item.signature, item.sign_bytes(self._cluster_id)
            ):
                self._violate(
                    "belief", f"{host.endpoint} entered a view by a timeout that is not of {item.signer}"
                )
        highest = max(opened.timeouts, key=lambda item: item.report)
        if highest.lock is not None:
            key = StatementKey(
                Phase.PREPARE,
                opened.epoch,
                highest.lock.view,
                highest.committed_height + 1,
                highest.lock.block_hash,
            )
            if opened.lock is None or opened.lock.key != key:
                self._violate(
                    "belief", f"{host.endpoint} entered a view by a lock that is not proven: {_short(key)}"
                )
            else:
                self._check_proof(host, "lock of a view", key, opened.lock.signatures, Phase.PREPARE)

    def _members_of(self, epoch: int) -> MemberSet | None:
        known = self._epochs.get(epoch)
        if known is None and self._application.members.epoch == epoch:
            known = self._epochs[epoch] = self._application.members
        return known

    @staticmethod
    def _is_authentic(members: MemberSet, signer: str, signature: bytes, signed: bytes) -> bool:
        member = members.get(signer)
        return member is not None and keys.verify(member.public_key, signature, signed)

    # Statements that leave.

    def leaving(self, host: Host, message: Message) -> None:
        """A5: look at everything that a correct member lets out under its own name."""
        if host.is_faulty:
            return
        if isinstance(message, (BlockProposal, Acknowledgement)):
            self._say(host, message.statement)
        elif isinstance(message, TimeoutMessage):
            self._say_timeout(host, message.report.timeout)
        elif isinstance(message, CertificateMessage):
            for signer, signature in message.certificate.signatures:
                if signer == host.member:
                    self._say(host, Statement(message.certificate.key, signer, signature))

    def _say(self, host: Host, statement: Statement) -> None:
        key = statement.key
        if statement.signer != host.member:
            self._violate(
                "one signature", f"{host.endpoint} sends {_short(key)} of {statement.signer} as its own"
            )
            return
        spoken = self._spoken.setdefault(host.member, _Spoken())
        position = (key.epoch, key.phase, key.view, key.height)
        known = spoken.positions.get(position)
        if known == key.block_hash:
            return
        if known is not None:
            self._violate(
                "one signature", f"{host.endpoint} signs two blocks: {_short(key)}, {known.hex()[:12]}"
            )
            return
        spoken.positions[position] = key.block_hash
        self._check_durable(host, key)
        self._compare(host, spoken, statement)

    def _say_timeout(self, host: Host, timeout: Timeout) -> None:
        if timeout.signer != host.member:
            self._violate("one signature", f"{host.endpoint} sends a timeout of {timeout.signer} as its own")
            return
        spoken = self._spoken.setdefault(host.member, _Spoken())
        position = (timeout.epoch, timeout.view)
        known = spoken.timeouts.get(position)
        if known == timeout:
            return
        spoken.timeouts[position] = timeout
        if known is not None:
            self._violate("one signature", f"{host.endpoint} signs two timeouts of view {timeout.view}")
        state = host.disk.sign_state
        stored = state.timeout.timeout if state.timeout is not None else None
        is_durable = state.epoch > timeout.epoch or stored == timeout
        if not is_durable and (stored is None or stored.view <= timeout.view):
            self._violate(
                "durability", f"{host.endpoint} sends a timeout of view {timeout.view} before it is durable"
            )
        self._compare(host, spoken, timeout)

    def _compare(self, host: Host, spoken: _Spoken, item: Signed) -> None:
        """Against what it said recently, by the judge's rules."""
        for other in spoken.recent:
            why = clash(other, item)
            if why is not None:
                self._violate("one signature", f"{host.endpoint}: {why}: {_text(other)}; {_text(item)}")
                return
        spoken.recent.append(item)
        if len(spoken.recent) > RECENT:
            del spoken.recent[0]

    def _check_durable(self, host: Host, key: StatementKey) -> None:
        state = host.disk.sign_state
        last = state.last(key.phase)
        # What is said about a block that is on disk, certificate and all, promises nothing any more.
        is_final = (
            host.disk.height >= key.height and host.disk.blocks[key.height - 1][0].hash == key.block_hash
        )
        is_later = (
            is_final or state.epoch > key.epoch or (last is not None and last.key.position > key.position)
        )
        if not is_later and (state.epoch != key.epoch or last is None or last.key != key):
            self._violate("durability", f"{host.endpoint} sends {_short(key)} before it is durable")
        has_body = key.block_hash in host.disk.bodies or host.disk.height >= key.height
        if not has_body:
            self._violate("durability", f"{host.endpoint} sends {_short(key)}, but the body is not on disk")
        if key.phase is Phase.COMMIT and host.disk.height < key.height:
            lock = state.lock
            if lock is None or lock.key.height != key.height or lock.key.view < key.view:
                self._violate(
                    "durability", f"{host.endpoint} sends {_short(key)}, but its lock is not on disk"
                )

    # The end.

    def finish(self, hosts: list[Host]) -> None:
        """A6, and no correct member silenced as guilty."""
        for host in hosts:
            replica = host.replica
            if host.is_faulty or replica is None:
                continue
            is_told = 1 <= replica.height <= len(self.chain)  # its last block may not be written yet
            if is_told and self.chain[replica.height - 1].header.audit_head != host.application.head:
                self._violate("record", f"{host.endpoint} ends with another audit head")
            if host.was_restored:
                continue  # it has forgotten what it signed, and is silent until a quorum has let it back in
            is_restored = any(position == host.position for _, _, position in self._world.scenario.restores)
            if "evidence" in replica.muted or ("peer holds" in replica.muted and not is_restored):
                self._violate("blame", f"{host.endpoint} is correct, but signs nothing: {replica.muted}")


def _quorum(n: int) -> int:
    return (n + (n - 1) // 3) // 2 + 1


def _short(key: StatementKey) -> str:
    return f"{key.phase.value}(v{key.view}, h{key.height}, {key.block_hash.hex()[:12]}, epoch {key.epoch})"


def _text(item: Signed) -> str:
    if isinstance(item, Statement):
        return _short(item.key)
    lock = "none" if item.lock is None else f"v{item.lock.view} {item.lock.block_hash.hex()[:12]}"
    return f"timeout(v{item.view}, c{item.committed_height}, lock {lock})"
