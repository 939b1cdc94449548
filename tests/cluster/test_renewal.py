"""Transport certificates, and their authority, are renewed while clients go on deciding."""

from __future__ import annotations

import datetime as dt
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cluster.conftest import MakeCluster
from tests.support.real_cluster import WAIT_SECONDS, Cluster, until

from replication.cli.main import ExitCode
from replication.client import Client, open_folder
from replication.client.model import Decision
from replication.identity.private_files import read_private, write_private
from replication.identity.roles import Role
from replication.identity.tls import issue
from replication.node.home import check_home
from replication.node.local.authorities import renew_clients, rotate, trust
from replication.node.local.contact import ask_health
from replication.node.local.enrolment import finish, renew, sign
from replication.node.local.provision import PolicyChoice

pytestmark = pytest.mark.cluster

OLD_SECONDS = 12.0
"""How long the certificates are good that run out; longer on a slow machine."""


def shorten(cluster: Cluster, seconds: float) -> dt.datetime:
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
            days=seconds / 86_400,
            not_before=begin,
        )
        (cluster.home(member) / "tls" / "node.crt").write_bytes(certificate)
        write_private(cluster.home(member) / "tls" / "node.key", key)
    return begin.replace(microsecond=0) + dt.timedelta(seconds=seconds)


def test_all_certificates_are_renewed_without_downtime(
    make_cluster: MakeCluster, approving: PolicyChoice
) -> None:
    cluster = make_cluster(policy=approving, start=False)
    began = time.monotonic()
    cluster.start()
    expiry = shorten(cluster, max(OLD_SECONDS, 4 * (time.monotonic() - began)))
    for member in cluster.genesis.members.ids:
        cluster.signal(member, signal.SIGHUP)
        until(lambda: "certificate is renewed" in cluster.log(member))  # noqa: B023
    cluster.settle()
    old = {
        member: (cluster.home(member) / "tls" / "node.crt").read_bytes()
        for member in cluster.genesis.members.ids
    }
    old_key = read_private(cluster.home("node-1") / "tls" / "node.key")
    decided = 0

    def decide() -> None:
        nonlocal decided
        proposal = client.propose(
            "quarantine", f"agent-{decided}", {}, wait_for_decision=True, timeout_seconds=WAIT_SECONDS
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
            while cluster.log(member).count("certificate is renewed") < 2:
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
    stale = replace(other, tls=replace(other.tls, certificate=old["node-1"], key=old_key))
    assert ask_health(stale, "", 2.0) in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNAUTHENTICATED")
    cluster.stop("node-1")
    (cluster.home("node-1") / "tls" / "node.crt").write_bytes(old["node-1"])
    cluster.start_one("node-1")
    code, log = cluster.wait_for_end("node-1")
    assert code == ExitCode.OPERATOR
    assert "expired" in log


def test_the_authority_is_replaced_without_downtime(
    make_cluster: MakeCluster, approving: PolicyChoice
) -> None:
    """Its key was stolen: in the end, what the thief issues opens nothing."""
    cluster = make_cluster(policy=approving)
    directory, members = cluster.directory, cluster.genesis.members.ids
    stolen = (directory / "ca" / "ca.crt").read_bytes(), read_private(directory / "ca" / "ca.key")
    forged, key = issue(*stolen, cluster.genesis.cluster_id, Role.ADMIN, "thief")
    decided = 0

    def everywhere(step: Callable[[Path], object], words: str) -> None:
        """Each node in turn takes a step while the cluster decides, until its log has the words."""
        nonlocal decided
        for member in members:
            before = cluster.log(member).count(words)
            step(cluster.home(member))
            cluster.signal(member, signal.SIGHUP)
            with cluster.client() as client:  # which trusts what the folder trusts
                decided += 1
                proposal = client.propose(
                    "quarantine", f"agent-{decided}", wait_for_decision=True, timeout_seconds=WAIT_SECONDS
                )
                assert proposal.decision is Decision.APPROVED
                until(lambda: cluster.log(member).count(words) > before, f"{words} at {member}")  # noqa: B023

    thief = replace(open_folder(directory), certificate=forged, private_key=key, authority=stolen[0])
    with Client(thief) as client:
        until(lambda: len(client.survey()) == 4, "before, the thief is anybody")
    file = rotate(directory)
    everywhere(lambda home: trust(home, file), "authorities that are trusted from now on: 2")
    everywhere(lambda home: finish(home, sign(directory, renew(home))[1]), "certificate is renewed")
    renew_clients(directory, 1)
    rotate(directory, finish=True)
    everywhere(lambda home: trust(home, file), "authorities that are trusted from now on: 1")
    assert len(cluster.settle().answered) == 4
    both = stolen[0] + (directory / "ca" / "ca.crt").read_bytes()  # they need not refuse the nodes
    with cluster.client() as honest, Client(replace(thief, authority=both)) as caught:
        until(lambda: len(honest.survey()) == 4)
        assert caught.survey() == {}
    assert not any(re.search(r"level=error", cluster.log(member)) for member in members)
    cluster.stop("node-1")
    cluster.start_one("node-1")
    assert len(cluster.settle().answered) == 4, "a node starts with it, too"
    cluster.verified_exports()
