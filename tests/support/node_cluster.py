"""Several drivers in one process, with real keys, journals and stores, over a network that tests can cut.

Messages go through the wire format, in order on each link, as over the real transport. A node can be
stopped, or killed (then it goes on from the files as they were at that moment), and started again.

Every node is watched all the time: nothing may leave it before what it promises was written, nothing but the
worker may touch the store while the worker writes, and no two statements of one member may contradict each
other.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.node_genesis import Always, make_genesis

from replication.consensus.canonical import canonical_json
from replication.errors import PeerError
from replication.identity.genesis import Genesis, Rules
from replication.identity.keys import SigningKey
from replication.ledger.application import VotingApplication
from replication.ledger.commands import BallotCommand, decode_command, make_proposal
from replication.ledger.journal import SignJournal
from replication.ledger.outcomes import Outcome
from replication.ledger.store import Store
from replication.node import wire
from replication.node.driver import Driver, DriverSettings
from replication.node.policies import Policy
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.effects import ApplyBlock, KeepCommand, SaveBody, SaveSignState
from replication.ordering.messages import (
    Acknowledgement,
    BlockProposal,
    CertificateMessage,
    CommandMessage,
    Message,
    TimeoutMessage,
)
from replication.ordering.replica import ReplicaSettings
from replication.ordering.signing import SignState
from replication.ordering.statements import Statement, Timeout
from replication.v1.peer_service_pb2 import PeerMessage

__all__ = ["FAST", "SETTINGS", "Cluster", "Network", "Node", "Watch", "eventually"]

FAST = ReplicaSettings(
    gather_ms=5, repeat_ms=50, heartbeat_ms=100, idle_timeout_ms=1_000, busy_timeout_ms=2_000
)
# A busy machine is no reason to give up: tests of giving up have settings of their own.
SETTINGS = DriverSettings(contact_ms=10_000, no_quorum_after_ms=60_000)
PAGE_BYTES = 64 * 1024


async def eventually(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


class CrashError(Exception):
    """The process ends here."""


class Watch:
    """What one member wrote, and checks of what it sends against that. Outlives restarts of the node."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.writes = 0
        self.crash_at: tuple[int, bool] | None = None
        self.is_writing = False
        self.worker: int | None = None
        self.errors: list[str] = []
        self.height = 0
        self._signed: set[Statement | Timeout] = set()
        self._said: dict[tuple[object, ...], Statement | Timeout] = {}
        self._bodies: set[bytes] = set()
        self._kept: set[bytes] = set()
        self._certificates: set[Certificate] = set()

    def attach(self, driver: Driver) -> None:
        """Wrap the writing of a driver."""
        recorder = driver._recorder
        write = recorder.write

        def watched(items: Sequence[Any], withdrawn: Sequence[bytes] = ()) -> None:
            self.worker, self.is_writing = threading.get_ident(), True
            try:
                self.writes += 1
                crash = self.crash_at is not None and self.writes >= self.crash_at[0]
                if crash and self.crash_at is not None and not self.crash_at[1]:
                    raise CrashError
                write(items, withdrawn)
                for item in items:
                    self._note(item)
                if crash:
                    raise CrashError
            finally:
                self.is_writing = False

        recorder.write = watched  # type: ignore[method-assign]
        for name in ("receive", "receive_committed", "submit", "tick"):
            self._watch_input(driver, name)

    def _watch_input(self, driver: Driver, name: str) -> None:
        """No input may be given to the replica before the last block is in the store."""
        replica, store = driver._replica, driver._store
        give = getattr(replica, name)

        def watched(*arguments: Any) -> Any:
            if store.head()[0].height != replica.height:
                self.errors.append(f"{self.name}: {name} came before block {replica.height} was written")
            return give(*arguments)

        setattr(replica, name, watched)

    def _note(self, item: object) -> None:
        match item:
            case SaveBody():
                self._bodies.add(item.block.hash)
            case KeepCommand():
                self._kept.add(item.command)
            case ApplyBlock():
                self.height = item.block.height
                self._bodies.add(item.block.hash)
            case SaveSignState():
                state = item.state
                found: list[Statement | None] = [state.propose, state.prepare, state.commit]
                self._signed.update(statement for statement in found if statement is not None)
                if state.timeout is not None:
                    self._signed.add(state.timeout.timeout)

    def check_access(self, what: str) -> None:
        """Someone uses the store."""
        if self.is_writing and threading.get_ident() != self.worker:
            self.errors.append(f"{self.name}: {what} was called while the worker was writing")

    def check_send(self, message: Message) -> None:
        """The member sends this."""
        match message:
            case Acknowledgement():
                self._require(message.statement)
            case BlockProposal():
                self._require(message.statement)
                if message.block.hash not in self._bodies:
                    self.errors.append(f"{self.name} proposed a block whose body is not on disk")
            case TimeoutMessage():
                self._require(message.report.timeout)
            case CertificateMessage():
                self._check_certificate(message.certificate)
            case CommandMessage():
                command = decode_command(message.command)
                is_own = isinstance(command, BallotCommand) and command.voter == self.name
                if is_own and message.command not in self._kept:
                    self.errors.append(f"{self.name} sent a ballot that is not on disk")

    def _check_certificate(self, certificate: Certificate) -> None:
        signature = dict(certificate.signatures).get(self.name)
        if signature is not None:
            self._require(Statement(certificate.key, self.name, signature))

    def _require(self, item: Statement | Timeout) -> None:
        if item not in self._signed:
            self.errors.append(f"{self.name} sent {item}, which is not on disk")
        if isinstance(item, Timeout):
            key: tuple[object, ...] = (item.epoch, "timeout", item.view)
        else:
            key = (item.epoch, item.key.phase, item.key.position)
        if self._said.setdefault(key, item) != item:
            self.errors.append(f"{self.name} contradicts itself: {self._said[key]} and {item}")


