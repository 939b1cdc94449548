"""Entries made in one piece are, byte for byte in the hash, those that the voting library makes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.consensus.canonical import canonical_json
from replication.consensus.chain import make_entry
from replication.consensus.errors import CanonicalJSONError
from replication.consensus.model import entry_hash
from replication.ledger.entries import data_text, new_entry

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBERS = st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(
    sequence=st.integers(0, 2**53 - 1),
    event_type=TEXT,
    proposal_id=TEXT,
    actor_id=TEXT,
    data=st.dictionaries(TEXT, VALUES, max_size=5),
    time_ms=st.integers(0, 253_402_300_799_999),
    prev_hash=st.text("0123456789abcdef", max_size=64),
)
def test_same_entry_same_hash(
    sequence: int,
    event_type: str,
    proposal_id: str,
    actor_id: str,
    data: dict[str, Any],
    time_ms: int,
    prev_hash: str,
) -> None:
    timestamp = time_ms / 1000 if time_ms % 1000 else time_ms // 1000
    fields = (sequence, event_type, proposal_id, actor_id, data, timestamp, prev_hash)
    entry = new_entry(*fields)
    assert entry == make_entry(*fields)
    assert entry.hash == entry_hash(*fields)
    assert data_text(entry) == canonical_json(data).decode("utf-8")
    entry.hash = "unknown"
    assert data_text(entry) == canonical_json(data).decode("utf-8"), "made again when it is not remembered"


@pytest.mark.parametrize("place", ["event_type", "proposal_id", "actor_id", "data"])
def test_what_has_no_canonical_form_has_no_hash(place: str) -> None:
    fields: dict[str, Any] = {
        "sequence": 1,
        "event_type": "vote",
        "proposal_id": "prop-0001",
        "actor_id": "node-1",
        "data": {},
        "timestamp": 1,
        "prev_hash": "",
    }
    fields[place] = {"reason": "\ud800"} if place == "data" else "\ud800"
    with pytest.raises(CanonicalJSONError):
        new_entry(**fields)
