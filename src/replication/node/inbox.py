"""Messages of peers that wait for the replica: in turn one of each peer, within a share for each peer.

A peer that sends faster than this node works must wait for room in its own share. The others do not notice:
what one of them sends waits for one message of every other peer at most, whatever is queued.
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
    queue: deque[tuple[Message, int]] = field(default_factory=deque)
    size: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    @property
    def has_room(self) -> bool:
        return len(self.queue) < MAX_MESSAGES_PER_PEER and self.size < MAX_BYTES_PER_PEER


class Inbox:
    """For each peer first in, first out. `put` waits while the sender's share is full; `take` never waits."""

    def __init__(self) -> None:
        self._turns: deque[str] = deque()
        """Peers of whom a message waits, in the order in which they have their turn."""
        self._length = 0
        self._shares: dict[str, _Share] = {}
        self._is_closed = False

    def __len__(self) -> int:
        return self._length

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
        share.size += size
        if not share.queue:
            self._turns.append(sender)
        share.queue.append((message, size))
        self._length += 1
        return True

    def take(self) -> tuple[str, Message]:
        """The oldest message of the peer whose turn it is, and that peer; the inbox must not be empty."""
        sender = self._turns.popleft()
        share = self._shares[sender]
        message, size = share.queue.popleft()
        share.size -= size
        self._length -= 1
        if share.queue:
            self._turns.append(sender)
        if share.waiting and share.has_room:
            self._admit_next(share)
        return sender, message

    def close(self) -> None:
        """Drop everything; whoever waits for room is told."""
        self._is_closed = True
        self._turns.clear()
        self._length = 0
        for share in self._shares.values():
            share.queue.clear()
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
