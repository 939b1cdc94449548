"""The bytes that are signed (or, for blocks and proposals, hashed), laid out by hand.

All numbers are big-endian. Every statement begins with::

    u8 len(tag) || tag in ASCII || cluster_id[32] || u64 epoch

and goes on with the fields of its kind, in the order of the function's arguments. A field is a fixed-width
number, 32 raw bytes, or *variable*: ``u32 length || bytes`` (text as UTF-8). The tag fixes the sequence of
field kinds, and each field says where it ends, so a statement can be read back in one way only: two different
statements never share their bytes. Tags end in a version; a changed layout gets a new tag, never a new
meaning for an old one.

The functions check types, widths, alphabets of identifiers and the range of every enumerated byte, and raise
`ValueError` with the name of the field. They do not check limits of policy (the length of a reason, say):
that is done once, on admission. Golden vectors, made by a second encoder, are in
``tests/vectors/signbytes.json``.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from replication.identity.names import require_id

__all__ = [
    "DIGEST_SIZE",
    "MAX_VARIABLE_BYTES",
    "OUTCOME_CODES",
    "POSSESSION_CLUSTER_ID",
    "VOTE_CODES",
    "ZERO_DIGEST",
    "Phase",
    "ballot_bytes",
    "block_bytes",
    "close_bytes",
    "enrolment_bytes",
    "membership_bytes",
    "newview_bytes",
    "possession_bytes",
    "proposal_bytes",
    "receipt_bytes",
    "rejoin_bytes",
    "statement_bytes",
    "suspect_bytes",
    "timeout_bytes",
    "vote_bytes",
]

DIGEST_SIZE: Final = 32
ZERO_DIGEST: Final = bytes(DIGEST_SIZE)
POSSESSION_CLUSTER_ID: Final = ZERO_DIGEST
"""A proof of possession goes into the genesis file, so it cannot hold the hash of that file."""

MAX_VARIABLE_BYTES: Final = 4 * 1024 * 1024
"""No field is longer than the longest message (4 MiB); far within u32."""

VOTE_CODES: Final = MappingProxyType({"approve": 1, "reject": 2, "abstain": 3})
OUTCOME_CODES: Final = MappingProxyType({"succeeded": 1, "failed": 2, "partial": 3})

_U32_MAX: Final = 2**32 - 1
_U64_MAX: Final = 2**64 - 1
_pack_u32: Final = struct.Struct(">I").pack
_pack_u64: Final = struct.Struct(">Q").pack

_IDENTIFIERS_REMEMBERED: Final = 4096
_identifiers: Final[dict[str, bytes]] = {}
"""Encoded identifiers that were judged legal before: mostly those of members, in every statement."""


class Phase(StrEnum):
    """The statements about one block in one view, in the order in which they are made."""

    PROPOSE = "propose"
    PREPARE = "prepare"
    COMMIT = "commit"


def proposal_bytes(
    cluster_id: bytes,
    epoch: int,
    *,
    proposer: str,
    request_id: str,
    action: str,
    target: str,
    evidence: bytes,
    window_ms: int,
    expiry_ms: int,
    created_ms: int,
) -> bytes:
    """A proposal. Its SHA-256 is the proposal's digest.

    `target` is empty for none; `evidence` is the canonical JSON of an object; `expiry_ms` is 0 for none.
    """
    return _statement(
        "proposal",
        cluster_id,
        epoch,
        _identifier("proposer", proposer),
        _identifier("request_id", request_id),
        _text("action", action, empty=False),
        _text("target", target),
        _json("evidence", evidence),
        _u64("window_ms", window_ms),
        _u64("expiry_ms", expiry_ms),
        _u64("created_ms", created_ms),
    )


def vote_bytes(
    cluster_id: bytes,
    epoch: int,
    *,
    voter: str,
    digest: bytes,
    revision: int,
    value: int,
    reason: str,
    voted_ms: int,
) -> bytes:
    """A vote on the proposal with this digest: leaf data of a ballot, not signed by itself.

    `value` is one of `VOTE_CODES`; `reason` is empty for none.
    """
    return _statement(
        "vote",
        cluster_id,
        epoch,
        _identifier("voter", voter),
        _digest("digest", digest),
        _u32("revision", revision),
        _code("value", value, 3),
        _text("reason", reason),
        _u64("voted_ms", voted_ms),
    )


def ballot_bytes(cluster_id: bytes, epoch: int, *, voter: str, size: int, root: bytes) -> bytes:
    """What a voter signs: a ballot of `size` votes (at least one) with this Merkle root over their bytes."""
    if size == 0:
        raise ValueError("size must be at least 1: a ballot without votes says nothing")
    return _statement(
        "ballot",
        cluster_id,
        epoch,
        _identifier("voter", voter),
        _u32("size", size),
        _digest("root", root),
    )


def close_bytes(cluster_id: bytes, epoch: int, *, closer: str, digest: bytes) -> bytes:
    """A request to tally the proposal with this digest now."""
    return _statement(
        "close",
        cluster_id,
        epoch,
        _identifier("closer", closer),
        _digest("digest", digest),
    )


def receipt_bytes(
    cluster_id: bytes,
    epoch: int,
    *,
    executor: str,
    digest: bytes,
    outcome: int,
    detail: str,
    executed_ms: int,
) -> bytes:
    """What an executor did about the proposal with this digest; `outcome` is one of `OUTCOME_CODES`."""
    return _statement(
        "receipt",
        cluster_id,
        epoch,
        _identifier("executor", executor),
        _digest("digest", digest),
        _code("outcome", outcome, 3),
        _text("detail", detail),
        _u64("executed_ms", executed_ms),
    )


def statement_bytes(
    phase: Phase | str,
    cluster_id: bytes,
    epoch: int,
    *,
    view: int,
    height: int,
    block_hash: bytes,
    signer: str,
) -> bytes:
    """A statement about a block: the coordinator's proposal of it, or a member's acknowledgement."""
    return _statement(
        _phase_name(phase),
        cluster_id,
        epoch,
        _u64("view", view),
        _u64("height", height),
        _digest("block_hash", block_hash),
        _identifier("signer", signer),
    )


def suspect_bytes(cluster_id: bytes, epoch: int, *, view: int, signer: str) -> bytes:
    """The signer holds the coordinator of this view for faulty."""
    return _statement("suspect", cluster_id, epoch, _u64("view", view), _identifier("signer", signer))


def timeout_bytes(
    cluster_id: bytes,
    epoch: int,
    *,
    view: int,
    committed_height: int,
    has_lock: bool,
    lock_view: int,
    lock_hash: bytes,
    signer: str,
) -> bytes:
    """The signer gives up this view, and says what it has committed and what it is locked on.

    Without a lock, `lock_view` is 0 and `lock_hash` is zeros: there is one way to say "no lock".
    """
    if type(has_lock) not in (bool, int) or has_lock not in (0, 1):
        raise ValueError(f"has_lock must be true or false, not {has_lock!r:.80}")
    if not has_lock and (lock_view != 0 or lock_hash != ZERO_DIGEST):
        raise ValueError("without a lock, lock_view must be 0 and lock_hash 32 zero bytes")
    return _statement(
        "timeout",
        cluster_id,
        epoch,
        _u64("view", view),
        _u64("committed_height", committed_height),
        b"\x01" if has_lock else b"\x00",
        _u64("lock_view", lock_view),
        _digest("lock_hash", lock_hash),
        _identifier("signer", signer),
    )


def newview_bytes(cluster_id: bytes, epoch: int, *, view: int, tc_digest: bytes, signer: str) -> bytes:
    """The coordinator of a new view takes over, by the timeout certificate with this digest."""
    return _statement(
        "newview",
        cluster_id,
        epoch,
        _u64("view", view),
        _digest("tc_digest", tc_digest),
        _identifier("signer", signer),
    )


def rejoin_bytes(cluster_id: bytes, epoch: int, *, member: str, nonce: bytes) -> bytes:
    """A member that lost its disk asks to be let back in."""
    return _statement(
        "rejoin",
        cluster_id,
        epoch,
        _identifier("member", member),
        _digest("nonce", nonce),
    )


def membership_bytes(cluster_id: bytes, epoch: int, *, member: str, change: bytes, digest: bytes) -> bytes:
    """A change of the member set (canonical JSON) that rests on the approved proposal with this digest."""
    return _statement(
        "membership",
        cluster_id,
        epoch,
        _identifier("member", member),
        _json("change", change),
        _digest("digest", digest),
    )


def possession_bytes(*, member: str, public_key: bytes, nonce: bytes) -> bytes:
    """The owner of `public_key` wants to be `member` of the cluster whose genesis file carries `nonce`."""
    return _statement(
        "possession",
        POSSESSION_CLUSTER_ID,
        0,
        _identifier("member", member),
        _digest("public_key", public_key),
        _digest("nonce", nonce),
    )


def enrolment_bytes(*, member: str, nonce: bytes, digest: bytes) -> bytes:
    """The whole of a member's request for certificates, by its digest: nobody can put another key into it."""
    return _statement(
        "enrolment",
        POSSESSION_CLUSTER_ID,
        0,
        _identifier("member", member),
        _digest("nonce", nonce),
        _digest("digest", digest),
    )


