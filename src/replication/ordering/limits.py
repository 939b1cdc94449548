"""Bounds of the ordering protocol, each with its reason.

They bound memory and work per message against a faulty member; they are checked before any signature is.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "MAX_BLOCK_AGE_MS",
    "MAX_BLOCK_BYTES",
    "MAX_BLOCK_COMMANDS",
    "MAX_BODIES",
    "MAX_CLOCK_AHEAD_MS",
    "MAX_COMMAND_BYTES",
    "MAX_PENDING_BYTES_PER_MEMBER",
    "MAX_PENDING_PER_MEMBER",
    "PENDING_LIFETIME_MS",
]

MAX_COMMAND_BYTES: Final = 256 * 1024
"""One command. Evidence may be 64 KiB of JSON; a ballot of 1,024 votes with reasons stays below too."""

MAX_BLOCK_BYTES: Final = 2 * 1024 * 1024
"""All commands of a block: half of the 4 MiB message limit, so that certificates always fit beside it."""

MAX_BLOCK_COMMANDS: Final = 4096
"""Bounds the time that checking one block can take."""

MAX_BODIES: Final = 16
"""Bodies of one height that are kept, each prepared in a view of its own. One that turns out to be certified
after so many later views is fetched from whoever shows the certificate."""

MAX_PENDING_PER_MEMBER: Final = 8192
"""Commands of one member that may wait; a member that floods fills only its own share."""

MAX_PENDING_BYTES_PER_MEMBER: Final = 16 * 1024 * 1024
"""The same in bytes."""

MAX_CLOCK_AHEAD_MS: Final = 5_000
"""How far a block time may lie ahead of a member's own clock: the coordinator cannot close windows early."""

MAX_BLOCK_AGE_MS: Final = 600_000
"""How far a block time may lie behind. A block that waited through an outage must still be acceptable when
its quorum returns, so this is wider than the bound ahead; it keeps a coordinator from stopping the clock."""

PENDING_LIFETIME_MS: Final = 30_000
"""A command that cannot be executed yet (a vote on a proposal not seen) is dropped after this time. Its voter
votes again as long as the proposal is open."""

MAX_WITNESSES: Final = 512
"""Nodes that are remembered for having told a member what it has signed, with those that are no members yet:
some times as many as a cluster has."""
