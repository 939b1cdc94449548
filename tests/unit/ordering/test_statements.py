"""Statements: what is signed, by whom, and that no statement passes for another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from tests.support.ordering_toy import Cluster

from replication.ordering.statements import (
    Lock,
    NewView,
    Phase,
    Statement,
    StatementKey,
    Suspect,
    Timeout,
    is_signed_by_member,
)

BLOCK = (7, b"\x0b" * 32)
Item = Statement | Suspect | Timeout | NewView


def sign(cluster: Cluster, item: Any) -> Any:
    return replace(item, signature=cluster.keys[item.signer].sign(item.sign_bytes(cluster.cluster_id)))


def statement_maker(phase: Phase) -> Callable[[Cluster], Item]:
    return lambda cluster: cluster.statement(phase, "m1", BLOCK, view=5)


MAKERS: dict[str, Callable[[Cluster], Item]] = {
    **{phase.value: statement_maker(phase) for phase in Phase},
    "suspect": lambda cluster: cluster.suspect("m1", 5),
    "timeout": lambda cluster: cluster.timeout("m1", 5, 7),
    "timeout with lock": lambda cluster: cluster.timeout("m1", 5, 7, Lock(4, b"\x0b" * 32)),
    "newview": lambda cluster: sign(cluster, NewView(0, 5, b"\x0b" * 32, "m1")),
}


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster(4)


@pytest.mark.parametrize("kind", MAKERS)
def test_what_a_member_signed_is_accepted(cluster: Cluster, kind: str) -> None:
    assert is_signed_by_member(MAKERS[kind](cluster), cluster.cluster_id, cluster.members)


@pytest.mark.parametrize("kind", MAKERS)
def test_no_other_signer_cluster_or_epoch(cluster: Cluster, kind: str) -> None:
    item = MAKERS[kind](cluster)
    later = replace(cluster.members, epoch=1)
    assert not is_signed_by_member(replace(item, signer="m2"), cluster.cluster_id, cluster.members)
    assert not is_signed_by_member(replace(item, signer="m9"), cluster.cluster_id, cluster.members)
    assert not is_signed_by_member(item, bytes(32), cluster.members)
    assert not is_signed_by_member(item, cluster.cluster_id, later)
    assert not is_signed_by_member(replace(item, signature=b""), cluster.cluster_id, cluster.members)
    flipped = bytes([item.signature[0] ^ 1]) + item.signature[1:]
    assert not is_signed_by_member(replace(item, signature=flipped), cluster.cluster_id, cluster.members)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("suspect", {"view": 6}),
        ("suspect", {"epoch": 1}),
        ("timeout", {"view": 6}),
        ("timeout", {"committed_height": 8}),
        ("timeout", {"lock": Lock(0, bytes(32))}),
        ("timeout", {"epoch": 1}),
        ("timeout with lock", {"lock": None}),
        ("timeout with lock", {"lock": Lock(3, b"\x0b" * 32)}),
        ("timeout with lock", {"lock": Lock(4, b"\x0c" * 32)}),
        ("newview", {"view": 6}),
        ("newview", {"tc_digest": bytes(32)}),
        ("newview", {"epoch": 1}),
    ],
)
def test_every_field_is_signed(cluster: Cluster, kind: str, change: dict[str, Any]) -> None:
    changed: Any = replace(MAKERS[kind](cluster), **change)
    members = replace(cluster.members, epoch=changed.epoch)
    assert not is_signed_by_member(changed, cluster.cluster_id, members)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize(
    "change",
    [
        {"view": 6},
        {"height": 8},
        {"block_hash": bytes(32)},
        {"epoch": 1},
        *({"phase": phase} for phase in Phase),
    ],
)
def test_every_field_of_a_key_is_signed(cluster: Cluster, phase: Phase, change: dict[str, Any]) -> None:
    statement = cluster.statement(phase, "m1", BLOCK, view=5)
    changed = replace(statement, key=replace(statement.key, **change))
    members = replace(cluster.members, epoch=changed.epoch)
    assert is_signed_by_member(changed, cluster.cluster_id, members) == (changed == statement)


def test_no_statement_passes_for_another(cluster: Cluster) -> None:
    """`A tag of its own for each, so that no statement can pass for another.`"""
    encoded = {kind: make(cluster).sign_bytes(cluster.cluster_id) for kind, make in MAKERS.items()}
    for first, second in combinations(encoded, 2):
        assert encoded[first] != encoded[second]


def test_positions_are_ordered_by_view_first() -> None:
    def at(view: int, height: int) -> tuple[int, int]:
        return StatementKey(Phase.PREPARE, 0, view, height, bytes(32)).position

    assert at(0, 9) < at(1, 1) < at(1, 2)


def test_reports_are_ordered_by_height_first() -> None:
    def report(height: int, view: int | None) -> tuple[int, int]:
        lock = None if view is None else Lock(view, bytes(32))
        return Timeout(0, 9, height, lock, "m1").report

    assert report(3, 8) < report(4, None) < report(4, 0) < report(4, 1)
