"""`acp report`: what a cluster decided, who took part and how it is, for people to look at."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replication.cli.certificate import GenesisOption, load_trusted
from replication.cli.doctor import SURVEY_SECONDS, examine
from replication.cli.options import Connection
from replication.cli.output import console, note, pairs, print_json, time_text

if TYPE_CHECKING:
    from replication.client import Client
    from replication.client.diagnosis import Evidence
    from replication.client.model import AuditEntry, Missing
    from replication.report.page import Live, Subject
    from replication.report.story import Event, Story

__all__ = ["report"]

PAGE = 500
MAX_BACKGROUND = 10_000
"""Entries of a kind that are read of the part that is left out: a node may show any number."""

MAX_OPEN = 50
"""Open proposals that are asked for what they lack, one call each."""


def report(
    options: Connection,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write one page to this file.", show_default=False)
    ] = None,
    last: Annotated[int, typer.Option(help="Only the newest N entries of the record.", min=1)] = 20_000,
    exported: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="An exported record instead of a cluster; verified first.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    genesis: GenesisOption = None,
) -> None:
    """Sum up decisions, participation, agreement, coordinators, members and evidence, and how the nodes are.

    With --from nothing is asked of any node, and the record is verified with the genesis file; exit code 7
    when it is not whole.
    """
    from replication.report.html import save
    from replication.report.page import render

    subject = _online(options, last) if exported is None else _offline(exported, genesis, options, last)
    if html is not None:
        save(html, render(subject))
        if not options.json:
            note(f"Wrote {html}.")
    if options.json:
        print_json(_document(subject))
    elif html is None:
        console().print(pairs(_short(subject)))


def _online(options: Connection, last: int) -> Subject:
    from replication.report.page import Subject
    from replication.report.story import tell

    handle = options.handle()
    with options.open() as client:
        found = examine(client, handle, min(SURVEY_SECONDS, options.timeout))
        status = client.status(timeout_seconds=options.timeout, node=options.node)
        head = client.audit_head(timeout_seconds=options.timeout, node=status.node_id)
        start = max(0, head.audit_size - last)
        story = tell(_events(client, options, status.node_id, start, head.audit_size), start=start)
        missing = _missing(client, options, status.node_id, story)
    return Subject(
        name=status.name,
        cluster_id=status.cluster_id.hex(),
        made_ms=time.time_ns() // 1_000_000,
        source=(
            f"The record is that of {status.node_id}, which was not verified here (acp report --from does "
            "that); what the nodes are doing now is their own word."
        ),
        story=story,
        head=head.audit_head,
        live=_live(found),
        missing=missing,
    )


def _offline(exported: Path, genesis: Path | None, options: Connection, last: int) -> Subject:
    """Raises `VerificationError`, `OperatorError`, `UsageError`."""
    from replication.errors import OperatorError
    from replication.ledger.verify import read_lines, verify_export
    from replication.report.exported import ExportedEvents
    from replication.report.page import Subject
    from replication.report.story import tell

    trusted = load_trusted(genesis, options.directory)
    entries = ExportedEvents(last)
    try:
        with nullcontext(sys.stdin.buffer) if str(exported) == "-" else exported.open("rb") as stream:
            found = verify_export(entries.watch(read_lines(stream)), trusted)
    except OSError as error:
        raise OperatorError(f"{exported} cannot be read: {error.strerror}. Check the path.") from error
    return Subject(
        name=trusted.name,
        cluster_id=found.cluster_id.hex(),
        made_ms=time.time_ns() // 1_000_000,
        source=(
            f"From an exported record of {found.audit_size:,} entries, of which every signature, tally and "
            "commit was verified with the genesis file. A shorter record would verify too: compare its head "
            "with those of several nodes."
        ),
        story=tell(entries.found, start=entries.start),
        head=found.audit_head.hex(),
    )


def _events(client: Client, options: Connection, node: str, start: int, end: int) -> Iterator[Event]:
    """Entries of one node, in order: those in the background from the beginning, all from `start` on."""
    from replication.report.story import BACKGROUND

    if start:
        earlier = [
            entry
            for kind in BACKGROUND
            for entry in islice(_pages(client, options, node, 0, start, kind), MAX_BACKGROUND)
        ]
        yield from map(_event, sorted(earlier, key=lambda entry: entry.sequence))
    yield from map(_event, _pages(client, options, node, start, end, ""))


def _pages(
    client: Client, options: Connection, node: str, start: int, end: int, kind: str
) -> Iterator[AuditEntry]:
    while start < end:
        page = client.audit_entries(start, PAGE, event_type=kind, timeout_seconds=options.timeout, node=node)
        yield from (entry for entry in page.entries if entry.sequence < end)
        if not page.entries:
            return
        start = page.entries[-1].sequence + 1


def _event(entry: AuditEntry) -> Event:
    from replication.report.story import Event

    return Event(
        entry.sequence, entry.time_ms, entry.event_type, entry.proposal_id, entry.actor_id, entry.data
    )


def _missing(client: Client, options: Connection, node: str, story: Story) -> dict[str, tuple[Missing, ...]]:
    """What open proposals lack; the newest, if there are many. Those that are decided by now lack nothing."""
    open_ones = [case.id for case in story.cases if case.state == "open"][-MAX_OPEN:]
    return {
        name: client.get_proposal(name, timeout_seconds=options.timeout, node=node).missing
        for name in open_ones
    }


def _live(found: Evidence) -> Live | None:
    from replication.client.diagnosis import diagnose
    from replication.client.survey import merge
    from replication.report.page import Live

    return Live(merge(found.answers), diagnose(found)) if found.answers else None


def _short(subject: Subject) -> dict[str, object]:
    """The figures, for a terminal."""
    from replication.report.html import milliseconds
    from replication.report.story import STATES

    story = subject.story
    return {
        "cluster": f"{subject.name} {subject.cluster_id[:16]}".strip(),
        "entries": f"{story.first} to {story.size - 1}",
        "from": time_text(story.begin_ms),
        "to": time_text(story.end_ms),
        **{state.replace("_", " "): story.count(state) for state in STATES},
        "unconfirmed": len(story.unconfirmed),
        "median time": milliseconds(story.median_ms) or "",
        "changes of coordinator": len(story.turns),
        "changes of members": len(story.changes),
        "evidence against": ", ".join(sorted({item.accused for item in story.accusations})) or "nobody",
        "blocs": "; ".join(", ".join(bloc) for bloc in story.blocs) or "none",
        "findings": "" if subject.live is None else len(subject.live.findings),
    }


def _document(subject: Subject) -> dict[str, Any]:
    """Everything, for programs."""
    from dataclasses import asdict

    from replication.client.model import to_json
    from replication.consensus import VoteValue

    story, live = subject.story, subject.live
    return {
        "name": subject.name,
        "cluster_id": subject.cluster_id,
        "made_ms": subject.made_ms,
        "source": subject.source,
        "audit_head": subject.head,
        "first_entry": story.first,
        "audit_size": story.size,
        "begin_ms": story.begin_ms,
        "end_ms": story.end_ms,
        "proposals": [
            {
                **asdict(case),
                "confirmed": case.is_confirmed,
                "missing": to_json(subject.missing.get(case.id, ())),
            }
            for case in story.cases
        ],
        "voters": [
            {
                "id": voter.id,
                "member": voter.is_member,
                "asked": voter.asked,
                **{value.value: voter.votes[value] for value in VoteValue},
                "silent": voter.silent,
                "prevailed": voter.prevailed,
                "median_delay_ms": voter.median_delay_ms,
            }
            for voter in story.voters
        ],
        "agreement": {name: dict(rates) for name, rates in story.agreement.items()},
        "blocs": [list(bloc) for bloc in story.blocs],
        "coordinators": [asdict(turn) for turn in story.turns],
        "members": [asdict(change) for change in story.changes],
        "evidence": [asdict(item) for item in story.accusations],
        "can_decide": None if live is None else live.picture.can_decide,
        "findings": None if live is None else [asdict(item) for item in live.findings],
    }
