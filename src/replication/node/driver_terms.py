"""What the driver is given, and what it gives back: its network, settings, status and errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from replication.errors import ReplicationError
from replication.node.contacts import PeerState
from replication.node.counters import Counters
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.messages import Message

__all__ = [
    "DriverSettings",
    "DriverStatus",
    "NoQuorumError",
    "NodeStoppingError",
    "NotSigningError",
    "PeerState",
    "Transport",
]


class NoQuorumError(ReplicationError):
    """Too few other nodes are in contact for anything to commit now. The command is kept and may commit
    later."""

    reason: ClassVar[str] = "NO_QUORUM_OF_NODES"


class NodeStoppingError(ReplicationError):
    """The node stops before the command was committed here; it may still commit."""

    reason: ClassVar[str] = "SHUTTING_DOWN"


class NotSigningError(ReplicationError):
    """This node signs nothing for now: it may have forgotten what it has signed, or is no member."""

    reason: ClassVar[str] = "NOT_SIGNING"


class Transport(Protocol):
    """What the driver needs of the network. Peers are member ids."""

    def send(self, to: str | None, message: Message) -> None:
        """Queue a message for one member, or for all others when `to` is None. Never blocks, never raises
        for a peer that is away; each peer's queue is bounded."""
        ...

    async def fetch_blocks(self, peer: str, from_height: int) -> tuple[list[tuple[Block, Certificate]], int]:
        """A page of committed blocks from `from_height` on, and the peer's height. Raises a PeerError when
        the peer does not answer, or answers with something that cannot be decoded."""
        ...


@dataclass(frozen=True)
class DriverSettings:
    """Durations in milliseconds.

    contact_ms: silence after which a peer counts as out of contact; several heartbeats.
    no_quorum_after_ms: how long `submit` waits without a quorum in contact before it raises NoQuorumError.
    fetch_timeout_ms: how long one page of blocks may take before another peer is asked.
    policy_timeout_ms: how long a python policy may think about one proposal before its answer no longer
    counts.
    look_ms: how often a node asks for new blocks by itself, when it is no member or hears from too few.
    """

    contact_ms: int = 2_000
    no_quorum_after_ms: int = 3_000
    fetch_timeout_ms: int = 5_000
    policy_timeout_ms: int = 5_000
    look_ms: int = 500


@dataclass(frozen=True)
class DriverStatus:
    """A snapshot. `muted` says why this member signs nothing, `suspected` why it suspects the coordinator;
    both are empty when all is well. `counters` are totals since the start of the process, and go on counting.
    `inbox` is how many messages of peers wait."""

    epoch: int
    view: int
    coordinator: str
    height: int
    audit_size: int
    audit_head: bytes
    pending: int
    peers: Mapping[str, PeerState]
    muted: str
    suspected: str
    can_progress: bool
    counters: Counters
    inbox: int = 0
