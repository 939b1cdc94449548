"""`acp faults simulate`: the ordering protocol under every fault there is, many times over."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replication.cli.options import JsonOption
from replication.cli.output import console, note, pairs, print_json, print_lines, table

if TYPE_CHECKING:
    from replication.faults.seeded_bugs import Caught
    from replication.faults.simulation.runner import Summary

__all__ = ["simulate"]

MEMBERS_HELP = "Sizes of the clusters, as N or LOW..HIGH."


def simulate(
    seeds: Annotated[int, typer.Option(help="How many random scenarios.", min=1)] = 1_000,
    start: Annotated[int, typer.Option("--from", help="The first seed.", min=0)] = 0,
    n: Annotated[str, typer.Option("--n", help=MEMBERS_HELP)] = "1..31",
    seed: Annotated[
        int | None, typer.Option(help="Replay this seed and show what happened.", show_default=False)
    ] = None,
    twins: Annotated[
        bool, typer.Option("--twins", help="Run all canonical scenarios of four members and a twin instead.")
    ] = False,
    bugs: Annotated[
        bool, typer.Option("--bugs", help="Plant one bug after the other instead: each has to be caught.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes.", min=1, max=64)] = 2,
    json: JsonOption = False,
) -> None:
    """Run simulated clusters with faulty members, networks, disks and clocks; check that nothing breaks.

    Each seed draws a scenario. While it has faults, safety is checked; then a quorum is healed and must make
    progress. Exit code 1 when a seed fails (replay it with --seed), when a twins scenario fails, or when a
    planted bug is not caught."""
    if twins:
        _run_twins(workers, json)
        return
    if bugs:
        _hunt_bugs(workers, json)
        return
    lowest, highest = _sizes(n)
    if seed is not None:
        _replay(seed, lowest, highest, json)
        return
    from replication.faults.simulation.runner import Summary
    from replication.faults.simulation.runner import simulate as run_all

    began = time.monotonic()
    total = Summary()
    for part in run_all(range(start, start + seeds), workers=workers, lowest=lowest, highest=highest):
        total.add(part)
        for failed, rule, detail in part.failures:
            note(f"seed {failed}: {rule}: {detail}")
    _show(total, time.monotonic() - began, json)
    if total.failures:
        raise typer.Exit(1)


def _sizes(text: str) -> tuple[int, int]:
    low, _, high = text.partition("..")
    try:
        lowest, highest = int(low), int(high or low)
    except ValueError:
        lowest, highest = 0, 0
    if not 1 <= lowest <= highest <= 100:
        raise typer.BadParameter(f"{text!r} is not a size or a range of sizes from 1 to 100, such as 4..31")
    return lowest, highest


def _replay(seed: int, lowest: int, highest: int, json: bool) -> None:
    from replication.faults.simulation.scenario import draw
    from replication.faults.simulation.world import run

    scenario = draw(seed, lowest=lowest, highest=highest)
    result = run(scenario, readable=True)
    if json:
        print_json(
            {
                "scenario": scenario.as_document(),
                "violations": [str(item) for item in result.violations],
                "digest": result.digest,
                "height": result.height,
                "fired": dict(sorted(result.fired.items())),
            }
        )
    else:
        print_lines((scenario.describe(), *result.lines))
        for violation in result.violations:
            note(f"VIOLATION {violation}")
        note(f"seed {seed}: height {result.height}, {result.events} events, trace {result.digest}")
    if result.failed:
        raise typer.Exit(1)


def _show(total: Summary, seconds: float, json: bool) -> None:
    document = total.as_document() | {"seconds": round(seconds, 1)}
    if json:
        print_json(document)
        return
    screen = console()
    rows: list[tuple[Any, ...]] = sorted(total.fired.items())
    screen.print(table("Faults that took place", ("fault", ">times"), rows))
    facts = {
        "scenarios": total.runs,
        "failed": len(total.failures),
        "blocks committed": total.heights,
        "events": total.events,
        "longest way to progress, ms": total.longest_progress_ms,
        "seconds": f"{seconds:.1f}",
    }
    screen.print(pairs(facts))


def _run_twins(workers: int, json: bool) -> None:
    from replication.faults.simulation.runner import spread
    from replication.faults.simulation.twins import TwinsReport, jobs, run_job

    began, total = time.monotonic(), TwinsReport()
    with spread(run_job, list(jobs()), workers) as reports:
        for report in reports:
            total.add(report)
            for failure in report.failures:
                note(f"twins: {failure}")
    seconds = time.monotonic() - began
    facts = {
        "scenarios": total.scenarios,
        "failed": len(total.failures),
        "blocks committed": total.commits,
        "scenarios a second": round(total.scenarios / max(seconds, 0.001)),
        "seconds": round(seconds, 1),
    }
    if json:
        print_json(facts | {"failures": total.failures})
    else:
        console().print(pairs(facts))
    if total.failures:
        raise typer.Exit(1)


def _hunt_bugs(workers: int, json: bool) -> None:
    from replication.faults.seeded_bugs import BUGS, hunt_by_name
    from replication.faults.simulation.runner import spread

    with spread(hunt_by_name, [bug.name for bug in BUGS], workers) as hunts:
        found = dict(hunts)
    missed = [bug.name for bug in BUGS if found[bug.name] is None]
    if json:
        print_json({name: None if caught is None else vars(caught) for name, caught in sorted(found.items())})
    else:
        rows = [(bug.name, bug.what, bug.family, *_catch(found[bug.name])) for bug in BUGS]
        columns = ("bug", "what", "family", ">scenarios", ">seconds", "caught by")
        console().print(table("Planted bugs", columns, rows))
        times = [caught.seconds for caught in found.values() if caught is not None]
        note(f"{len(times)} of {len(BUGS)} caught, median {statistics.median(times or [0]):.2f} s")
    if missed:
        note(f"not caught: {', '.join(missed)}")
        raise typer.Exit(1)


def _catch(caught: Caught | None) -> tuple[object, ...]:
    if caught is None:
        return "", "", "NOT CAUGHT"
    return caught.scenarios, f"{caught.seconds:.2f}", caught.rule
