"""The driver: the asyncio shell around one replica. Everything that changes state passes through its one
task.

Inputs (commands of one's own, messages of peers, fetched blocks, time) are queued and fed to the replica in
batches; then the driver makes durable what they ask for, then it sends, then it tells. See the class.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from replication.consensus import VoteValue
from replication.errors import ReplicationError
from replication.identity.genesis import Genesis
from replication.identity.keys import SigningKey
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.messages import Message
from replication.ordering.replica import ReplicaSettings

if TYPE_CHECKING:
    from replication.ledger.application import Outcome, VotingApplication
    from replication.ledger.journal import JournalState, SignJournal
    from replication.ledger.store import Store
    from replication.node.policies import Policy

__all__ = [
    "Changes",
    "Driver",
    "DriverSettings",
    "DriverStatus",
    "NoQuorumError",
    "NodeStoppingError",
    "PeerState",
    "Transport",
]

T_ = TypeVar("T_")


class NoQuorumError(ReplicationError):
    """Too few other nodes are in contact for anything to commit now. The command is kept and may commit
    later."""

    reason: ClassVar[str] = "NO_QUORUM_OF_NODES"


class NodeStoppingError(ReplicationError):
    """The node stops before the command was committed here; it may still commit."""

    reason: ClassVar[str] = "NODE_STOPPING"


class Transport(Protocol):
    """What the driver needs of the network. Peers are member ids."""

    def send(self, to: str | None, message: Message) -> None:
        """Queue a message for one member, or for all others when `to` is None. Never blocks, never raises
        for a peer that is away; each peer's queue is bounded."""
        ...

    async def fetch_blocks(self, peer: str, from_height: int) -> tuple[list[tuple[Block, Certificate]], int]:
        """A page of committed blocks from `from_height` on, and the peer's height. Raises a ReplicationError
        when the peer does not answer, or answers with something that cannot be decoded."""
        ...


@dataclass(frozen=True)
class DriverSettings:
    """Timing in milliseconds (wall time of this host, except where block time is named).

    contact_ms: silence after which a peer counts as out of contact.
    no_quorum_after_ms: how long `submit` waits without a quorum in contact before it raises NoQuorumError.
    fetch_timeout_ms: how long one page of blocks may take before another peer is asked.
    policy_timeout_ms: how long a python policy may think about one proposal before its answer no longer
    counts.
    """

    contact_ms: int = 2_000
    no_quorum_after_ms: int = 3_000
    fetch_timeout_ms: int = 5_000
    policy_timeout_ms: int = 5_000


@dataclass(frozen=True)
class PeerState:
    """What is known of another member. `silent_ms` is None when nothing was ever heard from it."""

    height: int
    audit_size: int
    audit_head: bytes
    view: int
    silent_ms: int | None
    reachable: bool


@dataclass(frozen=True)
class DriverStatus:
    """A snapshot. `counters` are totals since the start of the process (see `metrics.Counters`)."""

    epoch: int
    view: int
    coordinator: str
    height: int
    audit_size: int
    audit_head: bytes
    pending: int
    peers: Mapping[str, PeerState]
    muted: str
    suspected: bool
    can_progress: bool
    counters: Mapping[str, int]


class Changes:
    """Tells any number of watchers that the record grew. Everything it tells of is durable here."""

    def __init__(self, height: int, audit_size: int) -> None:
        self.height = height
        self.audit_size = audit_size

    async def wait_beyond(self, audit_size: int) -> int:
        """Wait until the audit chain is longer than `audit_size`; returns its length. Raises
        NodeStoppingError when the driver stops."""
        raise NotImplementedError

    async def wait_above(self, height: int) -> int:
        """Wait until the committed height is above `height`; returns it. Raises NodeStoppingError."""
        raise NotImplementedError


class Driver:
    """Owns the replica, the store and the journal of a running node.

    `fatal` never completes in a healthy node. It fails with the StorageError or InvariantError (or any
    unexpected error) that stopped the driver: whoever runs the node awaits it and ends the process with an
    error. From that moment on nothing more is signed, written, sent or answered.

    `changes` tells watchers that the record grew.
    """

    fatal: asyncio.Future[None]
    changes: Changes

    def __init__(
        self,
        *,
        member: str,
        genesis: Genesis,
        key: SigningKey,
        store: Store,
        journal: SignJournal,
        journal_state: JournalState,
        application: VotingApplication,
        transport: Transport,
        policy: Policy,
        settings: DriverSettings | None = None,
        replica_settings: ReplicaSettings | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        """Make a driver in a running event loop; nothing happens before `start`.

        `store` and `journal` stay the caller's to close, after `stop`. `clock` gives this host's time in
        milliseconds since the Unix epoch; the default is a monotonic reading of the wall clock.
        """

    async def start(self) -> None:
        """Take up where the last run ended: repeat what was signed, resubmit kept commands, vote on what is
        open. Messages and commands may come from now on."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Finish the batch at hand, fail what still waits with NodeStoppingError, and end all tasks. May be
        called more than once, and after `fatal` failed."""
        raise NotImplementedError

    async def submit(self, command: bytes, resign: Callable[[int], bytes] | None = None) -> Outcome:
        """Have a command of one's own ordered; returns its outcome once the block that holds it is durable
        here, or once the committed state says for good what it would be (a repeat, a refusal).

        `resign` makes the same command for a new epoch; it is called when the epoch changes before the
        command was committed. Cancelling the caller withdraws nothing.

        Raises:
            CommandError: no member would accept the command.
            PoolFullError: too many commands of this member are waiting.
            NoQuorumError: no quorum of nodes has been in contact for too long; the command may commit later.
            NodeStoppingError: the node stops; the command may commit later.
        """
        raise NotImplementedError

    async def cast(self, proposal_id: str, value: VoteValue, reason: str = "") -> Outcome:
        """Cast this member's vote by hand, on a committed proposal. Repeating the same vote gives the first
        outcome; another one is refused with ALREADY_VOTED unless the rules allow changes.

        Refusals are outcomes, not errors: UNKNOWN_PROPOSAL, PROPOSAL_NOT_OPEN, PROPOSAL_EXPIRED,
        ALREADY_VOTED. Raises as `submit`.
        """
        raise NotImplementedError

    async def read(self, function: Callable[[Store], T_]) -> T_:
        """Run a short read of the store (or of the application's state) at a moment when nothing writes, on
        the loop's thread. Everything that looks at the store or the application goes through here; what it
        sees is durable. Keep each call to a few milliseconds: page through what is long."""
        raise NotImplementedError

    async def receive(self, sender: str, message: Message) -> None:
        """Take in a message of a member, whose name the transport has authenticated. Returns at once while
        there is room in the sender's share of the queue, else when there is: that is the back-pressure."""
        raise NotImplementedError

    def peer_connected(self, peer: str) -> None:
        """The transport can send to `peer` (again). Greets it with what it is known to have signed."""
        raise NotImplementedError

    def peer_disconnected(self, peer: str) -> None:
        """The connection to `peer` is gone. It still counts as in contact until `contact_ms` has passed."""
        raise NotImplementedError

    @property
    def can_progress(self) -> bool:
        """Whether a commit quorum of members, this one included, has been heard from lately."""
        raise NotImplementedError

    def status(self) -> DriverStatus:
        """A snapshot for status answers and metrics."""
        raise NotImplementedError
