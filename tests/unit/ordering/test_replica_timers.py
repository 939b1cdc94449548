"""When a replica wants to be woken: never in a busy loop, and never too late.

In each situation the replica is only ever woken when it asks to be. What it does then must be what it does
when it is woken every millisecond, and it must not ask more often than it has something to do.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.ordering_follower import enter_view_2
from tests.support.ordering_toy import Cluster, Node

from replication.ordering.messages import SuspectMessage, TimeoutCertificateMessage
from replication.ordering.pacemaker import ReplicaSettings
from replication.ordering.signing import SignState
from replication.ordering.statements import Phase

SETTINGS = ReplicaSettings()
LENGTH_MS = 6_000

Situation = Callable[[Cluster], Node]


def boot(cluster: Cluster, name: str) -> Node:
    (node,) = cluster.boot(name)
    return node


def follower(cluster: Cluster) -> Node:
    return boot(cluster, "m2")


def coordinator(cluster: Cluster) -> Node:
    return boot(cluster, "m0")


def suspecting(cluster: Cluster) -> Node:
    node = boot(cluster, "m2")
    node.submit(cluster.note("m2", "a"))
    return node


def unheard(cluster: Cluster) -> Node:
    node = boot(cluster, "m2")
    node.restart(trusted=False)
    return node


def wiped(cluster: Cluster) -> Node:
    node = boot(cluster, "m2")
    node.disk.sign_state = SignState(0, b"\x01" * 32)
    node.restart()
    return node


def wiped_coordinator(cluster: Cluster) -> Node:
    node = boot(cluster, "m0")
    node.disk.sign_state = SignState(0, b"\x01" * 32)
    node.restart()
    return node


def gave_up(cluster: Cluster) -> Node:
    node = boot(cluster, "m2")
    for name in ("m1", "m3"):
        node.receive(name, SuspectMessage(cluster.suspect(name, 0)))
    return node


def coordinator_with_a_block(cluster: Cluster) -> Node:
    node = boot(cluster, "m0")
    node.submit(cluster.note("m0", "a"))
    node.tick()
    assert node.signed(Phase.PREPARE) is not None
    return node


def deposed_with_a_block(cluster: Cluster) -> Node:
    node = coordinator_with_a_block(cluster)
    for name in ("m1", "m3"):
        node.receive(name, SuspectMessage(cluster.suspect(name, 0)))
    return node


def gathering(cluster: Cluster) -> Node:
    node = boot(cluster, "m0")
    node.submit(cluster.open("m0", "a"))
    return node


def with_a_vote_too_early(cluster: Cluster) -> Node:
    node = boot(cluster, "m0")
    node.submit(cluster.vote("m0", cluster.open("m0", "never")))
    return node


def in_an_unopened_view(cluster: Cluster) -> Node:
    node = boot(cluster, "m1")
    enter_view_2(cluster, node)
    return node


def cannot_open(cluster: Cluster) -> Node:
    """The block that it must carry on with is not here."""
    node = boot(cluster, "m1")
    lock = cluster.certificate(Phase.PREPARE, (1, b"\x07" * 32), ("m0", "m2", "m3"))
    report = cluster.report("m2", 0, lock=lock)
    certificate = cluster.timeout_certificate(0, report, signers=("m0", "m3"))
    node.receive("m2", TimeoutCertificateMessage(certificate))
    return node


def window_closes(cluster: Cluster) -> Node:
    node = boot(cluster, "m2")
    block = cluster.block(node, cluster.open("m0", "a", window_ms=700))
    certificate = cluster.certificate(Phase.COMMIT, block, ("m0", "m1", "m3"))
    node.carry_out(node.replica.receive_committed("m0", block, certificate))
    return node


def window_closes_at_the_coordinator(cluster: Cluster) -> Node:
    node = boot(cluster, "m0")
    block = cluster.block(node, cluster.open("m0", "a", window_ms=700))
    certificate = cluster.certificate(Phase.COMMIT, block, ("m1", "m2", "m3"))
    node.carry_out(node.replica.receive_committed("m1", block, certificate))
    return node


def alone(cluster: Cluster) -> Node:
    lonely = Cluster(1)
    node = boot(lonely, "m0")
    node.submit(lonely.open("m0", "a"))
    return node


SITUATIONS: list[Situation] = [
    follower, coordinator, suspecting, unheard, wiped, wiped_coordinator, gave_up, coordinator_with_a_block,
    deposed_with_a_block, gathering, with_a_vote_too_early, in_an_unopened_view, cannot_open, window_closes,
    window_closes_at_the_coordinator, alone,
]  # fmt: skip


def describe(node: Node) -> list[tuple[str, str]]:
    """What was sent, without when."""
    return [(str(to), type(message).__name__) for to, message in node.take_sent()]


def watch(situation: Situation, *, woken: bool) -> tuple[list[tuple[int, tuple[str, str]]], int]:
    """What the node sends over some seconds, with times from the start, and how often it was woken."""
    cluster = Cluster(4)
    node = situation(cluster)
    cluster = node.cluster
    start, wakes, sent = cluster.now_ms, 0, []
    while cluster.now_ms - start < LENGTH_MS:
        node.tick()
        wakes += 1
        sent += [(cluster.now_ms - start, item) for item in describe(node)]
        wanted = node.replica.next_tick_ms(cluster.now_ms)
        assert wanted >= cluster.now_ms
        cluster.now_ms = max(wanted, cluster.now_ms + 1) if woken else cluster.now_ms + 1
    return sent, wakes


@pytest.mark.parametrize("situation", SITUATIONS)
def test_it_is_woken_when_there_is_something_to_do(situation: Situation) -> None:
    """Not one message is later than it would be if every millisecond were a tick."""
    often, _ = watch(situation, woken=False)
    asked, _ = watch(situation, woken=True)
    assert asked == often


@pytest.mark.parametrize("situation", SITUATIONS)
def test_it_does_not_spin(situation: Situation) -> None:
    sent, wakes = watch(situation, woken=True)
    moments = len({now for now, _ in sent})
    # Heartbeats and repeats, 200 ms each, can come at different moments; a sweep of the pool says nothing.
    assert wakes <= moments + LENGTH_MS // SETTINGS.repeat_ms + 5
    assert moments <= 4 * LENGTH_MS // SETTINGS.repeat_ms


def test_slow_heartbeats_slow_nothing_else_down() -> None:
    """Each timer is its own: what is to be repeated is, even if heartbeats are far apart."""
    settings = ReplicaSettings(heartbeat_ms=2_000, idle_timeout_ms=8_000, busy_timeout_ms=16_000)
    cluster = Cluster(4, settings=settings)
    node = coordinator_with_a_block(cluster)
    for _ in range(10):
        cluster.now_ms = node.replica.next_tick_ms(cluster.now_ms)
        node.tick()
    assert cluster.now_ms - node.replica._candidate.since_ms == 10 * settings.repeat_ms  # type: ignore[union-attr]
