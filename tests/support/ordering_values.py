"""Hypothesis strategies for the ordering vocabulary: any value that is well formed, signed by nobody."""

from __future__ import annotations

import string
from operator import concat
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from replication.ordering.blocks import Block, BlockHeader
from replication.ordering.certificates import Certificate
from replication.ordering.signing import SignState
from replication.ordering.statements import (
    Evidence,
    Lock,
    NewView,
    Phase,
    Signed,
    Statement,
    StatementKey,
    Suspect,
    Timeout,
)
from replication.ordering.timeouts import TimeoutCertificate, TimeoutReport

__all__ = [
    "blocks",
    "certificates",
    "digests",
    "evidence",
    "headers",
    "new_views",
    "numbers",
    "sign_states",
    "statements",
    "suspects",
    "timeout_certificates",
    "timeout_reports",
    "timeouts",
]

_T = TypeVar("_T")

numbers = st.integers(0, 2**53 - 1) | st.integers(0, 300)
digests = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=64, max_size=64)
_first = string.ascii_letters + string.digits + "_-"
# As [A-Za-z0-9_-][A-Za-z0-9._-]{0,63}, which takes ten times as long to draw as a regular expression.
member_ids = st.builds(concat, st.sampled_from(_first), st.text(_first + ".", max_size=63))
keys = st.builds(StatementKey, st.sampled_from(Phase), numbers, numbers, numbers, digests)
statements = st.builds(Statement, keys, member_ids, signatures)


def _some(items: SearchStrategy[_T], most: int = 5) -> SearchStrategy[tuple[_T, ...]]:
    return st.lists(items, min_size=1, max_size=most).map(tuple)


def _maybe(items: SearchStrategy[_T]) -> SearchStrategy[_T | None]:
    return st.none() | items


certificates = st.builds(Certificate, keys, _some(st.tuples(member_ids, signatures)))
suspects = st.builds(Suspect, numbers, numbers, member_ids, signatures)
timeouts = st.builds(
    Timeout, numbers, numbers, numbers, _maybe(st.builds(Lock, numbers, digests)), member_ids, signatures
)
timeout_reports = st.builds(
    TimeoutReport, timeouts, _maybe(certificates), _maybe(certificates), _maybe(statements)
)
timeout_certificates = st.builds(
    TimeoutCertificate, _some(timeouts), _maybe(certificates), _maybe(certificates)
)
new_views = st.builds(NewView, numbers, numbers, digests, member_ids, signatures)
_signed: SearchStrategy[Signed] = st.one_of(statements, timeouts)
evidence = st.builds(Evidence, _signed, _signed)
headers = st.builds(
    BlockHeader,
    cluster_id=digests,
    epoch=numbers,
    height=numbers,
    parent=digests,
    time_ms=st.integers(0, 253_402_300_799_999),
    commands_root=digests,
    entries_root=digests,
    audit_size=numbers,
    audit_head=digests,
)
blocks = st.builds(Block, headers, st.lists(st.binary(max_size=40), max_size=5).map(tuple))
sign_states = st.builds(
    SignState,
    epoch=numbers,
    nonce=st.just(b"") | digests,
    propose=_maybe(statements),
    prepare=_maybe(statements),
    commit=_maybe(statements),
    lock=_maybe(certificates),
    timeout=_maybe(timeout_reports),
    opened=_maybe(timeout_certificates),
)
