"""`acp policy test`: what a voter's policy says of incidents, before it votes for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replication.cli.completion import member_ids
from replication.cli.options import Connection
from replication.cli.output import console, note, print_json, table

if TYPE_CHECKING:
    from replication.client import Client
    from replication.client.model import Proposal
    from replication.node.config import PolicySettings
    from replication.node.policies import Incident, Judgement
    from replication.node.policy_trial import Case, Finding, Trial

__all__ = ["try_out"]

FAILED = 7
"""Exit code, of `main.ExitCode`: something that must hold does not."""

NOBODY = "voter"
"""As whom a policy votes when nobody is named."""

COLUMNS = ("incident", "action", "vote", "rule", "reason", "problems")


def try_out(
    options: Connection,
    incidents: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INCIDENTS", help="Files with one JSON object a line; - for stdin.", show_default=False
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="A policy of rules.", metavar="FILE", show_default=False)
    ] = None,
    entry: Annotated[
        str | None,
        typer.Option(help="A policy in Python.", metavar="MODULE:CALLABLE", show_default=False),
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(help="The policy that this node's home names.", metavar="DIR", show_default=False),
    ] = None,
    voter: Annotated[
        str | None,
        typer.Option(
            help="As whom it votes. Default: the node of --home.",
            metavar="ID",
            show_default=False,
            autocompletion=member_ids,
        ),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Try it on the proposals of a cluster as well.")
    ] = False,
    last: Annotated[int, typer.Option(help="With --record: only the newest N.", min=1, max=10_000)] = 100,
    limit: Annotated[
        float | None,
        typer.Option(
            help="Seconds that a python policy may take for an incident. Default: as in a node.",
            min=0.1,
            show_default=False,
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="A rule that cannot be evaluated counts as failed.")
    ] = False,
) -> None:
    """Try a policy: what it votes on incidents of a file, or on what a cluster was asked (--record), there
    beside the decision and what --voter really voted, with the differences first.

    An incident may say which vote is expected of it. Exit code 7 when another one comes, 8 when the policy
    cannot be used. Rules that decided nothing are listed.
    """
    from replication.cli.incidents import load_cases
    from replication.client import UsageError
    from replication.node.policy_trial import try_policy

    if sum(item is not None for item in (file, entry, home)) != 1:
        raise UsageError("Say which policy: one of --file FILE, --entry MODULE:CALLABLE and --home DIR.")
    if not incidents and not record:
        raise UsageError("Say what to try it on: a file of incidents, or --record for those of a cluster.")
    subject = _subject(file, entry, home)
    name = voter or subject.voter or NOBODY
    with _opened(subject.settings, subject.folder, limit) as (judge, rules):
        cases = [case for path in incidents or () for case in load_cases(path, name, subject.is_critical)]
        if record:
            cases += _recorded(options, last, name, named=bool(voter or subject.voter))
        trial = try_policy(judge, cases, rules)
    if options.json:
        print_json(_as_json(trial, rules, name))
    else:
        _show(trial, rules, record=record)
    if trial.unmet or (strict and trial.broken):
        raise typer.Exit(FAILED)


@dataclass(frozen=True, slots=True)
class _Subject:
    """The policy to try. `voter` is the node that runs it, empty if none does yet."""

    settings: PolicySettings
    folder: Path
    voter: str
    is_critical: Callable[[str], bool]


def _subject(file: Path | None, entry: str | None, home: Path | None) -> _Subject:
    """Raises `OperatorError` for a home without a usable configuration or genesis file, or where people
    vote."""
    from replication.consensus.approval import ApprovalRules
    from replication.errors import OperatorError
    from replication.identity.genesis import load_genesis
    from replication.node.config import PolicySettings, read_config
    from replication.node.home import NodeHome

    if home is None:
        chosen = PolicySettings("python", entry=entry) if entry else PolicySettings("cel", file=str(file))
        return _Subject(chosen, Path(), "", ApprovalRules().is_critical)
    files = NodeHome(home)
    config = read_config(files.config)
    if config.policy.kind == "manual":
        raise OperatorError(f"{files.config}: the policy of {config.id} is manual: people vote. Give --file.")
    rules = load_genesis(files.genesis).rules.approval
    return _Subject(config.policy, home, config.id, rules.is_critical)


@contextmanager
def _opened(
    settings: PolicySettings, folder: Path, limit: float | None
) -> Iterator[tuple[Callable[[Incident], Judgement], Sequence[str]]]:
    """The policy, and what its rules ask. Raises `PolicyError`."""
    from replication.node.driver_terms import DriverSettings
    from replication.node.policies import CelPolicy, load_policy
    from replication.node.policy_process import PolicyProcess

    if settings.kind == "python":
        seconds = DriverSettings().policy_timeout_ms / 1000 if limit is None else limit
        with PolicyProcess(settings, seconds) as process:
            yield process.judge, ()
        return
    policy = load_policy(settings, folder)
    yield policy.judge, policy.rules if isinstance(policy, CelPolicy) else ()


def _recorded(options: Connection, last: int, voter: str, *, named: bool) -> list[Case]:
    """The newest proposals of a cluster as its voters saw them. A voter that it does not know is an error."""
    from collections import deque

    with options.open() as client:
        if named:
            next(iter(client.history(voter, timeout_seconds=options.timeout, node=options.node)), None)
        listed = client.list_proposals(timeout_seconds=options.timeout, node=options.node)
        newest = deque((proposal.id for proposal in listed), maxlen=last)
        found = [client.get_proposal(id, timeout_seconds=options.timeout, node=options.node) for id in newest]
        is_critical = _critical_rule(client)
    return [_case(proposal, voter, is_critical, named=named) for proposal in found]


def _critical_rule(client: Client) -> Callable[[str], bool]:
    """The cluster's own rule where its genesis file is at hand, else the one that every cluster has."""
    from replication.consensus.approval import ApprovalRules

    genesis = client.handle.genesis
    return (ApprovalRules() if genesis is None else genesis.rules.approval).is_critical


