# ruff: noqa: N802  # the methods have the names of the calls
"""AuditService: the replicated record, entry by entry or as the file that verifies offline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from replication.ledger.store import Store
from replication.node.driver import Driver
from replication.node.services import answers, requests
from replication.v1 import audit_service_pb2 as pb
from replication.v1 import audit_service_pb2_grpc

__all__ = ["AuditService"]

Context = grpc.aio.ServicerContext[Any, Any]

MAX_TYPE_BYTES: Final = 64

EXPORT_BLOCKS: Final = 50
"""Blocks that one look at the record reads for an export: others wait for no more than that."""

EXPORT_BYTES: Final = 1024 * 1024
"""What one message of an export holds, unless a single line is longer."""


class AuditService(audit_service_pb2_grpc.AuditServiceServicer):
    """The record of one node."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

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
        """This node's verdict on its own record. The node does nothing else meanwhile."""

        def verify(store: Store) -> tuple[str, pb.GetHeadResponse]:
            return store.verify(), answers.head(store.head())

        problem, head = await self._driver.read(verify)
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
        for start in range(0, end + 1, EXPORT_BLOCKS):
            stop = min(start + EXPORT_BLOCKS - 1, end)
            lines = await self._driver.read(
                lambda store, first=start, last=stop: list(store.export_part(first, last, end))  # type: ignore[misc]
            )
            for message in _messages(lines):
                yield message


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
