"""A small cluster under the test's own hand: every message, every write and every millisecond is explicit.

`Cluster` holds the people, their keys and the nodes; whoever writes a test is the network, the clock, the
disks and, with the keys of faulty members, the adversary. The application is the toy of the simulator.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from replication.errors import CallerError, PeerError
from replication.faults.simulation.disk import Disk
from replication.faults.simulation.kit import ToyKit, make_people
from replication.faults.simulation.toy import ToyApplication, members_command, toy_command
from replication.identity.members import MemberSet
from replication.ordering.application import CheckedCommand, command_digest
from replication.ordering.blocks import Block, BlockHeader, commands_root
from replication.ordering.certificates import Certificate
from replication.ordering.effects import ApplyBlock, Behind, Effects
from replication.ordering.messages import BlockProposal, Message, NewViewMessage, Witness
from replication.ordering.replica import Replica, ReplicaSettings, Restored
from replication.ordering.signing import SignState
from replication.ordering.statements import (
    Lock,
    NewView,
    Phase,
    Statement,
    StatementKey,
    Suspect,
    Timeout,
)
from replication.ordering.timeouts import TimeoutCertificate, TimeoutReport, form_timeout_certificate

__all__ = ["START_MS", "Cluster", "Node"]

START_MS = 1_700_000_000_000
_MAX_TICKS = 50


class Node:
    """One member's process: a replica, its disk, and what it sent and said."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.disk = Disk()
        self.sent: list[tuple[str | None, Message]] = []
        self.written: list[Any] = []
        self.committed: list[ApplyBlock[Any]] = []
        self.behind: list[Behind] = []
        self.seen: list[bytes] = []
        self.refused: list[str] = []
        self.boots = 0
        self.application: ToyApplication
        self.replica: Replica[Any]
        self.boot()

    def boot(self) -> None:
        """Make the process anew from what is on its disk. `start` is the first input."""
        kit = self.cluster.kit
        self.application, head, certificate, base = kit.restore(self.disk.blocks)
        self.boots += 1
        self.replica = Replica(
            self.name,
            kit.cluster_id,
            self.application.members,
            self.cluster.keys[self.name],
            self.application,
            Restored(
                header=head,
                certificate=certificate,
                sign_state=self.disk.sign_state,
                bodies=tuple(self.disk.bodies.values()),
                commands=tuple(self.disk.commands.values()),
                spare_nonce=sha256(f"{self.name}/{self.boots}".encode()).digest(),
                base_height=base,
            ),
            self.cluster.settings,
        )

    def start(self, *, trusted: bool = True) -> None:
        """First input; if `trusted`, others say at once that they know of nothing that was forgotten."""
        self.carry_out(self.replica.start(self.cluster.now_ms))
        if trusted:
            for peer in self.replica.members.ids:
                if peer != self.name:
                    self.receive(peer, Witness())

    def restart(self, *, trusted: bool = True) -> None:
        """The process ends and comes back; messages that it had sent before stay sent."""
        self.boot()
        self.start(trusted=trusted)

    # Inputs.

    def submit(self, command: bytes) -> None:
        """A client of this member wants a command ordered."""
        self.carry_out(self.replica.submit(command, self.cluster.now_ms))

    def receive(self, sender: str, message: Message) -> None:
        """A message arrives. Raises what the replica raises."""
        self.carry_out(self.replica.receive(sender, message, self.cluster.now_ms))

    def offer(self, sender: str, message: Message) -> None:
        """As `receive`, but what is refused is noted and dropped, as a driver does."""
        try:
            self.receive(sender, message)
        except (PeerError, CallerError) as error:
            self.refused.append(str(error))

    def fetch(self, source: Node) -> None:
        """Catch up from another node's disk."""
        for block, certificate in source.disk.blocks[self.replica.height :]:
            self.carry_out(self.replica.receive_committed(source.name, block, certificate))

    def tick(self) -> None:
        """Let the replica work until there is nothing to do at once."""
        for _ in range(_MAX_TICKS):
            effects = self.replica.tick(self.cluster.now_ms)
            self.carry_out(effects)
            if not (effects.persist or effects.send or effects.behind):
                return
        raise AssertionError(f"{self.name}: tick asks for more after {_MAX_TICKS} times")

    def carry_out(self, effects: Effects[Any]) -> None:
        """Persist, then send, then tell."""
        self.disk.write(effects.persist)
        self.written += effects.persist
        for item in effects.send:
            self.sent.append((item.to, item.message))
            self.cluster.post(self.name, item.to, item.message)
        self.committed += effects.committed
        self.behind += effects.behind
        self.seen += effects.seen

    # Looking.

    @property
    def sign_state(self) -> SignState:
        """What it has promised."""
        return self.replica.sign_state

    def take_sent(self) -> list[tuple[str | None, Message]]:
        """What was sent since the last call."""
        sent, self.sent = self.sent, []
        return sent

    def sent_of(self, kind: type[Message]) -> list[Any]:
        """Messages of one kind among what was sent since `take_sent`."""
        return [message for _, message in self.sent if isinstance(message, kind)]

    def signed(self, phase: Phase) -> StatementKey | None:
        """Key of the last statement of a phase."""
        last = self.sign_state.last(phase)
        return None if last is None else last.key


