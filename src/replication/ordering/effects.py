"""What the caller of the replica must do, in a fixed order: persist, then send, then tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from replication.ordering.application import Execution
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.messages import Message
from replication.ordering.signing import SignState

__all__ = ["ApplyBlock", "Behind", "Effects", "KeepCommand", "Persist", "SaveBody", "SaveSignState", "Send"]

E_ = TypeVar("E_", bound=Execution)


@dataclass(frozen=True)
class SaveBody:
    """Keep the body of a block that is about to be acknowledged: a locked block must never be nowhere."""

    block: Block


@dataclass(frozen=True)
class SaveSignState:
    """Replace the last-signed state."""

    state: SignState


@dataclass(frozen=True)
class KeepCommand:
    """Keep a command of one's own until it is committed or withdrawn: it holds votes, and a second signature
    on other content would be equivocation."""

    command: bytes


@dataclass(frozen=True)
class ApplyBlock(Generic[E_]):
    """Append a final block, its certificate and what it did to the record, in one transaction.

    `execution` is already the application's committed state.
    """

    block: Block
    certificate: Certificate
    execution: E_


Persist = SaveBody | SaveSignState | KeepCommand | ApplyBlock[E_]


@dataclass(frozen=True)
class Send:
    """Send a message to one member, or to all others when `to` is None."""

    to: str | None
    message: Message


@dataclass(frozen=True)
class Behind:
    """A peer has certified blocks up to `height` that this replica lacks: fetch them."""

    peer: str
    height: int


@dataclass
class Effects(Generic[E_]):
    """The result of one input. `seen` are new announced commands, one's own included."""

    persist: list[Persist[E_]] = field(default_factory=list)
    send: list[Send] = field(default_factory=list)
    committed: list[ApplyBlock[E_]] = field(default_factory=list)
    behind: list[Behind] = field(default_factory=list)
    seen: list[bytes] = field(default_factory=list)
