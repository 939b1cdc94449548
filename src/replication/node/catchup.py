"""Catching up: fetches committed blocks from peers when the replica learns that it is behind.

Nothing that is fetched is trusted: the driver hands each block to the replica, which checks its certificate,
parent and content. So it does not matter whom one asks, except for time: a peer that gives nothing, something
invalid, or takes too long is left alone for a while, and another is asked. One page is fetched at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from replication.errors import PeerError
from replication.node.counters import Counters
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate

__all__ = ["CatchUp", "Page"]

Page = list[tuple[Block, Certificate]]

FIRST_REST_SECONDS: Final = 0.25
LONGEST_REST_SECONDS: Final = 30.0
"""How long a peer that did not help is not asked again; doubled each time, forgotten when it helps."""

_log = logging.getLogger(__name__)


class CatchUp:
    """Fetches pages until the height that was heard of is reached or nobody can help.

    `fetch` gets a page from a peer. `deliver` puts it through the replica and returns when that is done; it
    raises PeerError at the first block that is refused. `height` is the committed height, `candidates` the
    peers to ask, best first. `fail` is told of errors that are not a peer's.
    """

    def __init__(
        self,
        *,
        fetch: Callable[[str, int], Awaitable[tuple[Page, int]]],
        deliver: Callable[[str, Page], Awaitable[None]],
        height: Callable[[], int],
        candidates: Callable[[], Sequence[str]],
        fail: Callable[[BaseException], None],
        timeout_seconds: float,
        counters: Counters,
    ) -> None:
        self._fetch = fetch
        self._deliver = deliver
        self._height = height
        self._candidates = candidates
        self._fail = fail
        self._timeout_seconds = timeout_seconds
        self._counters = counters
        self._wanted = 0
        self._informant = ""
        self._looks = 0
        self._is_looking = False
        self._resting: dict[str, tuple[float, float]] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether blocks are being fetched."""
        return self._task is not None and not self._task.done()

    def behind(self, peer: str, height: int) -> None:
        """`peer` knows of blocks up to `height`. May be said as often as it is heard."""
        if height <= self._height():
            return
        self._wanted, self._informant = max(self._wanted, height), peer
        if self._is_looking and self._task is not None:
            self._task.cancel()  # it may wait for one that does not answer, and now there is one that knows
        elif self.is_running:
            return
        if self._next_peer() is not None:
            self._task = asyncio.ensure_future(self._run())
            self._task.add_done_callback(self._done)

    def look(self) -> None:
        """Ask one peer, another one each time, whether there is more: for a node that nobody tells."""
        willing = self._willing()
        if self.is_running or not willing:
            return
        peer = willing[self._looks % len(willing)]
        self._looks += 1
        self._task = asyncio.ensure_future(self._look(peer))
        self._task.add_done_callback(self._done)

    async def stop(self) -> None:
        """End the fetch at hand."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def _run(self) -> None:
        while self._height() < self._wanted:
            peer = self._next_peer()
            if peer is None:
                break
            await self._fetch_page(peer)
        self._wanted = 0  # what nobody can give may not have been true; the next who is ahead will say so

    async def _look(self, peer: str) -> None:
        """A peer that has nothing, or does not answer, is not to blame: nobody said that it has more."""
        before = self._height()
        try:
            self._is_looking = True
            async with asyncio.timeout(self._timeout_seconds):
                page, height = await self._fetch(peer, before + 1)
        except (TimeoutError, PeerError) as error:
            _log.debug("looking for more: %s gave no answer: %s", peer, error)
            page, height = [], 0
        finally:
            self._is_looking = False
        if page:
            self._counters.pages += 1
            await self._put_through(peer, page, before)
            self._wanted, self._informant = max(self._wanted, height), peer
        await self._run()

    async def _fetch_page(self, peer: str) -> None:
        before = self._height()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                page, _ = await self._fetch(peer, before + 1)
            self._counters.pages += 1
        except TimeoutError:
            self._rest(peer, f"gave no blocks within {self._timeout_seconds:g} s")
        except PeerError as error:
            self._rest(peer, f"{error.reason}: {error}")
        else:
            await self._put_through(peer, page, before)

    async def _put_through(self, peer: str, page: Page, before: int) -> None:
        try:
            await self._deliver(peer, page)
        except PeerError as error:
            self._rest(peer, f"{error.reason}: {error}")
        else:
            if self._height() > before:
                self._resting.pop(peer, None)
            else:
                self._rest(peer, f"has nothing above block {before}")

    def _rest(self, peer: str, problem: str) -> None:
        """Leave a peer alone for a while."""
        self._counters.bad_pages += 1
        _, last = self._resting.get(peer, (0.0, FIRST_REST_SECONDS / 2))
        pause = min(2 * last, LONGEST_REST_SECONDS)
        self._resting[peer] = (asyncio.get_running_loop().time() + pause, pause)
        _log.info("catching up: not asking %s for %g s: %s", peer, pause, problem)

    def _next_peer(self) -> str | None:
        """The one that said it is ahead, else any other that is not resting."""
        willing = self._willing()
        if self._informant in willing:
            return self._informant
        return willing[0] if willing else None

    def _willing(self) -> list[str]:
        """The candidates that are not resting."""
        now = asyncio.get_running_loop().time()
        return [peer for peer in self._candidates() if self._resting.get(peer, (0.0, 0.0))[0] <= now]
