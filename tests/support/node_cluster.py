"""Several drivers in one process, with real keys, journals and stores, over a network that tests can cut.

Messages go through the wire format, in order on each link, as over the real transport. A node can be
stopped, killed (nothing that is not on disk survives), and started again on its files.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from replication.ledger.store import Store

from replication.consensus import VoteValue
from replication.consensus.canonical import canonical_json
from replication.errors import PeerError
from replication.identity.genesis import Genesis, Rules, build_genesis, parse_genesis
from replication.identity.keys import SigningKey
from replication.identity.members import Member, prove_possession
from replication.identity.tls import create_authority
from replication.ledger.application import VotingApplication
from replication.ledger.commands import make_proposal
from replication.ledger.journal import SignJournal
from replication.ledger.outcomes import Outcome
from replication.node import wire
from replication.node.driver import Driver, DriverSettings
from replication.node.policies import Choice, Incident, Judgement, Policy
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.messages import Message
from replication.ordering.replica import ReplicaSettings
from replication.v1.peer_service_pb2 import PeerMessage

__all__ = ["Always", "Cluster", "Network", "Node", "eventually"]

FAST = ReplicaSettings(
    gather_ms=5, repeat_ms=50, heartbeat_ms=50, idle_timeout_ms=400, busy_timeout_ms=800, clock_ahead_ms=5_000
)
SETTINGS = DriverSettings(contact_ms=500, no_quorum_after_ms=500, fetch_timeout_ms=500, policy_timeout_ms=500)
PAGE_BYTES = 64 * 1024


class Always:
    """A policy that says the same to everything, and counts how often it was asked."""

    kind = "cel"

    def __init__(self, value: VoteValue = VoteValue.APPROVE) -> None:
        self.value = value
        self.asked = 0

    def judge(self, incident: Incident) -> Judgement:
        return Judgement(self.decide(incident))

    def decide(self, incident: Incident) -> Choice | None:
        self.asked += 1
        return Choice(self.value, f"asked {self.asked} times")


@lru_cache(maxsize=1)
def _authority() -> bytes:
    return create_authority("test authority")[0]


async def eventually(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


class Network:
    """Links between drivers, in order, lossless unless cut. `dropped` says what a test wants to be lost."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.cut: set[frozenset[str]] = set()
        self.dropped: Callable[[str, str, Message], bool] = lambda sender, to, message: False
        self.log: list[tuple[str, str, Message]] = []
        self._queues: dict[tuple[str, str], deque[bytes]] = {}
        self._pumps: dict[tuple[str, str], asyncio.Task[None]] = {}

    def isolate(self, *names: str) -> None:
        """Cut the links between these nodes and all others (not among themselves)."""
        inside = set(names)
        for name, other in itertools.product(inside, self.nodes.keys() - inside):
            self.cut.add(frozenset((name, other)))
            self.nodes[name].driver.peer_disconnected(other)

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
        self.log.append((sender, to, message))
        if not self.works(sender, to) or self.dropped(sender, to, message):
            return
        link = (sender, to)
        self._queues.setdefault(link, deque()).append(wire.encode(message).SerializeToString())
        if link not in self._pumps or self._pumps[link].done():
            self._pumps[link] = asyncio.ensure_future(self._pump(sender, to))

    async def _pump(self, sender: str, to: str) -> None:
        queue = self._queues[sender, to]
        while queue:
            await asyncio.sleep(0)
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
        return await driver.read(
            lambda store: (store.blocks(from_height, PAGE_BYTES), store.head()[0].height)
        )


