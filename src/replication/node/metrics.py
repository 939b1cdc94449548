"""What a node tells a monitoring system: Prometheus metrics, made when they are asked for.

The work of ordering pays nothing for them: a scrape reads the state and the totals that a node keeps anyway,
and its cost does not grow with history. Names end in the unit, counters in `_total`, as the Prometheus
conventions have it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from replication import __version__
from replication.consensus import VoteValue
from replication.identity import keys
from replication.identity.members import MemberSet
from replication.ledger.reading import Summary
from replication.node.calls import MethodCalls
from replication.node.driver import DriverStatus
from replication.node.histogram import Histogram
from replication.node.peers import SendQueue
from replication.ordering.quorum import commit_quorum

__all__ = ["Snapshot", "node_metrics"]

STATES: Final = ("approved", "rejected", "no_quorum", "expired")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a scrape shows. `certificates` are PEM by name; `queues` hold what waits for each other
    member; `calls` are by ``Service.Method``."""

    member: str
    members: MemberSet
    faulty: frozenset[str]
    status: DriverStatus
    summary: Summary
    certificates: dict[str, bytes]
    queues: Mapping[str, SendQueue]
    calls: Mapping[str, MethodCalls]


def node_metrics(found: Snapshot) -> Iterator[Metric]:
    """The metrics of one node at one moment."""
    yield InfoMetricFamily(
        "acp_build", "The program.", value={"version": __version__, "member": found.member}
    )
    yield from _ordering(found.status, found.member)
    members = found.members.n
    yield GaugeMetricFamily("acp_members", "Members of this epoch.", value=members)
    yield GaugeMetricFamily(
        "acp_commit_quorum", "Members that have to sign a block.", value=commit_quorum(members)
    )
    yield from _record(found)
    yield from _members(found)
    yield from _queues(found.queues)
    yield from _work(found.status)
    yield from _calls(found.calls)
    expiry = GaugeMetricFamily(
        "acp_certificate_expiry_timestamp_seconds",
        "When a transport certificate ends.",
        labels=["certificate"],
    )
    for name, pem in found.certificates.items():
        end = x509.load_pem_x509_certificate(pem).not_valid_after_utc
        expiry.add_metric([name], end.astimezone(dt.UTC).timestamp())
    yield expiry


def _ordering(status: DriverStatus, member: str) -> Iterator[Metric]:
    for name, text, value in (
        ("acp_epoch", "Version of the member set.", status.epoch),
        ("acp_view", "View of this epoch; a higher one has another coordinator.", status.view),
        ("acp_is_coordinator", "1 if this node coordinates.", status.coordinator == member),
        ("acp_can_progress", "1 if this node is in contact with a commit quorum.", status.can_progress),
        ("acp_signs", "1 if this node may sign; 0 if it only follows.", not status.muted),
        ("acp_suspects_coordinator", "1 if this node suspects the coordinator.", bool(status.suspected)),
        ("acp_height", "Blocks that are committed and durable here.", status.height),
        ("acp_audit_entries", "Length of the audit chain here.", status.audit_size),
        ("acp_pending_commands", "Commands known here that are not committed.", status.pending),
        ("acp_inbox_messages", "Messages of members that wait to be taken in.", status.inbox),
    ):
        yield GaugeMetricFamily(name, text, value=float(value))


def _record(found: Snapshot) -> Iterator[Metric]:
    summary = found.summary
    decisions = CounterMetricFamily(
        "acp_decisions", "Proposals by what became of them; expired is no decision.", labels=["decision"]
    )
    for state in STATES:
        decisions.add_metric([state], getattr(summary, state))
    yield decisions
    yield CounterMetricFamily("acp_proposals", "Proposals on record.", value=summary.proposals)
    yield CounterMetricFamily("acp_executions", "Executions confirmed by a receipt.", value=summary.executed)
    yield GaugeMetricFamily("acp_proposals_open", "Proposals that are still voted on.", value=summary.open)
    yield GaugeMetricFamily(
        "acp_executions_unconfirmed", "Approved, and no receipt says succeeded.", value=summary.unconfirmed
    )
    yield GaugeMetricFamily(
        "acp_executors", "Executors that the record knows.", value=len(found.members.executors)
    )


