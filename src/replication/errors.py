"""The one tree of errors, ordered by who is at fault.

Every error of this project is a `ReplicationError` (the voting library's errors are also the built-in
`ValueError` or `KeyError` that its interface promises). The branch says who has to act:

* `CallerError`: the request is wrong; sending it again unchanged will fail again.
* `PeerError`: another member sent something invalid; drop it, keep the rest.
* `OperatorError`: files, keys, configuration, certificates or the host are wrong.
* `StorageError`: the disk failed or the record is damaged; the node stops and signs nothing.
* `InvariantError`: something that must always hold does not; the node stops at once.

`reason` is the stable, machine-readable name that travels in `google.rpc.ErrorInfo`; the message says what
was wrong, why, and what to do.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "CallerError",
    "InvariantError",
    "OperatorError",
    "PeerError",
    "ReplicationError",
    "StorageError",
]


class ReplicationError(Exception):
    """Root of all errors raised by this package."""

    reason: ClassVar[str] = "INTERNAL"


class CallerError(ReplicationError):
    """The caller's request cannot be carried out as it is."""

    reason: ClassVar[str] = "BAD_REQUEST"


class PeerError(ReplicationError):
    """A message from another member is malformed, unauthorised or contradicts the protocol."""

    reason: ClassVar[str] = "BAD_PEER_MESSAGE"


class OperatorError(ReplicationError):
    """The node's surroundings (configuration, keys, certificates, ports) have to be put right by a person."""

    reason: ClassVar[str] = "OPERATOR_ACTION_NEEDED"


class StorageError(ReplicationError):
    """The disk refused a write, or what is on it is not what was written."""

    reason: ClassVar[str] = "STORAGE_FAILED"


class InvariantError(ReplicationError):
    """A safety invariant is broken. Never caught and passed over: the node stops."""

    reason: ClassVar[str] = "INVARIANT_BROKEN"
