"""Catching up: whom it asks, when it gives up on a peer, and that nothing makes it ask for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from replication.errors import PeerError
from replication.node import catchup
from replication.node.catchup import CatchUp, Page
from replication.node.counters import Counters
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate

PAGE = 3


@dataclass(frozen=True)
class FakeBlock:
    height: int


def page(first: int, last: int) -> Page:
    blocks = [FakeBlock(height) for height in range(first, last + 1)]
    return [(cast(Block, block), cast(Certificate, None)) for block in blocks]


@dataclass
class World:
    """A replica that is `height` high, and peers that answer as `peers` says."""

    height: int = 0
    peers: dict[str, Callable[[int], Awaitable[Page]]] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    running: int = 0
    counters: Counters = field(default_factory=Counters)

    def catch_up(self, timeout_seconds: float = 5.0) -> CatchUp:
        return CatchUp(
            fetch=self.fetch,
            deliver=self.deliver,
            height=lambda: self.height,
            candidates=lambda: list(self.peers),
            fail=self.failures.append,
            timeout_seconds=timeout_seconds,
            counters=self.counters,
        )

    async def fetch(self, peer: str, from_height: int) -> tuple[Page, int]:
        self.asked.append((peer, from_height))
        self.running += 1
        assert self.running == 1, "two pages are fetched at a time"
        try:
            return await self.peers[peer](from_height), 0
        finally:
            self.running -= 1

    async def deliver(self, peer: str, blocks: Page) -> None:
        for block, _ in blocks:
            height = cast(FakeBlock, block).height
            if height == self.height + 1:
                self.height = height
            elif height > self.height:
                raise PeerError(f"{peer} sent block {height} on top of block {self.height}")

    def honest(self, height: int) -> Callable[[int], Awaitable[Page]]:
        async def answer(from_height: int) -> Page:
            await asyncio.sleep(0)
            return page(from_height, min(height, from_height + PAGE - 1))

        return answer


async def silent(from_height: int) -> Page:
    await asyncio.Event().wait()
    return []


async def refusing(from_height: int) -> Page:
    raise PeerError("not now")


async def with_a_gap(from_height: int) -> Page:
    return page(from_height + 1, from_height + 2)


async def empty(from_height: int) -> Page:
    return []


async def stale(from_height: int) -> Page:
    """Blocks that are known already, again and again: an endless transfer."""
    return page(1, max(from_height - 1, 1)) if from_height > 1 else []


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


@pytest.fixture
def long_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who could not help is not asked again in this test, however slow the machine is."""
    monkeypatch.setattr(catchup, "FIRST_REST_SECONDS", 600.0)
    monkeypatch.setattr(catchup, "LONGEST_REST_SECONDS", 600.0)


async def idle(catch_up: CatchUp) -> None:
    while catch_up.is_running:
        await asyncio.sleep(0.001)


def test_it_fetches_page_after_page_from_the_peer_that_is_ahead() -> None:
    async def scenario() -> None:
        world = World()
        world.peers = {"other": empty, "ahead": world.honest(8)}
        catch_up = world.catch_up()
        catch_up.behind("ahead", 8)
        catch_up.behind("ahead", 8)
        await idle(catch_up)
        assert world.height == 8
        assert world.asked == [("ahead", 1), ("ahead", 4), ("ahead", 7)]

    run(scenario())


def test_what_is_known_already_starts_nothing() -> None:
    async def scenario() -> None:
        world = World(height=5)
        world.peers = {"ahead": world.honest(8)}
        catch_up = world.catch_up()
        catch_up.behind("ahead", 5)
        assert not catch_up.is_running
        assert world.asked == []

    run(scenario())


@pytest.mark.parametrize("bad", [silent, refusing, with_a_gap, empty, stale], ids=lambda peer: peer.__name__)
def test_a_peer_that_does_not_help_is_dropped_for_another(
    bad: Callable[[int], Awaitable[Page]], long_rests: None
) -> None:
    async def scenario() -> None:
        world = World(height=1)
        world.peers = {"bad": bad, "good": world.honest(8)}
        catch_up = world.catch_up(timeout_seconds=1.0)
        catch_up.behind("bad", 8)
        await idle(catch_up)
        assert world.height == 8
        assert [peer for peer, _ in world.asked].count("bad") == 1
        assert world.counters.bad_pages == 1

    run(scenario())


def test_a_claim_that_nobody_can_prove_ends_by_itself(long_rests: None) -> None:
    async def scenario() -> None:
        world = World()
        world.peers = {"liar": empty, "other": world.honest(4)}
        catch_up = world.catch_up()
        catch_up.behind("liar", 2**50)
        await idle(catch_up)
        assert world.height == 4
        asked = len(world.asked)
        for _ in range(50):  # said again at once: everyone who could not help rests
            catch_up.behind("liar", 2**50)
        await idle(catch_up)
        assert len(world.asked) == asked

    run(scenario())


def test_a_peer_that_rested_is_asked_again_and_rests_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catchup, "FIRST_REST_SECONDS", 0.02)

    async def scenario() -> None:
        world = World()
        tries: list[float] = []

        async def late(from_height: int) -> Page:
            tries.append(asyncio.get_running_loop().time())
            raise PeerError("not now")

        world.peers = {"late": late}
        catch_up = world.catch_up()
        while len(tries) < 3:
            catch_up.behind("late", 8)
            await idle(catch_up)
            await asyncio.sleep(0.001)
        assert tries[1] - tries[0] >= 0.02
        assert tries[2] - tries[1] >= 0.04
        world.peers["late"] = world.honest(8)
        while world.height < 8:
            catch_up.behind("late", 8)
            await asyncio.sleep(0.001)

    run(scenario())


def test_an_error_that_is_no_peers_fault_is_reported() -> None:
    async def broken(from_height: int) -> Page:
        raise RuntimeError("a bug")

    async def scenario() -> None:
        world = World()
        world.peers = {"peer": broken}
        catch_up = world.catch_up()
        catch_up.behind("peer", 8)
        await idle(catch_up)
        await asyncio.sleep(0)
        assert [str(error) for error in world.failures] == ["a bug"]

    run(scenario())


def test_stopping_ends_the_fetch_at_hand() -> None:
    async def scenario() -> None:
        world = World()
        world.peers = {"peer": silent}
        catch_up = world.catch_up()
        catch_up.behind("peer", 8)
        await asyncio.sleep(0)
        await catch_up.stop()
        assert not catch_up.is_running
        assert world.failures == []

    run(scenario())


def test_a_node_that_nobody_tells_looks_by_itself() -> None:
    async def scenario() -> None:
        world = World()
        world.peers = {"idle": empty, "bad": refusing, "ahead": world.honest(8)}
        catch_up = world.catch_up()
        for _ in range(4):
            catch_up.look()
            catch_up.look()  # one at a time
            await idle(catch_up)
        assert world.height >= PAGE
        assert {peer for peer, _ in world.asked} == {"idle", "bad", "ahead"}
        assert world.counters.bad_pages == 0, "nobody had said that there is more"
        assert world.failures == []

    run(scenario())


def test_word_of_more_ends_a_look_that_hangs() -> None:
    async def scenario() -> None:
        world = World()
        world.peers = {"asleep": silent}
        catch_up = world.catch_up()
        catch_up.look()
        await asyncio.sleep(0.01)
        assert catch_up.is_running
        world.peers["ahead"] = world.honest(8)
        catch_up.behind("ahead", 8)
        await idle(catch_up)
        assert world.height == 8
        await catch_up.stop()

    run(scenario())
