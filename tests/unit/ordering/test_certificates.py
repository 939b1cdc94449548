"""Certificates: the table of what is refused, and how statements are added up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.support.ordering_toy import Cluster

from replication.errors import PeerError
from replication.ordering.certificates import (
    Certificate,
    CertificateError,
    StatementCollector,
    check_certificate,
)
from replication.ordering.quorum import commit_quorum
from replication.ordering.statements import Phase

BLOCK = (7, b"\x0b" * 32)
OTHER = (7, b"\x0c" * 32)
QUORUM = ("m0", "m1", "m2")


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster(4, spares=1)


def prepared(cluster: Cluster, *signers: str, view: int = 2, epoch: int = 0) -> Certificate:
    return cluster.certificate(Phase.PREPARE, BLOCK, signers, view, epoch)


def check(cluster: Cluster, certificate: Certificate, phase: Phase = Phase.PREPARE) -> None:
    check_certificate(certificate, phase, cluster.cluster_id, cluster.members)


@pytest.mark.parametrize("signers", [QUORUM, ("m0", "m2", "m3"), ("m0", "m1", "m2", "m3")])
@pytest.mark.parametrize("phase", [Phase.PREPARE, Phase.COMMIT])
def test_a_quorum_in_member_order_is_accepted(
    cluster: Cluster, signers: tuple[str, ...], phase: Phase
) -> None:
    check(cluster, cluster.certificate(phase, BLOCK, signers, view=2), phase)


def mix(cluster: Cluster, *parts: tuple[str, bytes]) -> Certificate:
    return replace(prepared(cluster, *QUORUM), signatures=parts)


def signature(cluster: Cluster, signer: str, **changes: object) -> tuple[str, bytes]:
    """A signature over another key than the certificate's."""
    key = replace(prepared(cluster, *QUORUM).key, **changes)  # type: ignore[arg-type]  # for the table below
    return signer, cluster.keys[signer].sign(key.sign_bytes(cluster.cluster_id, signer))


def good(cluster: Cluster, *signers: str) -> tuple[tuple[str, bytes], ...]:
    return prepared(cluster, *signers).signatures


REFUSED: dict[str, tuple[Callable[[Cluster], Certificate], str]] = {
    "nobody": (lambda c: mix(c), "0 signatures"),
    "one short of a quorum": (lambda c: prepared(c, "m0", "m1"), "2 signatures, 3 to 4 needed"),
    "one member twice": (lambda c: prepared(c, "m0", "m1", "m1"), "repeated or not in member order"),
    "more signatures than members": (lambda c: prepared(c, "m0", "m0", *QUORUM), "5 signatures"),
    "a foreigner": (lambda c: prepared(c, "m0", "m1", "m4"), "m4 is not a member"),
    "a foreigner too many": (lambda c: prepared(c, *QUORUM, "m4"), "m4 is not a member"),
    "not in member order": (lambda c: prepared(c, "m1", "m0", "m2"), "repeated or not in member order"),
    "another epoch": (lambda c: prepared(c, *QUORUM, epoch=1), "epoch 1, but"),
    "another phase in the key": (
        lambda c: c.certificate(Phase.COMMIT, BLOCK, QUORUM, 2),
        "its statements are of phase commit",
    ),
    "one for another block": (
        lambda c: mix(c, *good(c, "m0", "m1"), signature(c, "m2", block_hash=OTHER[1])),
        "signature of m2",
    ),
    "one of another view": (
        lambda c: mix(c, *good(c, "m0", "m1"), signature(c, "m2", view=1)),
        "signature of m2",
    ),
    "one of another height": (
        lambda c: mix(c, signature(c, "m0", height=8), *good(c, "m1", "m2")),
        "signature of m0",
    ),
    "one of another phase": (
        lambda c: mix(c, *good(c, "m0", "m1"), signature(c, "m2", phase=Phase.COMMIT)),
        "signature of m2",
    ),
    "one of another epoch": (
        lambda c: mix(c, *good(c, "m0", "m1"), signature(c, "m2", epoch=1)),
        "signature of m2",
    ),
    "one signed by another member": (
        lambda c: mix(c, *good(c, "m0", "m1"), ("m2", good(c, "m3")[0][1])),
        "signature of m2",
    ),
    "no signature": (lambda c: mix(c, *good(c, "m0", "m1"), ("m2", bytes(64))), "signature of m2"),
    "a bad one beside a quorum": (
        lambda c: mix(c, *good(c, *QUORUM), ("m3", bytes(64))),
        "signature of m3",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(cluster: Cluster, name: str) -> None:
    make, text = REFUSED[name]
    with pytest.raises(CertificateError, match=text) as caught:
        check(cluster, make(cluster))
    assert isinstance(caught.value, PeerError)
    assert caught.value.reason == "CERTIFICATE_INVALID"


def test_a_certificate_of_proposals_is_none_of_prepares(cluster: Cluster) -> None:
    """One member proposes, but the phases must not be mixed up in any direction."""
    for made in Phase:
        for wanted in Phase:
            certificate = cluster.certificate(made, BLOCK, QUORUM)
            if made is wanted:
                check(cluster, certificate, wanted)
            else:
                with pytest.raises(CertificateError):
                    check(cluster, certificate, wanted)


def test_another_cluster_proves_nothing(cluster: Cluster) -> None:
    with pytest.raises(CertificateError, match="signature of m0"):
        check_certificate(prepared(cluster, *QUORUM), Phase.PREPARE, bytes(32), cluster.members)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7])
