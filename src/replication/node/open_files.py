"""Room for files and connections: no flood of connections may take the descriptors that the record needs."""

from __future__ import annotations

import logging
import resource
from typing import Final

__all__ = ["MAX_CONNECTIONS", "RESERVED_FILES", "room_for_connections"]

MAX_CONNECTIONS: Final = 2048
"""Incoming connections, most of a cluster's clients included. One that has not shown a certificate yet takes
some 20 KiB, so that strangers can take 40 MiB."""

RESERVED_FILES: Final = 192
"""Descriptors for everything else: record, journal and their successors while they are written anew, and the
links to ninety-nine other members."""

LEAST_CONNECTIONS: Final = 16

_log = logging.getLogger(__name__)


def room_for_connections() -> int:
    """Raise this process's limit on open files as far as it is needed and allowed; returns how many incoming
    connections it may take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_CONNECTIONS
    room = max(soft - RESERVED_FILES, LEAST_CONNECTIONS)
    _log.warning(
        "only %d files may be open, so at most %d connections are taken. Raise the hard limit to %d "
        "(ulimit -Hn, LimitNOFILE=).",
        soft,
        room,
        wanted,
    )
    return room
