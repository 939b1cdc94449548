"""Calls that concern nodes and not the cluster's record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from replication.client import convert
from replication.client.connection import ClusterHandle, Endpoint
from replication.client.errors import RemoteError, ResponseError, UsageError
from replication.client.model import ClusterStatus
from replication.client.transport import DEFAULT_TIMEOUT_SECONDS, Route, Transport
from replication.v1 import cluster_service_pb2 as cluster

__all__ = ["AdministrationCalls"]

SURVEY_TIMEOUT_SECONDS: Final = 2.0


class AdministrationCalls:
    """What `AsyncClient` offers to those who look after nodes."""

    handle: ClusterHandle
    _transport: Transport

    async def set_log_level(
        self, level: str, *, node: str, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ) -> str:
        """Have `node` log at `level` (debug, info, warning or error) until it restarts; returns the level
        before. Asks for the role admin.

        Raises `UsageError` for a missing node; `InvalidRequestError` for an unknown level.
        """
        if not node:
            raise UsageError("Name the node whose log level is to change.")
        response = await self._transport.unary(
            lambda stubs: stubs.cluster.SetLogLevel,
            cluster.SetLogLevelRequest(level=level),
            timeout_seconds,
            route=Route.PINNED,
            node=node,
        )
        return response.previous

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The nodes that may be asked: those of the handle, then members that came later, as far as known."""
        return self._transport.endpoints

    async def endpoint_of(
        self, member_id: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ) -> Endpoint:
        """Where a member is; one that came later is asked for. Raises `UnknownMemberError`."""
        return await self._transport.endpoint_of(member_id, timeout_seconds)

    async def survey(self, *, timeout_seconds: float = SURVEY_TIMEOUT_SECONDS) -> dict[str, ClusterStatus]:
        """Ask every endpoint for its status at once, then the members that they name beside them; the answers
        by the id of the node that gave them.

        Whoever does not answer in time is left out; with no answer at all the result is empty. `survey.merge`
        makes one picture of it. Raises only for credentials that are bad here."""
        self.handle.check()
        known = self._transport.endpoints
        answers = await self._statuses(known, timeout_seconds)
        asked = {endpoint.address for endpoint in known}
        named = {member.id: member.address for answer in answers.values() for member in answer.members}
        later = [
            Endpoint(address, member)
            for member, address in named.items()
            if member not in answers and address not in asked
        ]
        return {**answers, **await self._statuses(later, timeout_seconds)}

    async def _statuses(
        self, endpoints: Sequence[Endpoint], timeout_seconds: float
    ) -> dict[str, ClusterStatus]:
        found = await asyncio.gather(*(self._status_at(endpoint, timeout_seconds) for endpoint in endpoints))
        return {status.node_id: status for status in found if status is not None}

    async def _status_at(self, endpoint: Endpoint, timeout_seconds: float) -> ClusterStatus | None:
        began_ms = time.time_ns() // 1_000_000
        try:
            response = await self._transport.ask_once(
                endpoint, lambda stubs: stubs.cluster.GetStatus, cluster.GetStatusRequest(), timeout_seconds
            )
            status = convert.cluster_status(response)
        except (RemoteError, ResponseError):
            return None
        # Between the question and its answer any time could be the right one.
        nearest_ms = min(max(status.clock_ms, began_ms), time.time_ns() // 1_000_000)
        return replace(status, clock_skew_ms=status.clock_ms - nearest_ms)
