"""A connection to the running node of a home, from beside it, with the node's own certificate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships no types

from replication.node.config import split_address
from replication.node.home import CheckedHome
from replication.node.peers import CHANNEL_OPTIONS

__all__ = ["ask_health", "own_address", "own_channel"]

_EVERY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  # looked up, not listened at


def own_address(checked: CheckedHome) -> str:
    """HOST:PORT where the node of a home is reached from beside it."""
    host, port = split_address(checked.config.listen)
    return f"{_EVERY_ADDRESS[host]}:{port}" if host in _EVERY_ADDRESS else checked.config.listen


@contextlib.contextmanager
def own_channel(checked: CheckedHome) -> Iterator[grpc.Channel]:
    """A channel to the address that the node listens at. Every node's certificate is good for localhost."""
    credentials = grpc.ssl_channel_credentials(
        checked.tls.authorities, checked.tls.key, checked.tls.certificate
    )
    options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", "localhost")]
    with grpc.secure_channel(own_address(checked), credentials, options=options) as channel:
        yield channel


def ask_health(checked: CheckedHome, service: str, timeout_seconds: float) -> str:
    """What the node says of a service by the gRPC health protocol: SERVING, or why not.

    A node that does not know the service answers for itself as a whole.
    """
    with own_channel(checked) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in dict.fromkeys((service, "")):
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=timeout_seconds)
            except grpc.RpcError as error:
                code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
                if code is grpc.StatusCode.NOT_FOUND and name:
                    continue
                return str(code.name)
            return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return "SERVICE_UNKNOWN"
