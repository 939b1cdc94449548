"""`acp faults list|run|replay|report`: drills on real clusters, broken on purpose."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from replication.cli.options import JsonOption
from replication.cli.output import note, print_json

if TYPE_CHECKING:
    from replication.faults.harness.drill import RunPlan
    from replication.faults.harness.outcome import RunResult
    from replication.faults.harness.scenario import Scenario

__all__ = ["list_drills", "replay_drill", "report_drill", "run_drills"]

T = TypeVar("T")

FAILED, NOT_RUN = 7, 4
"""Exit codes, of `main.ExitCode`: something that must hold does not; or nothing was shown."""

DirectoryOption = Annotated[
    Path | None,
    typer.Option("--dir", help="Keep the files of the run in this new folder.", show_default=False),
]
KeepOption = Annotated[bool, typer.Option("--keep", help="Keep the clusters' own files too, keys and all.")]
ReportOption = Annotated[
    Path | None,
    typer.Option("--report", help="Write the report to this file.", metavar="FILE.html", show_default=False),
]
LibraryOption = Annotated[
    Path | None,
    typer.Option(help="Folder with scenarios. Default: deploy/faults.", metavar="DIR", show_default=False),
]
AllowNotRunOption = Annotated[
    bool,
    typer.Option("--allow-not-run", help="Exit with 0 although some runs showed nothing (NOT RUN)."),
]


NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Names of ready drills, or scenario files.", metavar="NAME|FILE...", show_default=False
    ),
]


def list_drills(
    kinds: Annotated[bool, typer.Option("--kinds", help="List the kinds of faults instead.")] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """List the ready drills, or with --kinds the faults that a scenario can use, with their settings."""
    from replication.cli import drill_display as display

    if kinds:
        from replication.faults.harness.catalogue import KINDS

        if json:
            print_json(display.kinds_document(KINDS.values()))
        else:
            display.show_kinds(KINDS.values())
        return
    from replication.faults.harness.scenario_files import find_library, load_library

    scenarios = load_library(find_library(library))
    if json:
        print_json([display.scenario_document(scenario) for scenario in scenarios])
    else:
        display.show_scenarios(scenarios)


def run_drills(
    names: NamesArgument = None,
    every: Annotated[bool, typer.Option("--all", help="Run all ready drills, one after another.")] = False,
    nodes: Annotated[
        int | None, typer.Option(help="Another number of nodes than the scenario's.", show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Another seed than the scenario's.", min=0, show_default=False)
    ] = None,
    bug: Annotated[
        str, typer.Option(help="Plant this bug in every node: the drill should fail.", show_default=False)
    ] = "",
    bugs: Annotated[
        bool,
        typer.Option("--bugs", help="Plant one bug after another, each in its drill: all must fail."),
    ] = False,
    runs: Annotated[
        int, typer.Option(help="Run each drill so often, with one seed after another.", min=1)
    ] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on in --dir: what has finished there is not run again.")
    ] = False,
    directory: DirectoryOption = None,
    keep: KeepOption = False,
    report: ReportOption = None,
    library: LibraryOption = None,
    allow_not_run: AllowNotRunOption = False,
    json: JsonOption = False,
) -> None:
    """Start a cluster, put load on it, break it as the scenario says, heal it, and check that nothing gave
    way.

    A fault that left no trace makes the run NOT RUN, which is not passed. Exit code 7 when something that
    must hold does not, 4 when a run showed nothing. Without --dir, the files of a run that passed are
    removed."""
    from replication.client import UsageError
    from replication.faults.harness.drill import plan_run
    from replication.faults.harness.reading import with_nodes

    if bugs:
        _hunt_bugs(names or [], every, library, directory, json=json)
        return
    scenarios = _chosen(names or [], every, library)
    if nodes is not None:
        scenarios = [with_nodes(scenario, nodes) for scenario in scenarios]
    if resume and directory is None:
        raise UsageError("--resume goes on in the folder of an earlier run. Name it with --dir.")
    plans = [
        plan_run(scenario, (scenario.seed if seed is None else seed) + run, bug)
        for scenario in scenarios
        for run in range(runs)
    ]
    _run_all(
        plans, directory, keep=keep, report=report, allow_not_run=allow_not_run, json=json, resume=resume
    )


def _hunt_bugs(
    names: list[str], every: bool, library: Path | None, directory: Path | None, *, json: bool
) -> None:
    """Each planted bug has to make its drill fail. Exit code 7 when one stays unnoticed."""
    from replication.cli.output import console, table
    from replication.client import UsageError
    from replication.faults.harness.checks import Verdict
    from replication.faults.harness.drill import plan_run
    from replication.faults.harness.product_bugs import PRODUCT_BUGS
    from replication.faults.harness.scenario_files import find_scenario

    if every:
        raise UsageError("--bugs runs the drill of each bug; --all has no place there.")
    known = {bug.name: bug for bug in PRODUCT_BUGS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"There is no bug {unknown[0]!r:.60}. Bugs are {', '.join(known)}.")
    base = directory or Path(tempfile.mkdtemp(prefix="acp-faults-"))
    chosen = [known[name] for name in names or known]
    results = []
    for number, bug in enumerate(chosen, 1):
        plan = plan_run(find_scenario(bug.drill, library), None, bug.name)
        results.append(_run_one(plan, base / bug.name, number, len(chosen), keep=False))
        if directory is None:
            shutil.rmtree(base / bug.name, ignore_errors=True)
    if directory is None:
        shutil.rmtree(base, ignore_errors=True)
    pairs = list(zip(chosen, results, strict=True))
    missed = [
        bug.name
        for bug, result in pairs
        if not any(check.name == bug.check and check.verdict is Verdict.FAILED for check in result.checks)
    ]
    if json:
        print_json({bug.name: result.as_document() for bug, result in pairs})
    else:
        rows = [
            (bug.name, bug.what, bug.drill, f"{result.seconds:.0f} s", (result.reasons or ["NOTHING"])[0])
            for bug, result in pairs
        ]
        console().print(table("Planted bugs", ("bug", "what", "drill", ">took", "caught by"), rows))
    if missed:
        note(f"not caught: {', '.join(missed)}")
        raise typer.Exit(FAILED)


def replay_drill(
    run: Annotated[Path, typer.Argument(help="Folder of an earlier run.", metavar="RUN_DIR")],
    directory: DirectoryOption = None,
    keep: KeepOption = False,
    report: ReportOption = None,
    allow_not_run: AllowNotRunOption = False,
    json: JsonOption = False,
) -> None:
    """Run an earlier run again: the same scenario, seed and schedule, on a new cluster.

    Processes and networks never run twice in the same way; what was drawn is the same."""
    from replication.faults.harness.drill import read_plan

    _run_all([read_plan(run)], directory, keep=keep, report=report, allow_not_run=allow_not_run, json=json)


def report_drill(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of several.", metavar="RUN_DIR")],
    report: ReportOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a run came to, and write its report (default: report.html in the folder)."""
    from replication.cli import drill_display as display
    from replication.faults.harness.outcome import RESULT_FILE
    from replication.faults.harness.page import load_run, write_page

    folders = [path.parent for path in sorted(run.glob(f"*/{RESULT_FILE}"))]
    if (run / RESULT_FILE).is_file():
        folders = [run]
    views = [load_run(folder) for folder in folders or [run]]
    target = report or run / "report.html"
    write_page(target, views)
    results = [view.result for view in views]
    if json:
        print_json(display.results_document(results))
    else:
        display.show_results(results)
        note(f"Report: {target}")