def _case(proposal: Proposal, voter: str, is_critical: Callable[[str], bool], *, named: bool) -> Case:
    from replication.node.policies import Incident
    from replication.node.policy_trial import NO_VOTE, Case

    votes = [vote.value.value for vote in proposal.votes if vote.voter_id == voter]
    incident = Incident(
        proposer=proposal.proposer_id,
        action=proposal.action,
        target=proposal.target,
        evidence=proposal.evidence or {},
        critical=is_critical(proposal.action),
        window_ms=proposal.closes_ms and proposal.closes_ms - proposal.created_ms,
        expiry_ms=proposal.expires_ms and proposal.expires_ms - proposal.created_ms,
        created_ms=proposal.created_ms,
        voter=voter,
    )
    voted = (votes or [NO_VOTE])[-1] if named else None
    return Case(proposal.id, incident, voted=voted, decision=proposal.decision.value)


def _show(trial: Trial, rules: Sequence[str], *, record: bool) -> None:
    screen = console()
    columns = (*COLUMNS, "expected", *(("voted", "decided") if record else ()), "")
    screen.print(table("", columns, (_row(finding, bool(rules), record) for finding in trial.findings)))
    if trial.unused:
        listed = [(number, rules[number - 1].strip()) for number in trial.unused]
        screen.print(table("Rules that decided none of these incidents", (">rule", "when"), listed))
    expected = sum(finding.case.expected is not None for finding in trial.findings)
    note(
        f"{len(trial.findings)} incidents; {expected - trial.unmet} of {expected} expectations met, "
        f"{trial.differing} differences, {trial.broken} with problems, {len(trial.unused)} rules unused."
    )


def _row(finding: Finding, has_rules: bool, record: bool) -> tuple[object, ...]:
    case, choice = finding.case, finding.judgement.choice
    mark = "UNEXPECTED" if finding.is_unmet else "differs" if finding.differs else ""
    action = f"{case.incident.action} {case.incident.target}".strip()
    problems = "\n".join(map(str, finding.errors))
    facts = (case.name, action, finding.vote, _rule(finding, has_rules), choice.reason if choice else "")
    known = (case.voted, case.decision) if record else ()
    return (*facts, problems, case.expected, *known, mark)


def _rule(finding: Finding, has_rules: bool) -> int | str | None:
    """What decided: a rule's number, "default", or None when nothing did or a python policy has no rules."""
    judgement = finding.judgement
    return judgement.rule or ("default" if has_rules and judgement.choice is not None else None)


def _as_json(trial: Trial, rules: Sequence[str], voter: str) -> dict[str, Any]:
    return {
        "voter": voter,
        "incidents": [
            {
                "name": finding.case.name,
                "action": finding.case.incident.action,
                "target": finding.case.incident.target,
                "vote": finding.vote,
                "rule": _rule(finding, bool(rules)),
                "reason": finding.judgement.choice.reason if finding.judgement.choice else "",
                "problems": [
                    {"rule": found.rule, "message": found.message, "missing_key": found.missing}
                    for found in finding.judgement.diagnostics
                ],
                "expected": finding.case.expected,
                "unexpected": finding.is_unmet,
                "voted": finding.case.voted,
                "decided": finding.case.decision,
                "differs": finding.differs,
            }
            for finding in trial.findings
        ],
        "unused_rules": [{"rule": number, "when": rules[number - 1].strip()} for number in trial.unused],
        "unexpected": trial.unmet,
        "differing": trial.differing,
        "with_problems": trial.broken,
    }
