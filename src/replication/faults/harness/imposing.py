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
from replication.faults.harness.site import Site, Standing

__all__ = ["Imposer"]

OBSERVE_SECONDS: Final = 0.2

EFFECT_SECONDS: Final = 20.0
"""How much longer than planned a fault lasts if nothing, or not all, was seen of it. What is late here is a
fault that is to come, and nothing that the cluster has to do."""


class Imposer:
    """The faults of one run; `at_once` of the drawn ones may be there at a time. `say` is told of every
    beginning, effect and end."""

    def __init__(
        self,
        schedule: Sequence[Planned],
        site: Site,
        seed: int,
        path: Path,
        say: Callable[[int, str], None],
        at_once: int = 1,
    ) -> None:
        self.logs = [FaultLog(planned) for planned in schedule]
        self.active: dict[int, str] = {}
        self._site = site
        self._seed = seed
        self._say = say
        self._at_once = at_once
        self._file = path.open("w", encoding="utf-8")
        self._time_is_up = False
        self._healing = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to count the time."""
        self._tasks = [asyncio.create_task(self._impose(log)) for log in self.logs]

    async def heal(self) -> None:
        """The time is up: wait until each fault with an end has had its time, then end the others that are
        not permanent. Raises what a fault raised."""
        self._time_is_up = True
        tasks = zip(self._tasks, self.logs, strict=True)
        await asyncio.gather(*(task for task, log in tasks if log.planned.end_ms is not None))
        self._healing = True
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
        await self._wait_for_turn(planned)
        if self._time_is_up and planned.drawn and self._has_seen(planned.kind):
            log.problem = "the time was up before it began"
            return
        draw = draw_for(planned, self._seed)
        before = await self._site.standing()
        log.members = resolve_targets(planned.targets, self._site.members, before.coordinator, draw)
        try:
            fault = FAULTS[planned.kind](planned, log.members, self._site, draw)
            log.effects, log.unmet = fault.effects, fault.violations
            log.began_ms = self._site.now_ms()
            self.active[planned.number] = f"{planned.kind} {', '.join(log.members)}"
            self._note(log, "begins", members=list(log.members))
            await fault.begin()
            await self._last(log, fault, _Course(planned, self._site, before))
        except NotPossibleError as error:
            log.problem = str(error)
            self._note(log, "not possible", problem=log.problem)
        finally:
            self.active.pop(planned.number, None)

    async def _last(self, log: FaultLog, fault: Fault, course: _Course) -> None:
        """Watch the fault until its time is over, then heal it."""
        told = 0
        instant = KINDS[log.planned.kind].instant
        while not instant:
            await fault.observe()
            told = self._tell(log, told)
            if await course.is_over(fault, healing=self._healing):
                break
            await asyncio.sleep(OBSERVE_SECONDS)
        if not log.planned.permanent:
            await fault.end()
        self._tell(log, told)
        log.ended_ms = None if log.planned.permanent else self._site.now_ms()
        self._note(log, "lasts" if log.planned.permanent else "is over")

    async def _wait_for_turn(self, planned: Planned) -> None:
        """Wait for its moment, and until those that were to be over by then are: else more members would be
        down than the scenario means, where a restart takes long."""
        await asyncio.sleep(max(planned.start_ms - self._site.now_ms(), 0) / 1000)
        before = [
            task for task, log in zip(self._tasks, self.logs, strict=True) if log.planned.ends_before(planned)
        ]
        beside = self._at_once - 1 if planned.drawn else 0
        if before[beside:]:
            await asyncio.wait(before[: len(before) - beside])

    def _has_seen(self, kind: str) -> bool:
        return any(log.planned.kind == kind and log.took_effect for log in self.logs)

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


class _Course:
    """How long one fault lasts: as long as planned, and on until it has shown and done what it is to do."""

    def __init__(self, planned: Planned, site: Site, before: Standing) -> None:
        self._planned = planned
        self._site = site
        self._before = before
        self._after: Standing | None = None
        self._began_ms = site.awake_ms()
        self._complete_ms: int | None = None
        self._due_ms: int | None = None

    async def is_over(self, fault: Fault, *, healing: bool) -> bool:
        """Whether it is to end now; a fault without an end, when everything is `healing`."""
        now_ms, lasts_ms, pace = self._site.awake_ms(), self._planned.lasts_ms, self._site.pace
        if fault.is_complete and self._complete_ms is None:
            self._complete_ms = now_ms
        if not healing if lasts_ms is None else now_ms < self._began_ms + lasts_ms:
            return False
        if self._due_ms is None:
            self._due_ms = now_ms
        if self._complete_ms is None:
            return now_ms >= self._due_ms + EFFECT_SECONDS * pace * 1000
        if not self._planned.until_replaced or now_ms >= self._complete_ms + (lasts_ms or 0) * pace:
            return True
        return await self._is_replaced()

    async def _is_replaced(self) -> bool:
        """Whether the coordinator of the beginning was replaced, by one that has added to the record."""
        now = await self._site.standing()
        if now.view == self._before.view:
            return False
        if self._after is None or self._after.view != now.view:
            self._after = now
        return now.height > self._after.height