def test_exactly_a_quorum_is_enough(n: int) -> None:
    cluster = Cluster(n)
    names = cluster.members.ids[: commit_quorum(n)]
    check(cluster, prepared(cluster, *names))
    if len(names) > 1:
        with pytest.raises(CertificateError):
            check(cluster, prepared(cluster, *names[1:]))


# Adding up.


@pytest.fixture
def collector(cluster: Cluster) -> StatementCollector:
    return StatementCollector(Phase.PREPARE, cluster.cluster_id, cluster.members)


def test_the_quorum_completes_it_once(cluster: Cluster, collector: StatementCollector) -> None:
    made = [
        collector.add(cluster.statement(Phase.PREPARE, name, BLOCK, view=2))
        for name in ("m3", "m0", "m2", "m1")
    ]
    assert [item is not None for item in made] == [False, False, True, False]
    assert made[2] == prepared(cluster, "m0", "m2", "m3")
    check(cluster, prepared(cluster, "m0", "m2", "m3"))


def test_a_repeated_statement_counts_once(cluster: Cluster, collector: StatementCollector) -> None:
    for _ in range(5):
        assert collector.add(cluster.statement(Phase.PREPARE, "m0", BLOCK)) is None
        assert collector.add(cluster.statement(Phase.PREPARE, "m1", BLOCK)) is None
    assert collector.signers(cluster.statement(Phase.PREPARE, "m0", BLOCK).key) == {"m0", "m1"}


@pytest.mark.parametrize("others", [{"view": 3}, {"epoch": 1}, {"height": 8}, {"block_hash": OTHER[1]}])
def test_only_equal_keys_are_added_up(
    cluster: Cluster, collector: StatementCollector, others: dict[str, object]
) -> None:
    """`Signatures of different views are never added up; aggregate by the whole key, not by hash.`"""
    later = replace(cluster.members, epoch=1)
    if "epoch" in others:
        collector = StatementCollector(Phase.PREPARE, cluster.cluster_id, later)
    for name in ("m0", "m1"):
        if "epoch" not in others:
            assert collector.add(cluster.statement(Phase.PREPARE, name, BLOCK)) is None
    key = replace(cluster.statement(Phase.PREPARE, "m2", BLOCK).key, **others)  # type: ignore[arg-type]
    for name in ("m2", "m3"):
        signed = cluster.keys[name].sign(key.sign_bytes(cluster.cluster_id, name))
        made = collector.add(
            replace(cluster.statement(Phase.PREPARE, name, BLOCK), key=key, signature=signed)
        )
        assert made is None


def test_statements_of_others_are_refused(cluster: Cluster, collector: StatementCollector) -> None:
    with pytest.raises(PeerError, match="not a prepare statement of a member"):
        collector.add(cluster.statement(Phase.COMMIT, "m0", BLOCK))
    with pytest.raises(PeerError, match="not a prepare statement of a member"):
        collector.add(cluster.statement(Phase.PREPARE, "m4", BLOCK))
    with pytest.raises(PeerError, match="signature of its prepare does not verify"):
        collector.add(replace(cluster.statement(Phase.PREPARE, "m1", BLOCK), signer="m0"))
    assert collector.signers(cluster.statement(Phase.PREPARE, "m0", BLOCK).key) == set()


def test_a_bad_signature_keeps_nobody_out(cluster: Cluster, collector: StatementCollector) -> None:
    """`One invalid certificate masking valid ones in a set` is a classic mistake."""
    good_one = cluster.statement(Phase.PREPARE, "m0", BLOCK)
    with pytest.raises(PeerError):
        collector.add(replace(good_one, signature=bytes(64)))
    collector.add(good_one)
    assert collector.signers(good_one.key) == {"m0"}


def test_cleared_it_knows_nothing(cluster: Cluster, collector: StatementCollector) -> None:
    for name in ("m0", "m1"):
        collector.add(cluster.statement(Phase.PREPARE, name, BLOCK))
    collector.clear()
    assert collector.add(cluster.statement(Phase.PREPARE, "m2", BLOCK)) is None
