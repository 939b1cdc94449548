"""What is wrong with a cluster, from what its nodes say of themselves: findings, each with what to do about
it.

Pure: the caller asks the nodes (`AsyncClient.survey`), looks at files, and passes what it found. One node's
answer is one node's word; where nodes disagree, that is a finding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

from replication.client.model import ClusterStatus, Membership, MemberState, Summary
from replication.client.survey import ClusterPicture, merge

__all__ = ["Evidence", "Finding", "diagnose", "shorter_lengths"]

CLOCK_BOUND_MS: Final = 1_000
"""Half of what hosts without a time service drift in a day or two; NTP keeps milliseconds."""

EXPIRY_WARNING_MS: Final = 14 * 24 * 3600 * 1000

MANY_CHANGES: Final = 10
"""Changes of the coordinator within an hour that are worth a look."""

HOUR_MS: Final = 3600 * 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong or soon will be. `severity` is "critical" or "warning"; `subject` a node, or
    "cluster"."""

    severity: str
    subject: str
    what: str
    advice: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found out: the answers by node; what the attempt came to for nodes without an answer; and, in
    milliseconds of this host since the Unix epoch, `asked_ms`, when they were asked. `changes_ms` are the
    block times at which a coordinator was replaced, as far as they were looked at. `hashes` are those of the
    last entry when a node's record is cut to a length that another one states (see `shorter_lengths`), by
    length and node; empty where the node did not show the entry."""

    answers: Mapping[str, ClusterStatus]
    asked_ms: int
    failures: Mapping[str, str]
    membership: Membership | None = None
    summary: Summary | None = None
    cluster_id: bytes | None = None
    client_expires_ms: int | None = None
    changes_ms: Sequence[int] = ()
    hashes: Mapping[int, Mapping[str, str]] = field(default_factory=dict)


def shorter_lengths(answers: Mapping[str, ClusterStatus]) -> dict[str, list[int]]:
    """The lengths of others' records that are shorter than a node's own: it is asked where its record ended
    then. All of them, not only the shortest: a liar that states a record of one entry must hide nothing."""
    sizes = {node: own.audit_size for node, own in _own_states(answers).items()}
    return {
        node: sorted({other for other in sizes.values() if 0 < other < size}) for node, size in sizes.items()
    }


def diagnose(found: Evidence) -> list[Finding]:
    """All findings, the worst first."""
    findings = [*_unreachable(found), *_certificates(found)]
    if found.answers:
        picture = merge(found.answers)
        checks = (_quorum(picture), _identity(found), _behind(picture, found.answers), _clocks(found))
        findings += [finding for check in checks for finding in check]
        findings += [
            *_members(found, picture),
            *_records(found),
            *_versions(found),
            *_work(found),
        ]
    return sorted(findings, key=lambda finding: (finding.severity != "critical", finding.subject))


def _unreachable(found: Evidence) -> Iterator[Finding]:
    for node, problem in found.failures.items():
        yield Finding(
            "warning" if found.answers else "critical",
            node,
            f"it does not answer: {problem}",
            "Look whether its process runs (systemctl status acp-node@ID, node.log), then at the "
            "network and firewall between here and its address.",
        )


def _quorum(picture: ClusterPicture) -> Iterator[Finding]:
    status = picture.status
    signing = [member.id for member in picture.members if member.reachable and member.id not in picture.muted]
    if len(signing) < status.commit_quorum:
        yield Finding(
            "critical",
            "cluster",
            f"it cannot decide: {len(signing)} of {status.n} members are reachable and sign, "
            f"{status.commit_quorum} are needed",
            "Bring back the members that are missing; the cluster then goes on by itself. Nothing that "
            "was acknowledged is lost.",
        )
    elif len(signing) == status.commit_quorum and status.n > status.commit_quorum:
        yield Finding(
            "warning",
            "cluster",
            f"one more member lost, and it cannot decide: {len(signing)} sign, {status.commit_quorum} "
            "are needed",
            "Bring back the members that are missing.",
        )


def _identity(found: Evidence) -> Iterator[Finding]:
    for node, status in found.answers.items():
        if found.cluster_id is not None and status.cluster_id != found.cluster_id:
            yield Finding(
                "critical",
                node,
                f"it is of another cluster: {status.cluster_id.hex()[:16]}, and the genesis file here is "
                f"of {found.cluster_id.hex()[:16]}",
                "Compare the genesis files; the one on its host, or the one here, is the wrong one.",
            )


def _own_states(answers: Mapping[str, ClusterStatus]) -> dict[str, MemberState]:
    """What each node that is a member says of itself."""
    states = {node: status.member(node) for node, status in answers.items()}
    return {node: own for node, own in states.items() if own is not None}


def _records(found: Evidence) -> Iterator[Finding]:
    """Whether all records are one, as far as they go. Each two nodes that differ are told of once."""
    ends: dict[int, dict[str, str]] = defaultdict(dict)
    for node, own in _own_states(found.answers).items():
        ends[own.audit_size][node] = own.audit_head
    for size, hashes in found.hashes.items():
        ends[size].update(hashes)
    told: set[tuple[str, str]] = set()
    withheld: dict[str, int] = {}
    for size, hashes in sorted(ends.items()):
        shown = {node: head for node, head in sorted(hashes.items()) if head}
        differ = {pair for pair in combinations(shown, 2) if shown[pair[0]] != shown[pair[1]]}
        if differ - told:
            yield _divergence(size, shown)
        told |= differ
        for node in hashes.keys() - shown.keys():
            withheld.setdefault(node, size)
    for node, size in withheld.items():
        yield Finding(
            "warning",
            node,
            f"it did not show entry {size - 1} of its record, so that its record could not be compared",
            f"Try again. If it stays so, export its record (acp audit export --node {node}) and verify it.",
        )


def _divergence(size: int, shown: Mapping[str, str]) -> Finding:
    heads: dict[str, list[str]] = defaultdict(list)
    for node, head in shown.items():
        heads[head].append(node)
    groups = "; ".join(f"{', '.join(nodes)}: {head[:16]}" for head, nodes in heads.items())
    return Finding(
        "critical",
        "cluster",
        f"records diverge: those cut to one length ({size} entries) end differently: {groups}",
        "Stop acting on decisions. Export each record (acp audit export --node ID) and verify it: more "
        "members lied than the cluster can bear, or one shows a head that it does not have.",
    )


def _behind(picture: ClusterPicture, answers: Mapping[str, ClusterStatus]) -> Iterator[Finding]:
    newest = max((member.height for member in picture.members), default=0)
    for node, status in answers.items():
        own = status.member(node)
        if own is not None and own.height < newest and not status.can_progress:
            yield Finding(
                "warning",
                node,
                f"it is behind ({own.height} of {newest} blocks) and hears no quorum",
                "Look at the network between it and the other members.",
            )


def _clocks(found: Evidence) -> Iterator[Finding]:
    for node, status in found.answers.items():
        skew = status.clock_skew_ms
        if abs(skew) > CLOCK_BOUND_MS:
            direction = "ahead of" if skew > 0 else "behind"
            yield Finding(
                "warning",
                node,
                f"its clock is {abs(skew) / 1000:.1f} s {direction} this host's",
                "Run a time service (chrony, systemd-timesyncd) on both. Blocks from a clock too far "
                "ahead are refused.",
            )


def _certificates(found: Evidence) -> Iterator[Finding]:
    ends = {node: status.certificate_expires_ms for node, status in found.answers.items()}
    if found.client_expires_ms is not None:
        ends["this client"] = found.client_expires_ms
    for owner, end_ms in ends.items():
        if end_ms and end_ms - found.asked_ms < EXPIRY_WARNING_MS:
            days = (end_ms - found.asked_ms) / 86_400_000
            when = f"ends in {days:.1f} days" if days > 0 else f"ended {-days:.1f} days ago"
            yield Finding(
                "critical" if days < 1 else "warning",
                owner,
                f"its transport certificate {when}",
                "Renew it: acp enrol renew there, acp enrol sign at the authority, acp enrol home "
                "there. No restart is needed.",
            )


def _members(found: Evidence, picture: ClusterPicture) -> Iterator[Finding]:
    for node, reason in picture.muted.items():
        yield Finding(
            "warning",
            node,
            f"it follows, but signs nothing: {reason}",
            "A node that lost its disk is let back in by itself, at most once a minute; a proven liar "
            "needs a new key.",
        )
    for member in () if found.membership is None else found.membership.members:
        if member.faulty:
            yield Finding(
                "critical",
                member.id,
                f"it is proven to have contradicted itself (entry {member.evidence_sequence})",
                "Read it with acp evidence, then replace the node with a new key (acp members replace). "
                "Take its host for taken over until you know better.",
            )


def _versions(found: Evidence) -> Iterator[Finding]:
    versions: dict[str, list[str]] = defaultdict(list)
    for node, status in found.answers.items():
        versions[status.version].append(node)
    if len(versions) > 1:
        listed = "; ".join(f"{version}: {', '.join(nodes)}" for version, nodes in sorted(versions.items()))
        yield Finding(
            "warning",
            "cluster",
            f"nodes run different versions: {listed}",
            "Finish the upgrade, one node at a time.",
        )


def _work(found: Evidence) -> Iterator[Finding]:
    recent = sum(found.asked_ms - at < HOUR_MS for at in found.changes_ms)
    if recent >= MANY_CHANGES:
        yield Finding(
            "warning",
            "cluster",
            f"the coordinator was replaced {recent} times within an hour",
            "acp audit log --type coordinator shows when. Look for a node that flaps, a slow disk, or "
            "clocks that differ.",
        )
    summary, membership = found.summary, found.membership
    if summary is not None and summary.unconfirmed and membership is not None and membership.executors:
        yield Finding(
            "warning",
            "cluster",
            f"{summary.unconfirmed} approved decisions were not confirmed by an executor",
            "acp proposals --unconfirmed lists them. Look whether the executors run, and at what they "
            "reported.",
        )
