"""The simulated disk of one member: what is durable, and what a crash may take."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from replication.ordering.application import command_digest
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.effects import ApplyBlock, KeepCommand, SaveBody, SaveSignState
from replication.ordering.signing import SignState

__all__ = ["Disk", "Snapshot"]

Item = SaveBody | SaveSignState | KeepCommand | ApplyBlock[Any]


@dataclass(frozen=True)
class Snapshot:
    """A copy of a disk: what a backup holds."""

    blocks: int
    sign_state: SignState
    bodies: tuple[Block, ...]


@dataclass
class Disk:
    """Durable content. A write is durable when `write` has returned; `crash` writes only a part."""

    sign_state: SignState = field(default_factory=SignState)
    blocks: list[tuple[Block, Certificate]] = field(default_factory=list)
    bodies: dict[bytes, Block] = field(default_factory=dict)
    commands: dict[bytes, bytes] = field(default_factory=dict)
    watch: Callable[[SignState, SignState], None] | None = None
    """Told of each change of the sign state, before and after."""

    @property
    def height(self) -> int:
        """Height of the last block."""
        return len(self.blocks)

    def write(self, items: Sequence[Item]) -> None:
        """Make everything durable, in order."""
        for item in items:
            if isinstance(item, SaveSignState):
                if self.watch is not None:
                    self.watch(self.sign_state, item.state)
                self.sign_state = item.state
            elif isinstance(item, SaveBody):
                self.bodies[item.block.hash] = item.block
            elif isinstance(item, KeepCommand):
                self.commands[command_digest(item.command)] = item.command
            else:
                self._apply(item.block, item.certificate)

    def crash(self, items: Sequence[Item], rng: random.Random) -> int:
        """The power fails during a write: a prefix of it survives. Returns how long that was."""
        kept = rng.randint(0, len(items))
        self.write(items[:kept])
        return kept

    def snapshot(self) -> Snapshot:
        """A backup of now."""
        return Snapshot(len(self.blocks), self.sign_state, tuple(self.bodies.values()))

    def roll_back(self, backup: Snapshot, *, blocks_too: bool) -> None:
        """Yesterday's files are restored."""
        self.sign_state = backup.sign_state
        self.bodies = {block.hash: block for block in backup.bodies}
        self.commands.clear()
        if blocks_too:
            del self.blocks[backup.blocks :]

    def _apply(self, block: Block, certificate: Certificate) -> None:
        if block.height != len(self.blocks) + 1:
            raise ValueError(f"block {block.height} does not follow block {len(self.blocks)} on this disk")
        self.blocks.append((block, certificate))
        self.bodies = {key: body for key, body in self.bodies.items() if body.height > block.height}
        for command in block.commands:
            self.commands.pop(command_digest(command), None)
