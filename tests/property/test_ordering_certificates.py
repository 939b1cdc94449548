"""Certificates from whatever arrives in whatever order, and what becomes of them when anything is changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.ordering_toy import Cluster

from replication.ordering.certificates import (
    Certificate,
    CertificateError,
    StatementCollector,
    check_certificate,
)
from replication.ordering.quorum import commit_quorum
from replication.ordering.statements import Phase
from replication.ordering.timeouts import (
    TimeoutReport,
    check_timeout_certificate,
    check_timeout_report,
    form_timeout_certificate,
)

CLUSTERS = {n: Cluster(n) for n in (1, 2, 3, 4, 5, 6, 7)}
HASHES = [bytes([number]) * 32 for number in range(2)]
VIEW = 3

sizes = st.sampled_from(sorted(CLUSTERS))


@given(st.data(), sizes)
def test_a_certificate_is_made_when_a_quorum_of_one_key_is_there(data: st.DataObject, n: int) -> None:
    """Against a count by hand; and what is made is always valid."""
    cluster = CLUSTERS[n]
    arrivals = data.draw(
        st.lists(
            st.tuples(st.sampled_from(cluster.members.ids), st.integers(0, 1), st.sampled_from(HASHES)),
            max_size=4 * n,
        )
    )
    collector = StatementCollector(Phase.COMMIT, cluster.cluster_id, cluster.members)
    voters: dict[tuple[int, bytes], set[str]] = {}
    for name, view, block_hash in arrivals:
        before = len(voters.setdefault((view, block_hash), set()))
        voters[view, block_hash].add(name)
        made = collector.add(cluster.statement(Phase.COMMIT, name, (1, block_hash), view))
        is_complete = before < commit_quorum(n) == len(voters[view, block_hash])
        assert (made is not None) == is_complete
        if made is not None:
            check_certificate(made, Phase.COMMIT, cluster.cluster_id, cluster.members)
            assert {signer for signer, _ in made.signatures} == voters[view, block_hash]


# Timeouts. A world is consistent: one block is committed at a height, one certificate exists at a position.


def committed(cluster: Cluster, height: int) -> Certificate | None:
    return (
        None if height == 0 else cluster.certificate(Phase.COMMIT, (height, HASHES[0]), cluster.members.ids)
    )


def lock(cluster: Cluster, height: int, view: int) -> Certificate:
    return cluster.certificate(
        Phase.PREPARE, (height, HASHES[(height + view) % 2]), cluster.members.ids, view
    )


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Cluster, dict[str, TimeoutReport]]:
    """Reports of at least a quorum."""
    cluster = CLUSTERS[draw(st.sampled_from([2, 4, 5]))]
    everyone = list(cluster.members.ids)
    count = draw(st.integers(commit_quorum(len(everyone)), len(everyone)))
    reports = {}
    for name in draw(st.permutations(everyone))[:count]:
        height = draw(st.integers(0, 2))
        view = draw(st.none() | st.integers(0, VIEW))
        held = None if view is None else lock(cluster, height + 1, view)
        reports[name] = cluster.report(name, VIEW, committed(cluster, height), held)
    return cluster, reports


@given(worlds())
def test_the_floor_is_the_highest_report(world: tuple[Cluster, dict[str, TimeoutReport]]) -> None:
    cluster, reports = world
    certificate = form_timeout_certificate(reports, cluster.members)
    check_timeout_certificate(certificate, cluster.cluster_id, cluster.members, 0)
    ranked = sorted(
        (report.timeout.committed_height, -1 if report.lock is None else report.lock.key.view)
        for report in reports.values()
    )
    height, view = ranked[-1]
    assert certificate.floor.height == height
    for block_hash in HASHES:
        is_locked = view >= 0 and lock(cluster, height + 1, view).key.block_hash != block_hash
        assert certificate.floor.admits(height + 1, block_hash) is not is_locked
        assert certificate.floor.admits(height + 2, block_hash)
        assert not certificate.floor.admits(height, block_hash)


@given(worlds(), st.data())
def test_nothing_can_be_claimed_beyond_what_is_proven(
    world: tuple[Cluster, dict[str, TimeoutReport]], data: st.DataObject
) -> None:
    """Any other height or lock, signed by its member and with the same proofs, is refused."""
    cluster, reports = world
    name = data.draw(st.sampled_from(sorted(reports)))
    report = reports[name]
    check_timeout_report(report, cluster.cluster_id, cluster.members, 0)
    claimed = report.timeout
    other = cluster.timeout(
        name,
        VIEW,
        data.draw(st.integers(0, 3)),
        data.draw(st.sampled_from([None, claimed.lock, *(item.timeout.lock for item in reports.values())])),
    )
    lie = replace(report, timeout=other)
    if (other.committed_height, other.lock) == (claimed.committed_height, claimed.lock):
        check_timeout_report(lie, cluster.cluster_id, cluster.members, 0)
    else:
        with pytest.raises(CertificateError):
            check_timeout_report(lie, cluster.cluster_id, cluster.members, 0)


@given(worlds(), st.data())
def test_a_changed_certificate_is_refused_or_says_the_same(
    world: tuple[Cluster, dict[str, TimeoutReport]], data: st.DataObject
) -> None:
    """Proofs taken from another certificate never move the floor."""
    cluster, reports = world
    certificate = form_timeout_certificate(reports, cluster.members)
    proofs: list[Any] = [None]
    for height in range(3):
        proofs.append(committed(cluster, height))
        proofs += [lock(cluster, height + 1, view) for view in range(VIEW + 1)]
    changed = replace(
        certificate, committed=data.draw(st.sampled_from(proofs)), lock=data.draw(st.sampled_from(proofs))
    )
    try:
        check_timeout_certificate(changed, cluster.cluster_id, cluster.members, 0)
    except CertificateError:
        return
    assert changed.floor == certificate.floor
