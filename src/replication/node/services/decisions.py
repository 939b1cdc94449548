"""Waiting for decisions: one look at the application for each new block, however many wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

__all__ = ["Decisions", "Record"]

T_ = TypeVar("T_")


class Changes(Protocol):
    """Tells that the record grew."""

    height: int

    async def wait_above(self, height: int) -> int: ...


class Record(Protocol):
    """What is needed of the driver."""

    @property
    def changes(self) -> Changes: ...

    async def read(self, function: Callable[[Any], T_]) -> T_: ...


class Decisions:
    """`is_open` says whether a proposal is open; it is asked inside `Record.read` only."""

    def __init__(self, record: Record, is_open: Callable[[str], bool]) -> None:
        self._record = record
        self._is_open = is_open
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._task: asyncio.Task[None] | None = None

    def expect(self, proposal_id: str) -> asyncio.Future[None]:
        """A future for the decision on a proposal that is open now; call it inside `Record.read`, await it
        shielded. It fails when the node stops."""
        future = self._waiting.get(proposal_id)
        if future is None:
            future = self._waiting[proposal_id] = asyncio.get_running_loop().create_future()
            future.add_done_callback(_retrieved)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._follow(self._record.changes.height))
        return future

    async def _follow(self, height: int) -> None:
        """Look after each block, for as long as a decision is waited for."""
        try:
            while self._waiting:
                height = await self._record.changes.wait_above(height)
                await self._record.read(self._look)
        except Exception as error:
            waiting, self._waiting = self._waiting, {}
            for future in waiting.values():
                future.set_exception(error)

    def _look(self, _: object) -> None:
        for proposal_id in [key for key in self._waiting if not self._is_open(key)]:
            self._waiting.pop(proposal_id).set_result(None)


def _retrieved(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()  # the waiter may be gone; that is no reason for a warning
