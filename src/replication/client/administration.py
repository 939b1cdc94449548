"""Calls that concern one node and not the cluster's record."""

from __future__ import annotations

from replication.client.errors import UsageError
from replication.client.transport import Route, Transport
from replication.v1 import cluster_service_pb2 as cluster

__all__ = ["AdministrationCalls"]


class AdministrationCalls:
    """What `AsyncClient` offers to administrators of a node."""

    _transport: Transport

    async def set_log_level(self, level: str, *, node: str, timeout_seconds: float = 10.0) -> str:
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
