"""The pacemaker: patience, and how many suspicions and timeouts move a member."""

from __future__ import annotations

import pytest
from tests.support.ordering_toy import Cluster

from replication.ordering.pacemaker import Pacemaker, ReplicaSettings

SETTINGS = ReplicaSettings(idle_timeout_ms=100, busy_timeout_ms=300, max_backoff=3)


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster(7)  # f = 2, Q = 5


@pytest.fixture
def pacemaker(cluster: Cluster) -> Pacemaker:
    return Pacemaker(cluster.members, SETTINGS)


def suspect(pacemaker: Pacemaker, cluster: Cluster, name: str, view: int, now_ms: int = 0) -> None:
    pacemaker.add_suspect(cluster.suspect(name, view), now_ms)


# Patience.


def test_patience_doubles_after_f_views_up_to_a_cap_and_falls_back_on_a_commit(pacemaker: Pacemaker) -> None:
    """Two coordinators in a row may be faulty among seven: the view after them is the first that may be late
    for another reason."""
    seen = []
    for _ in range(7):
        seen.append((pacemaker.idle_timeout_ms, pacemaker.busy_timeout_ms))
        pacemaker.entered(0)
    assert seen == [*[(100, 300)] * 3, (200, 600), (400, 1200), (800, 2400), (800, 2400)]
    pacemaker.committed()
    assert (pacemaker.idle_timeout_ms, pacemaker.busy_timeout_ms) == (100, 300)


def test_silence_begins_with_the_first_question(pacemaker: Pacemaker) -> None:
    assert pacemaker.silent_since(5) == 5
    assert pacemaker.silent_since(9) == 5
    pacemaker.heard(7)
    assert pacemaker.silent_since(9) == 7


def test_a_new_coordinator_starts_with_a_clean_slate(pacemaker: Pacemaker) -> None:
    pacemaker.distrust("it lied")
    pacemaker.distrust("again")
    assert pacemaker.distrusted == "it lied"
    pacemaker.entered(50)
    assert pacemaker.distrusted == ""
    assert (pacemaker.entered_ms, pacemaker.silent_since(60)) == (50, 50)


# Giving up a view.


def test_f_plus_one_suspicions(pacemaker: Pacemaker, cluster: Cluster) -> None:
    for name, moved in (("m1", False), ("m1", False), ("m2", False), ("m3", True)):
        suspect(pacemaker, cluster, name, 4)
        assert pacemaker.must_time_out(4, 0) is moved


def test_suspicions_of_other_views_do_not_count(pacemaker: Pacemaker, cluster: Cluster) -> None:
    for name, view in (("m1", 4), ("m2", 5), ("m3", 3)):
        suspect(pacemaker, cluster, name, view)
    assert not any(pacemaker.must_time_out(view, 0) for view in range(7))


def test_f_plus_one_timeouts_of_this_view_or_later_ones(pacemaker: Pacemaker, cluster: Cluster) -> None:
    for name, view, moved in (("m1", 3, False), ("m2", 4, False), ("m3", 9, False), ("m4", 4, True)):
        pacemaker.add_timeout(cluster.report(name, view))
        assert pacemaker.must_time_out(4, 0) is moved


def test_the_two_are_counted_together_by_member(pacemaker: Pacemaker, cluster: Cluster) -> None:
    suspect(pacemaker, cluster, "m1", 4)
    pacemaker.add_timeout(cluster.report("m1", 4))
    pacemaker.add_timeout(cluster.report("m2", 4))
    assert not pacemaker.must_time_out(4, 0)
    suspect(pacemaker, cluster, "m3", 4)
    assert pacemaker.must_time_out(4, 0)


def test_a_suspicion_that_is_not_repeated_lapses(pacemaker: Pacemaker, cluster: Cluster) -> None:
    """`SUSPECT is repeated while the reason holds.` Else the bad moments of a long view would add up."""
    suspect(pacemaker, cluster, "m1", 4, now_ms=0)
    suspect(pacemaker, cluster, "m2", 4, now_ms=50)
    suspect(pacemaker, cluster, "m3", 4, now_ms=101)
    assert not pacemaker.must_time_out(4, 101)
    suspect(pacemaker, cluster, "m1", 4, now_ms=102)
    assert pacemaker.must_time_out(4, 102)


def test_a_timeout_never_lapses(pacemaker: Pacemaker, cluster: Cluster) -> None:
    for name in ("m1", "m2", "m3"):
        pacemaker.add_timeout(cluster.report(name, 4))
    assert pacemaker.must_time_out(4, 10**12)


# Bounded memory: for each member the highest.


def test_only_the_highest_of_a_member_is_kept(pacemaker: Pacemaker, cluster: Cluster) -> None:
    suspect(pacemaker, cluster, "m1", 9)
    suspect(pacemaker, cluster, "m1", 4)
    assert pacemaker.has_suspected("m1", 9)
    pacemaker.add_timeout(cluster.report("m1", 9))
    pacemaker.add_timeout(cluster.report("m1", 4))
    assert pacemaker.knows_timeout("m1", 9)
    assert not pacemaker.knows_timeout("m1", 10)
    assert not pacemaker.knows_timeout("m2", 0)


def test_a_flood_of_later_views_leaves_one_entry(pacemaker: Pacemaker, cluster: Cluster) -> None:
    for view in range(300):
        suspect(pacemaker, cluster, "m1", view)
        pacemaker.add_timeout(cluster.report("m1", view))
    assert len(pacemaker._suspects) == 1
    assert len(pacemaker._timeouts) == 1


# Ending a view.


def test_a_commit_quorum_for_one_and_the_same_view(pacemaker: Pacemaker, cluster: Cluster) -> None:
    for name in ("m0", "m1", "m2", "m3"):
        pacemaker.add_timeout(cluster.report(name, 4))
    pacemaker.add_timeout(cluster.report("m4", 5))
    assert pacemaker.quorum_of_timeouts(0) is None
    pacemaker.add_timeout(cluster.report("m5", 4))
    found = pacemaker.quorum_of_timeouts(4)
    assert found is not None
    assert set(found) == {"m0", "m1", "m2", "m3", "m5"}
    assert pacemaker.quorum_of_timeouts(5) is None


def test_the_same_timeouts_under_another_quorum() -> None:
    """At n = 6 it takes 4 of 6; 2f + 1 = 3 would fork."""
    cluster = Cluster(6)
    pacemaker = Pacemaker(cluster.members, SETTINGS)
    for name in ("m0", "m1", "m2"):
        pacemaker.add_timeout(cluster.report(name, 0))
    assert pacemaker.quorum_of_timeouts(0) is None
    pacemaker.add_timeout(cluster.report("m3", 0))
    assert pacemaker.quorum_of_timeouts(0) is not None
