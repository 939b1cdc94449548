"""Timeout reports and certificates: every way to lie about what was committed and locked, and the floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.support.ordering_toy import Cluster

from replication.ordering.certificates import Certificate, CertificateError
from replication.ordering.quorum import commit_quorum
from replication.ordering.statements import Lock, Phase
from replication.ordering.timeouts import (
    Floor,
    TimeoutCertificate,
    TimeoutReport,
    check_timeout_certificate,
    check_timeout_report,
    form_timeout_certificate,
)

HASH = b"\x0b" * 32
OTHER = b"\x0c" * 32
QUORUM = ("m0", "m1", "m2")
VIEW = 6


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster(4, spares=1)


def committed(cluster: Cluster, height: int = 3, **changes: int) -> Certificate:
    return cluster.certificate(Phase.COMMIT, (height, HASH), QUORUM, **changes)


def lock(
    cluster: Cluster, height: int = 4, view: int = 5, block_hash: bytes = HASH, epoch: int = 0
) -> Certificate:
    return cluster.certificate(Phase.PREPARE, (height, block_hash), QUORUM, view, epoch)


def check(cluster: Cluster, report: TimeoutReport, base_height: int = 0) -> None:
    check_timeout_report(report, cluster.cluster_id, cluster.members, base_height)


# Reports of one member.


def test_honest_reports_are_accepted(cluster: Cluster) -> None:
    check(cluster, cluster.report("m1", VIEW))
    check(cluster, cluster.report("m1", VIEW, committed(cluster)))
    check(cluster, cluster.report("m1", VIEW, committed(cluster), lock(cluster)))
    check(cluster, cluster.report("m1", VIEW, None, lock(cluster, height=1)))
    check(cluster, cluster.report("m1", 5, committed(cluster), lock(cluster, view=5)))


def claim(
    cluster: Cluster,
    height: int,
    short: Lock | None,
    committed_proof: Certificate | None,
    lock_proof: Certificate | None,
) -> TimeoutReport:
    """A signed claim with whatever proofs."""
    return TimeoutReport(cluster.timeout("m1", VIEW, height, short), committed_proof, lock_proof)


LIES: dict[str, tuple[Callable[[Cluster], TimeoutReport], str]] = {
    "more committed than proven": (
        lambda c: claim(c, 4, None, committed(c, 3), None),
        "is for 3",
    ),
    "less committed than its proof says": (
        lambda c: claim(c, 2, None, committed(c, 3), None),
        "is for 3",
    ),
    "committed, without proof": (lambda c: claim(c, 3, None, None, None), "height 3 is not proven"),
    "nothing committed, with a proof": (
        lambda c: claim(c, 0, None, committed(c, 3), None),
        "height 0 is not proven",
    ),
    "committed, by a certificate of prepares": (
        lambda c: claim(c, 3, None, lock(c, 3), None),
        "phase prepare",
    ),
    "committed, by too few": (
        lambda c: claim(c, 3, None, c.certificate(Phase.COMMIT, (3, HASH), ("m0", "m1")), None),
        "2 signatures",
    ),
    "committed, in another epoch": (
        lambda c: claim(c, 3, None, committed(c, 3, epoch=1), None),
        "epoch 1",
    ),
    "locked, without proof": (
        lambda c: claim(c, 3, Lock(5, HASH), committed(c), None),
        "lock is not proven",
    ),
    "not locked, with a proof": (lambda c: claim(c, 3, None, committed(c), lock(c)), "lock is not proven"),
    "locked on another block": (
        lambda c: claim(c, 3, Lock(5, OTHER), committed(c), lock(c)),
        "another block, view or height",
    ),
    "locked in a later view than proven": (
        lambda c: claim(c, 3, Lock(6, HASH), committed(c), lock(c, view=5)),
        "another block, view or height",
    ),
    "locked at the height that is committed": (
        lambda c: claim(c, 3, Lock(5, HASH), committed(c), lock(c, height=3)),
        "another block, view or height",
    ),
    "locked two heights up": (
        lambda c: claim(c, 3, Lock(5, HASH), committed(c), lock(c, height=5)),
        "another block, view or height",
    ),
    "locked after the view it gives up": (
        lambda c: claim(c, 3, Lock(7, HASH), committed(c), lock(c, view=7)),
        "which comes later",
    ),
    "locked by commits": (
        lambda c: claim(c, 3, Lock(5, HASH), committed(c), c.certificate(Phase.COMMIT, (4, HASH), QUORUM, 5)),
        "phase commit",
    ),
    "locked by too few": (
        lambda c: claim(
            c, 3, Lock(5, HASH), committed(c), c.certificate(Phase.PREPARE, (4, HASH), ("m0", "m1"), 5)
        ),
        "2 signatures",
    ),
    "locked in another epoch": (
        lambda c: claim(c, 3, Lock(5, HASH), committed(c), lock(c, epoch=1)),
        "epoch 1",
    ),
    "another epoch": (lambda c: c.report("m1", VIEW, epoch=1), "epoch 1"),
    "a foreigner": (lambda c: c.report("m4", VIEW), "not signed"),
    "signed by another": (
        lambda c: replace(c.report("m1", VIEW), timeout=replace(c.timeout("m2", VIEW), signer="m1")),
        "not signed",
    ),
    "not signed": (
        lambda c: TimeoutReport(replace(c.timeout("m1", VIEW), signature=b""), None, None),
        "not signed",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_report_that_lies(cluster: Cluster, name: str) -> None:
    make, text = LIES[name]
    with pytest.raises(CertificateError, match=text):
        check(cluster, make(cluster))


def test_where_an_epoch_began_needs_no_proof(cluster: Cluster) -> None:
    """Its certificate belongs to the epoch before, whose members are not at hand."""
    check(cluster, cluster.report("m1", VIEW, height=3), base_height=3)
    with pytest.raises(CertificateError, match="height 3 is not proven"):
        check(cluster, cluster.report("m1", VIEW, committed(cluster)), base_height=3)
    with pytest.raises(CertificateError, match="height 2 is not proven"):
        check(cluster, cluster.report("m1", VIEW, height=2), base_height=3)


# Certificates of a quorum.


def whole(cluster: Cluster, certificate: TimeoutCertificate, base_height: int = 0) -> None:
    check_timeout_certificate(certificate, cluster.cluster_id, cluster.members, base_height)


def plain(cluster: Cluster, *signers: str) -> TimeoutCertificate:
    return TimeoutCertificate(tuple(cluster.timeout(name, VIEW) for name in signers), None, None)


@pytest.mark.parametrize("signers", [QUORUM, ("m0", "m2", "m3"), ("m0", "m1", "m2", "m3")])
def test_a_quorum_ends_a_view(cluster: Cluster, signers: tuple[str, ...]) -> None:
    certificate = cluster.timeout_certificate(VIEW, signers=signers)
    whole(cluster, certificate)
    assert (certificate.view, certificate.epoch) == (VIEW, 0)
    assert certificate.floor == Floor(0)


def higher(cluster: Cluster) -> TimeoutCertificate:
    """Of three members one has committed 3 and is locked above."""
    report = cluster.report("m1", VIEW, committed(cluster), lock(cluster))
    return cluster.timeout_certificate(VIEW, report, signers=("m0", "m2"))


def test_the_highest_report_is_proven_and_the_others_need_no_proof(cluster: Cluster) -> None:
    certificate = higher(cluster)
    whole(cluster, certificate)
    assert certificate.committed == committed(cluster)
    assert certificate.lock == lock(cluster)
    assert certificate.floor == Floor(3, HASH)


BAD: dict[str, tuple[Callable[[Cluster], TimeoutCertificate], str]] = {
    "no timeouts": (lambda c: TimeoutCertificate((), None, None), "0 timeouts"),
    "one short of a quorum": (lambda c: plain(c, "m0", "m1"), "2 timeouts, 3 to 4 needed"),
    "one member twice": (lambda c: plain(c, "m0", "m1", "m1"), "repeated or not in member order"),
    "not in member order": (lambda c: plain(c, "m0", "m2", "m1"), "repeated or not in member order"),
    "more than there are members": (lambda c: plain(c, *QUORUM, "m3", "m3"), "5 timeouts"),
    "a foreigner": (lambda c: plain(c, "m0", "m1", "m4"), "m4 is not a member"),
    "mixed views": (
        lambda c: replace(
            plain(c, *QUORUM),
            timeouts=(*plain(c, "m0", "m1").timeouts, c.timeout("m2", VIEW + 1)),
        ),
        "m2 timed out of view 7",
    ),
    "mixed epochs": (
        lambda c: replace(
            plain(c, *QUORUM),
            timeouts=(*plain(c, "m0", "m1").timeouts, c.timeout("m2", VIEW, epoch=1)),
        ),
        "m2 is not a member in epoch 1",
    ),
    "another epoch": (
        lambda c: TimeoutCertificate(tuple(c.timeout(name, VIEW, epoch=1) for name in QUORUM), None, None),
        "in epoch 1",
    ),
    "one not signed": (
        lambda c: replace(
            plain(c, *QUORUM),
            timeouts=(
                *plain(c, "m0", "m1").timeouts,
                replace(c.timeout("m2", VIEW), signature=bytes(64)),
            ),
        ),
        "timeout of m2 for view 6 is not signed",
    ),
    "the highest is not proven": (lambda c: replace(higher(c), committed=None), "height 3 is not proven"),
    "the lock is left out": (lambda c: replace(higher(c), lock=None), "lock is not proven"),
    "proof of a lower report": (
        lambda c: replace(higher(c), committed=committed(c, 2)),
        "is for 2",
    ),
    "proof of a lock that nobody reports": (
        lambda c: replace(plain(c, *QUORUM), lock=lock(c, height=1)),
        "lock is not proven",
    ),
    "a lock of another view": (
        lambda c: replace(higher(c), lock=lock(c, view=4)),
        "another block, view or height",
    ),
    "a lock on another block": (
        lambda c: replace(higher(c), lock=lock(c, block_hash=OTHER)),
        "another block, view or height",
    ),
    "a false lock that sorts first": (
        # It is as high as the honest one, and claims another block.
        lambda c: replace(
            higher(c),
            timeouts=(
                c.timeout("m0", VIEW, 3, Lock(5, OTHER)),
                *higher(c).timeouts[1:],
            ),
        ),
        "another block, view or height",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_certificate_that_proves_nothing(cluster: Cluster, name: str) -> None:
    make, text = BAD[name]
    with pytest.raises(CertificateError, match=text):
        whole(cluster, make(cluster))


def test_the_highest_is_by_height_first_and_then_by_view_of_the_lock(cluster: Cluster) -> None:
    """`(c*, w*) = the lexicographic maximum of (c, lock view)`"""
    low_but_locked = cluster.report("m0", VIEW, committed(cluster, 2), lock(cluster, 3, 6))
    locked_earlier = cluster.report("m1", VIEW, committed(cluster), lock(cluster, 4, 2, OTHER))
    locked_later = cluster.report("m2", VIEW, committed(cluster), lock(cluster, 4, 5, HASH))
    free = cluster.report("m3", VIEW, committed(cluster))
    assert cluster.timeout_certificate(VIEW, low_but_locked, locked_earlier, locked_later).floor == Floor(
        3, HASH
    )
    assert cluster.timeout_certificate(VIEW, low_but_locked, locked_earlier, free).floor == Floor(3, OTHER)
    higher_up = cluster.report("m3", VIEW, committed(cluster, 4))
    assert cluster.timeout_certificate(VIEW, low_but_locked, locked_later, higher_up).floor == Floor(4)


def test_forming_puts_members_in_order(cluster: Cluster) -> None:
    reports = {name: cluster.report(name, VIEW) for name in ("m3", "m0", "m2")}
    formed = form_timeout_certificate(reports, cluster.members)
    assert [timeout.signer for timeout in formed.timeouts] == ["m0", "m2", "m3"]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7])
def test_exactly_a_quorum_is_enough(n: int) -> None:
    cluster = Cluster(n)
    names = cluster.members.ids[: commit_quorum(n)]
    whole(cluster, cluster.timeout_certificate(VIEW, signers=names))
    if len(names) > 1:
        with pytest.raises(CertificateError):
            whole(cluster, cluster.timeout_certificate(VIEW, signers=names[1:]))


# The name of a certificate.


def test_the_digest_covers_timeouts_and_signatures(cluster: Cluster) -> None:
    certificate = plain(cluster, *QUORUM)
    names = {
        certificate.digest(cluster.cluster_id),
        plain(cluster, "m0", "m1", "m3").digest(cluster.cluster_id),
        plain(cluster, *QUORUM, "m3").digest(cluster.cluster_id),
        certificate.digest(bytes(32)),
        replace(
            certificate,
            timeouts=(*certificate.timeouts[:2], replace(certificate.timeouts[2], signature=bytes(64))),
        ).digest(cluster.cluster_id),
    }
    assert len(names) == 5


# The floor.


@pytest.mark.parametrize(
    ("floor", "height", "block_hash", "admitted"),
    [
        (Floor(3), 4, HASH, True),
        (Floor(3), 5, HASH, True),
        (Floor(3), 3, HASH, False),  # `h-1 < c*` is never admitted
        (Floor(3), 2, HASH, False),
        (Floor(3, HASH), 4, HASH, True),
        (Floor(3, HASH), 4, OTHER, False),
        (Floor(3, HASH), 5, OTHER, True),
        (Floor(3, HASH), 3, HASH, False),
        (Floor(3, HASH), 1, HASH, False),
        (Floor(0), 1, OTHER, True),
    ],
)
def test_what_a_floor_admits(floor: Floor, height: int, block_hash: bytes, admitted: bool) -> None:
    assert floor.admits(height, block_hash) is admitted