def _members(found: Snapshot) -> Iterator[Metric]:
    status = found.status
    labels = ["member"]
    faulty = GaugeMetricFamily(
        "acp_member_faulty", "1 if evidence on record proves that a member lied.", labels=labels
    )
    for member in found.members.ids:
        faulty.add_metric([member], float(member in found.faulty))
    reachable = GaugeMetricFamily(
        "acp_member_reachable", "1 if heard within the last moments.", labels=labels
    )
    height = GaugeMetricFamily("acp_member_height", "Blocks, as the member last said.", labels=labels)
    silent = GaugeMetricFamily("acp_member_silent_seconds", "Since it was last heard.", labels=labels)
    diverges = GaugeMetricFamily(
        "acp_member_diverges", "1 if a chain as long as this node's ends in another hash.", labels=labels
    )
    refused = CounterMetricFamily("acp_member_refused_messages", "Messages that were invalid.", labels=labels)
    for member in found.members.ids:
        peer = status.peers.get(member)
        if peer is None:
            continue
        reachable.add_metric([member], float(peer.reachable))
        height.add_metric([member], peer.height)
        if peer.silent_ms is not None:
            silent.add_metric([member], peer.silent_ms / 1000)
        same_length = peer.audit_size == status.audit_size
        diverges.add_metric([member], float(same_length and peer.audit_head != status.audit_head))
        refused.add_metric([member], peer.refused)
    yield from (faulty, reachable, height, silent, diverges, refused)


def _queues(queues: Mapping[str, SendQueue]) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "acp_member_queue_messages", "Messages that wait to be sent to a member.", labels=["member"]
    )
    dropped = CounterMetricFamily(
        "acp_member_dropped_messages",
        "Messages to a member that found no room, since its link was made.",
        labels=["member"],
    )
    for member, queue in queues.items():
        waiting.add_metric([member], len(queue))
        dropped.add_metric([member], queue.dropped)
    yield from (waiting, dropped)


def _work(status: DriverStatus) -> Iterator[Metric]:
    counters = status.counters
    for name, text, value in (
        ("acp_view_changes", "Views entered since the start of the process.", counters.views),
        ("acp_blocks", "Blocks committed since the start of the process.", counters.blocks),
        ("acp_evidence", "Evidence committed since the start of the process.", counters.evidence),
        ("acp_messages", "Messages taken from members.", counters.messages),
        ("acp_fsyncs", "How often the disk was waited for.", counters.fsyncs),
        ("acp_signatures_verified", "Signatures verified.", keys.verifications.count),
    ):
        yield CounterMetricFamily(name, text, value=value)
    for name, text, votes in (
        ("acp_votes_cast", "Votes of this member since the start of the process.", counters.cast),
        ("acp_votes_recorded", "Votes committed since the start of the process.", counters.recorded),
    ):
        family = CounterMetricFamily(name, text, labels=["value"])
        for choice in VoteValue:
            family.add_metric([choice.value], votes[choice.value])
        yield family
    for name, text, times in (
        (
            "acp_write_seconds",
            "Making something durable: journal and record together.",
            counters.writes,
        ),
        (
            "acp_decision_seconds",
            "From the block of a proposal to that of its tally, if votes have settled it.",
            counters.decided,
        ),
    ):
        yield _histogram(HistogramMetricFamily(name, text, labels=[]), [], times)


def _calls(calls: Mapping[str, MethodCalls]) -> Iterator[Metric]:
    under_way = GaugeMetricFamily(
        "acp_rpcs_under_way", "Calls and streams that have not ended.", labels=["method"]
    )
    ended = CounterMetricFamily(
        "acp_rpcs", "Calls that have ended, by the status they ended with.", labels=["method", "code"]
    )
    times = HistogramMetricFamily(
        "acp_rpc_seconds",
        "How long the answers to calls took that are no streams; some wait for a decision.",
        labels=["method"],
    )
    for method, found in calls.items():
        under_way.add_metric([method], found.under_way)
        for code, count in found.ended.items():
            ended.add_metric([method, code], count)
        if found.times is not None:
            _histogram(times, [method], found.times)
    yield from (under_way, ended, times)


def _histogram(family: HistogramMetricFamily, labels: list[str], times: Histogram) -> HistogramMetricFamily:
    family.add_metric(labels, list(times.cumulative()), times.total_us / 1_000_000)
    return family
