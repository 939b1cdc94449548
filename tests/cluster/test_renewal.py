"""Transport certificates are renewed one by one while clients go on deciding; the old ones run out."""

from __future__ import annotations

import datetime as dt
import re
import signal
import time
from dataclasses import replace

import pytest
from tests.cluster.conftest import MakeCluster
from tests.support.real_cluster import WAIT_SECONDS, Cluster

from replication.cli.main import ExitCode
from replication.client.model import Decision
from replication.identity.private_files import read_private, write_private
from replication.identity.roles import Role
from replication.identity.tls import issue
from replication.node.home import check_home
from replication.node.local.contact import ask_health
from replication.node.local.enrolment import finish, renew, sign
from replication.node.local.provision import PolicyChoice

pytestmark = pytest.mark.cluster

OLD_SECONDS = 12.0
"""How long the certificates are good that the cluster starts with."""


def shorten(cluster: Cluster) -> dt.datetime:
    """Give all nodes certificates that soon run out; when they will."""
    directory, genesis = cluster.directory, cluster.genesis
    authority = (directory / "ca" / "ca.crt").read_bytes(), read_private(directory / "ca" / "ca.key")
    begin = dt.datetime.now(dt.UTC)
    for member in genesis.members.ids:
        certificate, key = issue(
            *authority,
            genesis.cluster_id,
            Role.NODE,
            member,
            ["127.0.0.1"],
            days=OLD_SECONDS / 86_400,
            not_before=begin,
        )
        (cluster.home(member) / "tls" / "node.crt").write_bytes(certificate)
        write_private(cluster.home(member) / "tls" / "node.key", key)
    return begin.replace(microsecond=0) + dt.timedelta(seconds=OLD_SECONDS)


def test_all_certificates_are_renewed_without_downtime(
    make_cluster: MakeCluster, approving: PolicyChoice
) -> None:
    cluster = make_cluster(policy=approving, start=False)
    expiry = shorten(cluster)
    old = {
        member: (cluster.home(member) / "tls" / "node.crt").read_bytes()
        for member in cluster.genesis.members.ids
    }
    old_key = read_private(cluster.home("node-1") / "tls" / "node.key")
    cluster.start()
    decided = 0

    def decide() -> None:
        nonlocal decided
        proposal = client.propose(
            "quarantine", f"agent-{decided}", {}, wait_for_decision=True, timeout_seconds=5
        )
        assert proposal.decision is Decision.APPROVED
        decided += 1

    with cluster.client() as client:
        for member in cluster.genesis.members.ids:
            decide()
            if member == "node-1":  # the program, and a node that finds out by itself
                answer = cluster.acp(
                    "enrol", "renew", str(cluster.home(member)), "--authority", str(cluster.directory)
                )
                assert answer.code == ExitCode.OK, answer.err
            else:
                _, bundle = sign(cluster.directory, renew(cluster.home(member)))
                assert finish(cluster.home(member), bundle).renewed
                cluster.signal(member, signal.SIGHUP)
            give_up = time.monotonic() + WAIT_SECONDS
            while "certificate is renewed" not in cluster.log(member):
                assert time.monotonic() < give_up
                decide()
        while dt.datetime.now(dt.UTC) <= expiry + dt.timedelta(seconds=1):
            decide()
    picture = cluster.settle()
    assert len(picture.answered) == 4
    for member in cluster.genesis.members.ids:
        assert not re.search(r"level=error", cluster.log(member))
        assert (cluster.home(member) / "tls" / "node.crt").read_bytes() != old[member]
    # The old certificate opens nothing any more: other nodes refuse it, and its own does not start with it.
    other = check_home(cluster.home("node-2"))
    assert ask_health(other, "", 5.0) == "SERVING"
    stale = replace(other, tls_certificate=old["node-1"], tls_key=old_key)
    assert ask_health(stale, "", 2.0) in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNAUTHENTICATED")
    cluster.stop("node-1")
    (cluster.home("node-1") / "tls" / "node.crt").write_bytes(old["node-1"])
    cluster.start_one("node-1")
    code, log = cluster.wait_for_end("node-1")
    assert code == ExitCode.OPERATOR
    assert "expired" in log