def block_bytes(
    cluster_id: bytes,
    epoch: int,
    *,
    height: int,
    parent: bytes,
    time_ms: int,
    commands_root: bytes,
    entries_root: bytes,
    audit_size: int,
    audit_head: bytes,
) -> bytes:
    """A block header. Its SHA-256 is the block's hash, which has no view: a re-proposed block keeps it."""
    return _statement(
        "block",
        cluster_id,
        epoch,
        _u64("height", height),
        _digest("parent", parent),
        _u64("time_ms", time_ms),
        _digest("commands_root", commands_root),
        _digest("entries_root", entries_root),
        _u64("audit_size", audit_size),
        _digest("audit_head", audit_head),
    )


def _phase_name(phase: Phase | str) -> str:
    try:
        return Phase(phase).value
    except ValueError:
        raise ValueError(f"phase must be propose, prepare or commit, not {phase!r:.80}") from None


def _statement(kind: str, cluster_id: bytes, epoch: int, *fields: bytes) -> bytes:
    return b"".join((_beginning(kind, cluster_id, epoch), *fields))


@lru_cache(maxsize=256, typed=True)
def _beginning(kind: str, cluster_id: bytes, epoch: int) -> bytes:
    """What all statements of one kind in one epoch begin with; made some ten times for each decision."""
    tag = f"acp/{kind}/v1".encode("ascii")
    return b"".join((bytes((len(tag),)), tag, _digest("cluster_id", cluster_id), _u64("epoch", epoch)))


