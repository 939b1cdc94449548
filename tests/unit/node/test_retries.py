"""Request ids and waiting for decisions: what happens once, what is joined, and what is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from replication.node.failures import RefusedError
from replication.node.services import retries as retries_module
from replication.node.services.decisions import Decisions
from replication.node.services.retries import Retries


class Work:
    """Something that takes until it is told, and counts how often it is done."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        await self.go.wait()
        return number


def test_a_repetition_joins_and_later_gets_the_first_result() -> None:
    async def run() -> None:
        retries, work = Retries[int](), Work()
        calls = [asyncio.ensure_future(retries.once("a", ("x", 1), work)) for _ in range(3)]
        await asyncio.sleep(0)
        work.go.set()
        assert await asyncio.gather(*calls) == [1, 1, 1]
        assert await retries.once("a", ("x", 1), work) == 1
        assert await retries.once("b", ("x", 1), work) == 2
        with pytest.raises(RefusedError) as reused:
            await retries.once("a", ("x", 2), work)
        assert reused.value.reason == "REQUEST_ID_REUSED"
        assert work.begun == 2

    asyncio.run(run())


def test_content_is_told_apart_by_every_part() -> None:
    async def run() -> None:
        retries, work = Retries[int](), Work()
        work.go.set()
        await retries.once("a", ("x", "yz"), work)
        with pytest.raises(RefusedError):
            await retries.once("a", ("xy", "z"), work)

    asyncio.run(run())


def test_a_caller_that_leaves_stops_nothing() -> None:
    async def run() -> None:
        retries, work = Retries[int](), Work()
        call = asyncio.ensure_future(retries.once("a", (), work))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        work.go.set()
        assert await retries.once("a", (), work) == 1
        assert work.begun == 1

    asyncio.run(run())


def test_a_failure_may_be_tried_again() -> None:
    async def run() -> None:
        retries = Retries[int]()
        results: list[Any] = [ValueError("first"), 7]

        async def work() -> int:
            result = results.pop(0)
            if isinstance(result, Exception):
                raise result
            return int(result)

        with pytest.raises(ValueError, match="first"):
            await retries.once("a", (), work)
        assert not retries.knows("a")
        assert await retries.once("a", (), work) == 7
        assert retries.knows("a")

    asyncio.run(run())


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries_module, "MAX_REMEMBERED", 3)
    monkeypatch.setattr(retries_module, "MAX_UNDER_WAY", 2)

    async def run() -> None:
        retries, done, slow = Retries[int](), Work(), Work()
        done.go.set()
        first = asyncio.ensure_future(retries.once("slow", (), slow))
        for number in range(10):
            await retries.once(str(number), (), done)
        assert [name for name in map(str, range(10)) if retries.knows(name)] == ["7", "8", "9"]
        assert retries.knows("slow"), "what is under way is never forgotten"
        second = asyncio.ensure_future(retries.once("slow-2", (), slow))
        await asyncio.sleep(0)
        with pytest.raises(RefusedError) as refused:
            await retries.once("slow-3", (), slow)
        assert refused.value.reason == "TOO_MANY_PENDING"
        slow.go.set()
        await asyncio.gather(first, second)

    asyncio.run(run())


class Record:
    """A record that grows when told, with proposals that are open until they are closed."""

    def __init__(self) -> None:
        self.changes = self
        self.height = 0
        self.open: set[str] = set()
        self.looks = 0
        self.grown = asyncio.Condition()
        self.error: Exception | None = None

    def is_open(self, proposal_id: str) -> bool:
        self.looks += 1
        return proposal_id in self.open

    async def wait_above(self, height: int) -> int:
        async with self.grown:
            await self.grown.wait_for(lambda: self.height > height or self.error is not None)
        if self.error is not None:
            raise self.error
        return self.height

    async def read(self, function: Callable[[Any], Any]) -> Any:
        return function(None)

    async def grow(self, *closed: str) -> None:
        async with self.grown:
            self.open -= set(closed)
            self.height += 1
            self.grown.notify_all()
        for _ in range(5):
            await asyncio.sleep(0)


def test_decisions_wake_those_who_wait_for_them() -> None:
    async def run() -> None:
        record = Record()
        record.open = {"a", "b"}
        decisions = Decisions(record, record.is_open)
        waiting = {name: decisions.expect(name) for name in ("a", "b")}
        assert decisions.expect("a") is waiting["a"], "one look serves all who wait for the same"
        await record.grow()
        assert not any(future.done() for future in waiting.values())
        await record.grow("a")
        assert [future.done() for future in waiting.values()] == [True, False]
        await record.grow("b")
        await asyncio.gather(*waiting.values())
        looks = record.looks
        await record.grow()
        assert record.looks == looks, "nobody waits, nobody looks"
        record.open = {"c"}
        again = decisions.expect("c")
        await record.grow("c")
        await again

    asyncio.run(run())


def test_a_node_that_stops_tells_those_who_wait() -> None:
    async def run() -> None:
        record = Record()
        record.open = {"a"}
        decisions = Decisions(record, record.is_open)
        future = decisions.expect("a")
        await asyncio.sleep(0)
        record.error = RuntimeError("stopping")
        await record.grow()
        with pytest.raises(RuntimeError, match="stopping"):
            await future

    asyncio.run(run())
