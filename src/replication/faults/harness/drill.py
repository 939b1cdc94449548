"""One drill from beginning to end: make the cluster, load it, break it, heal it, and judge what is left.

RUN_DIR/
  scenario.toml, run.json     what is run: enough to run it again (`replay`)
  history.jsonl               every operation of every client
  faults.jsonl                every beginning, effect and end of a fault
  samples.jsonl               the nodes, a few times a second
  exports/                    every node's record
  inside/, logs/              what nodes signed and what they printed
  result.json, report.html    the verdict
  cluster/                    the cluster's own files; only kept if asked for
"""

from __future__ import annotations

import asyncio
import json
import platform
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from replication import __version__
from replication.errors import OperatorError
from replication.faults.harness.catalogue import KINDS
from replication.faults.harness.checks import CheckResult, Material, Verdict, run_checks
from replication.faults.harness.checks.conduct import decision_times
from replication.faults.harness.cluster import ClusterUnderTest
from replication.faults.harness.fault import NotPossibleError, Planned
from replication.faults.harness.gathering import Gathered, gather, wait_for_one_record
from replication.faults.harness.history import History, Operation
from replication.faults.harness.imposing import Imposer
from replication.faults.harness.nodes import NodeExit
from replication.faults.harness.outcome import FaultLog, RunResult, judge, write_result
from replication.faults.harness.reading import parse_scenario, with_nodes
from replication.faults.harness.sampling import Sampler
from replication.faults.harness.scenario import Scenario
from replication.faults.harness.schedule import make_schedule, planned_from
from replication.faults.harness.workload import Workload

__all__ = ["RUN_FILE", "RunPlan", "Watcher", "carry_out", "plan_run", "read_plan", "write_plan"]

RUN_FILE: Final = "run.json"
SCENARIO_FILE: Final = "scenario.toml"
TICK_SECONDS: Final = 0.1


class Watcher(Protocol):
    """Told how a run is going, for the person who waits."""

    def stage(self, text: str) -> None:
        """Something new begins."""

    def event(self, at_ms: int, text: str) -> None:
        """Something happened in the cluster."""

    def tick(self, at_ms: int, decisions: int, faults: Sequence[str]) -> None:
        """So much time has passed, so many decisions were told, and these faults are there."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A scenario with everything drawn: what is run, and run again by a replay. `bug` is one that is planted
    in every node (`product_bugs`)."""

    scenario: Scenario
    seed: int
    schedule: tuple[Planned, ...]
    bug: str = ""


def plan_run(scenario: Scenario, seed: int | None = None, bug: str = "") -> RunPlan:
    """Draw the schedule of a run; without a seed, that of the scenario."""
    chosen = scenario.seed if seed is None else seed
    return RunPlan(scenario, chosen, make_schedule(scenario, chosen), bug)