def _chosen(names: Sequence[str], every: bool, library: Path | None) -> list[Scenario]:
    from replication.client import UsageError
    from replication.faults.harness.scenario_files import find_library, find_scenario, load_library

    if every == bool(names):
        raise UsageError("Name the drills to run, or give --all. `acp faults list` shows what there is.")
    if every:
        return load_library(find_library(library))
    return [find_scenario(name, library) for name in names]


def _run_all(
    plans: Sequence[RunPlan],
    directory: Path | None,
    *,
    keep: bool,
    report: Path | None,
    allow_not_run: bool,
    json: bool,
    resume: bool = False,
) -> None:
    from replication.cli import drill_display as display
    from replication.faults.harness.checks import Verdict
    from replication.faults.harness.outcome import read_result, total_verdict
    from replication.faults.harness.page import load_run, write_page

    base = directory or Path(tempfile.mkdtemp(prefix="acp-faults-"))
    results: list[RunResult] = []
    views = []
    try:
        for number, plan in enumerate(plans, 1):
            folder = base if len(plans) == 1 else base / f"{number:02d}-{plan.scenario.name}"
            if resume and _has_finished(plan, folder):
                results.append(read_result(folder))
                continue
            _require_new(folder)
            result = _run_one(plan, folder, number, len(plans), keep=keep)
            results.append(result)
            view = load_run(folder)
            write_page(folder / "report.html", [view])
            if report is not None:
                views.append(view)
                write_page(report, views)
            if directory is None and not keep and result.verdict is Verdict.PASSED:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        if directory is None:
            with suppress(OSError):
                base.rmdir()  # unless something is kept in it
    verdict = total_verdict(results)
    if json:
        print_json(display.results_document(results))
    else:
        display.show_results(results)
    if base.exists():
        note(f"Files: {base}")
    if verdict is Verdict.FAILED:
        raise typer.Exit(FAILED)
    if verdict is Verdict.NOT_RUN and not allow_not_run:
        raise typer.Exit(NOT_RUN)


def _run_one(plan: RunPlan, folder: Path, number: int, count: int, *, keep: bool) -> RunResult:
    from replication.cli.drill_display import Progress
    from replication.faults.harness.isolated import start_run

    with Progress(f"[{number}/{count}] {plan.scenario.name}", plan.scenario.workload.seconds) as progress:
        result = _finish(start_run(plan, folder, progress, keep=keep))
        progress.done(result)
    return result


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end. SIGINT and SIGTERM cancel it, so that it stops its nodes, and then interrupt us."""

    async def run() -> T:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            if task is not None:
                loop.add_signal_handler(number, task.cancel)
        return await work

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _has_finished(plan: RunPlan, folder: Path) -> bool:
    """Whether the folder holds the result of this very run. What broke off in the middle is removed."""
    from replication.errors import OperatorError
    from replication.faults.harness.drill import read_plan
    from replication.faults.harness.outcome import RESULT_FILE

    if not folder.exists():
        return False
    if read_plan(folder) != plan:
        raise OperatorError(f"{folder} is of another run. Choose another folder with --dir.")
    if (folder / RESULT_FILE).is_file():
        return True
    shutil.rmtree(folder)
    return False


def _require_new(folder: Path) -> None:
    from replication.errors import OperatorError

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OperatorError(f"{folder} exists and is not an empty folder. Choose another one with --dir.")
