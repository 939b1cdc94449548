"""Sign-bytes against the second encoder, and read back: no two statements share their bytes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.vectors import signbytes_encoder as second

from replication.identity import signbytes

KINDS: dict[str, st.SearchStrategy[Any]] = {
    "id": st.text("abcXYZ019._-", min_size=1, max_size=64),
    "text": st.text(min_size=1, max_size=30),
    "json": st.binary(max_size=30).map(lambda inner: b"{" + inner + b"}"),
    "hash": st.binary(min_size=32, max_size=32),
    "u8": st.integers(1, 3),
    "u32": st.integers(1, 2**32 - 1),
    "u64": st.integers(0, 2**64 - 1),
}


@st.composite
def statements(draw: st.DrawFn) -> tuple[str, bytes, int, dict[str, Any]]:
    """A statement of any kind with legal fields."""
    kind = draw(st.sampled_from(sorted(second.LAYOUTS)))
    fields = {name: draw(KINDS[field]) for name, field in second.LAYOUTS[kind]}
    if kind == "timeout":
        fields["has_lock"] = draw(st.integers(0, 1))
        if not fields["has_lock"]:
            fields |= {"lock_view": 0, "lock_hash": bytes(32)}
    if kind in second.WITHOUT_CLUSTER:
        return kind, bytes(32), 0, fields
    return kind, draw(KINDS["hash"]), draw(KINDS["u64"]), fields


def encode(kind: str, cluster_id: bytes, epoch: int, fields: dict[str, Any]) -> bytes:
    if kind in set(signbytes.Phase):
        return signbytes.statement_bytes(kind, cluster_id, epoch, **fields)
    of_cluster = () if kind in second.WITHOUT_CLUSTER else (cluster_id, epoch)
    encoded: bytes = getattr(signbytes, f"{kind}_bytes")(*of_cluster, **fields)
    return encoded


@given(statements())
def test_both_encoders_agree_and_the_bytes_read_back(
    statement: tuple[str, bytes, int, dict[str, Any]],
) -> None:
    encoded = encode(*statement)
    assert encoded == second.encode(*statement)
    assert second.decode(encoded) == statement


@given(statements(), statements())
def test_two_statements_never_share_their_bytes(
    one: tuple[str, bytes, int, dict[str, Any]], other: tuple[str, bytes, int, dict[str, Any]]
) -> None:
    first, second_bytes = encode(*one), encode(*other)
    if one == other:
        assert first == second_bytes
    else:
        assert not first.startswith(second_bytes)
        assert not second_bytes.startswith(first)
