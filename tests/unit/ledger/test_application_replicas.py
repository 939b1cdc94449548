"""The application under the real ordering protocol: four replicas in one process, a network of a queue.

What the application promises to the ordering protocol (and the other way round) is only seen where both run:
views put on record, epochs that begin, members that come back. The record that comes out of it is exported
with the certificates that the replicas made, and judged by the verifier.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from hashlib import sha256
from typing import Any

from tests.support.ledger_cluster import LedgerCluster
from tests.support.record_factory import Json, SealedBlock, SealedRecord

from replication.ledger.application import BlockExecution, VotingApplication
from replication.ledger.commands import ProposalCommand, decode_command
from replication.ledger.history import MemoryHistory
from replication.ledger.verify import ExportReport, verify_export
from replication.ordering.application import command_digest
from replication.ordering.blocks import ZERO_HASH, Block, BlockHeader, commands_root
from replication.ordering.certificates import Certificate
from replication.ordering.core import Restored
from replication.ordering.effects import ApplyBlock, Effects
from replication.ordering.messages import CommandMessage, Message
from replication.ordering.replica import Replica
from replication.ordering.signing import SignState

Committed = tuple[Block, Certificate, BlockExecution]


class Node:
    """One replica with its application and its record."""

    def __init__(self, world: World, member: str, *, nonce: bytes = b"", epoch: int = 0) -> None:
        self.member, self.world = member, world
        self.history = MemoryHistory(world.cluster.genesis)
        self.application = VotingApplication(world.cluster.genesis, self.history)
        self.blocks: list[Committed] = []
        self.is_voting = True
        genesis = self.application.genesis_execution()
        header = BlockHeader(
            cluster_id=world.cluster.cluster_id,
            epoch=0,
            height=0,
            parent=ZERO_HASH,
            time_ms=genesis.time_ms,
            commands_root=commands_root(()),
            entries_root=genesis.entries_root,
            audit_size=genesis.audit_size,
            audit_head=genesis.audit_head,
        )
        self.replica: Replica[BlockExecution] = Replica(
            member,
            world.cluster.cluster_id,
            self.application.members,
            world.cluster.keys[member],
            self.application,
            Restored(header, None, SignState(epoch=epoch, nonce=nonce), spare_nonce=bytes([9]) * 32),
        )

    def carry_out(self, effects: Effects[BlockExecution]) -> None:
        """Persist, then send, then tell."""
        for item in effects.persist:
            if isinstance(item, ApplyBlock):
                execution = item.execution
                self.history.apply(execution.height, execution.time_ms, execution.entries)
                self.blocks.append((item.block, item.certificate, execution))
        for send in effects.send:
            self.world.send(self.member, send.to, send.message)
        for behind in effects.behind:
            self.world.wanted.append((self.member, behind.peer))
        for command in effects.seen:
            self.vote(command)

    def vote(self, raw: bytes) -> None:
        """Approve of every proposal."""
        command = decode_command(raw)
        if self.is_voting and isinstance(command, ProposalCommand) and not self.replica.muted:
            cluster = self.world.cluster
            self.submit(cluster.vote(self.member, raw, epoch=command.epoch))

    def submit(self, command: bytes) -> None:
        self.carry_out(self.replica.submit(command, self.world.now_ms))


class World:
    """All nodes, the time, and the messages under way. `down` are members that nothing reaches or leaves."""

    def __init__(self, n: int = 4) -> None:
        self.cluster = LedgerCluster(n)
        self.now_ms = self.cluster.genesis.created_ms + 1000
        self.queue: deque[tuple[str, str, Message]] = deque()
        self.wanted: list[tuple[str, str]] = []
        self.down: set[str] = set()
        self.nodes: dict[str, Node] = {}
        for member in self.cluster.ids:
            self.nodes[member] = Node(self, member)
        for node in self.nodes.values():
            self.start(node)
        self.settle()

    def start(self, node: Node) -> None:
        node.carry_out(node.replica.start(self.now_ms))
        for peer in self.nodes.values():
            if peer is not node:
                node.carry_out(node.replica.greet(peer.member, self.now_ms))
                peer.carry_out(peer.replica.greet(node.member, self.now_ms))

    def send(self, sender: str, to: str | None, message: Message) -> None:
        for member in [to] if to is not None else list(self.nodes):
            if member in self.nodes and member != sender:
                self.queue.append((sender, member, message))

    def settle(self) -> None:
        """Deliver everything, and let replicas act, until nothing moves."""
        for node in self.nodes.values():
            node.carry_out(node.replica.tick(self.now_ms))
        moving = True
        while moving:
            moving = bool(self.queue)
            while self.queue:
                sender, member, message = self.queue.popleft()
                if sender not in self.down and member not in self.down:
                    node = self.nodes[member]
                    node.carry_out(node.replica.receive(sender, message, self.now_ms))
            self.fetch()
            for node in self.nodes.values():
                if node.replica.next_tick_ms(self.now_ms) <= self.now_ms:
                    node.carry_out(node.replica.tick(self.now_ms))
                    moving = True

    def fetch(self) -> None:
        wanted, self.wanted = self.wanted, []
        for member, peer in wanted:
            if self.down.isdisjoint((member, peer)):
                node = self.nodes[member]
                for block, certificate, _ in self.nodes[peer].blocks[node.replica.height :]:
                    node.carry_out(node.replica.receive_committed(peer, block, certificate))

    def run(self, milliseconds: int) -> None:
        """Let time pass in steps."""
        for _ in range(milliseconds // 50):
            self.now_ms += 50
            self.settle()

    def up(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.member not in self.down]

    def propose(self, member: str, action: str = "quarantine", **options: Any) -> bytes:
        """Submit a proposal at its proposer's node."""
        epoch = self.nodes[member].application.members.epoch
        proposal = self.cluster.propose(member, action, epoch=epoch, created_ms=self.now_ms, **options)
        self.nodes[member].submit(proposal)
        return proposal

    def verify(self) -> ExportReport:
        """All nodes that are up have one record; judge it."""
        first, *others = self.up()
        for node in others:
            assert [block.hash for block, _, _ in node.blocks] == [block.hash for block, _, _ in first.blocks]
            assert node.history.totals() == first.history.totals()
        sealed = [self.cluster.sealed[0], *(sealed_block(item) for item in first.blocks)]
        return verify_export(SealedRecord(self.cluster.genesis, sealed).lines(), self.cluster.genesis)


