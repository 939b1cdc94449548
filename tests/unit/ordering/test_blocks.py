"""Blocks: what a header's hash covers, and what it leaves out on purpose."""

from __future__ import annotations

from dataclasses import fields, replace
from hashlib import sha256
from typing import Any

import pytest

from replication.identity.signbytes import block_bytes
from replication.ordering.blocks import ZERO_HASH, Block, BlockHeader, commands_root

HEADER = BlockHeader(
    cluster_id=b"\x01" * 32,
    epoch=2,
    height=3,
    parent=b"\x04" * 32,
    time_ms=5,
    commands_root=b"\x06" * 32,
    entries_root=b"\x07" * 32,
    audit_size=8,
    audit_head=b"\x09" * 32,
)


def test_the_hash_is_over_the_hand_made_bytes() -> None:
    assert (
        HEADER.hash
        == sha256(
            block_bytes(
                b"\x01" * 32,
                2,
                height=3,
                parent=b"\x04" * 32,
                time_ms=5,
                commands_root=b"\x06" * 32,
                entries_root=b"\x07" * 32,
                audit_size=8,
                audit_head=b"\x09" * 32,
            )
        ).digest()
    )


@pytest.mark.parametrize("name", [item.name for item in fields(BlockHeader)])
def test_every_field_changes_the_hash(name: str) -> None:
    old = getattr(HEADER, name)
    new: Any = old + 1 if isinstance(old, int) else bytes(32)
    assert replace(HEADER, **{name: new}).hash != HEADER.hash


def test_there_is_no_view_in_a_header() -> None:
    """`What is proposed again is the same bytes and keeps its hash.`"""
    assert "view" not in {item.name for item in fields(BlockHeader)}


def test_a_block_is_named_by_its_header() -> None:
    block = Block(HEADER, (b"a", b"b"))
    assert (block.hash, block.height) == (HEADER.hash, 3)


def test_headers_are_values() -> None:
    twin = replace(HEADER)
    assert twin is not HEADER
    assert (twin, hash(twin)) == (HEADER, hash(HEADER))


def test_commands_root_is_that_of_rfc_6962() -> None:
    def leaf(data: bytes) -> bytes:
        return sha256(b"\x00" + data).digest()

    def node(left: bytes, right: bytes) -> bytes:
        return sha256(b"\x01" + left + right).digest()

    assert commands_root(()) == sha256(b"").digest()
    assert commands_root((b"a",)) == leaf(b"a")
    assert commands_root((b"a", b"b", b"c")) == node(node(leaf(b"a"), leaf(b"b")), leaf(b"c"))


@pytest.mark.parametrize(
    "other", [(), (b"a",), (b"b", b"a"), (b"a", b"b", b""), (b"ab",), (b"a", b"b", b"b"), (b"", b"a", b"b")]
)
def test_commands_root_tells_lists_apart(other: tuple[bytes, ...]) -> None:
    assert commands_root(other) != commands_root((b"a", b"b"))


def test_genesis_has_no_parent() -> None:
    assert bytes(32) == ZERO_HASH
