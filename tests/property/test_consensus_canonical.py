"""Canonical JSON, by whichever encoder, is what the reference package writes."""

from __future__ import annotations

import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from replication.consensus.canonical import MAX_SAFE_INTEGER, canonical_json

# Of keys on both sides of the borders at which the two orders part: surrogates, and what UTF-16 makes of two.
letters = st.sampled_from("aZ\x00\x7f\u00e9\ud7ff\ue000\ufffd\uffff\U00010000\U0010ffff")
texts = st.one_of(st.text(letters, max_size=3), st.text(st.characters(codec="utf-8")))
numbers = st.one_of(
    st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER), st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=6)),
    max_leaves=20,
)


@given(values)
def test_the_bytes_are_those_of_the_reference_package(value: object) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)  # type: ignore[arg-type]  # checks the type itself
