"""What commands print: data on stdout, for people as tables or for programs as one JSON document; all else on
stderr.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from replication.client.model import Proposal, Tally

__all__ = ["console", "note", "print_json", "print_lines", "show_proposal", "styled", "table", "time_text"]

_STYLES: Final = {
    "approved": "green",
    "approve": "green",
    "executed": "green",
    "succeeded": "green",
    "rejected": "red",
    "reject": "red",
    "failed": "red",
    "no_quorum": "yellow",
    "expired": "yellow",
    "abstain": "yellow",
    "pending": "cyan",
    "open": "cyan",
}

PLAIN_WIDTH: Final = 160
"""Columns when stdout is not a terminal: tables in files and pipes should not be squeezed into 80."""


def print_json(value: Any) -> None:
    """Print records or JSON values as one JSON document, and nothing else."""
    from replication.client.model import to_json

    sys.stdout.write(json.dumps(to_json(value), indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_lines(lines: Iterable[str]) -> None:
    """Print data lines as they are."""
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Say something to the person at the terminal; never data."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def console(*, stderr: bool = False) -> Console:
    """A rich console on stdout or stderr, without markup, so that no text from a cluster is taken for
    styling.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, markup=False, highlight=False, emoji=False, width=width)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table; cells that name a decision, vote or status are coloured."""
    from rich import box
    from rich.table import Table

    result = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        result.add_column(
            column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in rows:
        result.add_row(*(styled(cell) for cell in row))
    return result


def styled(cell: object) -> Any:
    """A cell as text in the colour of what it says. Control characters are made visible, not obeyed."""
    from rich.text import Text

    text = "yes" if cell is True else "no" if cell is False else "" if cell is None else str(cell)
    return Text(printable(text), style=_STYLES.get(text, ""))


def printable(text: str) -> str:
    """`text` with control characters escaped, so that reasons and evidence cannot drive the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in text)


def time_text(time_ms: int) -> str:
    """A time in UTC to the millisecond, empty for 0."""
    if not time_ms:
        return ""
    try:
        moment = dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{time_ms} ms"
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{time_ms % 1000:03d}Z"


def show_proposal(proposal: Proposal) -> None:
    """Print one proposal with votes, tally and receipts, for people."""
    screen = console()
    screen.print(pairs(_facts(proposal)))
    if proposal.votes:
        rows = [
            (vote.voter_id, vote.value, vote.reason, vote.revision, time_text(vote.voted_ms))
            for vote in proposal.votes
        ]
        screen.print(table("Votes", ("voter", "vote", "reason", ">revision", "voted"), rows))
    if proposal.missing:
        lacking = [
            (
                item.condition,
                item.count,
                ", ".join(item.voters) if item.is_possible else "nobody can any more",
            )
            for item in proposal.missing
        ]
        screen.print(table("Missing for an approval", ("condition", ">at least", "from"), lacking))
    if proposal.receipts:
        receipts = [
            (item.executor_id, item.outcome, item.detail, time_text(item.executed_ms))
            for item in proposal.receipts
        ]
        screen.print(table("Execution receipts", ("executor", "outcome", "detail", "executed"), receipts))


def pairs(facts: Mapping[str, object]) -> Table:
    """Names and values, one a line."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        grid.add_row(styled(name), styled(value))
    return grid


def tally_text(tally: Tally) -> str:
    """The count in one line."""
    voted = tally.approve_count + tally.reject_count
    return (
        f"{tally.approve_count} approve, {tally.reject_count} reject, {tally.abstain_count} abstain of "
        f"{tally.total_voters}; quorum {voted}/{tally.quorum_required}, needs {tally.threshold_used}"
        f"{', critical' if tally.is_critical else ''} ({tally.cause})"
    )


def _facts(proposal: Proposal) -> dict[str, object]:
    evidence = (
        "" if proposal.evidence is None else json.dumps(proposal.evidence, ensure_ascii=False, sort_keys=True)
    )
    facts: dict[str, object] = {
        "proposal": proposal.id,
        "action": proposal.action,
        "target": proposal.target,
        "status": proposal.status,
        "decision": proposal.decision,
        "proposer": proposal.proposer_id,
        "evidence": evidence,
        "created": time_text(proposal.created_ms),
        "vote closes": time_text(proposal.closes_ms),
        "expires": time_text(proposal.expires_ms),
        "decided": time_text(proposal.decided_ms),
        "tally": "" if proposal.tally is None else tally_text(proposal.tally),
        "digest": proposal.digest.hex(),
        "request id": proposal.request_id,
    }
    return {name: value for name, value in facts.items() if value != ""}
