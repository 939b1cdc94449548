"""What every member says about itself, put together into one picture of the cluster.

A node knows its own height and head exactly, and those of the others only from their last heartbeat. So each
member is asked for its own values; where it does not answer, what another node heard from it last is used
instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from replication.client.model import ClusterStatus, MemberState

__all__ = ["ClusterPicture", "merge"]


@dataclass(frozen=True, slots=True)
class ClusterPicture:
    """The cluster as seen by all who answered. `answered` are the members that spoke for themselves; `muted`
    says of some why they sign nothing, `suspected` why they suspect the coordinator, `unheard` of some whom
    they do not hear."""

    status: ClusterStatus
    members: tuple[MemberState, ...]
    answered: frozenset[str]
    muted: Mapping[str, str] = field(default_factory=dict)
    suspected: Mapping[str, str] = field(default_factory=dict)
    unheard: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def can_decide(self) -> bool:
        """Whether a commit quorum of members is reachable and signs, as far as those who answered know."""
        signing = sum(member.reachable and member.id not in self.muted for member in self.members)
        return signing >= self.status.commit_quorum

    @property
    def settled(self) -> bool:
        """Whether all members that answered have one and the same record."""
        heads = {
            (member.height, member.audit_size, member.audit_head)
            for member in self.members
            if member.id in self.answered
        }
        return len(heads) == 1

    @property
    def all_connected(self) -> bool:
        """Whether every member answered for itself and hears from all."""
        return len(self.answered) == self.status.n and not self.unheard


def merge(answers: Mapping[str, ClusterStatus], *, preferred: str | None = None) -> ClusterPicture:
    """One picture from at least one answer, by the id of the member that gave it.

    View and coordinator are taken from the answer with the highest epoch and view, of the coordinator itself
    if it answered. Nodes that are no members in that epoch are left out."""
    if not answers:
        raise ValueError("a picture needs at least one answer")
    status = answers.get(preferred or "") or max(
        answers.values(),
        key=lambda answer: (answer.epoch, answer.view, answer.node_id == answer.coordinator),
    )
    members = tuple(_state_of(member, answers) for member in status.members)
    answered = {member.id: answers[member.id] for member in members if member.id in answers}
    unheard = {
        member: tuple(state.id for state in answer.members if not state.reachable)
        for member, answer in answered.items()
    }
    return ClusterPicture(
        status,
        members,
        frozenset(answered),
        {member: answer.muted for member, answer in answered.items() if answer.muted},
        {member: answer.suspected for member, answer in answered.items() if answer.suspected},
        {member: peers for member, peers in unheard.items() if peers},
    )


def _state_of(member: MemberState, answers: Mapping[str, ClusterStatus]) -> MemberState:
    """A member's own words if it answered, else the newest that any other heard from it."""
    own = answers.get(member.id)
    if own is not None:
        return own.member(member.id) or member
    heard = [
        state for state in (answer.member(member.id) for answer in answers.values()) if state is not None
    ]
    return max(heard, key=lambda state: (state.reachable, state.height), default=member)
