"""Telling watchers that the record grew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Changes"]


class Changes:
    """Committed height and length of the audit chain, durable here, and any number of watchers that wait for
    more.

    A watcher is woken once for however many blocks came meanwhile, so a slow one costs no memory.
    """

    def __init__(self, height: int, audit_size: int) -> None:
        self.height = height
        self.audit_size = audit_size
        self._error: Callable[[], Exception] | None = None
        self._grown: asyncio.Future[None] | None = None

    async def wait_beyond(self, audit_size: int) -> int:
        """Wait until the audit chain is longer than `audit_size`; returns its length. Raises
        NodeStoppingError when the driver stops."""
        while self.audit_size <= audit_size:
            await self._wait()
        return self.audit_size

    async def wait_above(self, height: int) -> int:
        """Wait until the committed height is above `height`; returns it. Raises NodeStoppingError."""
        while self.height <= height:
            await self._wait()
        return self.height

    def grew(self, height: int, audit_size: int) -> None:
        """For the driver: the record is durable up to here."""
        self.height, self.audit_size = height, audit_size
        self._wake()

    def close(self, error: Callable[[], Exception]) -> None:
        """For the driver: nothing more will come. Everyone who waits, or begins to, gets an error of this
        kind."""
        self._error = error
        self._wake()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error()
        if self._grown is None:
            self._grown = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._grown)
        if self._error is not None:
            raise self._error()

    def _wake(self) -> None:
        grown, self._grown = self._grown, None
        if grown is not None and not grown.done():
            grown.set_result(None)
