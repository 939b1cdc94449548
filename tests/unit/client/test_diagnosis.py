"""What `acp doctor` finds, from made-up answers: each finding alone, and none where all is well."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replication.client.diagnosis import Evidence, diagnose, shorter_lengths
from replication.client.model import (
    ClusterStatus,
    Counters,
    ExecutorInfo,
    MemberInfo,
    Membership,
    MemberState,
    Summary,
)

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
NODES = ("node-1", "node-2", "node-3", "node-4")


def status(node: str, **changes: Any) -> ClusterStatus:
    members = tuple(
        MemberState(name, f"{name}:7001", True, 7, 20, "ab" * 32, 1, 0)  # reachable
        for name in NODES
    )
    made = ClusterStatus(
        cluster_id=b"\x01" * 32,
        name="test",
        epoch=0,
        view=0,
        coordinator="node-1",
        n=4,
        f=1,
        tally_quorum=3,
        commit_quorum=3,
        node_id=node,
        members=members,
        pending_commands=0,
        counters=Counters(0, 0, 0.0, 0, 0),
        version="1.0",
        clock_ms=NOW_MS,
        certificate_expires_ms=NOW_MS + 100 * DAY_MS,
    )
    return replace(made, **changes)


def evidence(answers: dict[str, ClusterStatus] | None = None, **more: Any) -> Evidence:
    given = {node: status(node) for node in NODES} if answers is None else answers
    values: dict[str, Any] = {
        "answers": given,
        "asked_ms": NOW_MS,
        "failures": {},
        "cluster_id": b"\x01" * 32,
        "client_expires_ms": NOW_MS + 100 * DAY_MS,
    }
    return Evidence(**{**values, **more})


def changed(node: str, **changes: Any) -> dict[str, ClusterStatus]:
    return {name: status(name, **changes) if name == node else status(name) for name in NODES}


def unreachable(*gone: str) -> dict[str, ClusterStatus]:
    """Answers of those who are left, to whom the others are silent."""
    answers = {}
    for node in NODES:
        if node not in gone:
            made = status(node)
            members = tuple(replace(item, reachable=item.id not in gone) for item in made.members)
            answers[node] = replace(made, members=members)
    return answers


def only(found: Evidence) -> tuple[str, str, str]:
    (finding,) = diagnose(found)
    assert finding.advice
    return finding.severity, finding.subject, finding.what


def member(name: str, **changes: Any) -> MemberInfo:
    return replace(MemberInfo(name, f"{name}:1", b"\x01" * 32, 1, b"", False, 0), **changes)


def summary(unconfirmed: int) -> Summary:
    return Summary(4, 1, 3, 9, 0, 9, 0, 0, 5, 0, 30, "ab" * 32, 7, unconfirmed)


def test_all_is_well() -> None:
    membership = Membership(0, 0, tuple(member(name) for name in NODES))
    assert diagnose(evidence(membership=membership, summary=summary(3))) == []


def test_nobody_answers() -> None:
    found = diagnose(evidence({}, failures=dict.fromkeys(NODES, "nothing listens")))
    assert [(item.severity, item.subject) for item in found] == [("critical", node) for node in NODES]


def test_one_of_four_is_gone() -> None:
    found = diagnose(evidence(unreachable("node-4"), failures={"node-4": "nothing listens"}))
    assert [(item.severity, item.subject) for item in found] == [
        ("warning", "cluster"),
        ("warning", "node-4"),
    ]
    assert "one more member lost" in found[0].what


def test_no_quorum() -> None:
    found = diagnose(evidence(unreachable("node-3", "node-4")))
    assert (found[0].severity, found[0].subject) == ("critical", "cluster")
    assert "2 of 4 members are reachable and sign, 3 are needed" in found[0].what


def test_another_cluster() -> None:
    severity, subject, what = only(evidence(changed("node-2", cluster_id=b"\x02" * 32)))
    assert (severity, subject) == ("critical", "node-2")
    assert "another cluster" in what


def test_divergent_heads() -> None:
    own = status("node-2").members
    lying = tuple(replace(item, audit_head="cd" * 32) if item.id == "node-2" else item for item in own)
    severity, subject, what = only(evidence(changed("node-2", members=lying)))
    assert (severity, subject) == ("critical", "cluster")
    assert "20 entries) end differently" in what


def test_a_shorter_record_is_not_another_one() -> None:
    own = status("node-2").members
    behind = tuple(
        replace(item, height=6, audit_size=17, audit_head="cd" * 32) if item.id == "node-2" else item
        for item in own
    )
    assert diagnose(evidence(changed("node-2", members=behind))) == []


@pytest.mark.parametrize(("skew", "words"), [(2_500, "2.5 s ahead of"), (-61_000, "61.0 s behind")])
def test_clocks(skew: int, words: str) -> None:
    severity, subject, what = only(evidence(changed("node-3", clock_skew_ms=skew)))
    assert (severity, subject) == ("warning", "node-3")
    assert words in what


@pytest.mark.parametrize(
    ("days", "severity", "words"),
    [
        (3, "warning", "ends in 3.0 days"),
        (0.5, "critical", "ends in 0.5"),
        (-2, "critical", "ended 2.0 days ago"),
    ],
)
def test_certificates(days: float, severity: str, words: str) -> None:
    end_ms = NOW_MS + round(days * DAY_MS)
    assert only(evidence(changed("node-1", certificate_expires_ms=end_ms)))[:2] == (severity, "node-1")
    found = only(evidence(client_expires_ms=end_ms))
    assert (found[0], found[1]) == (severity, "this client")
    assert words in found[2]


def test_a_member_that_signs_nothing() -> None:
    found = diagnose(evidence(changed("node-4", muted="its disk was lost")))
    assert {item.subject for item in found} == {"node-4", "cluster"}
    assert any("its disk was lost" in item.what for item in found)


def test_a_proven_liar() -> None:
    membership = Membership(0, 0, (member("node-1", faulty=True, evidence_sequence=44),))
    severity, subject, what = only(evidence(membership=membership))
    assert (severity, subject) == ("critical", "node-1")
    assert "entry 44" in what


def test_versions() -> None:
    assert "1.0: node-1, node-2, node-3; 1.1: node-4" in only(evidence(changed("node-4", version="1.1")))[2]


def test_many_changes_of_the_coordinator_within_an_hour() -> None:
    recent = [NOW_MS - minutes * 60_000 for minutes in range(10)]
    assert "replaced 10 times within an hour" in only(evidence(changes_ms=recent))[2]
    long_ago = [NOW_MS - hours * 3600 * 1000 for hours in range(1, 90)]
    assert diagnose(evidence(changes_ms=[*long_ago, *recent[1:]])) == []


def test_a_client_that_nobody_answers_since_its_certificate_ended() -> None:
    found = diagnose(evidence({}, failures={"node-1": "no"}, client_expires_ms=NOW_MS - DAY_MS))
    assert {item.subject for item in found} == {"node-1", "this client"}


def test_unconfirmed_executions_count_where_there_are_executors() -> None:
    members = tuple(member(name) for name in NODES)
    executors = (ExecutorInfo("fence-1", b"\x02" * 32),)
    found = evidence(membership=Membership(0, 0, members, executors), summary=summary(3))
    assert "3 approved decisions" in only(found)[2]


def with_size(node: str, size: int, head: str = "ab" * 32) -> ClusterStatus:
    made = status(node)
    members = tuple(
        replace(item, audit_size=size, audit_head=head) if item.id == node else item for item in made.members
    )
    return replace(made, members=members)


def test_every_node_is_asked_for_the_ends_of_all_shorter_records() -> None:
    sizes = {"node-1": 20, "node-2": 17, "node-3": 1, "node-4": 0}
    answers = {node: with_size(node, size) for node, size in sizes.items()}
    assert shorter_lengths(answers) == {"node-1": [1, 17], "node-2": [1], "node-3": [], "node-4": []}


def test_a_shorter_record_that_is_another_one() -> None:
    answers = changed("node-2") | {"node-2": with_size("node-2", 17, "cd" * 32)}
    same = {17: dict.fromkeys(("node-1", "node-3", "node-4"), "cd" * 32)}
    assert diagnose(evidence(answers, hashes=same)) == []
    other = {17: dict.fromkeys(("node-1", "node-3", "node-4"), "ee" * 32)}
    severity, subject, what = only(evidence(answers, hashes=other))
    assert (severity, subject) == ("critical", "cluster")
    assert "records diverge" in what
    assert "17 entries" in what
    assert f"node-1, node-3, node-4: {'ee' * 8}; node-2: {'cd' * 8}" in what


def test_a_tiny_record_hides_no_divergence_and_each_is_told_once() -> None:
    answers = {
        "node-1": with_size("node-1", 20),
        "node-2": with_size("node-2", 18, "cd" * 32),
        "node-3": with_size("node-3", 19, "ee" * 32),
        "node-4": with_size("node-4", 1, "aa" * 32),
    }
    hashes = {
        1: dict.fromkeys(("node-1", "node-2", "node-3"), "aa" * 32),
        18: dict.fromkeys(("node-1", "node-3"), "bb" * 32),
        19: {"node-1": "ee" * 32},
    }
    assert "18 entries" in only(evidence(answers, hashes=hashes))[2]
    found = diagnose(evidence(answers, hashes={**hashes, 19: {"node-1": "ff" * 32}}))
    assert len(found) == 2, "node-1 and node-3 part later"
    assert "19 entries" in found[1].what


def test_a_node_that_does_not_show_what_it_says_it_has() -> None:
    answers = changed("node-2") | {"node-2": with_size("node-2", 17, "cd" * 32)}
    hashes = {17: {"node-1": "", "node-3": "cd" * 32, "node-4": "cd" * 32}}
    severity, subject, what = only(evidence(answers, hashes=hashes))
    assert (severity, subject) == ("warning", "node-1")
    assert "entry 16" in what