@dataclass
class _Link:
    network: Network
    name: str

    def send(self, to: str | None, message: Message) -> None:
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

    def __init__(
        self,
        name: str,
        key: SigningKey,
        genesis: Genesis,
        network: Network,
        directory: Path,
        policy: Policy,
        settings: DriverSettings,
        replica_settings: ReplicaSettings,
    ) -> None:
        self.name = name
        self.key = key
        self.genesis = genesis
        self.network = network
        self.directory = directory
        self.policy = policy
        self.settings = settings
        self.replica_settings = replica_settings
        self.is_up = False
        directory.mkdir()
        SignJournal.create(self.journal_path, genesis.cluster_id, name).close()

    @property
    def journal_path(self) -> Path:
        return self.directory / "sign.journal"

    @property
    def height(self) -> int:
        return self.driver.changes.height

    async def start(self) -> None:
        self.store = Store.create_or_open(self.directory / "ledger.db", self.genesis)
        self.journal, state = SignJournal.open(self.journal_path, self.genesis.cluster_id, self.name)
        self.driver = Driver(
            member=self.name,
            genesis=self.genesis,
            key=self.key,
            store=self.store,
            journal=self.journal,
            journal_state=state,
            application=VotingApplication(self.genesis, self.store),
            transport=_Link(self.network, self.name),
            policy=self.policy,
            settings=self.settings,
            replica_settings=self.replica_settings,
        )
        await self.driver.start()
        self.is_up = True
        self.network.join(self.name)

    async def stop(self) -> None:
        self.is_up = False
        await self.driver.stop()
        self.journal.close()
        self.store.close()

    async def kill(self) -> None:
        """End as a killed process does: whatever was not written is gone, and nothing more is sent."""
        self.is_up = False
        await self.driver.stop()
        self.store.close()
        self.journal.abandon()

    def proposal(self, request_id: str, **changes: object) -> bytes:
        """A signed proposal of this node."""
        fields: dict[str, object] = {
            "action": "quarantine",
            "target": "agent-7",
            "evidence": canonical_json({"score": 1}),
            "window_ms": 60_000,
            "expiry_ms": 0,
            "created_ms": self.driver._clock(),
        }
        epoch = self.driver.status().epoch
        return make_proposal(
            self.key.sign,
            self.genesis.cluster_id,
            epoch,
            proposer=self.name,
            request_id=request_id,
            **{**fields, **changes},  # type: ignore[arg-type]  # of make_proposal's own types
        )

    async def propose(self, request_id: str, **changes: object) -> Outcome:
        return await self.driver.submit(self.proposal(request_id, **changes))


@dataclass
class Cluster:
    """A cluster in `directory`. Nodes are named node-0, node-1, ..."""

    directory: Path
    size: int = 4
    policies: Mapping[str, Policy] = field(default_factory=dict)
    policy: Callable[[], Policy] = Always
    rules: Rules = field(default_factory=lambda: Rules(max_active_proposals=1_000))
    settings: DriverSettings = SETTINGS
    replica_settings: ReplicaSettings = FAST

    def __post_init__(self) -> None:
        self.network = Network()
        keys = {
            f"node-{number}": SigningKey.from_seed(bytes([number + 1]) * 32) for number in range(self.size)
        }
        nonce = bytes(32)
        raw = build_genesis(
            name="test",
            created_ms=1_700_000_000_000,
            nonce=nonce,
            members=[Member(name, key.public_key, 1, f"{name}:7000") for name, key in keys.items()],
            possessions={name: prove_possession(key, name, nonce) for name, key in keys.items()},
            rules=self.rules,
            ca_certificate=_authority(),
        )
        self.genesis = parse_genesis(raw)
        for name, key in keys.items():
            policy = self.policies.get(name) or self.policy()
            self.network.nodes[name] = Node(
                *(name, key, self.genesis, self.network, self.directory / name, policy),
                *(self.settings, self.replica_settings),
            )

    @property
    def nodes(self) -> list[Node]:
        return list(self.network.nodes.values())

    def __getitem__(self, number: int) -> Node:
        return self.network.nodes[f"node-{number}"]

    async def __aenter__(self) -> Cluster:
        for node in self.nodes:
            await node.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        for node in self.nodes:
            if node.is_up:
                await node.stop()

    async def level(self, nodes: Iterable[Node] | None = None) -> int:
        """Wait until these nodes have the same height, and check that they have the same record."""
        chosen = [node for node in (nodes or self.nodes) if node.is_up]
        await eventually(lambda: len({node.height for node in chosen}) == 1)
        heads = {(await node.driver.read(lambda store: store.head()))[0].hash for node in chosen}
        assert len(heads) == 1
        return chosen[0].height
