"""Whether this host can listen at an address, and if not, why: gRPC only says that it could not bind."""

from __future__ import annotations

import errno
import socket
from typing import ClassVar

from replication.errors import OperatorError
from replication.node.config import split_address

__all__ = ["ListenError", "PortInUseError", "require_free_port"]


class ListenError(OperatorError):
    """The node cannot listen at the configured address."""

    reason: ClassVar[str] = "CANNOT_LISTEN"


class PortInUseError(ListenError):
    """Another process listens at the configured address."""

    reason: ClassVar[str] = "PORT_IN_USE"


def require_free_port(listen: str) -> None:
    """Find out why an address cannot be listened at, which gRPC does not tell.

    Raises:
        PortInUseError: somebody listens there.
        ListenError: it is no address of this host, or this user may not use the port.
    """
    host, port = split_address(listen)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        raise _listen_error(listen, error) from error


def _listen_error(listen: str, error: OSError) -> ListenError:
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(
            f"another process listens at {listen}. Stop it (ss -ltnp shows it), or set another port: listen "
            "in config.toml, and this member's address in the peers of the other nodes' config.toml."
        )
    hints = {
        errno.EADDRNOTAVAIL: "it is no address of this host; set listen in config.toml",
        errno.EACCES: "this user may not use the port; choose one above 1023",
    }
    why = hints.get(error.errno or 0, error.strerror or str(error))
    return ListenError(f"the node cannot listen at {listen}: {why}")
