"""The guarded signer: each position once, nothing after a TIMEOUT, locks that only rise, epochs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.ordering_toy import Cluster

from replication.errors import InvariantError
from replication.ordering.signing import GuardedSigner, SignState
from replication.ordering.statements import (
    Lock,
    Phase,
    Statement,
    StatementKey,
    Timeout,
    is_signed_by_member,
)

HASH = b"\x0b" * 32
OTHER = b"\x0c" * 32
QUORUM = ("m0", "m1", "m2")


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster(4)


def make(cluster: Cluster, state: SignState | None = None) -> GuardedSigner:
    return GuardedSigner("m1", cluster.cluster_id, cluster.keys["m1"], state or SignState())


@pytest.fixture
def signer(cluster: Cluster) -> GuardedSigner:
    return make(cluster)


def at(
    view: int, height: int, block_hash: bytes = HASH, phase: Phase = Phase.PREPARE, epoch: int = 0
) -> StatementKey:
    return StatementKey(phase, epoch, view, height, block_hash)


def timeout(view: int, height: int = 0, epoch: int = 0) -> Timeout:
    return Timeout(epoch, view, height, None, "m1")


@pytest.mark.parametrize("phase", Phase)
def test_it_signs_and_remembers(cluster: Cluster, signer: GuardedSigner, phase: Phase) -> None:
    statement = signer.sign(at(0, 1, phase=phase))
    assert is_signed_by_member(statement, cluster.cluster_id, cluster.members)
    assert signer.state.last(phase) == statement
    assert [signer.state.last(other) for other in Phase if other is not phase] == [None, None]


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        (at(2, 5), True),  # the same again
        (at(2, 5, OTHER), False),
        (at(2, 6), True),
        (at(2, 6, OTHER), True),
        (at(3, 1), True),  # (view, height) increases, whatever the height
        (at(3, 5, OTHER), True),
        (at(2, 4), False),
        (at(1, 9), False),
        (at(0, 5), False),
        (at(3, 6, epoch=1), False),
    ],
)
def test_each_position_once(
    cluster: Cluster, signer: GuardedSigner, phase: Phase, key: StatementKey, allowed: bool
) -> None:
    """`Last PREPARE and last COMMIT, each increasing in (view, height)`"""
    signer.sign(at(2, 5, phase=phase))
    before = signer.state
    wanted = replace(key, phase=phase)
    assert signer.may_sign(wanted) is allowed
    if allowed:
        assert signer.sign(wanted).key == wanted
    else:
        with pytest.raises(InvariantError, match="refusing to sign"):
            signer.sign(wanted)
        assert signer.state is before


def test_a_repeat_gets_the_stored_statement(cluster: Cluster, signer: GuardedSigner) -> None:
    """`A restarted node sends its stored statements again; it never computes a second one.`"""
    first = signer.sign(at(0, 1))
    again = make(cluster, signer.state)
    assert again.sign(at(0, 1)) is first
    assert again.state is signer.state


def test_phases_do_not_hinder_each_other(signer: GuardedSigner) -> None:
    signer.sign(at(5, 5, phase=Phase.COMMIT))
    signer.sign(at(1, 1, phase=Phase.PREPARE))
    signer.sign(at(0, 1, phase=Phase.PROPOSE))


# Timeouts.


def test_nothing_new_in_a_view_that_was_given_up(cluster: Cluster, signer: GuardedSigner) -> None:
    """`From then on no PREPARE and no COMMIT in views <= v.`"""
    stored = signer.sign(at(3, 1))
    signer.time_out(timeout(3), None, None, None)
    for phase in Phase:
        for view in (0, 2, 3):
            assert not signer.may_sign(at(view, 9, phase=phase))
            with pytest.raises(InvariantError, match="view 3 was given up"):
                signer.sign(at(view, 9, phase=phase))
    assert signer.sign(at(3, 1)) is stored, "what was signed before stays signed"
    signer.sign(at(4, 1))


def test_exactly_one_timeout_a_view(cluster: Cluster, signer: GuardedSigner) -> None:
    """`Exactly one TIMEOUT a view, repeated verbatim until the view is left.`"""
    report = signer.time_out(timeout(3, 7), None, None, None)
    assert is_signed_by_member(report.timeout, cluster.cluster_id, cluster.members)
    assert signer.time_out(timeout(3, 8), None, None, None) is report
    assert make(cluster, signer.state).time_out(timeout(3, 9), None, None, None) is report
    with pytest.raises(InvariantError, match="refusing to time out of view 2"):
        signer.time_out(timeout(2), None, None, None)
    assert signer.time_out(timeout(4), None, None, None).timeout.view == 4
    assert signer.state.timed_out_view == 4


def test_having_sent_commit_never_forbids_timing_out(signer: GuardedSigner) -> None:
    signer.sign(at(3, 1, phase=Phase.COMMIT))
    assert signer.time_out(timeout(3), None, None, None).timeout.view == 3


def test_no_timeout_for_another_epoch(cluster: Cluster, signer: GuardedSigner) -> None:
    signer.time_out(timeout(3), None, None, None)
    with pytest.raises(InvariantError):
        signer.time_out(timeout(3, epoch=1), None, None, None)
    with pytest.raises(InvariantError):
        signer.time_out(timeout(4, epoch=1), None, None, None)


# Locks.


@pytest.mark.parametrize(
    ("view", "height", "epoch", "taken"),
    [
        (5, 4, 0, True),  # a later view
        (3, 4, 0, False),  # an earlier one
        (4, 4, 0, False),  # the same
        (0, 5, 0, True),  # the next height
        (9, 3, 0, False),  # a height that is done
        (9, 9, 1, False),  # another epoch
    ],
)
def test_a_lock_only_rises(
    cluster: Cluster, signer: GuardedSigner, view: int, height: int, epoch: int, taken: bool
) -> None:
    held = cluster.certificate(Phase.PREPARE, (4, HASH), QUORUM, view=4)
    signer.lock(held)
    other = cluster.certificate(Phase.PREPARE, (height, OTHER), QUORUM, view, epoch)
    signer.lock(other)
    assert signer.state.lock == (other if taken else held)


# Muted, and other epochs.


def test_muted_it_signs_nothing(cluster: Cluster, signer: GuardedSigner) -> None:
    stored = signer.sign(at(0, 1))
    signer.mute("first reason")
    signer.mute("second reason")
    assert signer.muted == "first reason"
    assert not signer.may_sign(stored.key)
    with pytest.raises(InvariantError, match="first reason"):
        signer.sign(at(0, 2))
    with pytest.raises(InvariantError, match="first reason"):
        signer.time_out(timeout(0), None, None, None)
    assert signer.state.prepare == stored


def test_a_new_epoch_voids_what_was_signed(cluster: Cluster, signer: GuardedSigner) -> None:
    signer = make(cluster, SignState(0, b"\x01" * 32))
    signer.sign(at(5, 5))
    signer.lock(cluster.certificate(Phase.PREPARE, (5, HASH), QUORUM, view=5))
    signer.time_out(timeout(5), None, None, None)
    signer.mute("for now")
    signer.begin_epoch(1)
    assert signer.state == SignState(1, b"\x01" * 32), "the disk stays the same"
    assert not signer.muted
    signer.sign(at(0, 6, OTHER, epoch=1))
    with pytest.raises(InvariantError):
        signer.sign(at(6, 6))


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_record_that_was_behind_voids_nothing(cluster: Cluster, epoch: int) -> None:
    """Catching up to an epoch in which something was signed must not make room for a second statement."""
    signer = make(cluster, SignState(epoch))
    signer.sign(at(5, 5, epoch=epoch))
    before = signer.state
    for begun in range(1, 3):
        signer.begin_epoch(begun)
    assert signer.state is before
    assert not signer.may_sign(at(5, 5, OTHER, epoch=epoch))


def test_the_certificate_that_opened_the_view_is_of_the_epoch(
    cluster: Cluster, signer: GuardedSigner
) -> None:
    opened = cluster.timeout_certificate(3, signers=QUORUM)
    signer.enter(opened)
    assert signer.state.opened == opened
    signer.enter(replace(opened, timeouts=tuple(cluster.timeout(name, 4, epoch=1) for name in QUORUM)))
    assert signer.state.opened == opened
    signer.enter(None)
    assert signer.state.opened is None


# What a state says.


def test_how_high_a_record_must_reach(cluster: Cluster) -> None:
    def signed(phase: Phase, height: int) -> Statement:
        return cluster.statement(phase, "m1", (height, HASH))

    lock = cluster.certificate(Phase.PREPARE, (6, HASH), QUORUM)
    report = cluster.report("m1", 3, cluster.certificate(Phase.COMMIT, (9, HASH), QUORUM))
    assert SignState().rests_on == 0
    assert replace(SignState(), propose=signed(Phase.PROPOSE, 1)).rests_on == 0
    assert replace(SignState(), propose=signed(Phase.PROPOSE, 4)).rests_on == 3
    assert replace(SignState(), prepare=signed(Phase.PREPARE, 5)).rests_on == 4
    assert replace(SignState(), commit=signed(Phase.COMMIT, 5), lock=lock).rests_on == 5
    assert replace(SignState(), timeout=report, lock=lock).rests_on == 9
    assert report.timeout.lock != Lock(0, HASH)


def test_suspicions_and_openings_are_free(cluster: Cluster, signer: GuardedSigner) -> None:
    """SUSPECT `binds to nothing`; another certificate may open the same view."""
    before = signer.state
    assert signer.suspect(0, 3) == cluster.suspect("m1", 3)
    assert signer.suspect(0, 1).view == 1
    first, second = signer.open_view(0, 5, HASH), signer.open_view(0, 5, OTHER)
    assert first.tc_digest != second.tc_digest
    assert all(is_signed_by_member(item, cluster.cluster_id, cluster.members) for item in (first, second))
    assert signer.state is before
