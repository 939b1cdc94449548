"""Waiting for a cluster: until it is ready for work, and until its nodes have one and the same record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from replication.client.async_client import AsyncClient
from replication.client.connection import ClusterHandle
from replication.client.survey import ClusterPicture, merge
from replication.errors import OperatorError

__all__ = ["START_SECONDS", "wait_until_ready", "wait_until_settled"]

START_SECONDS: Final = 60.0
SIGNING_SECONDS: Final = 5.0
"""A node that has just started signs once it has heard from others what it signed before. Who signs nothing
for longer has another reason, which is not waited for."""

_POLL_SECONDS: Final = 0.05


async def wait_until_ready(
    handle: ClusterHandle, require_alive: Callable[[], None] | None = None, seconds: float = START_SECONDS
) -> ClusterPicture:
    """Wait until every node answers, hears from all others, and signs (for that, `SIGNING_SECONDS` at most).

    `require_alive` is called while waiting; it raises when there is nothing to wait for any more. Raises
    `OperatorError` when the time is up, with what is missing.
    """
    give_up = time.monotonic() + seconds
    answers = {}
    signing_by = give_up
    async with AsyncClient(handle) as client:
        while time.monotonic() < give_up:
            if require_alive is not None:
                require_alive()
            answers = await client.survey(timeout_seconds=1.0)
            if answers:
                picture = merge(answers)
                if picture.all_connected:
                    signing_by = min(signing_by, time.monotonic() + SIGNING_SECONDS)
                    if not picture.muted or time.monotonic() >= signing_by:
                        return picture
            await asyncio.sleep(_POLL_SECONDS)
    silent = [str(endpoint) for endpoint in handle.endpoints if endpoint.member_id not in answers]
    problem = (
        f"these do not answer: {', '.join(silent)}"
        if silent
        else "not all members are connected to each other"
    )
    raise OperatorError(
        f"The cluster is not ready after {seconds:g} s: {problem}. Look in the node.log of each node."
    )


async def wait_until_settled(
    client: AsyncClient, seconds: float, answering: int = 1
) -> ClusterPicture | None:
    """Wait until all members that answer, at least `answering`, have one and the same record; None when the
    time is up before."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        answers = await client.survey(timeout_seconds=1.0)
        if answers:
            picture = merge(answers)
            if picture.settled and len(picture.answered) >= answering:
                return picture
        await asyncio.sleep(_POLL_SECONDS)
    return None
