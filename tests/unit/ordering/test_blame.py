"""Blame: every kind of contradiction in both orders, and what must never be blamed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
from tests.support.ordering_toy import Cluster

from replication.ordering import blame as blame_module
from replication.ordering.blame import FirstStatements, contradict
from replication.ordering.statements import Evidence, Lock, Phase, Signed

HASH = b"\x0b" * 32
OTHER = b"\x0c" * 32

Pair = Callable[[Cluster], tuple[Signed, Signed]]


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster(4)


def statement(cluster: Cluster, phase: Phase, view: int, height: int, block_hash: bytes = HASH) -> Signed:
    return cluster.statement(phase, "m1", (height, block_hash), view)


def timeout(cluster: Cluster, view: int, height: int, lock: tuple[int, bytes] | None = None) -> Signed:
    return cluster.timeout("m1", view, height, None if lock is None else Lock(*lock))


GUILTY: dict[str, Pair] = {
    "two proposals": lambda c: (
        statement(c, Phase.PROPOSE, 2, 5),
        statement(c, Phase.PROPOSE, 2, 5, OTHER),
    ),
    "two prepares": lambda c: (statement(c, Phase.PREPARE, 2, 5), statement(c, Phase.PREPARE, 2, 5, OTHER)),
    "two commits": lambda c: (statement(c, Phase.COMMIT, 2, 5), statement(c, Phase.COMMIT, 2, 5, OTHER)),
    "two timeouts of other heights": lambda c: (timeout(c, 2, 4), timeout(c, 2, 5)),
    "two timeouts, one with a lock": lambda c: (timeout(c, 2, 4), timeout(c, 2, 4, (1, HASH))),
    "two timeouts with other locks": lambda c: (timeout(c, 2, 4, (1, HASH)), timeout(c, 2, 4, (1, OTHER))),
    "a hidden lock": lambda c: (statement(c, Phase.COMMIT, 2, 5), timeout(c, 2, 4)),
    "a hidden lock, views later": lambda c: (statement(c, Phase.COMMIT, 2, 5), timeout(c, 7, 4)),
    "a lock of an earlier view": lambda c: (statement(c, Phase.COMMIT, 2, 5), timeout(c, 3, 4, (1, HASH))),
    "a height below the lock": lambda c: (statement(c, Phase.COMMIT, 2, 5), timeout(c, 3, 3, (3, HASH))),
}
"""`Two PREPAREs, COMMITs or PROPOSEs at one (view, height) with different hashes; two TIMEOUTs of one view;
a COMMIT(v,h) and a later TIMEOUT(v' >= v) whose report is lower than (h-1, v).`"""

INNOCENT: dict[str, Pair] = {
    "the same again": lambda c: (statement(c, Phase.PREPARE, 2, 5), statement(c, Phase.PREPARE, 2, 5)),
    "the same timeout again": lambda c: (timeout(c, 2, 4, (1, HASH)), timeout(c, 2, 4, (1, HASH))),
    "another phase": lambda c: (statement(c, Phase.PREPARE, 2, 5), statement(c, Phase.COMMIT, 2, 5, OTHER)),
    "another view": lambda c: (statement(c, Phase.PREPARE, 2, 5), statement(c, Phase.PREPARE, 3, 5, OTHER)),
    "another height": lambda c: (statement(c, Phase.COMMIT, 2, 5), statement(c, Phase.COMMIT, 2, 6, OTHER)),
    "timeouts of two views": lambda c: (timeout(c, 2, 4), timeout(c, 3, 5)),
    "a lock that is reported": lambda c: (
        statement(c, Phase.COMMIT, 2, 5),
        timeout(c, 2, 4, (2, HASH)),
    ),
    "a higher lock": lambda c: (statement(c, Phase.COMMIT, 2, 5), timeout(c, 4, 4, (3, OTHER))),
    "committed meanwhile": lambda c: (statement(c, Phase.COMMIT, 2, 5), timeout(c, 3, 5)),
    "a commit after the timeout of an earlier view": lambda c: (
        statement(c, Phase.COMMIT, 3, 5),
        timeout(c, 2, 4),
    ),
    "a prepare binds to no lock": lambda c: (statement(c, Phase.PREPARE, 2, 5), timeout(c, 2, 4)),
    "another signer": lambda c: (
        c.statement(Phase.PREPARE, "m1", (5, HASH), 2),
        c.statement(Phase.PREPARE, "m2", (5, OTHER), 2),
    ),
    "another epoch": lambda c: (
        c.statement(Phase.PREPARE, "m1", (5, HASH), 2, epoch=0),
        c.statement(Phase.PREPARE, "m1", (5, OTHER), 2, epoch=1),
    ),
    "timeouts of two epochs": lambda c: (c.timeout("m1", 2, 4), c.timeout("m1", 2, 5, epoch=1)),
}


@pytest.mark.parametrize("name", GUILTY)
def test_contradictions(cluster: Cluster, name: str) -> None:
    first, second = GUILTY[name](cluster)
    assert contradict(first, second)
    assert contradict(second, first)


@pytest.mark.parametrize("name", INNOCENT)
def test_no_contradictions(cluster: Cluster, name: str) -> None:
    first, second = INNOCENT[name](cluster)
    assert not contradict(first, second)
    assert not contradict(second, first)


@pytest.mark.parametrize("name", GUILTY)
@pytest.mark.parametrize("swap", [False, True])
def test_the_guilty_are_found_in_either_order(cluster: Cluster, name: str, swap: bool) -> None:
    first, second = GUILTY[name](cluster)
    if swap:
        first, second = second, first
    memory = FirstStatements()
    assert memory.record(first) is None
    evidence = memory.record(second)
    assert evidence == Evidence(first, second)
    assert evidence is not None
    assert evidence.accused == "m1"


@pytest.mark.parametrize("name", INNOCENT)
def test_the_innocent_are_not_blamed(cluster: Cluster, name: str) -> None:
    memory = FirstStatements()
    assert [memory.record(item) for item in (*INNOCENT[name](cluster), *INNOCENT[name](cluster))] == [
        None
    ] * 4


def test_nobody_is_blamed_twice(cluster: Cluster) -> None:
    memory = FirstStatements()
    found = [memory.record(item) for pair in GUILTY.values() for item in pair(cluster)]
    assert len([item for item in found if item is not None]) == 1


def test_the_first_statement_is_never_replaced(cluster: Cluster) -> None:
    """`Deleting the first of two votes, and the evidence with it` is a classic mistake."""
    first, second = GUILTY["two prepares"](cluster)
    memory = FirstStatements()
    for item in (first, second, second):
        memory.record(item)
    assert memory.newest("m1") == ((first,), None)


def honest_life(cluster: Cluster) -> list[Signed]:
    """What one correct member signs over some views, with a lock that is carried on and then committed."""
    return [
        statement(cluster, Phase.PREPARE, 0, 1),
        statement(cluster, Phase.COMMIT, 0, 1),
        statement(cluster, Phase.PREPARE, 0, 2),
        statement(cluster, Phase.COMMIT, 0, 2),
        timeout(cluster, 0, 1, (0, HASH)),
        timeout(cluster, 1, 1, (0, HASH)),
        statement(cluster, Phase.PREPARE, 2, 2),
        timeout(cluster, 2, 1, (0, HASH)),
        statement(cluster, Phase.PREPARE, 3, 2),
        statement(cluster, Phase.COMMIT, 3, 2),
        timeout(cluster, 3, 2),
        statement(cluster, Phase.PROPOSE, 5, 3, OTHER),
        statement(cluster, Phase.PREPARE, 5, 3, OTHER),
        timeout(cluster, 5, 2),
        timeout(cluster, 6, 2, (6, HASH)),
    ]


def test_an_honest_member_is_not_blamed_over_view_changes_whatever_arrives_first(cluster: Cluster) -> None:
    life = honest_life(cluster)
    orders = [life, life[::-1], *(list(order) + life for order in permutations(life[2:6]))]
    for order in orders:
        memory = FirstStatements()
        assert [memory.record(item) for item in order] == [None] * len(order)


def test_certificates_are_taken_apart(cluster: Cluster) -> None:
    """`Wherever it came from`: a signature in a certificate is a statement."""
    memory = FirstStatements()
    everyone = ("m0", "m1", "m2")
    assert memory.record_certificate(cluster.certificate(Phase.COMMIT, (5, HASH), everyone, 2)) == []
    found = memory.record_certificate(cluster.certificate(Phase.COMMIT, (5, OTHER), ("m1", "m2", "m3"), 2))
    assert [evidence.accused for evidence in found] == ["m1", "m2"]


def test_what_is_known_of_a_member(cluster: Cluster) -> None:
    memory = FirstStatements()
    assert memory.newest("m1") == ((), None)
    for item in honest_life(cluster)[::-1]:
        memory.record(item)
    statements, last = memory.newest("m1")
    assert {(item.key.phase, item.key.position) for item in statements} == {
        (Phase.PROPOSE, (5, 3)),
        (Phase.PREPARE, (5, 3)),
        (Phase.COMMIT, (3, 2)),
    }
    assert last == honest_life(cluster)[-1]


def test_memory_is_bounded_and_one_member_pushes_out_no_other(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blame_module, "_KEPT_PER_MEMBER", 10)
    memory = FirstStatements()
    kept = cluster.statement(Phase.PREPARE, "m2", (1, HASH))
    memory.record(kept)
    for view in range(50):
        memory.record(timeout(cluster, view, 0))
    assert len(memory._kept["m1"]) == 10
    assert memory.newest("m2") == ((kept,), None)
    assert memory.record(timeout(cluster, 49, 1)) is not None


def test_a_new_epoch_begins_with_nothing(cluster: Cluster) -> None:
    memory = FirstStatements()
    first, second = GUILTY["two commits"](cluster)
    memory.record(first)
    memory.record(second)
    memory.clear()
    assert memory.record(second) is None
    assert memory.record(first) is not None