class Cluster:
    """Everyone's keys and nodes, the messages under way, and the time."""

    def __init__(self, n: int = 4, *, spares: int = 0, settings: ReplicaSettings | None = None) -> None:
        self.people = make_people(n, spares, real=True)
        self.keys = self.people.keys
        self.kit = ToyKit(self.people, 1_000)
        self.settings = settings or ReplicaSettings()
        self.now_ms = START_MS
        self.members = self.people.genesis
        self.cluster_id = self.people.cluster_id
        self.links: dict[tuple[str, str], deque[Message]] = {}
        self.cut: set[tuple[str, str]] = set()
        self.nodes: dict[str, Node] = {}

    def boot(self, *names: str) -> list[Node]:
        """Nodes that run and may sign; all members if none is named."""
        for name in names or self.members.ids:
            self.nodes[name] = Node(self, name)
        started = [self.nodes[name] for name in names or self.members.ids]
        for node in started:
            node.start()
        return started

    # The network.

    def post(self, sender: str, to: str | None, message: Message) -> None:
        """Queue a message, unless the link is cut. Only what goes to running nodes is kept."""
        receivers = [name for name in self.nodes if name != sender] if to is None else [to]
        for name in receivers:
            if name in self.nodes and (sender, name) not in self.cut:
                self.links.setdefault((sender, name), deque()).append(message)

    def deliver(self) -> int:
        """Deliver everything that is under way now, link by link; returns how many messages that was."""
        waiting = [(link, len(queue)) for link, queue in sorted(self.links.items())]
        for (sender, to), count in waiting:
            queue = self.links[sender, to]
            for _ in range(min(count, len(queue))):
                self.nodes[to].offer(sender, queue.popleft())
        return sum(count for _, count in waiting)

    def settle(self, rounds: int = 60) -> None:
        """Tick, deliver and fetch until nothing is under way. No time passes."""
        for _ in range(rounds):
            for node in list(self.nodes.values()):
                node.tick()
            self.serve()
            if not self.deliver():
                return
        raise AssertionError("the cluster does not come to rest")

    def serve(self) -> None:
        """Answer who asked for blocks."""
        for node in self.nodes.values():
            asked, node.behind = node.behind, []
            for behind in asked:
                source = self.nodes.get(behind.peer)
                if source is not None and not {(source.name, node.name), (node.name, source.name)} & self.cut:
                    node.fetch(source)

    def run(self, duration_ms: int, step_ms: int = 50) -> None:
        """Let time pass in steps."""
        end = self.now_ms + duration_ms
        while self.now_ms < end:
            self.now_ms = min(end, self.now_ms + step_ms)
            self.settle()

    def isolate(self, *names: str) -> None:
        """Cut all links of these members, and drop what is under way on them."""
        for name in names:
            for other in self.nodes:
                self.cut |= {(name, other), (other, name)}
        for link in self.cut:
            self.links.pop(link, None)

    def heal(self) -> None:
        """All links are back; members greet each other on them, as on a new connection."""
        healed, self.cut = sorted(self.cut), set()
        for sender, to in healed:
            if sender in self.nodes and to in self.nodes and sender != to:
                self.nodes[sender].carry_out(self.nodes[sender].replica.greet(to, self.now_ms))

    # Commands.

    def note(self, author: str, text: str) -> bytes:
        """A command that only leaves an entry."""
        return toy_command(self.keys[author].sign, self.cluster_id, "note", author, text)

    def open(self, author: str, text: str, window_ms: int = 1_000) -> bytes:
        """A command that opens a subject; shown to all members at once."""
        return toy_command(self.keys[author].sign, self.cluster_id, "open", author, f"{window_ms};{text}")

    def vote(self, author: str, opening: bytes) -> bytes:
        """A vote on what was opened, or will be."""
        payload = f"{command_digest(opening).hex()};{author}"
        return toy_command(self.keys[author].sign, self.cluster_id, "vote", author, payload)

    def change_members(self, author: str, names: Sequence[str]) -> bytes:
        """A command that makes these the members."""
        operator = self.kit._operator.sign
        return members_command(self.keys[author].sign, operator, self.cluster_id, author, names)

    # Blocks.

    def block(self, node: Node, *commands: bytes, after_ms: int = 0, **changes: Any) -> Block:
        """A valid block on top of what `node` has committed, with header fields changed as asked."""
        replica, head = node.replica, node.replica.head
        time_ms = max(self.now_ms + after_ms, head.time_ms + 1)
        execution = node.application.execute(replica.height + 1, time_ms, commands)
        header = BlockHeader(
            cluster_id=self.cluster_id,
            epoch=replica.members.epoch,
            height=replica.height + 1,
            parent=head.hash,
            time_ms=time_ms,
            commands_root=commands_root(commands),
            entries_root=execution.entries_root,
            audit_size=execution.audit_size,
            audit_head=execution.audit_head,
        )
        return Block(replace(header, **changes), commands)

    # What members, faulty ones above all, can sign.

    def statement(
        self, phase: Phase, signer: str, block: Block | tuple[int, bytes], view: int = 0, epoch: int = 0
    ) -> Statement:
        """A signed statement about a block, or about a (height, hash)."""
        height, name = (block.height, block.hash) if isinstance(block, Block) else block
        key = StatementKey(phase, epoch, view, height, name)
        return Statement(key, signer, self.keys[signer].sign(key.sign_bytes(self.cluster_id, signer)))

    def certificate(
        self,
        phase: Phase,
        block: Block | tuple[int, bytes],
        signers: Iterable[str],
        view: int = 0,
        epoch: int = 0,
    ) -> Certificate:
        """A certificate signed by these members, in the order given."""
        statements = [self.statement(phase, signer, block, view, epoch) for signer in signers]
        return Certificate(statements[0].key, tuple((item.signer, item.signature) for item in statements))

    def proposal(
        self, signer: str, block: Block, view: int = 0, parent: Certificate | None = None, epoch: int = 0
    ) -> BlockProposal:
        """A coordinator's message."""
        return BlockProposal(self.statement(Phase.PROPOSE, signer, block, view, epoch), block, parent)

    def timeout(
        self, signer: str, view: int, height: int = 0, lock: Lock | None = None, epoch: int = 0
    ) -> Timeout:
        """A signed timeout, whatever it claims."""
        timeout = Timeout(epoch, view, height, lock, signer)
        return replace(timeout, signature=self.keys[signer].sign(timeout.sign_bytes(self.cluster_id)))

    def report(
        self,
        signer: str,
        view: int,
        committed: Certificate | None = None,
        lock: Certificate | None = None,
        height: int | None = None,
        epoch: int = 0,
    ) -> TimeoutReport:
        """A timeout with its proofs. `height` is that of `committed`, or 0, unless it is to be a lie."""
        proven = 0 if committed is None else committed.key.height
        short = None if lock is None else Lock(lock.key.view, lock.key.block_hash)
        claimed = proven if height is None else height
        return TimeoutReport(self.timeout(signer, view, claimed, short, epoch), committed, lock)

    def timeout_certificate(
        self,
        view: int,
        *reports: TimeoutReport,
        signers: Sequence[str] = (),
        members: MemberSet | None = None,
    ) -> TimeoutCertificate:
        """A certificate that ends `view`: from these reports and from members that have nothing to report."""
        everyone = [*reports, *(self.report(signer, view) for signer in signers)]
        return form_timeout_certificate(
            {report.timeout.signer: report for report in everyone}, members or self.members
        )

    def new_view(self, signer: str, certificate: TimeoutCertificate) -> NewViewMessage:
        """The opening of the view after `certificate`."""
        opening = NewView(
            certificate.epoch, certificate.view + 1, certificate.digest(self.cluster_id), signer
        )
        signature = self.keys[signer].sign(opening.sign_bytes(self.cluster_id))
        return NewViewMessage(replace(opening, signature=signature), certificate)

    def suspect(self, signer: str, view: int, epoch: int = 0) -> Suspect:
        """A complaint about a view's coordinator."""
        suspect = Suspect(epoch, view, signer)
        return replace(suspect, signature=self.keys[signer].sign(suspect.sign_bytes(self.cluster_id)))

    def checked(self, command: bytes) -> CheckedCommand:
        """A command as an application sees it."""
        return ToyApplication(self.kit.directory).check(command)
