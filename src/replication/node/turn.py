"""What one turn of the driver gathers: the effects of several inputs, to be carried out together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from replication.ledger.application import BlockExecution, Outcome
from replication.ledger.commands import BallotCommand, decode_command
from replication.node.own_commands import OwnCommand
from replication.ordering.effects import (
    ApplyBlock,
    Behind,
    Effects,
    KeepCommand,
    Persist,
    SaveSignState,
    Send,
)
from replication.ordering.messages import CertificateMessage, CommandMessage

__all__ = ["Batch"]


@dataclass(slots=True)
class Batch:
    """Effects in the order of their inputs.

    A block ends the batch: the next input may look up in the store what the block changed, so the block has
    to be there first. `answers` are for callers whose command the committed state already judges;
    `withdrawn` the digests of own commands that need not be kept any more.
    """

    persist: list[Persist[BlockExecution]] = field(default_factory=list)
    send: list[Send] = field(default_factory=list)
    committed: list[ApplyBlock[BlockExecution]] = field(default_factory=list)
    behind: list[Behind] = field(default_factory=list)
    seen: list[bytes] = field(default_factory=list)
    answers: list[tuple[OwnCommand, Outcome]] = field(default_factory=list)
    withdrawn: list[bytes] = field(default_factory=list)

    @property
    def is_closed(self) -> bool:
        """Whether no further input may be given before this is durable."""
        return bool(self.committed)

    def add(self, effects: Effects[BlockExecution]) -> None:
        """Take in what an input asked for."""
        self.persist += effects.persist
        self.send += effects.send
        self.committed += effects.committed
        self.behind += effects.behind
        self.seen += effects.seen

    def give_up(self, error: Callable[[], Exception]) -> None:
        """The batch could not be made durable: whoever was to be answered gets an error of this kind."""
        for entry, _ in self.answers:
            entry.fail(error())

    def split_sends(self) -> tuple[list[Send], list[Send]]:
        """What may leave before anything is written, and what may not.

        Most messages rest on something in this batch. Two kinds need not, and others wait for them: a
        command that is not to be kept first promises nothing, and a certificate that holds no signature made
        in this batch is proof by itself, whoever shows it.
        """
        if not self.persist:
            return self.send, []
        ballots = {
            item.command
            for item in self.persist
            if isinstance(item, KeepCommand) and isinstance(decode_command(item.command), BallotCommand)
        }
        has_signed = any(isinstance(item, SaveSignState) for item in self.persist)
        early: list[Send] = []
        late: list[Send] = []
        for send in self.send:
            message = send.message
            is_free = (isinstance(message, CommandMessage) and message.command not in ballots) or (
                isinstance(message, CertificateMessage) and not has_signed
            )
            (early if is_free else late).append(send)
        return early, late
