"""`acp status`: the state of the cluster, each member in its own words where it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replication.cli.options import Connection
from replication.cli.output import console, print_json, table

if TYPE_CHECKING:
    from replication.client import ClusterPicture

__all__ = ["status"]

SURVEY_SECONDS = 2.0
"""How long a member may take to speak for itself before another member's view of it is shown."""


def status(options: Connection) -> None:
    """Show view, coordinator, quorums and every member's height and audit head."""
    from dataclasses import replace

    from replication.client import Client, merge

    # With --node, that member is the one asked first; the others still speak for themselves.
    everybody = replace(options, node=None)
    with Client(everybody.handle(), rounds=3) as client:
        answers = client.survey(timeout_seconds=min(SURVEY_SECONDS, options.timeout))
        if options.node is not None or not answers:
            # One ordinary call, for its retries and for the words about why nobody answers.
            answer = client.status(timeout_seconds=options.timeout, node=options.node)
            answers = {**answers, answer.node_id: answer}
    picture = merge(answers) if options.node is None else merge(answers, preferred=options.node)
    if options.json:
        print_json(as_document(picture))
    else:
        _show(picture)


def as_document(picture: ClusterPicture) -> dict[str, Any]:
    """What `acp status --json` prints."""
    state = picture.status
    return {
        "cluster_id": state.cluster_id,
        "name": state.name,
        "epoch": state.epoch,
        "view": state.view,
        "coordinator": state.coordinator,
        "n": state.n,
        "f": state.f,
        "tally_quorum": state.tally_quorum,
        "commit_quorum": state.commit_quorum,
        "node_id": state.node_id,
        "version": state.version,
        "pending_commands": state.pending_commands,
        "settled": picture.settled,
        "can_decide": picture.can_decide,
        "members": [
            {
                "id": member.id,
                "address": member.address,
                "reachable": member.reachable,
                "height": member.height,
                "audit_size": member.audit_size,
                "audit_head": member.audit_head,
                "weight": member.weight,
                "answered": member.id in picture.answered,
                "muted": picture.muted.get(member.id, ""),
                "suspected": picture.suspected.get(member.id, ""),
            }
            for member in picture.members
        ],
    }


def _show(picture: ClusterPicture) -> None:
    state = picture.status
    reachable = sum(member.reachable for member in picture.members)
    verdict = "can decide" if picture.can_decide else "CANNOT DECIDE"
    screen = console()
    screen.print(f"{state.name}  cluster {state.cluster_id.hex()}")
    screen.print(
        f"epoch {state.epoch}, view {state.view}, coordinator {state.coordinator}; n = {state.n}, f = "
        f"{state.f}, "
        f"tally quorum {state.tally_quorum}, commit quorum {state.commit_quorum}"
    )
    screen.print(f"{reachable} of {state.n} members reachable: {verdict}")
    rows = [
        (
            member.id,
            member.address,
            member.reachable,
            member.height,
            member.audit_size,
            member.audit_head[:16],
            _remark(picture, member.id),
        )
        for member in picture.members
    ]
    columns = ("member", "address", "reachable", ">height", ">audit size", "audit head", "")
    screen.print(table("", columns, rows))


def _remark(picture: ClusterPicture, member: str) -> str:
    if member not in picture.answered:
        return "as last heard by another node"
    if member in picture.muted:
        return f"signs nothing: {picture.muted[member]}"
    if member in picture.suspected:
        return f"suspects the coordinator: {picture.suspected[member]}"
    return ""
