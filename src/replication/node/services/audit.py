# ruff: noqa: N802  # the methods have the names of the calls
"""AuditService: the replicated record, entry by entry or as the file that verifies offline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import grpc

from replication.identity.genesis import Genesis
from replication.ledger.schema import RecordDamagedError
from replication.ledger.verify import VerificationError, verify_export
from replication.node.driver import Driver
from replication.node.services import answers, requests
from replication.v1 import audit_service_pb2 as pb
from replication.v1 import audit_service_pb2_grpc

__all__ = ["AuditService"]

Context = grpc.aio.ServicerContext[Any, Any]

MAX_TYPE_BYTES: Final = 64

EXPORT_BLOCKS: Final = 8
"""Blocks that one look at the record reads for an export: others wait for no more than that."""

EXPORT_BYTES: Final = 1024 * 1024
"""What one message of an export holds, unless a single line is longer."""


class AuditService(audit_service_pb2_grpc.AuditServiceServicer):
    """The record of one node."""

    def __init__(self, genesis: Genesis, driver: Driver) -> None:
        self._genesis = genesis
        self._driver = driver
        self._check: asyncio.Task[pb.VerifyChainResponse] | None = None

    async def ListEntries(self, request: pb.ListEntriesRequest, context: Context) -> pb.ListEntriesResponse:
        """A page of entries."""
        size = requests.page_size(request.page_size)
        start = requests.whole_number(request.from_sequence, "from_sequence", 2**53 - 1)
        kind = requests.text(request.event_type, "event_type", MAX_TYPE_BYTES)
        entries, total = await self._driver.read(
            lambda store: (store.entries(start, size, kind), store.totals().audit_size)
        )
        return pb.ListEntriesResponse(entries=[answers.entry(item) for item in entries], audit_size=total)

    async def GetHead(self, request: pb.GetHeadRequest, context: Context) -> pb.GetHeadResponse:
        """Where the record ends."""
        return answers.head(await self._driver.read(lambda store: store.head()))

    async def VerifyChain(self, request: pb.VerifyChainRequest, context: Context) -> pb.VerifyChainResponse:
        """This node's verdict on its own record. Callers at the same time share one check."""
        if self._check is None or self._check.done():
            self._check = asyncio.ensure_future(self._verify())
        return await asyncio.shield(self._check)

    async def _verify(self) -> pb.VerifyChainResponse:
        """Run the independent verifier over this node's own export, in a thread, page by page: everything
        else goes on meanwhile."""
        head = answers.head(await self._driver.read(lambda store: store.head()))
        loop = asyncio.get_running_loop()

        def lines() -> Iterator[bytes]:
            for first, last in _parts(head.height):
                page = self._part(first, last, head.height)
                yield from asyncio.run_coroutine_threadsafe(page, loop).result()

        problem = ""
        try:
            report = await asyncio.to_thread(verify_export, lines(), self._genesis)
            if (report.block_hash, report.audit_head.hex()) != (head.block_hash, head.audit_head):
                problem = f"the record does not end as it did in memory, at {head.audit_head}"
        except (VerificationError, RecordDamagedError) as error:
            problem = str(error)
        return pb.VerifyChainResponse(
            valid=not problem,
            height=head.height,
            audit_size=head.audit_size,
            audit_head=head.audit_head,
            problem=problem,
        )

    async def ExportChain(
        self, request: pb.ExportChainRequest, context: Context
    ) -> AsyncIterator[pb.ExportChainResponse]:
        """The record up to where it is now, as the lines of an export. What is committed meanwhile is left
        out."""
        end = await self._driver.read(lambda store: store.totals().height)
        for first, last in _parts(end):
            for message in _messages(await self._part(first, last, end)):
                yield message

    async def _part(self, first: int, last: int, end: int) -> list[bytes]:
        """Lines of an export that ends with block `end`."""
        return await self._driver.read(lambda store: list(store.export_part(first, last, end)))


def _parts(end: int) -> Iterator[tuple[int, int]]:
    """First and last block of each part of an export."""
    return ((first, min(first + EXPORT_BLOCKS - 1, end)) for first in range(0, end + 1, EXPORT_BLOCKS))


def _messages(lines: list[bytes]) -> list[pb.ExportChainResponse]:
    """Lines in messages of a bounded size."""
    messages, size = [pb.ExportChainResponse()], 0
    for line in lines:
        if size and size + len(line) > EXPORT_BYTES:
            messages.append(pb.ExportChainResponse())
            size = 0
        messages[-1].lines.append(line.removesuffix(b"\n").decode("utf-8"))
        size += len(line)
    return messages
