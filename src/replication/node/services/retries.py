"""Request ids: the same id with the same content is carried out once, however often it is sent.

A call that is repeated while the first is under way joins it; afterwards it gets the first result, as long
as that is remembered (the newest `MAX_REMEMBERED`). A failure is not remembered: its repetition tries again.
What outlives that, and a restart, is for the caller to look up in the record.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Generic, TypeVar

from replication.node.failures import RefusedError

__all__ = ["MAX_REMEMBERED", "MAX_UNDER_WAY", "Retries"]

T = TypeVar("T")

MAX_REMEMBERED: Final = 4096
"""Results of one kind of call; some 300 bytes each."""

MAX_UNDER_WAY: Final = 8192
"""Writes of one kind that wait for their block. They go on when the caller has left, so calls do not bound
them."""


@dataclass(slots=True)
class _Request(Generic[T]):
    content: bytes
    task: asyncio.Task[T]


class Retries(Generic[T]):
    """The requests of one kind of call."""

    def __init__(self) -> None:
        self._requests: OrderedDict[str, _Request[T]] = OrderedDict()
        self._under_way = 0

    def knows(self, request_id: str) -> bool:
        """Whether a request with this id is under way or remembered."""
        return request_id in self._requests

    async def once(
        self, request_id: str, content: tuple[object, ...], work: Callable[[], Coroutine[Any, Any, T]]
    ) -> T:
        """The result of `work`, carried out at most once for this id. A caller that leaves does not stop it.

        Raises:
            RefusedError: REQUEST_ID_REUSED for other content, TOO_MANY_PENDING.
        """
        digest = sha256(repr(content).encode("utf-8", "surrogatepass")).digest()
        request = self._requests.get(request_id)
        if request is None:
            request = self._begin(request_id, digest, work)
        elif request.content != digest:
            raise reused(request_id)
        return await asyncio.shield(request.task)

    def _begin(
        self, request_id: str, digest: bytes, work: Callable[[], Coroutine[Any, Any, T]]
    ) -> _Request[T]:
        if self._under_way >= MAX_UNDER_WAY:
            raise RefusedError(
                "TOO_MANY_PENDING",
                f"{self._under_way} requests of this node wait for their block. Wait for answers first.",
            )
        request = _Request(digest, asyncio.ensure_future(work()))
        self._requests[request_id] = request
        self._under_way += 1
        request.task.add_done_callback(lambda task: self._end(request_id, task))
        return request

    def _end(self, request_id: str, task: asyncio.Task[T]) -> None:
        self._under_way -= 1
        if task.cancelled() or task.exception() is not None:
            del self._requests[request_id]
            return
        self._requests.move_to_end(request_id)
        while len(self._requests) - self._under_way > MAX_REMEMBERED:
            oldest = next(key for key, item in self._requests.items() if item.task.done())
            del self._requests[oldest]


def reused(request_id: str) -> RefusedError:
    """The error for an id that stands for other content."""
    return RefusedError(
        "REQUEST_ID_REUSED",
        f"the request id {request_id} was used for other content. Give every request an id of its own, and "
        "repeat one only unchanged.",
        metadata={"request_id": request_id},
    )
