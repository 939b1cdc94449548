"""What the frames of the journal hold: items, and the state that they add up to."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from replication.errors import InvariantError
from replication.identity.signbytes import DIGEST_SIZE
from replication.ordering.application import command_digest
from replication.ordering.blocks import Block
from replication.ordering.effects import KeepCommand, SaveBody, SaveSignState
from replication.ordering.limits import MAX_COMMAND_BYTES
from replication.ordering.signing import SignState
from replication.ordering.statements import Phase

from .codec import MalformedError
from .serial import parse_block, parse_sign_state, serialize_block, serialize_sign_state

__all__ = ["Contents", "Item", "Settled", "pack_items", "require_not_lower", "unpack_items"]

_ITEM: Final = struct.Struct(">BI")
_HEIGHT: Final = struct.Struct(">Q")
_STATE, _BODY, _COMMAND, _SETTLED = 1, 2, 3, 4

_MAX_BODIES: Final = 16
"""Blocks acknowledged and not committed: one a view. Those that the state rests on are kept before any other;
an older one that is still wanted comes from the members that are locked on it."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Bodies up to `height`, and the commands with these digests, are of no use any more."""

    height: int
    commands: tuple[bytes, ...] = ()


Item = SaveBody | SaveSignState | KeepCommand | Settled


class Contents:
    """What is alive in a journal: the state, bodies by hash, commands by digest. `size` is in bytes."""

    def __init__(self, state: SignState) -> None:
        self.state = state
        self.commands: dict[bytes, bytes] = {}
        self._state_size = len(serialize_sign_state(state))
        self._bodies: dict[bytes, tuple[Block, int]] = {}
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes of everything alive."""
        return self._size + self._state_size

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The bodies, oldest first."""
        return tuple(block for block, _ in self._bodies.values())

    def has_bodies(self, height: int) -> bool:
        """Whether there are bodies at or below `height`."""
        return any(block.height <= height for block, _ in self._bodies.values())

    def is_news(self, item: Item) -> bool:
        """Whether applying the item would change anything."""
        match item:
            case SaveBody():
                return item.block.hash not in self._bodies
            case SaveSignState():
                return item.state != self.state
            case KeepCommand():
                return command_digest(item.command) not in self.commands
            case Settled():
                return self.has_bodies(item.height) or any(key in self.commands for key in item.commands)

    def apply(self, item: Item) -> None:
        """Carry out one item."""
        match item:
            case SaveBody():
                self._add_body(item.block)
            case SaveSignState():
                self.state = item.state
                self._state_size = len(serialize_sign_state(item.state))
            case KeepCommand():
                digest = command_digest(item.command)
                if digest not in self.commands:
                    self.commands[digest] = item.command
                    self._size += len(item.command)
            case Settled():
                self._settle(item)

    def items(self) -> Iterator[Item]:
        """Items that make these contents out of nothing."""
        yield SaveSignState(self.state)
        for block in self.blocks:
            yield SaveBody(block)
        for command in self.commands.values():
            yield KeepCommand(command)

    def _add_body(self, block: Block) -> None:
        if block.hash in self._bodies:
            return
        size = sum(map(len, block.commands))
        self._bodies[block.hash] = (block, size)
        self._size += size
        if len(self._bodies) > _MAX_BODIES:
            self._drop_oldest_body(block.hash)

    def _drop_oldest_body(self, newest: bytes) -> None:
        state = self.state
        wanted = {newest}
        if state.lock is not None:
            wanted.add(state.lock.key.block_hash)
        wanted.update(last.key.block_hash for last in (state.propose, state.prepare, state.commit) if last)
        oldest = next(key for key in self._bodies if key not in wanted)
        self._size -= self._bodies.pop(oldest)[1]

    def _settle(self, item: Settled) -> None:
        for key, (block, size) in list(self._bodies.items()):
            if block.height <= item.height:
                del self._bodies[key]
                self._size -= size
        for digest in item.commands:
            if (command := self.commands.pop(digest, None)) is not None:
                self._size -= len(command)


def require_not_lower(old: SignState, new: SignState) -> None:
    """Refuse to forget: within an epoch and incarnation, what was signed last only moves up.

    Raises InvariantError. (The signer keeps to this by itself; the disk is the last place to notice.)
    """
    if (new.epoch, new.nonce) != (old.epoch, old.nonce):
        if new.epoch < old.epoch:
            raise InvariantError(f"the sign state would go back from epoch {old.epoch} to {new.epoch}")
        return
    for phase in Phase:
        before, after = old.last(phase), new.last(phase)
        if before is None or before == after:
            continue
        if after is None or after.key.position <= before.key.position:
            raise InvariantError(f"the sign state would replace {before} by {after}, which is not above it")
    if new.timed_out_view < old.timed_out_view:
        raise InvariantError(
            f"the sign state would take back the timeout of view {old.timed_out_view}, for one of view "
            f"{new.timed_out_view}"
        )


def pack_items(items: Iterable[Item]) -> bytes:
    """The body of a frame that holds these items."""
    return b"".join(_pack(item) for item in items)


def unpack_items(bodies: Iterable[bytes]) -> Contents:
    """What frames with these bodies add up to. Raises `MalformedError`."""
    contents: Contents | None = None
    for body in bodies:
        for item in _unpack(body):
            if contents is None:
                if not isinstance(item, SaveSignState):
                    raise MalformedError("a journal must begin with a sign state")
                contents = Contents(item.state)
            contents.apply(item)
    if contents is None:
        raise MalformedError("a journal must begin with a sign state")
    return contents


def _pack(item: Item) -> bytes:
    match item:
        case SaveSignState():
            kind, text = _STATE, serialize_sign_state(item.state)
        case SaveBody():
            kind, text = _BODY, serialize_block(item.block)
        case KeepCommand():
            kind, text = _COMMAND, item.command
        case Settled():
            kind, text = _SETTLED, _HEIGHT.pack(item.height) + b"".join(item.commands)
    return _ITEM.pack(kind, len(text)) + text


def _unpack(body: bytes) -> Iterator[Item]:
    offset = 0
    while offset < len(body):
        if len(body) - offset < _ITEM.size:
            raise MalformedError("an item of the journal is cut off")
        kind, length = _ITEM.unpack_from(body, offset)
        offset += _ITEM.size
        text = body[offset : offset + length]
        if len(text) != length:
            raise MalformedError("an item of the journal is cut off")
        offset += length
        yield _item(kind, text)


def _item(kind: int, text: bytes) -> Item:
    if kind == _STATE:
        return SaveSignState(parse_sign_state(text))
    if kind == _BODY:
        return SaveBody(parse_block(text))
    if kind == _COMMAND and len(text) <= MAX_COMMAND_BYTES:
        return KeepCommand(text)
    if kind == _SETTLED and len(text) % DIGEST_SIZE == _HEIGHT.size:
        digests = _split(text[_HEIGHT.size :])
        return Settled(_HEIGHT.unpack_from(text)[0], digests)
    raise MalformedError(f"an item of kind {kind} with {len(text)} bytes is not known")


def _split(digests: bytes) -> tuple[bytes, ...]:
    return tuple(digests[at : at + DIGEST_SIZE] for at in range(0, len(digests), DIGEST_SIZE))
