"""The seam between ordering and what is ordered.

The replica knows the application through this protocol only, so that another ordering engine could drive the
same application, and another application could be ordered by the same engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar, Generic, Protocol, TypeVar

from replication.errors import CallerError
from replication.identity.members import MemberSet
from replication.ordering.statements import Evidence, NewView

__all__ = ["Application", "CheckedCommand", "CommandError", "Execution", "Selection", "command_digest"]


def command_digest(command: bytes) -> bytes:
    """SHA-256 of a command's bytes: its name in pools, answers and tables against repeats."""
    return sha256(command).digest()


class CommandError(CallerError):
    """A command is malformed, too large, not signed by its author, or not by a member."""

    reason: ClassVar[str] = "COMMAND_INVALID"


@dataclass(frozen=True)
class CheckedCommand:
    """A command that passed every check that does not depend on the state.

    `announce` asks for it to be shown to all members at once, not only to the coordinator. `keep` asks for
    it to be kept on disk from before it is sent until it is committed.
    """

    digest: bytes
    author: str
    announce: bool = False
    keep: bool = False


@dataclass(frozen=True)
class Selection:
    """Which of the waiting commands to put into the next block, in execution order.

    `complete` says that waiting a moment longer for others would gain nothing; `void` are waiting commands
    that would execute as nothing and need not be ordered.
    """

    commands: tuple[bytes, ...]
    complete: bool
    void: tuple[bytes, ...] = ()


class Execution(Protocol):
    """The outcome of executing a block on top of the committed state, not yet applied."""

    @property
    def entries_root(self) -> bytes: ...

    @property
    def audit_size(self) -> int: ...

    @property
    def audit_head(self) -> bytes: ...

    @property
    def is_empty(self) -> bool:
        """Whether the block changed nothing."""
        ...

    @property
    def recorded_view(self) -> int:
        """As `Application.recorded_view`, after this block."""
        ...


E_ = TypeVar("E_", bound=Execution)


class Application(Protocol, Generic[E_]):
    """A deterministic state machine over commands. Its state changes in `commit` and nowhere else."""

    @property
    def members(self) -> MemberSet:
        """The members of the current epoch. A new epoch begins with the block above the one that changed
        it."""
        ...

    @property
    def recorded_view(self) -> int:
        """The highest view of this epoch whose coordinator the record shows; 0 at the start of an epoch."""
        ...

    def incarnation(self, member: str) -> bytes:
        """Nonce of the incarnation in which a member may sign; empty for the one it was made with."""
        ...

    def is_faulty(self, member: str) -> bool:
        """Whether the record proves that a member of this epoch has contradicted itself."""
        ...

    def check(self, command: bytes) -> CheckedCommand:
        """Check size, shape, author and signature. Raises CommandError. May cache."""
        ...

    def select(self, commands: Sequence[bytes], time_ms: int) -> Selection:
        """Choose among checked commands for a block at `time_ms`."""
        ...

    def next_deadline_ms(self) -> int | None:
        """Block time after which a block is due even without commands; None when nothing is."""
        ...

    def execute(self, height: int, time_ms: int, commands: Sequence[bytes]) -> E_:
        """Execute speculatively on top of the committed state. Raises CommandError for an unchecked bad
        command."""
        ...

    def commit(self, execution: E_) -> None:
        """Make an execution the committed state."""
        ...

    def view_command(self, opening: NewView) -> bytes:
        """The command that records a new coordinator. Executing it for a view already recorded does
        nothing."""
        ...

    def evidence_command(self, evidence: Evidence) -> bytes:
        """The command that records that a member has contradicted itself."""
        ...

    def rejoin_command(self, member: str, nonce: bytes, sign: Callable[[bytes], bytes]) -> bytes:
        """The command by which a member that lost its disk asks for a new incarnation."""
        ...
