"""Carrying out a schedule: a fault lasts until it has shown, comes after those before it, and a slow machine
is not the cluster's fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from replication.faults.harness import imposing
from replication.faults.harness.fault import Fault, Kind, Planned
from replication.faults.harness.imposing import Imposer
from replication.faults.harness.outcome import FaultLog
from replication.faults.harness.scenario import Group
from replication.faults.harness.site import Site, Standing

MEMBERS = ("node-1", "node-2", "node-3", "node-4")
SOON_MS = 10_000
"""Sooner than any patience here, also on a machine that stands still now and then."""

PLANNED = Planned(1, "prompt", ("coordinator",), 0, 200, False, {})


class Prompt(Fault):
    """Shows `shows_after` seconds after it began, and takes `ends_after` to be healed."""

    kind: ClassVar[Kind] = Kind("prompt", Group.PROCESS, "")
    shows_after: ClassVar[float] = 0.0
    ends_after: ClassVar[float] = 0.0

    async def begin(self) -> None:
        self.shows_ms = self.site.now_ms() + self.shows_after * 1000

    async def observe(self) -> None:
        if self.site.now_ms() >= self.shows_ms:
            self.effect("it shows")

    async def end(self) -> None:
        await asyncio.sleep(self.ends_after)


class Tardy(Prompt):
    kind = Kind("tardy", Group.PROCESS, "")
    shows_after = 0.6


class Never(Prompt):
    kind = Kind("never", Group.PROCESS, "")
    shows_after = 1000.0


class Restarting(Prompt):
    kind = Kind("restarting", Group.PROCESS, "")
    ends_after = 0.5


class StandInSite(Site):
    """A site without a cluster, whose standing is what a test says."""

    now: Callable[[], Standing] = staticmethod(lambda: Standing("node-1"))

    async def standing(self) -> Standing:
        return self.now()


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {fault.kind.name: fault for fault in (Prompt, Tardy, Never, Restarting)}
    monkeypatch.setattr(imposing, "FAULTS", faults)
    monkeypatch.setattr(imposing, "KINDS", {name: fault.kind for name, fault in faults.items()})
    monkeypatch.setattr(imposing, "EFFECT_SECONDS", 30.0)
    monkeypatch.setattr(imposing, "OBSERVE_SECONDS", 0.02)


def impose(tmp_path: Path, *schedule: Planned, seconds: float = 0.0, **more: Any) -> list[FaultLog]:
    """Carry out a schedule; `seconds` is when the time is up."""

    async def main() -> list[FaultLog]:
        site = StandInSite(tmp_path, MEMBERS, {}, cast("Any", None), **more.pop("site", {}))
        if "now" in more:
            site.now = more.pop("now")
        imposer = Imposer(schedule, site, 1, tmp_path / "faults.jsonl", lambda *_: None, **more)
        imposer.start()
        await asyncio.sleep(seconds)
        async with asyncio.timeout(60):
            await imposer.heal()
        await imposer.close()
        return imposer.logs

    return asyncio.run(main())


def lasted(log: FaultLog) -> int:
    assert log.began_ms is not None
    assert log.ended_ms is not None
    return log.ended_ms - log.began_ms


def test_a_fault_lasts_as_long_as_planned_also_when_the_time_is_up_before(tmp_path: Path) -> None:
    (log,) = impose(tmp_path, PLANNED)
    assert log.took_effect
    assert 200 <= lasted(log) < SOON_MS


def test_a_fault_lasts_on_until_it_shows(tmp_path: Path) -> None:
    (log,) = impose(tmp_path, replace(PLANNED, kind="tardy"))
    assert log.took_effect
    assert 600 <= lasted(log) < SOON_MS


def test_one_that_never_shows_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imposing, "EFFECT_SECONDS", 0.3)
    (log,) = impose(tmp_path, replace(PLANNED, kind="never"))
    assert not log.took_effect
    assert 500 <= lasted(log) < SOON_MS


def test_one_without_an_end_lasts_until_the_time_is_up(tmp_path: Path) -> None:
    (log,) = impose(tmp_path, replace(PLANNED, end_ms=None), seconds=0.4)
    assert 300 <= lasted(log) < SOON_MS


def test_one_without_an_end_outlasts_all_others(tmp_path: Path) -> None:
    one, two = impose(tmp_path, replace(PLANNED, end_ms=None), replace(PLANNED, number=2, kind="restarting"))
    assert (one.ended_ms or 0) >= (two.ended_ms or 0) >= 600


def test_a_fault_comes_when_those_that_were_to_end_before_are_healed(tmp_path: Path) -> None:
    first = replace(PLANNED, kind="restarting")
    beside = replace(PLANNED, number=2, start_ms=100, end_ms=900)
    after = replace(PLANNED, number=3, start_ms=200, end_ms=400)
    one, two, three = impose(tmp_path, first, beside, after)
    assert two.began_ms is not None
    assert one.ended_ms is not None
    assert three.began_ms is not None
    assert two.began_ms < one.ended_ms <= three.began_ms
    assert lasted(three) >= 200


def test_so_many_drawn_faults_are_there_at_a_time(tmp_path: Path) -> None:
    drawn = [
        replace(PLANNED, number=1, kind="restarting", end_ms=50, drawn=True),
        replace(PLANNED, number=2, kind="tardy", start_ms=50, end_ms=100, drawn=True),
        replace(PLANNED, number=3, kind="prompt", start_ms=100, end_ms=150, drawn=True),
    ]
    one, two, three = impose(tmp_path, *drawn, seconds=0.3, at_once=2)
    assert (one.ended_ms or 0) > (two.began_ms or 0)
    assert (three.began_ms or 0) >= (one.ended_ms or 0)


def test_when_the_time_is_up_drawn_faults_of_a_kind_that_was_seen_are_left_out(tmp_path: Path) -> None:
    drawn = [
        replace(PLANNED, number=1, kind="restarting", end_ms=50, drawn=True),
        replace(PLANNED, number=2, kind="restarting", start_ms=50, end_ms=100, drawn=True),
        replace(PLANNED, number=3, kind="prompt", start_ms=100, end_ms=150, drawn=True),
    ]
    one, two, three = impose(tmp_path, *drawn, seconds=0.2)
    assert (one.took_effect, two.took_effect, three.took_effect) == (True, False, True)
    assert two.problem == "the time was up before it began"


@pytest.mark.parametrize(
    ("standings", "pace", "lasts"),
    [
        ({0: Standing("node-1"), 500: Standing("node-2", 1, 7), 700: Standing("node-2", 1, 8)}, 50.0, 700),
        ({0: Standing("node-1"), 100: Standing("node-2", 1, 7), 600: Standing("node-2", 1, 8)}, 50.0, 600),
        ({0: Standing("node-1"), 500: Standing("node-2", 1, 7)}, 2.0, 1_000),  # nothing comes of it
        ({0: Standing("node-1")}, 2.0, 1_000),
    ],
)
def test_one_that_is_to_replace_the_coordinator_lasts_on_until_then(
    standings: dict[int, Standing], pace: float, lasts: int, tmp_path: Path
) -> None:
    """But not longer than planned, stretched as the bounds are."""
    clock = Clock()
    planned = replace(PLANNED, end_ms=500, until_replaced=True)
    (log,) = impose(tmp_path, planned, now=lambda: clock.latest(standings), site={"pace": pace})
    assert lasts <= lasted(log) < SOON_MS


class Clock:
    """Milliseconds since it was first asked."""

    def __init__(self) -> None:
        self.began: float | None = None

    def latest(self, standings: dict[int, Standing]) -> Standing:
        now = asyncio.get_running_loop().time()
        self.began = now if self.began is None else self.began
        return standings[max(ms for ms in standings if ms <= (now - self.began) * 1000)]


def test_time_in_which_the_machine_stood_still_does_not_count(tmp_path: Path) -> None:
    async def main() -> tuple[int, int]:
        site = StandInSite(tmp_path, MEMBERS, {}, cast("Any", None))
        await asyncio.sleep(0.4)
        site.note_wait(100)
        site.note_wait(site.now_ms() - 50)  # a little late is everybody
        return site.now_ms(), site.awake_ms()

    now_ms, awake_ms = asyncio.run(main())
    assert awake_ms <= 150 < 400 <= now_ms


def test_a_fault_knows_those_that_were_to_end_before() -> None:
    later = replace(PLANNED, number=2, start_ms=200, end_ms=200)
    assert PLANNED.ends_before(later)
    assert not later.ends_before(later)
    assert not replace(PLANNED, end_ms=201).ends_before(later)
    assert not replace(PLANNED, end_ms=None).ends_before(later)
