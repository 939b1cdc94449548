"""The Python client of a cluster: `AsyncClient` for asyncio, `Client` for blocking code, with the same
methods.

* `connection`: where the nodes are and which certificates to use: a cluster folder, or explicit parts.
* `async_client`, `client`: the calls. Results are the plain records of `model`, converted strictly by
  `convert`.
* `errors`: one exception for each kind of failure, in the tree of `replication.errors`.
* `transport`: channels, and which calls move on to another node when one cannot answer.
* `call_ids`: the id that a call carries into the logs of nodes.
* `survey`: every member's own state, put together; `waiting`: for a cluster that is ready, or settled.

What a node says is one node's word. Whoever acts on a decision should fetch its certificate and verify it
(`AsyncClient.certificate` does when it has the genesis file), which trusts no node at all.
"""

from __future__ import annotations

from replication.client.async_client import AsyncClient, new_request_id
from replication.client.call_ids import call_id
from replication.client.client import Client
from replication.client.connection import ClusterHandle, Endpoint, open_folder, resolve
from replication.client.errors import RemoteError, ResponseError, UsageError
from replication.client.survey import ClusterPicture, merge
from replication.client.waiting import wait_until_ready, wait_until_settled

__all__ = [
    "AsyncClient",
    "Client",
    "ClusterHandle",
    "ClusterPicture",
    "Endpoint",
    "RemoteError",
    "ResponseError",
    "UsageError",
    "call_id",
    "merge",
    "new_request_id",
    "open_folder",
    "resolve",
    "wait_until_ready",
    "wait_until_settled",
]