class WatchedStore:
    """The store, with a check that nobody uses it while the worker writes."""

    def __init__(self, store: Store, watch: Watch) -> None:
        self._store = store
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        if name != "counters":  # whole numbers, which any thread may look at
            self._watch.check_access(name)
        return getattr(self._store, name)


class Network:
    """Links between drivers, in order, lossless unless cut. `dropped` says what a test wants to be lost."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.cut: set[frozenset[str]] = set()
        self.dropped: Callable[[str, str, Message], bool] = lambda sender, to, message: False
        self.forged: Callable[[str, Any], Any] = lambda peer, page: page
        self.sent = 0
        self._queues: dict[tuple[str, str], deque[bytes]] = {}
        self._pumps: dict[tuple[str, str], asyncio.Task[None]] = {}

    def isolate(self, *names: str) -> None:
        """Cut the links between these nodes and all others (not among themselves)."""
        inside = set(names)
        for name, other in itertools.product(inside, self.nodes.keys() - inside):
            self.cut.add(frozenset((name, other)))
            for one, two in ((name, other), (other, name)):
                if self.is_up(one):
                    self.nodes[one].driver.peer_disconnected(two)

    def heal(self) -> None:
        """All links work again."""
        healed, self.cut = self.cut, set()
        for pair in healed:
            for name, other in itertools.permutations(pair):
                if self.is_up(name) and self.is_up(other):
                    self.nodes[name].driver.peer_connected(other)

    def is_up(self, name: str) -> bool:
        return name in self.nodes and self.nodes[name].is_up

    def works(self, sender: str, to: str) -> bool:
        return self.is_up(sender) and self.is_up(to) and frozenset((sender, to)) not in self.cut

    def join(self, name: str) -> None:
        """A node is up: everyone connects to it, and it to everyone."""
        for other in self.nodes:
            if other != name and self.works(name, other):
                self.nodes[name].driver.peer_connected(other)
                self.nodes[other].driver.peer_connected(name)

    def send(self, sender: str, to: str, message: Message) -> None:
        if not self.is_up(sender):
            return  # what a killed node does is no part of the story any more
        self.sent += 1
        self.nodes[sender].watch.check_send(message)
        if not self.works(sender, to) or self.dropped(sender, to, message):
            return
        link = (sender, to)
        self._queues.setdefault(link, deque()).append(wire.encode(message).SerializeToString())
        if link not in self._pumps or self._pumps[link].done():
            self._pumps[link] = asyncio.ensure_future(self._pump(sender, to))

    async def _pump(self, sender: str, to: str) -> None:
        queue = self._queues[sender, to]
        await asyncio.sleep(
            0
        )  # once for all that waits: a busy loop comes round seldom, and a link must keep up
        while queue:
            message = wire.decode(PeerMessage.FromString(queue.popleft()))
            if self.works(sender, to):
                await self.nodes[to].driver.receive(sender, message)

    async def fetch(
        self, asker: str, peer: str, from_height: int
    ) -> tuple[list[tuple[Block, Certificate]], int]:
        await asyncio.sleep(0)
        if not self.works(asker, peer):
            raise PeerError(f"{peer} is away")
        driver = self.nodes[peer].driver
        page = await driver.read(lambda store: list(store.blocks(from_height, PAGE_BYTES)))
        return self.forged(peer, page), driver.changes.height


@dataclass
class _Link:
    network: Network
    name: str
    owner: list[Driver]

    def send(self, to: str | None, message: Message) -> None:
        if not self.owner or self.network.nodes[self.name].driver is not self.owner[0]:
            return  # a killed driver that does not know it yet
        others = [other for other in self.network.nodes if other != self.name] if to is None else [to]
        for other in others:
            self.network.send(self.name, other, message)

    async def fetch_blocks(self, peer: str, from_height: int) -> tuple[list[tuple[Block, Certificate]], int]:
        return await self.network.fetch(self.name, peer, from_height)


class Node:
    """One member: its files, and a driver while it runs."""

    driver: Driver
    store: Store
    journal: SignJournal
    application: VotingApplication

    def __init__(
        self, name: str, key: SigningKey, genesis: Genesis, cluster: Cluster, policy: Policy
    ) -> None:
        self.name = name
        self.key = key
        self.genesis = genesis
        self.policy = policy
        self.watch = Watch(name)
        self.is_up = False
        self.life = 0
        self._cluster = cluster
        self.directory.mkdir(parents=True)
        SignJournal.create(self.journal_path, genesis.cluster_id, name).close()

    @property
    def directory(self) -> Path:
        return self._cluster.directory / f"{self.name}-{self.life}"

    @property
    def journal_path(self) -> Path:
        return self.directory / "sign.journal"

    @property
    def height(self) -> int:
        return self.driver.changes.height

    async def start(self) -> None:
        self.store = Store.create_or_open(self.directory / "ledger.db", self.genesis)
        self.journal, state = SignJournal.open(self.journal_path, self.genesis.cluster_id, self.name)
        watched: Any = WatchedStore(self.store, self.watch)
        self.application = VotingApplication(self.genesis, watched)
        owner: list[Driver] = []
        self.driver = Driver(
            member=self.name,
            genesis=self.genesis,
            key=self.key,
            store=watched,
            journal=self.journal,
            journal_state=state,
            application=self.application,
            transport=_Link(self._cluster.network, self.name, owner),
            policy=self.policy,
            settings=self._cluster.settings,
            replica_settings=self._cluster.replica_settings,
        )
        owner.append(self.driver)
        self.watch.attach(self.driver)
        await self.driver.start()
        self.is_up = True
        self._cluster.network.join(self.name)

    async def stop(self) -> None:
        self.is_up = False
        await self.driver.stop()
        self.journal.close()
        self.store.close()

    async def kill(self) -> None:
        """End as a killed process does: what was not written is gone. The next start has the files as they
        are now."""
        while self.driver._is_writing and not self.driver.fatal.done():
            await asyncio.sleep(0)
        self.is_up = False
        before = self.directory
        self.life += 1
        shutil.copytree(before, self.directory)
        await self.driver.stop()
        self.journal.close()
        self.store.close()
        self.watch.is_writing = False

    async def start_on_a_new_disk(self) -> None:
        """The disk of a node that does not run is lost: it asks the others to be let in again."""
        self.life += 1
        self.directory.mkdir()
        state = SignState(0, os.urandom(32))
        SignJournal.create(self.journal_path, self.genesis.cluster_id, self.name, state).close()
        await self.start()

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    def proposal(self, request_id: str, epoch: int | None = None, **changes: Any) -> bytes:
        """A signed proposal of this node."""
        fields: dict[str, Any] = {
            "action": "quarantine",
            "target": "agent-7",
            "evidence": canonical_json({"score": 1}),
            "window_ms": 60_000,
            "expiry_ms": 0,
            "created_ms": self.driver._clock(),
        }
        return make_proposal(
            self.key.sign,
            self.genesis.cluster_id,
            self.application.members.epoch if epoch is None else epoch,
            proposer=self.name,
            request_id=request_id,
            **{**fields, **changes},
        )

    async def propose(self, request_id: str, **changes: Any) -> Outcome:
        return await self.driver.submit(self.proposal(request_id, **changes))


@dataclass
class Cluster:
    """A cluster whose files are in `directory`. Nodes are named node-0, node-1, ..."""

    directory: Path
    size: int = 4
    policies: Mapping[int, Policy] = field(default_factory=dict)
    policy: Callable[[], Policy] = Always
    rules: Rules = field(default_factory=lambda: Rules(max_active_proposals=1_000))
    settings: DriverSettings = SETTINGS
    replica_settings: ReplicaSettings = FAST

    def __post_init__(self) -> None:
        self.network = Network()
        self.genesis, keys = make_genesis(self.size, self.rules)
        for number, (name, key) in enumerate(keys.items()):
            policy = self.policies.get(number) or self.policy()
            self.network.nodes[name] = Node(name, key, self.genesis, self, policy)

    @property
    def nodes(self) -> list[Node]:
        return list(self.network.nodes.values())

    def __getitem__(self, number: int) -> Node:
        return self.network.nodes[f"node-{number}"]

    async def __aenter__(self) -> Cluster:
        for node in self.nodes:
            await node.start()
        await self.speaking()
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        for node in self.nodes:
            if node.is_up:
                await node.stop()
        self.check()

    def check(self) -> None:
        """Fail if a watched rule was broken."""
        errors = [error for node in self.nodes for error in node.watch.errors]
        assert not errors, errors[:3]

    async def speaking(self, nodes: Iterable[Node] | None = None) -> None:
        """Wait until these nodes sign."""
        chosen = list(nodes or self.nodes)
        await eventually(lambda: not any(node.driver.status().muted for node in chosen))

    async def level(self, nodes: Iterable[Node] | None = None) -> int:
        """Wait until these nodes have the same height, and check that they have the same record."""
        chosen = [node for node in (nodes or self.nodes) if node.is_up]
        while True:
            await eventually(lambda: len({node.height for node in chosen}) == 1)
            heads = [(await node.driver.read(lambda store: store.head()))[0] for node in chosen]
            if len({head.height for head in heads}) == 1:  # else a block came while they were asked
                assert len({head.hash for head in heads}) == 1
                return heads[0].height
