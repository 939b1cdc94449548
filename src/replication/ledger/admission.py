"""Checked commands, remembered: each is decoded, hashed and verified once, however often it is asked about.

The same command comes by at admission, in the pool at each selection, in the block, and at execution.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, Final

from replication.identity.members import MemberSet
from replication.identity.merkle import inclusion_paths
from replication.ordering.application import command_digest

from .commands import (
    BallotCommand,
    Command,
    EvidenceCommand,
    ProposalCommand,
    RejoinCommand,
    decode_command,
    verify_command,
)

__all__ = ["Admission", "Admitted", "VoteOnRecord"]

_CACHE_BYTES: Final = 64 * 1024 * 1024
_CACHE_COST: Final = 1024  # of a small command with its marks, beside its bytes


@dataclass(frozen=True, slots=True)
class VoteOnRecord:
    """A vote of a ballot with its mark (SHA-256 of its sign-bytes) and the data of its entry."""

    proposal_digest: bytes
    mark: bytes
    data: Mapping[str, Any] = field(repr=False)


@dataclass(eq=False)
class Admitted:
    """A decoded command with everything that is derived from it alone. `verified` is the epoch for which its
    signature was found right, -1 before."""

    raw: bytes = field(repr=False)
    command: Command
    cluster_id: bytes = field(repr=False)
    verified: int = -1

    @cached_property
    def digest(self) -> bytes:
        """The command's name."""
        return command_digest(self.raw)

    @cached_property
    def mark(self) -> bytes:
        """SHA-256 of what was signed. Of a proposal: its digest, which votes refer to."""
        if isinstance(self.command, EvidenceCommand):
            return self.digest
        return sha256(self.command.sign_bytes(self.cluster_id)).digest()

    @cached_property
    def marks(self) -> tuple[bytes, ...]:
        """Of each vote of a ballot: the SHA-256 of its sign-bytes."""
        return tuple(sha256(leaf).digest() for leaf in self._leaves)

    @cached_property
    def vote_data(self) -> tuple[dict[str, Any], ...]:
        """What the entry of each vote of a ballot says."""
        ballot = self._ballot
        signature, size = ballot.signature.hex(), len(ballot.votes)
        return tuple(
            {
                "epoch": ballot.epoch,
                "digest": vote.proposal_digest.hex(),
                "value": vote.value.value,
                "reason": vote.reason,
                "revision": vote.revision,
                "voted_ms": vote.voted_ms,
                "ballot": {
                    "size": size,
                    "index": index,
                    "path": [node.hex() for node in path],
                    "signature": signature,
                },
            }
            for index, (vote, path) in enumerate(
                zip(ballot.votes, inclusion_paths(self._leaves), strict=True)
            )
        )

    @property
    def wants_announcement(self) -> bool:
        """Whether all members should see it at once: what others act on, or a coordinator might hold back."""
        return isinstance(self.command, ProposalCommand | EvidenceCommand | RejoinCommand)

    @property
    def is_kept(self) -> bool:
        """Whether it must survive a crash of its author: a voter must not vote twice."""
        return isinstance(self.command, ProposalCommand | BallotCommand)

    @property
    def _ballot(self) -> BallotCommand:
        if not isinstance(self.command, BallotCommand):
            raise TypeError(f"a {type(self.command).__name__} holds no votes")
        return self.command

    @cached_property
    def _leaves(self) -> list[bytes]:
        return self._ballot.leaves(self.cluster_id)


class Admission:
    """Checks commands for one cluster. Memory is bounded; what was forgotten is checked again."""

    def __init__(self, cluster_id: bytes) -> None:
        self._cluster_id = cluster_id
        self._known: OrderedDict[bytes, Admitted] = OrderedDict()
        self._size = 0

    def read(self, raw: bytes) -> Admitted:
        """Decode a command; who signed it stays open. Raises CommandError."""
        known = self._known.get(raw)
        if known is not None:
            self._known.move_to_end(raw)
            return known
        admitted = Admitted(raw, decode_command(raw), self._cluster_id)
        self._known[raw] = admitted
        self._size += len(raw) + _CACHE_COST
        while self._size > _CACHE_BYTES:
            old, _ = self._known.popitem(last=False)
            self._size -= len(old) + _CACHE_COST
        return admitted

    def check(self, raw: bytes, members: MemberSet) -> Admitted:
        """Decode a command, and verify it for the epoch of `members`. Raises CommandError."""
        admitted = self.read(raw)
        if admitted.verified != members.epoch or admitted.command.epoch != members.epoch:
            verify_command(admitted.command, self._cluster_id, members)
            admitted.verified = members.epoch
        return admitted
