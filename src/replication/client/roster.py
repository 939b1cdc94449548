"""Whom to ask: the endpoints that were given, and those of members that came later.

A client knows the members of the genesis file. Members change, and one day none of those is left. So it
learns the present ones from the nodes that answer: now and then while it works, and when a member is asked
for whom it does not know. A node may lie about addresses. That costs time and no more: whoever answers there
must prove by a certificate of the cluster that it is that member, and the endpoints that were given stay, and
come first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from replication.client.connection import ClusterHandle, Endpoint, parse_endpoint
from replication.client.errors import UsageError
from replication.identity.members import MAX_MEMBERS

__all__ = ["Roster"]

LEARN_SECONDS: Final = 60.0
"""How old the list of members may get while the client makes calls. Members change by votes, so seldom."""


class Roster:
    """The endpoints of one client."""

    def __init__(self, handle: ClusterHandle) -> None:
        self._handle = handle
        self._later: tuple[Endpoint, ...] = ()
        self._learned_at = time.monotonic()

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All that are known, those that were given first."""
        return self._handle.endpoints + self._later

    @property
    def is_due(self) -> bool:
        """Whether it is time to ask who the members are; never for a client of one member only."""
        return self._handle.may_learn and time.monotonic() - self._learned_at >= LEARN_SECONDS

    def endpoints_of(self, member_id: str) -> tuple[Endpoint, ...]:
        """Where a member may be found. Raises `UnknownMemberError` with the members that are known."""
        found = tuple(endpoint for endpoint in self.endpoints if endpoint.member_id == member_id)
        return found or (self._handle.endpoint_of(member_id),)

    def lacks(self, member_id: str) -> bool:
        """Whether nothing is known of this member, and somebody may be asked."""
        known = any(endpoint.member_id == member_id for endpoint in self.endpoints)
        return self._handle.may_learn and not known

    def learn(self, members: Iterable[tuple[str, str]]) -> None:
        """The members of now, by id and address, as a node says. What is no address is left out."""
        self._learned_at = time.monotonic()
        if not self._handle.may_learn:
            return
        found = []
        for member_id, address in list(members)[:MAX_MEMBERS]:
            try:
                endpoint = parse_endpoint(f"{member_id}={address}")
            except UsageError:
                continue
            if endpoint not in self._handle.endpoints and endpoint.member_id == member_id:
                found.append(endpoint)
        self._later = tuple(found)
