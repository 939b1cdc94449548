"""The end of the record, as those who watch it are sent it: read and turned into messages once for all of
them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from replication.node.driver import Driver
from replication.node.services import answers
from replication.v1 import voting_service_pb2 as pb

__all__ = ["Tail"]

PAGE: Final = 32
"""Entries that a watcher is given from one look at the record: 2 MiB if each has the largest evidence."""

KEPT_BYTES: Final = 4 * 1024 * 1024
"""Of messages: some ten thousand usual entries. A watcher who is further behind reads for itself."""


class Tail:
    """The newest entries of one node's record."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._known: OrderedDict[int, pb.WatchResponse] = OrderedDict()
        self._size = 0
        self._reading = asyncio.Lock()

    async def page(self, start: int) -> list[pb.WatchResponse]:
        """Some entries in order from a sequence number on; none when there are none yet."""
        found = self._remembered(start)
        if found:
            return found
        async with self._reading:  # who waited finds what the one before has read
            found = self._remembered(start)
            return found or await self._read(start)

    def _remembered(self, start: int) -> list[pb.WatchResponse]:
        found: list[pb.WatchResponse] = []
        while len(found) < PAGE and (known := self._known.get(start + len(found))) is not None:
            found.append(known)
        return found

    async def _read(self, start: int) -> list[pb.WatchResponse]:
        page = await self._driver.read(lambda store: store.entries(start, PAGE))
        responses = [pb.WatchResponse(entry=answers.entry(item)) for item in page]
        newest = next(reversed(self._known), -1)
        for item, response in zip(page, responses, strict=True):
            if item.entry.sequence > newest:  # old entries are for the one who asked
                self._known[item.entry.sequence] = response
                self._size += response.ByteSize()
        while self._size > KEPT_BYTES:
            _, old = self._known.popitem(last=False)
            self._size -= old.ByteSize()
        return responses
