"""Messages of peers that wait for the replica, in order of arrival, within a share for each peer.

A peer that sends faster than this node works must wait for room in its own share; the others do not notice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from replication.ordering.messages import BlockProposal, BodyMessage, CommandMessage, Message

__all__ = ["MAX_BYTES_PER_PEER", "MAX_MESSAGES_PER_PEER", "Inbox", "size_of"]

MAX_MESSAGES_PER_PEER: Final = 2_048
"""Some blocks' worth of commands. Beyond, the peer's stream waits."""

MAX_BYTES_PER_PEER: Final = 8 * 1024 * 1024
"""Two messages of the largest size; with a hundred members, under a gigabyte in the worst case."""

SMALL_MESSAGE_BYTES: Final = 1_024
"""What a message without commands counts for: statements and certificates are of about this size."""


def size_of(message: Message) -> int:
    """Roughly how much memory a message takes, in bytes."""
    if isinstance(message, CommandMessage):
        return SMALL_MESSAGE_BYTES + len(message.command)
    if isinstance(message, BlockProposal | BodyMessage):
        return SMALL_MESSAGE_BYTES + sum(map(len, message.block.commands))
    return SMALL_MESSAGE_BYTES


@dataclass(slots=True)
class _Share:
    messages: int = 0
    size: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    @property
    def has_room(self) -> bool:
        return self.messages < MAX_MESSAGES_PER_PEER and self.size < MAX_BYTES_PER_PEER


class Inbox:
    """First in, first out. `put` waits while the sender's share is full; `take` never waits."""

    def __init__(self) -> None:
        self._queue: deque[tuple[str, Message, int]] = deque()
        self._shares: dict[str, _Share] = {}
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._queue)

    async def put(self, sender: str, message: Message) -> bool:
        """Queue a message; False when the inbox was closed instead."""
        share = self._shares.get(sender)
        if share is None:
            share = self._shares[sender] = _Share()
        if share.waiting or not share.has_room:
            await self._wait_for_room(share)
        if self._is_closed:
            return False
        size = size_of(message)
        share.messages += 1
        share.size += size
        self._queue.append((sender, message, size))
        return True

    def take(self) -> tuple[str, Message]:
        """The oldest message and its sender; the inbox must not be empty."""
        sender, message, size = self._queue.popleft()
        share = self._shares[sender]
        share.messages -= 1
        share.size -= size
        if share.waiting and share.has_room:
            self._admit_next(share)
        return sender, message

    def close(self) -> None:
        """Drop everything; whoever waits for room is told."""
        self._is_closed = True
        self._queue.clear()
        for share in self._shares.values():
            while share.waiting:
                self._admit_next(share)

    async def _wait_for_room(self, share: _Share) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        share.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in share.waiting:
                share.waiting.remove(turn)
            elif share.has_room and share.waiting:
                self._admit_next(share)
            raise

    @staticmethod
    def _admit_next(share: _Share) -> None:
        turn = share.waiting.popleft()
        if not turn.done():
            turn.set_result(None)
