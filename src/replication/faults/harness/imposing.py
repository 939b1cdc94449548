"""Carries out a schedule: each fault at its time, watched while it lasts, healed at its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from replication.faults.harness.catalogue import FAULTS, KINDS
from replication.faults.harness.fault import Effect, Fault, NotPossibleError, Planned
from replication.faults.harness.outcome import FaultLog
from replication.faults.harness.schedule import draw_for
from replication.faults.harness.selectors import resolve_targets
from replication.faults.harness.site import Site

__all__ = ["Imposer"]

OBSERVE_SECONDS: Final = 0.2


class Imposer:
    """The faults of one run. `say` is told of every beginning, effect and end."""

    def __init__(
        self, schedule: Sequence[Planned], site: Site, seed: int, path: Path, say: Callable[[int, str], None]
    ) -> None:
        self.logs = [FaultLog(planned) for planned in schedule]
        self.active: dict[int, str] = {}
        self._site = site
        self._seed = seed
        self._say = say
        self._file = path.open("w", encoding="utf-8")
        self._healing = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._alive: list[Fault] = []

    def start(self) -> None:
        """Begin to count the time."""
        self._tasks = [asyncio.create_task(self._impose(log)) for log in self.logs]

    async def heal(self) -> None:
        """End every fault that is not permanent, and wait until that is done. Raises what a fault raised."""
        self._healing.set()
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Give up on what is still going on; the cluster is being torn down."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._file.close()

    def abandoned(self) -> frozenset[str]:
        """The members that a permanent fault holds to the end."""
        return frozenset(
            member for log in self.logs if log.planned.permanent for member in log.members if not log.problem
        )

    def hit(self, what: Callable[[Planned], bool]) -> frozenset[str]:
        """The members hit by the faults for which `what` holds."""
        return frozenset(member for log in self.logs if what(log.planned) for member in log.members)

    async def _impose(self, log: FaultLog) -> None:
        planned = log.planned
        if not await self._wait_until(planned.start_ms):
            log.problem = "everything was healed before it began"
            return
        draw = draw_for(planned, self._seed)
        coordinator = await self._site.coordinator()
        log.members = resolve_targets(planned.targets, self._site.members, coordinator, draw)
        try:
            fault = FAULTS[planned.kind](planned, log.members, self._site, draw)
            log.effects, log.unmet = fault.effects, fault.violations
            log.began_ms = self._site.now_ms()
            self.active[planned.number] = f"{planned.kind} {', '.join(log.members)}"
            self._note(log, "begins", members=list(log.members))
            await fault.begin()
            await self._last(log, fault)
        except NotPossibleError as error:
            log.problem = str(error)
            self._note(log, "not possible", problem=log.problem)
        finally:
            self.active.pop(planned.number, None)

    async def _last(self, log: FaultLog, fault: Fault) -> None:
        """Watch the fault until its time is over, then heal it."""
        told = 0
        instant = KINDS[log.planned.kind].instant
        while not instant:
            await fault.observe()
            told = self._tell(log, told)
            if self._is_over(log.planned):
                break
            await asyncio.sleep(OBSERVE_SECONDS)
        if not log.planned.permanent:
            await fault.end()
        self._tell(log, told)
        log.ended_ms = None if log.planned.permanent else self._site.now_ms()
        self._note(log, "lasts" if log.planned.permanent else "is over")

    def _is_over(self, planned: Planned) -> bool:
        over = planned.end_ms is not None and self._site.now_ms() >= planned.end_ms
        return over or self._healing.is_set()

    async def _wait_until(self, at_ms: int) -> bool:
        """Wait for a moment; False if everything is healed before."""
        try:
            async with asyncio.timeout(max(at_ms - self._site.now_ms(), 0) / 1000):
                await self._healing.wait()
        except TimeoutError:
            return True
        return False

    def _tell(self, log: FaultLog, told: int) -> int:
        """Report the effects that are new."""
        new: list[Effect] = log.effects[told:]
        for effect in new:
            self._note(log, "effect", effect.at_ms, text=effect.text)
        return len(log.effects)

    def _note(self, log: FaultLog, event: str, at_ms: int | None = None, **more: Any) -> None:
        planned = log.planned
        at_ms = self._site.now_ms() if at_ms is None else at_ms
        document = {"at_ms": at_ms, "number": planned.number, "kind": planned.kind, "event": event, **more}
        self._file.write(json.dumps(document, ensure_ascii=False) + "\n")
        words = more.get("text") or more.get("problem") or ", ".join(more.get("members", ()))
        self._say(at_ms, f"{planned.kind} {event}{f': {words}' if words else ''}")