def sealed_block(committed: Committed) -> SealedBlock:
    block, certificate, execution = committed
    header: Json = {
        key: value.hex() if isinstance(value, bytes) else value for key, value in asdict(block.header).items()
    }
    key = certificate.key
    written: Json = {
        "phase": key.phase.value,
        "epoch": key.epoch,
        "view": key.view,
        "height": key.height,
        "block_hash": key.block_hash.hex(),
        "signatures": [
            {"signer": signer, "signature": signature.hex()} for signer, signature in certificate.signatures
        ],
    }
    return SealedBlock(header, block.hash.hex(), written, [asdict(entry) for entry in execution.entries])


def test_a_decision_takes_one_block() -> None:
    world = World()
    proposal = world.propose("node-3")
    world.settle()
    world.run(100)
    report = world.verify()
    assert (report.decisions["approved"], report.height) == (1, 1)
    outcome = world.nodes["node-2"].blocks[0][2].outcomes[command_digest(proposal)]
    assert (outcome.accepted, outcome.proposal_id) == (True, "prop-0001")


def test_a_window_closes_without_anybody_asking() -> None:
    world = World()
    for node in world.nodes.values():
        node.is_voting = False
    world.propose("node-3", window_ms=2000)
    world.run(1500)
    assert world.verify().open_proposals == 1
    world.run(1000)
    assert world.verify().decisions["no_quorum"] == 1


def test_a_silent_coordinator_is_replaced_and_that_is_on_record() -> None:
    world = World()
    world.down.add("node-1")
    world.propose("node-3")
    world.run(15_000)
    report = world.verify()
    assert report.events["coordinator"] >= 1
    assert report.decisions["approved"] == 1
    view = world.nodes["node-2"].application.recorded_view
    assert view >= 1
    assert world.nodes["node-2"].replica.view == view
    world.down.clear()
    world.run(5_000)
    assert world.verify().height == report.height, "the old coordinator has caught up, with the same record"


def test_members_change_while_work_goes_on() -> None:
    world = World()
    change = {"change": "add", "member": world.cluster.new_member("node-5")}
    proposal = world.propose("node-2", "membership", evidence=change)
    world.run(200)
    assert world.verify().decisions["approved"] == 1
    world.nodes["node-4"].submit(world.cluster.membership("node-4", proposal, change, epoch=0))
    world.run(1_000)
    report = world.verify()
    assert (report.epoch, report.events["membership"]) == (1, 1)
    world.propose("node-1")
    world.run(1_000)
    assert world.verify().decisions["approved"] == 2, "four of five make a quorum"
    node = world.nodes["node-1"]
    assert node.replica.members == node.application.members
    assert node.replica.members.n == 5


def test_a_member_with_an_empty_disk_comes_back() -> None:
    world = World()
    world.propose("node-1")
    world.run(500)
    nonce = sha256(b"a new disk").digest()
    fresh = world.nodes["node-4"] = Node(world, "node-4", nonce=nonce)
    world.start(fresh)
    world.settle()
    assert fresh.replica.muted
    world.run(5_000)
    report = world.verify()
    assert (report.epoch, report.events["membership"]) == (1, 1)
    assert fresh.application.incarnation("node-4") == nonce
    assert not fresh.replica.muted
    world.down.add("node-2")
    world.propose("node-3")
    world.run(1_000)
    assert world.verify().decisions["approved"] == 2, "it votes and signs again"


def test_a_double_vote_ends_up_as_evidence() -> None:
    world = World()
    world.nodes["node-4"].is_voting = False
    for member in ("node-2", "node-3"):
        world.nodes[member].is_voting = False
    proposal = world.propose("node-1", "terminate")
    world.run(500)
    for value in ("approve", "reject"):
        vote = world.cluster.vote("node-4", proposal, value, epoch=0)
        world.send("node-4", None, CommandMessage(vote))
        world.run(500)
    report = world.verify()
    assert (report.faulty, report.events["evidence"], report.events["vote"]) == (("node-4",), 1, 2)
    for member in ("node-2", "node-3"):
        world.nodes[member].submit(world.cluster.vote(member, proposal, epoch=0))
    world.run(500)
    assert world.verify().decisions["approved"] == 1