def write_plan(plan: RunPlan, directory: Path) -> None:
    """Write down what is run, before it is."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / SCENARIO_FILE).write_text(plan.scenario.text, encoding="utf-8")
    document = {
        "scenario": plan.scenario.name,
        "seed": plan.seed,
        "nodes": plan.scenario.cluster.nodes,
        "bug": plan.bug,
        "schedule": [item.as_document() for item in plan.schedule],
        "version": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    (directory / RUN_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_plan(directory: Path) -> RunPlan:
    """The plan of an earlier run. Raises `OperatorError` if the folder is not that of a run."""
    try:
        text = (directory / SCENARIO_FILE).read_text(encoding="utf-8")
        document = json.loads((directory / RUN_FILE).read_text(encoding="utf-8"))
        schedule = tuple(planned_from(item) for item in document["schedule"])
        scenario = with_nodes(parse_scenario(text, str(directory / SCENARIO_FILE)), document["nodes"])
        return RunPlan(scenario, document["seed"], schedule, document["bug"])
    except OSError as error:
        raise OperatorError(
            f"{error.filename} cannot be read: {error.strerror}. Give the folder of an earlier run."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise OperatorError(f"{directory / RUN_FILE} is not the plan of a run: {error}") from error


async def carry_out(plan: RunPlan, directory: Path, watcher: Watcher, *, keep: bool = False) -> RunResult:
    """Run a plan in `directory`, which must be new or empty, and return the result, which is kept there too.

    With `keep`, the cluster's own files stay. Raises `OperatorError` when the cluster cannot be started.
    """
    began = time.monotonic()
    write_plan(plan, directory)
    run = _Run(plan, directory, watcher)
    try:
        checks, logs, figures = await run.perform()
        verdict, reasons = judge(checks, logs)
    except NotPossibleError as error:
        checks, logs, figures = [], [FaultLog(planned) for planned in plan.schedule], {}
        verdict, reasons = Verdict.NOT_RUN, [str(error)]
    finally:
        run.tidy(keep)
    result = RunResult(
        name=plan.scenario.name,
        group=plan.scenario.group.value,
        summary=plan.scenario.summary,
        seed=plan.seed,
        nodes=plan.scenario.cluster.nodes,
        verdict=verdict,
        reasons=reasons,
        checks=checks,
        faults=[log.as_document() for log in logs],
        figures=figures,
        seconds=time.monotonic() - began,
        directory=str(directory),
    )
    write_result(result, directory)
    return result


class _Run:
    """One run on its way."""

    def __init__(self, plan: RunPlan, directory: Path, watcher: Watcher) -> None:
        self._plan = plan
        self._scenario = plan.scenario
        self._directory = directory
        self._watcher = watcher
        self._unexpected: list[str] = []

    async def perform(self) -> tuple[list[CheckResult], list[FaultLog], dict[str, Any]]:
        """The whole run; what was found, what happened, and the figures."""
        self._watcher.stage(f"starting {self._scenario.cluster.nodes} nodes")
        plan = self._plan
        cluster = ClusterUnderTest(self._scenario, self._directory, plan.seed, self._node_ended, plan.bug)
        async with cluster:
            with History(self._directory / "history.jsonl", cluster.site.began) as history:
                imposer = Imposer(
                    self._plan.schedule,
                    cluster.site,
                    self._plan.seed,
                    self._directory / "faults.jsonl",
                    self._watcher.event,
                    self._scenario.random.at_once if self._scenario.random else 1,
                )
                try:
                    material, sampler = await self._break(cluster, history, imposer)
                finally:
                    await imposer.close()
        self._watcher.stage("checking")
        checks = await asyncio.to_thread(run_checks, material)
        figures = _figures(material, sampler) | {
            "pace": round(cluster.site.pace, 2),
            "stood_still_ms": sum(end - begin for begin, end in material.lags),
        }
        return checks, imposer.logs, figures

    def tidy(self, keep: bool) -> None:
        """Keep the nodes' logs; remove the cluster's own files, keys and all, unless they are to be kept."""
        cluster = self._directory / "cluster"
        logs = self._directory / "logs"
        logs.mkdir(exist_ok=True)
        for log in cluster.glob("*/node.log"):
            shutil.copyfile(log, logs / f"{log.parent.name}.log")
        if not keep:
            shutil.rmtree(cluster, ignore_errors=True)

    async def _break(
        self, cluster: ClusterUnderTest, history: History, imposer: Imposer
    ) -> tuple[Material, Sampler]:
        """Load the cluster, impose the faults, heal, wait for the recovery, and fetch everything."""
        site, bounds = cluster.site, self._scenario.bounds
        sampler = Sampler(site, self._directory / "samples.jsonl")
        workload = Workload(cluster.directory, self._scenario, history, self._plan.seed)
        background = asyncio.gather(sampler.run(), self._watch(cluster, history, imposer))
        self._watcher.stage("load and faults")
        workload.start()
        imposer.start()
        try:
            await asyncio.sleep(max(self._scenario.workload.seconds - site.now_ms() / 1000, 0))
            await imposer.heal()
            healed_ms = history.now_ms()
            self._watcher.stage("healed; waiting for the recovery")
            await self._recover(history, healed_ms, site.pace)
            await workload.stop()
            if workload.crashes:
                raise workload.crashes[0]
            expected = [member for member in site.members if member not in imposer.abandoned()]
            recover_seconds = bounds.recover_seconds * site.pace
            settled = await wait_for_one_record(site.observer, expected, recover_seconds)
            end_ms = history.now_ms() if settled else None
        finally:
            broken = background.done() and not background.cancelled()
            background.cancel()
            await asyncio.gather(background, workload.abandon(), return_exceptions=True)
        if broken:
            background.result()  # raises what ended it
        self._watcher.stage("fetching records")
        gathered = await gather(cluster, expected, self._directory / "exports")
        return self._material(cluster, history, imposer, gathered, healed_ms, end_ms), sampler

    async def _watch(self, cluster: ClusterUnderTest, history: History, imposer: Imposer) -> None:
        """Notice processes that end, and a machine that stands still, and say how things are."""
        counter, site = _DecisionCounter(history.operations), cluster.site
        while True:
            for node in site.nodes.values():
                node.notice_end()
            self._watcher.tick(site.now_ms(), counter.count(), list(imposer.active.values()))
            due_ms = site.now_ms() + round(TICK_SECONDS * 1000)
            await asyncio.sleep(TICK_SECONDS)
            site.note_wait(due_ms)

    async def _recover(self, history: History, healed_ms: float, pace: float) -> None:
        """Go on with the load until enough was decided after the healing, or the time is up."""
        bounds = self._scenario.bounds
        counter = _DecisionCounter(history.operations, since_ms=healed_ms)
        while history.now_ms() < healed_ms + bounds.recover_seconds * pace * 1000:
            if counter.count() >= bounds.decisions_after_healing:
                return
            await asyncio.sleep(TICK_SECONDS)

    def _node_ended(self, ended: NodeExit) -> None:
        if not ended.expected:
            self._unexpected.append(
                f"{ended.member} ended by itself with code {ended.code}: {ended.words.strip()[-600:]}"
            )

    def _material(
        self,
        cluster: ClusterUnderTest,
        history: History,
        imposer: Imposer,
        gathered: Gathered,
        healed_ms: float,
        end_ms: float | None,
    ) -> Material:
        signed = {
            member: path.read_text(encoding="ascii").splitlines()
            for member, path in cluster.signed_logs().items()
        }
        return Material(
            genesis=cluster.genesis,
            operations=history.operations,
            records=gathered.records,
            bounds=self._scenario.bounds.stretched(cluster.site.pace),
            healed_ms=healed_ms,
            end_ms=end_ms,
            lags=cluster.site.lags,
            missing=gathered.missing,
            culprits=imposer.hit(lambda planned: KINDS[planned.kind].blames),
            robbed=imposer.hit(lambda planned: KINDS[planned.kind].robs),
            signed=signed if cluster.is_wrapped else None,
            certificates=gathered.certificates,
            unexpected_ends=self._unexpected,
            unmet=[text for log in imposer.logs for text in log.unmet],
        )


class _DecisionCounter:
    """How many decisions were told so far, of proposals made since a moment. Looks at each operation once."""

    def __init__(self, operations: Sequence[Operation], since_ms: float = 0.0) -> None:
        self._operations = operations
        self._since_ms = since_ms
        self._next = 0
        self._pending: list[Operation] = []
        self._decided: set[str] = set()

    def count(self) -> int:
        """The count now."""
        self._pending += self._operations[self._next :]
        self._next = len(self._operations)
        waiting = []
        for item in self._pending:
            if item.kind != "propose" or item.start_ms < self._since_ms:
                continue
            if item.end_ms is None:
                waiting.append(item)
            elif item.is_ok and item.answer["decision"] != "pending":
                self._decided.add(item.answer["proposal_id"])
        self._pending = waiting
        return len(self._decided)


def _figures(material: Material, sampler: Sampler) -> dict[str, Any]:
    """What the run was like, in numbers."""
    proposals = [item for item in material.operations if item.kind == "propose"]
    latencies = sorted(item.latency_ms for item in proposals if item.latency_ms is not None)
    ends: dict[str, int] = {}
    for item in material.operations:
        ends[item.outcome.value] = ends.get(item.outcome.value, 0) + 1
    memory = [sample.memory_kib for sample in sampler.samples if sample.memory_kib is not None]
    recovered = [time for time in decision_times(material) if time >= material.healed_ms]
    return {
        "operations": len(material.operations),
        "ends": ends,
        "decisions": len(decision_times(material)),
        "latency_p50_ms": _percentile(latencies, 0.50),
        "latency_p99_ms": _percentile(latencies, 0.99),
        "latency_max_ms": latencies[-1] if latencies else None,
        "healed_ms": round(material.healed_ms),
        "first_decision_after_healing_ms": round(recovered[0] - material.healed_ms) if recovered else None,
        "one_record_after_healing_ms": (
            None if material.end_ms is None else round(material.end_ms - material.healed_ms)
        ),
        "height": len(material.longest.blocks) - 1,
        "view_changes": len(material.longest.of_type("coordinator")),
        "highest_view": sampler.highest_view,
        "memory_max_mib": round(max(memory) / 1024, 1) if memory else None,
        "signatures_logged": sum(len(lines) for lines in (material.signed or {}).values()),
        "interpreter": sys.version.split()[0],
    }


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value at a share of an ordered list (nearest rank)."""
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 3) if ordered else None
