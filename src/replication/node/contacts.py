"""Who of the other members has been heard from, and what they last said of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from replication.identity.members import MemberSet
from replication.ordering.messages import Heartbeat
from replication.ordering.quorum import commit_quorum

__all__ = ["Contacts", "PeerState"]


@dataclass(frozen=True, slots=True)
class PeerState:
    """What is known of another member. `silent_ms` is None when nothing was ever heard from it; `refused`
    counts its messages that were invalid."""

    height: int
    audit_size: int
    audit_head: bytes
    view: int
    silent_ms: int | None
    reachable: bool
    refused: int


@dataclass(slots=True)
class _Peer:
    heard_ms: int | None = None
    heartbeat: Heartbeat | None = None
    refused: int = 0


class Contacts:
    """Other members by id. Being in contact says nothing about honesty: it decides what callers are told,
    nothing else. Times are milliseconds of a clock that only counts."""

    def __init__(self, member: str, contact_ms: int) -> None:
        self._member = member
        self._contact_ms = contact_ms
        self._peers: dict[str, _Peer] = {}

    def heard(self, sender: str, now_ms: int) -> None:
        """Something came from `sender`, a member."""
        self._peer(sender).heard_ms = now_ms

    def said(self, sender: str, heartbeat: Heartbeat) -> None:
        """`sender` told how far it is."""
        self._peer(sender).heartbeat = heartbeat

    def refused(self, sender: str) -> None:
        """A message of `sender` was invalid."""
        self._peer(sender).refused += 1

    def reachable(self, now_ms: int) -> set[str]:
        """Members in contact, without this one."""
        return {member for member, peer in self._peers.items() if self._is_reachable(peer, now_ms)}

    def has_quorum(self, members: MemberSet, now_ms: int) -> bool:
        """Whether this member and those in contact are a commit quorum of `members`."""
        present = sum(member in members for member in self.reachable(now_ms)) + (self._member in members)
        return present >= commit_quorum(members.n)

    def states(self, members: MemberSet, now_ms: int) -> Mapping[str, PeerState]:
        """What is known of each other member."""
        return {
            member: self._state(self._peers.get(member) or _Peer(), now_ms)
            for member in members.ids
            if member != self._member
        }

    def keep(self, members: MemberSet) -> None:
        """Forget everyone who is not a member any more."""
        self._peers = {member: peer for member, peer in self._peers.items() if member in members}

    def _peer(self, member: str) -> _Peer:
        peer = self._peers.get(member)
        if peer is None:
            peer = self._peers[member] = _Peer()
        return peer

    def _is_reachable(self, peer: _Peer, now_ms: int) -> bool:
        return peer.heard_ms is not None and now_ms - peer.heard_ms <= self._contact_ms

    def _state(self, peer: _Peer, now_ms: int) -> PeerState:
        said = peer.heartbeat
        return PeerState(
            height=0 if said is None else said.height,
            audit_size=0 if said is None else said.audit_size,
            audit_head=b"" if said is None else said.audit_head,
            view=0 if said is None else said.view,
            silent_ms=None if peer.heard_ms is None else now_ms - peer.heard_ms,
            reachable=self._is_reachable(peer, now_ms),
            refused=peer.refused,
        )
