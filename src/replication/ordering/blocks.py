"""Blocks: what a height commits to.

A block header has no view in it, so that a block proposed again in a later view keeps its hash.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256

from replication.identity.merkle import merkle_root
from replication.identity.signbytes import block_bytes

__all__ = ["ZERO_HASH", "Block", "BlockHeader", "commands_root"]

ZERO_HASH = bytes(32)
"""Parent of the genesis block."""


@dataclass(frozen=True)
class BlockHeader:
    """The signed content of a block. Hashes are 32 raw bytes, times are milliseconds since the epoch.

    `audit_size` and `audit_head` are the length and last hash of the audit chain after the block.
    """

    cluster_id: bytes
    epoch: int
    height: int
    parent: bytes
    time_ms: int
    commands_root: bytes
    entries_root: bytes
    audit_size: int
    audit_head: bytes

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 over the hand-laid-out header (see `replication.identity.signbytes.block_bytes`)."""
        encoded = block_bytes(
            self.cluster_id,
            self.epoch,
            height=self.height,
            parent=self.parent,
            time_ms=self.time_ms,
            commands_root=self.commands_root,
            entries_root=self.entries_root,
            audit_size=self.audit_size,
            audit_head=self.audit_head,
        )
        return sha256(encoded).digest()


@dataclass(frozen=True)
class Block:
    """A batch of opaque commands under one header."""

    header: BlockHeader
    commands: tuple[bytes, ...] = field(repr=False)

    @property
    def hash(self) -> bytes:
        """The header's hash; it covers the commands through `commands_root`."""
        return self.header.hash

    @property
    def height(self) -> int:
        return self.header.height


def commands_root(commands: tuple[bytes, ...]) -> bytes:
    """RFC 6962 root over the commands of a block."""
    return merkle_root(commands)
