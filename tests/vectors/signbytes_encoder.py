"""A second encoder of sign-bytes, written from the layout tables alone, and the maker of signbytes.json.

It shares no code with `replication.identity.signbytes`: layouts are data, and numbers go through `to_bytes`.
It also reads statements back, so no two of them can share their bytes. Running this file writes the vectors
again; a test compares them with both encoders.

In the vectors, `hash` fields are in hex and `json` fields are text; numbers are decimal, all below 2**53.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

WIDTHS = {"u8": 1, "u32": 4, "u64": 8}

# statement: its fields in order, as name and kind.
LAYOUTS: dict[str, list[tuple[str, str]]] = {
    "proposal": [
        ("proposer", "id"),
        ("request_id", "id"),
        ("action", "text"),
        ("target", "text"),
        ("evidence", "json"),
        ("window_ms", "u64"),
        ("expiry_ms", "u64"),
        ("created_ms", "u64"),
    ],
    "vote": [
        ("voter", "id"),
        ("digest", "hash"),
        ("revision", "u32"),
        ("value", "u8"),
        ("reason", "text"),
        ("voted_ms", "u64"),
    ],
    "ballot": [("voter", "id"), ("size", "u32"), ("root", "hash")],
    "close": [("closer", "id"), ("digest", "hash")],
    "receipt": [
        ("executor", "id"),
        ("digest", "hash"),
        ("outcome", "u8"),
        ("detail", "text"),
        ("executed_ms", "u64"),
    ],
    "propose": [("view", "u64"), ("height", "u64"), ("block_hash", "hash"), ("signer", "id")],
    "prepare": [("view", "u64"), ("height", "u64"), ("block_hash", "hash"), ("signer", "id")],
    "commit": [("view", "u64"), ("height", "u64"), ("block_hash", "hash"), ("signer", "id")],
    "suspect": [("view", "u64"), ("signer", "id")],
    "timeout": [
        ("view", "u64"),
        ("committed_height", "u64"),
        ("has_lock", "u8"),
        ("lock_view", "u64"),
        ("lock_hash", "hash"),
        ("signer", "id"),
    ],
    "newview": [("view", "u64"), ("tc_digest", "hash"), ("signer", "id")],
    "rejoin": [("member", "id"), ("nonce", "hash")],
    "membership": [("member", "id"), ("change", "json"), ("digest", "hash")],
    "possession": [("member", "id"), ("public_key", "hash"), ("nonce", "hash")],
    "enrolment": [("member", "id"), ("nonce", "hash"), ("digest", "hash")],
    "block": [
        ("height", "u64"),
        ("parent", "hash"),
        ("time_ms", "u64"),
        ("commands_root", "hash"),
        ("entries_root", "hash"),
        ("audit_size", "u64"),
        ("audit_head", "hash"),
    ],
}

WITHOUT_CLUSTER = ("possession", "enrolment")
"""Statements that are made before there is a cluster."""

Fields = Mapping[str, Any]


def encode(statement: str, cluster_id: bytes, epoch: int, fields: Fields) -> bytes:
    """Lay out a statement. `fields` hold ints, str, and bytes for the kinds hash and json."""
    tag = f"acp/{statement}/v1".encode()
    out = bytearray([len(tag)])
    out += tag + cluster_id + epoch.to_bytes(8, "big")
    for name, kind in LAYOUTS[statement]:
        value = fields[name]
        if kind == "hash":
            assert len(value) == 32
            out += value
        elif kind in WIDTHS:
            out += int(value).to_bytes(WIDTHS[kind], "big")
        else:
            data = value if isinstance(value, bytes) else value.encode()
            out += len(data).to_bytes(4, "big") + data
    return bytes(out)


def decode(data: bytes) -> tuple[str, bytes, int, dict[str, Any]]:
    """Read a statement back; there is one way to do so, or this fails."""
    position = 0

    def take(size: int) -> bytes:
        nonlocal position
        assert position + size <= len(data)
        position += size
        return data[position - size : position]

    statement = take(take(1)[0]).decode("ascii").removeprefix("acp/").removesuffix("/v1")
    cluster_id, epoch = take(32), int.from_bytes(take(8), "big")
    fields: dict[str, Any] = {}
    for name, kind in LAYOUTS[statement]:
        if kind == "hash":
            fields[name] = take(32)
        elif kind in WIDTHS:
            fields[name] = int.from_bytes(take(WIDTHS[kind]), "big")
        else:
            value = take(int.from_bytes(take(4), "big"))
            fields[name] = value if kind == "json" else value.decode()
    assert position == len(data)
    return statement, cluster_id, epoch, fields


def digest_of(text: str) -> bytes:
    """Stand-in for a hash: the SHA-256 of some text."""
    return hashlib.sha256(text.encode()).digest()


CLUSTER = digest_of("the cluster of the vectors")
TIME_MS = 1_735_689_600_000

# Fields of each sample; several for the statements that have edge cases.
SAMPLES: list[tuple[str, dict[str, Any]]] = [
    (
        "proposal",
        {
            "proposer": "monitor-1",
            "request_id": "req-0001",
            "action": "quarantine",
            "target": "agent-7",
            "evidence": b'{"score":0.97,"signal":"exfiltration"}',
            "window_ms": 60_000,
            "expiry_ms": 3_600_000,
            "created_ms": TIME_MS,
        },
    ),
    (
        "proposal",
        {
            "proposer": "a",
            "request_id": "Z" * 64,
            "action": "überprüfen 検査",
            "target": "",
            "evidence": b"{}",
            "window_ms": 0,
            "expiry_ms": 0,
            "created_ms": 0,
        },
    ),
    (
        "vote",
        {
            "voter": "monitor-2",
            "digest": digest_of("proposal"),
            "revision": 0,
            "value": 1,
            "reason": "",
            "voted_ms": TIME_MS + 250,
        },
    ),
    (
        "vote",
        {
            "voter": "monitor_3.eu",
            "digest": digest_of("proposal"),
            "revision": 2**32 - 1,
            "value": 3,
            "reason": "not my zone \U0001f6ab",
            "voted_ms": 2**53 - 1,
        },
    ),
    ("ballot", {"voter": "monitor-2", "size": 1, "root": digest_of("root")}),
    ("ballot", {"voter": "monitor-2", "size": 2**32 - 1, "root": digest_of("root of many")}),
    ("close", {"closer": "monitor-1", "digest": digest_of("proposal")}),
    (
        "receipt",
        {
            "executor": "gate-1",
            "digest": digest_of("proposal"),
            "outcome": 3,
            "detail": "2 of 3 processes stopped",
            "executed_ms": TIME_MS + 900,
        },
    ),
    ("propose", {"view": 0, "height": 1, "block_hash": digest_of("block"), "signer": "monitor-1"}),
    ("prepare", {"view": 0, "height": 1, "block_hash": digest_of("block"), "signer": "monitor-1"}),
    ("commit", {"view": 2**32, "height": 2**40, "block_hash": digest_of("block"), "signer": "monitor-4"}),
    ("suspect", {"view": 12, "signer": "monitor-4"}),
    (
        "timeout",
        {
            "view": 3,
            "committed_height": 41,
            "has_lock": 0,
            "lock_view": 0,
            "lock_hash": bytes(32),
            "signer": "monitor-2",
        },
    ),
    (
        "timeout",
        {
            "view": 3,
            "committed_height": 41,
            "has_lock": 1,
            "lock_view": 2,
            "lock_hash": digest_of("block"),
            "signer": "monitor-2",
        },
    ),
    ("newview", {"view": 4, "tc_digest": digest_of("timeout certificate"), "signer": "monitor-1"}),
    ("rejoin", {"member": "monitor-3", "nonce": digest_of("nonce")}),
    (
        "membership",
        {"member": "monitor-1", "change": b'{"remove":"monitor-4"}', "digest": digest_of("proposal")},
    ),
    (
        "possession",
        {"member": "monitor-1", "public_key": digest_of("public key"), "nonce": digest_of("nonce")},
    ),
    (
        "enrolment",
        {"member": "monitor-1", "nonce": digest_of("nonce"), "digest": digest_of("request")},
    ),
    (
        "block",
        {
            "height": 7,
            "parent": digest_of("parent"),
            "time_ms": TIME_MS + 1000,
            "commands_root": digest_of("commands"),
            "entries_root": digest_of("entries"),
            "audit_size": 19,
            "audit_head": digest_of("head"),
        },
    ),
]


def vectors() -> str:
    """The text of signbytes.json."""
    cases = []
    for number, (statement, fields) in enumerate(SAMPLES):
        cluster_id, epoch = (bytes(32), 0) if statement in WITHOUT_CLUSTER else (CLUSTER, number)
        data = encode(statement, cluster_id, epoch, fields)
        cases.append(
            {
                "statement": statement,
                "cluster_id": cluster_id.hex(),
                "epoch": epoch,
                "fields": {name: _printed(kind, fields[name]) for name, kind in LAYOUTS[statement]},
                "bytes": data.hex(),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    return json.dumps({"format": "agent-consensus/signbytes/1", "cases": cases}, indent=2) + "\n"


def read_fields(statement: str, printed: Fields) -> dict[str, Any]:
    """The fields of a vector as `encode` takes them."""
    readers: dict[str, Callable[[Any], Any]] = {"hash": bytes.fromhex, "json": str.encode}
    return {name: readers.get(kind, _same)(printed[name]) for name, kind in LAYOUTS[statement]}


def _same(value: Any) -> Any:
    return value


def _printed(kind: str, value: Any) -> Any:
    return value.hex() if kind == "hash" else value.decode() if kind == "json" else value


if __name__ == "__main__":
    Path(__file__).with_name("signbytes.json").write_text(vectors(), encoding="utf-8")
