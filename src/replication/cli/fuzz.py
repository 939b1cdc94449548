"""`acp faults fuzz`: every decoder, fed with what it should refuse."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from replication.cli.options import JsonOption
from replication.cli.output import console, note, pairs, print_json, table

if TYPE_CHECKING:
    from replication.faults.fuzzing.runner import FuzzReport

__all__ = ["fuzz"]

FAILED = 7
"""Exit code, of `main.ExitCode`: something that must hold does not."""


def fuzz(
    executions: Annotated[int, typer.Option(help="How many inputs.", min=1)] = 200_000,
    seed: Annotated[int, typer.Option(help="The first seed; each input has its own.", min=0)] = 0,
    target: Annotated[
        str | None, typer.Option(help="Only this decoder.", metavar="NAME", show_default=False)
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes.", min=1, max=64)] = 1,
    directory: Annotated[
        Path, typer.Option("--dir", help="Where inputs that fail are kept.", metavar="DIR")
    ] = Path("fuzz-failures"),
    resume: Annotated[
        Path | None,
        typer.Option(
            help="Note the progress in this file, and go on from it after an interruption.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(help="Feed this file to the target instead.", metavar="FILE", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Feed every decoder with edited and with random inputs. Each may refuse with its documented error only,
    and what it accepts must survive being written and read again.

    The same seed gives the same input. Exit code 7 when an input fails; it is kept as a file."""
    from replication.faults.fuzzing.runner import run_range
    from replication.faults.fuzzing.targets import TARGETS

    if target is not None and target not in TARGETS:
        raise typer.BadParameter(f"{target!r} is none of {', '.join(TARGETS)}", param_hint="--target")
    if replay is not None:
        _replay(target, replay)
        return
    from replication.faults.fuzzing.runner import FuzzReport

    end, total = seed + executions, FuzzReport()
    first = _resumed(resume, seed, end)
    for upcoming, part in run_range(first, end - first, only=target, workers=workers):
        for key, failure in part.failures.items():
            if key not in total.failures:
                path = failure.save(directory)
                note(f"{failure.target}: {failure.detail}")
                note(f"  again: acp faults fuzz --target {failure.target} --replay {path}")
        total.add(part)
        if resume is not None:
            resume.write_text(f"{upcoming}\n", encoding="ascii")
    if resume is not None and not total.failures:
        resume.unlink(missing_ok=True)
    _show(total, json)
    if total.failures:
        raise typer.Exit(FAILED)


def _resumed(file: Path | None, seed: int, end: int) -> int:
    """The seed to begin with. A note of another range is not gone on with."""
    if file is None or not file.exists():
        return seed
    text = file.read_text(encoding="utf-8").strip()
    if not text.isascii() or not text.isdigit() or not seed <= int(text) < end:
        return seed
    note(f"going on from seed {text}")
    return int(text)


def _replay(target: str | None, file: Path) -> None:
    from replication.cli.certificate import read_file
    from replication.faults.fuzzing.mutation import MAX_INPUT_BYTES
    from replication.faults.fuzzing.runner import judge
    from replication.faults.fuzzing.targets import TARGETS

    if target is None:
        raise typer.BadParameter("name the decoder with --target", param_hint="--replay")
    accepted, wrong = judge(TARGETS[target], read_file(file, MAX_INPUT_BYTES))
    if wrong is not None:
        note(f"{target}: {wrong[1]}")
        raise typer.Exit(FAILED)
    note(f"{target}: {'accepted' if accepted else 'refused'}, as it should be")


def _show(total: FuzzReport, json: bool) -> None:
    document = total.as_document()
    if json:
        print_json(document)
        return
    from replication.faults.fuzzing.targets import TARGETS

    rows = [
        (name, TARGETS[name].what, count, total.accepted[name])
        for name, count in sorted(total.executions.items())
    ]
    screen = console()
    screen.print(table("Decoders", ("target", "reads", ">executions", ">accepted"), rows))
    screen.print(
        pairs(
            {
                "executions": document["executions"],
                "failed": len(total.failures),
                "CPU seconds": document["cpu_seconds"],
                "executions a CPU second": document["executions_per_cpu_second"],
                "slowest, ms": round(1000 * total.slowest_seconds),
                "memory growth, MiB": total.growth_bytes >> 20,
            }
        )
    )
