"""`acp demo`: a cluster of four decides realistic incidents, and every proof is checked.

This is `make run`.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replication.cli.options import JsonOption
from replication.cli.output import console, note, print_json, table

if TYPE_CHECKING:
    from replication.cli.incidents import Incident
    from replication.cli.rehearsal import Outcome, Report
    from replication.node.local.processes import LocalCluster

__all__ = ["demo"]

NODES = 4
VOTE_MARKS = {"approve": "yes", "reject": "no", "abstain": "abst."}


def demo(
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="Make the cluster here and keep its files.", show_default=False),
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            help="Folder with incidents.jsonl and policies/. Default: deploy/examples.", show_default=False
        ),
    ] = None,
    incidents: Annotated[
        Path | None, typer.Option(help="Another file of incidents.", metavar="FILE", show_default=False)
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary cluster's files.")] = False,
    json: JsonOption = False,
) -> None:
    """Start four voters with policies, decide incidents, verify every proof offline, and stop everything.

    Exit code 0 only when every decision came out as expected and every check holds.
    """
    from replication.cli.incidents import find_examples, load_incidents
    from replication.node.local.processes import stop_on_signal

    began = time.monotonic()
    folder = find_examples(examples)
    cases = load_incidents(incidents or folder / "incidents.jsonl")
    with _working_folder(directory, keep) as place, stop_on_signal():
        report = _perform(place, folder, cases)
    seconds = time.monotonic() - began
    if json:
        print_json(_document(report, seconds))
    else:
        _show(report, seconds)
    if not report.passed:
        raise typer.Exit(1)


@contextmanager
def _working_folder(directory: Path | None, keep: bool) -> Iterator[Path]:
    if directory is not None:
        yield directory
        return
    if keep:
        place = Path(tempfile.mkdtemp(prefix="acp-demo-"))
        note(f"The cluster's files stay in {place}.")
        yield place / "cluster"
        return
    with tempfile.TemporaryDirectory(prefix="acp-demo-") as place_name:
        yield Path(place_name) / "cluster"


def _perform(directory: Path, examples: Path, cases: list[Incident]) -> Report:
    """Make the cluster, run everything on it, stop it, and check that nothing is left running."""
    from replication.cli.rehearsal import Check
    from replication.node.local.processes import LocalCluster
    from replication.node.local.provision import node_homes, provision_cluster

    provision_cluster(directory, nodes=NODES, name="demo", policies=_policies(examples))
    with LocalCluster(node_homes(directory)) as cluster:
        cluster.start()
        report = asyncio.run(_rehearse(directory, cluster, cases))
        crashed = {home.name: code for home, code in cluster.ended().items()}
    left = cluster.pids()
    codes = {home.name: code for home, code in cluster.ended().items()}
    clean = not crashed and not left and not any(codes.values())
    detail = f"{len(codes)} processes, exit codes {sorted(set(codes.values()))}"
    report.checks.append(Check("all nodes ran to the end and stopped in good order", clean, detail))
    return report


async def _rehearse(directory: Path, cluster: LocalCluster, cases: list[Incident]) -> Report:
    from replication.cli.rehearsal import Rehearsal
    from replication.client import open_folder, wait_until_ready

    picture = await wait_until_ready(open_folder(directory), cluster.require_alive)
    state = picture.status
    note(
        f"{state.n} voter processes are up: f = {state.f}, tally quorum {state.tally_quorum}, "
        f"commit quorum {state.commit_quorum}, coordinator {state.coordinator}."
    )
    with _progress(len(cases) + NODES) as step:
        return await Rehearsal(directory, step).run(cases)


def _policies(examples: Path) -> dict[str, Any]:
    """The policy of each node: its own file, or the one named default.toml."""
    from replication.errors import OperatorError
    from replication.node.local.provision import PolicyChoice

    found = {}
    for number in range(1, NODES + 1):
        own, shared = examples / "policies" / f"node-{number}.toml", examples / "policies" / "default.toml"
        file = own if own.is_file() else shared
        if not file.is_file():
            raise OperatorError(
                f"There is no policy {own}. Give --examples a folder with policies/node-1.toml and so on."
            )
        found[f"node-{number}"] = PolicyChoice("cel", file=file)
    return found


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr where that is a terminal; a line now and then where it is not."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    screen = console(stderr=True)
    bar = Progress(
        TextColumn("deciding incidents"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[what]}", markup=False),
        console=screen,
    )
    task = bar.add_task("demo", total=total, what="")
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        bar.update(task, advance=1, what=what)
        if not screen.is_terminal and (done % 10 == 0 or done == total):
            note(f"  {done} of {total} steps done")

    with bar if screen.is_terminal else nullcontext():
        yield step


def _show(report: Report, seconds: float) -> None:
    screen = console()
    voters = [f"node-{number}" for number in range(1, NODES + 1)]
    columns = (
        "proposal",
        "incident",
        "action",
        *voters,
        "quorum",
        "decision",
        "status",
        ">latency ms",
        "expected",
    )
    screen.print(table("Decisions", columns, (_row(outcome, voters) for outcome in report.outcomes)))
    for outcome in report.outcomes:
        for problem in outcome.problems:
            screen.print(f"FAILED  {outcome.incident.name}: {problem}", style="red")
    checks = [("passed" if check.passed else "FAILED", check.name, check.detail) for check in report.checks]
    screen.print(table("Checks", ("", "check", "facts"), checks))
    latencies = _quick_latencies(report)
    if latencies:
        middle = latencies[len(latencies) // 2]
        screen.print(f"Median latency of those that need not wait for their time: {middle:.1f} ms")
    verdict = "Everything came out as expected." if report.passed else "NOT everything came out as expected."
    screen.print(f"{verdict} {len(report.outcomes)} incidents in {seconds:.1f} s; all processes are stopped.")


def _row(outcome: Outcome, voters: list[str]) -> tuple[object, ...]:
    proposal = outcome.proposal
    verdict = "as expected" if not outcome.problems else "NO"
    if proposal is None:
        blanks = ("",) * (len(voters) + 3)
        return (
            "",
            outcome.incident.name,
            outcome.incident.action,
            *blanks,
            f"{outcome.latency_ms:.1f}",
            verdict,
        )
    votes = {vote.voter_id: VOTE_MARKS[vote.value] for vote in proposal.votes}
    tally = proposal.tally
    quorum = "" if tally is None else f"{tally.approve_count + tally.reject_count}/{tally.quorum_required}"
    return (
        proposal.id,
        outcome.incident.name,
        proposal.action,
        *(votes.get(voter, "·") for voter in voters),
        quorum,
        proposal.decision,
        proposal.status,
        f"{outcome.latency_ms:.1f}",
        verdict,
    )


def _quick_latencies(report: Report) -> list[float]:
    return sorted(outcome.latency_ms for outcome in report.outcomes if not outcome.incident.takes_time)


def _document(report: Report, seconds: float) -> dict[str, Any]:
    return {
        "passed": report.passed,
        "seconds": round(seconds, 1),
        "checks": [
            {"name": check.name, "passed": check.passed, "detail": check.detail} for check in report.checks
        ],
        "incidents": [outcome.as_document() for outcome in report.outcomes],
    }
