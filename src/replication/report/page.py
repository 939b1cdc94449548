"""The report on a cluster as one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from replication.client.diagnosis import Finding
from replication.client.model import Missing
from replication.client.survey import ClusterPicture
from replication.consensus.model import VoteValue
from replication.report.drawing import draw_decisions
from replication.report.html import (
    Markup,
    bullets,
    document,
    facts,
    join,
    milliseconds,
    moment,
    number,
    table,
    text,
    verdict,
)
from replication.report.story import BLOC_THRESHOLD, STATES, Case, Story

__all__ = ["Live", "Subject", "render"]

MAX_ROWS: Final = 500
"""Proposals that are listed one by one: the newest. All count in the figures."""

FOLDED_ROWS: Final = 20
"""A longer list is opened by whoever wants to see it."""

HEAD_DIGITS: Final = 16
LEGIBLE: Final = 0.55
"""From this share on, a cell is so dark that its number is light."""


@dataclass(frozen=True, slots=True)
class Live:
    """What the nodes say of themselves, and what is wrong."""

    picture: ClusterPicture
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True)
class Subject:
    """What the page is about. `source` says in a sentence whose words these are; `missing` what open
    proposals lack, by their id."""

    name: str
    cluster_id: str
    made_ms: int
    source: str
    story: Story
    head: str = ""
    live: Live | None = None
    missing: Mapping[str, Sequence[Missing]] = field(default_factory=dict)


def render(subject: Subject) -> str:
    """The page."""
    story = subject.story
    title = f"Agent Consensus: {subject.name or subject.cluster_id[:HEAD_DIGITS]}"
    parts = [
        Markup(f"<h1>{text(title)}</h1>"),
        Markup(f'<p class="faint">Made at {_time(subject.made_ms)}. {text(subject.source)}</p>'),
        _key_facts(subject),
    ]
    if subject.live is not None:
        parts += [_heading("Now"), _now(subject.live)]
    parts += [
        _heading("Decisions"),
        draw_decisions(story) if story.cases else _none("No proposals."),
        _by_action(story),
        _open(subject),
        _unconfirmed(story),
        _all_cases(story),
        _heading("Participation"),
        _participation(story),
        _heading("Agreement"),
        _heat_map(story),
        _blocs(story),
        _heading("Coordinators"),
        _turns(story),
        _heading("Members"),
        _changes(story),
        _heading("Evidence"),
        _evidence(story),
    ]
    return document(title, parts)


def _key_facts(subject: Subject) -> Markup:
    story = subject.story
    decided = sum(story.count(state) for state in ("approved", "rejected", "no_quorum"))
    shown: dict[str, object] = {
        "cluster": Markup(f"<code>{text(subject.cluster_id[:HEAD_DIGITS])}</code>"),
        "entries": f"{story.first:,} to {story.size - 1:,}" if story.size > story.first else "none",
        "from": _time(story.begin_ms),
        "to": _time(story.end_ms),
        "decisions": number(decided),
        "median time": milliseconds(story.median_ms),
        "unconfirmed": number(len(story.unconfirmed)),
        "changes of coordinator": number(len(story.turns)),
        "evidence": number(len(story.accusations)),
    }
    if subject.head:
        shown["head"] = Markup(f"<code>{text(subject.head[:HEAD_DIGITS])}</code>")
    return facts(shown)


def _now(live: Live) -> Markup:
    picture, status = live.picture, live.picture.status
    word = verdict("can decide", "passed") if picture.can_decide else verdict("cannot decide", "failed")
    rows = [
        (
            join([member.id, " (coordinator)" if member.id == status.coordinator else ""]),
            _state_of(member.id, member.reachable, live),
            number(member.height),
            number(member.audit_size),
            Markup(f"<code>{text(member.audit_head[:HEAD_DIGITS])}</code>"),
            member.weight,
        )
        for member in picture.members
    ]
    heads = ("member", "state", ">blocks", ">entries", "head", ">weight")
    same = "one and the same record" if picture.settled else "records of different length or content"
    return join(
        [
            Markup(f"<p>{word} "),
            f"Epoch {status.epoch}, view {status.view}; {status.commit_quorum} of {status.n} members are "
            f"needed, {status.f} may be faulty. Those who answered have {same}.",
            Markup("</p>"),
            table(heads, rows, "Members, in their own words where they answered"),
            Markup("<h3>Findings</h3>"),
            _findings(live.findings),
        ]
    )


def _state_of(member: str, reachable: bool, live: Live) -> Markup:
    if member in live.picture.muted:
        return verdict(f"signs nothing: {live.picture.muted[member]}", "not run")
    if member in live.picture.answered:
        return verdict("answers", "passed")
    return verdict("heard by others only", "not run") if reachable else verdict("silent", "failed")


def _findings(findings: Sequence[Finding]) -> Markup:
    if not findings:
        return _none("Nothing is wrong with the nodes that answered.")
    rows = [
        (
            verdict(item.severity, "failed" if item.severity == "critical" else "not run"),
            item.subject,
            item.what,
            item.advice,
        )
        for item in findings
    ]
    return table(("severity", "where", "what", "what to do"), rows)


def _by_action(story: Story) -> Markup:
    counts: dict[str, Counter[str]] = {}
    for case in story.cases:
        counts.setdefault(case.action, Counter())[case.state] += 1
    rows = [
        (action or "(made earlier)", *(number(count[state]) for state in STATES), number(count.total()))
        for action, count in sorted(counts.items())
    ]
    if not rows:
        return Markup("")
    heads = ("action", *(f">{state.replace('_', ' ')}" for state in STATES), ">all")
    return table(heads, rows, "By action")


def _open(subject: Subject) -> Markup:
    found = [case for case in subject.story.cases if case.state == "open"]
    if not found:
        return Markup("")
    rows = [
        (case.id, case.action, case.target, case.proposer, _time(case.proposed_ms), _lacking(subject, case))
        for case in found[-MAX_ROWS:]
    ]
    heads = ("proposal", "action", "target", "proposer", "proposed", "still missing")
    return join([Markup("<h3>Open</h3>"), table(heads, rows)])


def _lacking(subject: Subject, case: Case) -> Markup:
    items = subject.missing.get(case.id)
    if items is None:
        return text("not asked")
    return bullets(
        [
            f"{item.condition}: {item.count} of {', '.join(item.voters)}"
            if item.is_possible
            else f"{item.condition}: nobody can fulfil it any more"
            for item in items
        ]
    )


def _unconfirmed(story: Story) -> Markup:
    found = story.unconfirmed
    if not found:
        return Markup("")
    rows = [
        (case.id, case.action, case.target, _time(case.decided_ms), _reports(case))
        for case in found[-MAX_ROWS:]
    ]
    heads = ("proposal", "action", "target", "approved", "reported")
    note = Markup('<p class="not-run">Approved, and no executor has reported success.</p>')
    listed = table(heads, rows)
    if len(found) > FOLDED_ROWS:
        listed = Markup(f"<details><summary>Each of them: {len(found):,}</summary>{listed}</details>")
    return join([Markup("<h3>Not confirmed</h3>"), note, listed])


def _reports(case: Case) -> Markup:
    return bullets([f"{receipt.executor}: {receipt.outcome} {receipt.detail}" for receipt in case.receipts])


def _all_cases(story: Story) -> Markup:
    finished = [case for case in story.cases if case.state != "open"]
    if not finished:
        return Markup("")
    shown = sorted(finished, key=lambda case: case.sequence)[-MAX_ROWS:]
    rows = [
        (
            case.id,
            case.action,
            case.target,
            _outcome(case),
            "/".join(map(str, case.counts)),
            milliseconds(case.took_ms),
            _time(case.decided_ms),
            _reports(case),
        )
        for case in reversed(shown)
    ]
    heads = (*("proposal", "action", "target", "outcome", ">yes/no/abstain", ">took", "decided", "executed"),)
    some = (
        f"The newest {len(shown):,} of {len(finished):,} finished proposals"
        if len(shown) < len(finished)
        else ""
    )
    listed = table(heads, rows, some)
    return Markup(
        f"<details><summary>Each of them: {len(shown):,} finished proposals</summary>{listed}</details>"
    )


def _outcome(case: Case) -> Markup:
    style = {"approved": "passed", "rejected": "failed"}.get(case.state, "not run")
    return verdict(case.state.replace("_", " "), style)


def _participation(story: Story) -> Markup:
    rows = [
        (
            voter.id,
            "yes" if voter.is_member else "no more",
            *map(number, (voter.asked, *(voter.votes[value] for value in VoteValue), voter.silent)),
            _share(voter.votes.total(), voter.asked),
            _share(voter.prevailed, voter.sided),
            milliseconds(voter.median_delay_ms),
        )
        for voter in story.voters
    ]
    heads = (
        *(
            "member",
            "still one",
            ">asked",
            *(f">{value.value}" for value in VoteValue),
            ">no vote",
            ">took part",
        ),
        *(">with the decision", ">median delay"),
    )
    return join(
        [
            table(heads, rows),
            Markup(
                '<p class="faint">A decision is taken as soon as the missing votes could not change it: '
                "a vote may be missing without any fault of the voter.</p>"
            ),
        ]
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _heat_map(story: Story) -> Markup:
    ids = [
        voter.id for voter in story.voters if any(story.common.get((voter.id, o.id)) for o in story.voters)
    ]
    if not ids:
        return _none("No two members have taken a side on the same proposal.")
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in ids)
    body = "".join(
        f'<tr><th scope="row">{text(row)}</th>{"".join(_heat(story, row, column) for column in ids)}</tr>'
        for row in ids
    )
    caption = (
        "How often two members said the same where both took a side, and on how many proposals they did."
    )
    return Markup(
        f'<p class="faint">{caption}</p><div class="scroll"><table class="heat">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _heat(story: Story, row: str, column: str) -> str:
    if row == column:
        return '<td class="faint">·</td>'
    count = story.common.get((row, column), 0)
    if not count:
        return '<td class="faint">none</td>'
    rate = story.agreement[row][column]
    ink = ";color:#fff" if rate >= LEGIBLE else ""
    style = f'style="background:rgba(var(--heat),{rate:.2f}){ink}"'
    return f"<td {style}>{rate:.0%}<br><small>{count:,}</small></td>"


def _blocs(story: Story) -> Markup:
    if not story.blocs:
        return _none("No members that nearly always vote alike.")
    more = "" if story.blocs_complete else " There may be more."
    listed = bullets([f"{len(bloc)}: {', '.join(bloc)}" for bloc in story.blocs])
    return join([Markup(f"<h3>Members that vote alike in at least {BLOC_THRESHOLD:.0%}</h3>"), listed, more])


def _turns(story: Story) -> Markup:
    if not story.turns:
        return _none("No coordinator was replaced in these entries.")
    rows = [
        (_time(turn.time_ms), turn.epoch, turn.view, turn.coordinator, number(turn.sequence))
        for turn in story.turns[-MAX_ROWS:]
    ]
    return table(("time", ">epoch", ">view", "coordinator from then on", ">entry"), rows)


def _changes(story: Story) -> Markup:
    if not story.changes:
        return _none("The members are those of the genesis file.")
    rows = [
        (
            _time(change.time_ms),
            change.epoch,
            change.what,
            change.proposal_id or "asked for itself",
            number(change.sequence),
        )
        for change in story.changes
    ]
    return table(("time", ">epoch begun", "change", "by", ">entry"), rows)


def _evidence(story: Story) -> Markup:
    if not story.accusations:
        return _none("Nobody is on record for having contradicted itself.")
    rows = [
        (item.accused, item.what, item.proposal_id, _time(item.time_ms), number(item.sequence))
        for item in story.accusations
    ]
    heads = ("member", "what it signed", "proposal", "on record since", ">entry")
    note = '<p class="faint">acp evidence verifies both signatures of each.</p>'
    return join([table(heads, rows), Markup(note)])


def _heading(words: str) -> Markup:
    return Markup(f"<h2>{text(words)}</h2>")


def _none(words: str) -> Markup:
    return Markup(f'<p class="faint">{text(words)}</p>')


def _time(at_ms: int | None) -> str:
    return "earlier" if at_ms is None else moment(at_ms)