def _number(name: str, value: int, highest: int) -> int:
    # A bool is an int to Python, but True is never meant as a number here.
    if type(value) is not int or not 0 <= value <= highest:
        raise ValueError(f"{name} must be a whole number from 0 to {highest}, not {value!r:.80}")
    return value


def _u64(name: str, value: int) -> bytes:
    if type(value) is int and 0 <= value <= _U64_MAX:
        return _pack_u64(value)
    return _pack_u64(_number(name, value, _U64_MAX))


def _u32(name: str, value: int) -> bytes:
    return _pack_u32(_number(name, value, _U32_MAX))


def _code(name: str, value: int, highest: int) -> bytes:
    if type(value) is not int or not 1 <= value <= highest:
        raise ValueError(f"{name} must be a code from 1 to {highest}, not {value!r:.80}")
    return bytes((value,))


def _digest(name: str, value: bytes) -> bytes:
    if type(value) is not bytes or len(value) != DIGEST_SIZE:
        raise ValueError(f"{name} must be {DIGEST_SIZE} raw bytes, not {value!r:.80}")
    return value


def _variable(name: str, value: bytes) -> bytes:
    if len(value) > MAX_VARIABLE_BYTES:
        raise ValueError(f"{name} has {len(value)} bytes; the limit is {MAX_VARIABLE_BYTES}")
    return _pack_u32(len(value)) + value


def _identifier(name: str, value: str) -> bytes:
    if type(value) is str and value in _identifiers:
        return _identifiers[value]
    encoded = _variable(name, require_id(value, name).encode("ascii"))
    if len(_identifiers) >= _IDENTIFIERS_REMEMBERED:
        _identifiers.clear()
    _identifiers[value] = encoded
    return encoded


def _text(name: str, value: str, *, empty: bool = True) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {type(value).__name__}")
    if not value and not empty:
        raise ValueError(f"{name} must not be empty")
    try:
        return _variable(name, value.encode("utf-8"))
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds a lone surrogate, which no UTF-8 text can") from None


def _json(name: str, value: bytes) -> bytes:
    # Canonicity is the caller's to establish: it lays the bytes out itself, from a validated object.
    if type(value) is not bytes or value[:1] != b"{" or value[-1:] != b"}":
        raise ValueError(f"{name} must be the canonical JSON bytes of an object, not {value!r:.80}")
    return _variable(name, value)
