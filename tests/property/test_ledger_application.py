"""Random command streams through the voting application, judged by the independent verifier.

Streams hold what honest members send and what faulty ones may: repeats, votes twice, votes on nothing,
receipts for what is not approved, changes nobody approved. Whatever comes, the record must verify, a second
application must make the same record, and so must one that restarts from it in the middle.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.ledger_stream import programs, rules, run, weights

from replication.identity.genesis import Rules
from replication.ledger.application import VotingApplication
from replication.ledger.history import MemoryHistory
from replication.ordering.application import CommandError

relaxed = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@given(programs, rules, weights)
@relaxed
def test_every_record_verifies(program: list[tuple[Any, ...]], rules: Rules, weights: list[int]) -> None:
    cluster = run(program, rules, weights).cluster
    report = cluster.verify()
    totals = cluster.history.totals()
    assert (report.audit_size, report.audit_head) == (totals.audit_size, totals.audit_head)
    assert report.epoch == cluster.epoch
    assert set(report.faulty) == cluster.application.faulty
    assert report.open_proposals == len(list(cluster.application.open_proposals()))


@given(programs, rules, weights)
@relaxed
def test_every_decision_has_a_certificate(
    program: list[tuple[Any, ...]], rules: Rules, weights: list[int]
) -> None:
    cluster = run(program, rules, weights).cluster
    cluster.check_certificates()


@given(programs, rules, weights, st.data())
@relaxed
def test_a_second_application_makes_the_same_record(
    program: list[tuple[Any, ...]], rules: Rules, weights: list[int], data: st.DataObject
) -> None:
    """It is started anew from the record before some blocks, and speculates on others; nothing of that
    shows."""
    cluster = run(program, rules, weights).cluster
    history = MemoryHistory(cluster.genesis)
    application = VotingApplication(cluster.genesis, history)
    for execution, commands in zip(cluster.executions[1:], cluster.commands[1:], strict=True):
        if data.draw(st.booleans(), label="restart"):
            application = VotingApplication(cluster.genesis, history)
        application.execute(execution.height, execution.time_ms + 7, commands[::-1])
        repeated = application.execute(execution.height, execution.time_ms, commands)
        assert repeated.entries == execution.entries
        assert repeated.outcomes == execution.outcomes
        assert repeated.totals == execution.totals
        assert repeated.entries_root == execution.entries_root
        application.commit(repeated)
        history.apply(execution.height, execution.time_ms, repeated.entries)
        assert (
            application.next_deadline_ms() == VotingApplication(cluster.genesis, history).next_deadline_ms()
        )
    assert list(application.open_proposals()) == list(cluster.application.open_proposals())
    assert list(application.open_proposals()) == list(history.open_proposals())


@given(programs, rules, weights)
@relaxed
def test_a_verdict_is_for_good(program: list[tuple[Any, ...]], rules: Rules, weights: list[int]) -> None:
    """What a verdict says of a command is what executing it says, except that it may add evidence; and once
    there is a verdict it stays."""
    stream = run(program, rules, weights)
    application, cluster = stream.cluster.application, stream.cluster
    verdicts = {command: application.verdict(command) for command in stream.sent}
    for command, verdict in verdicts.items():
        try:
            application.check(command)
        except CommandError:
            continue
        execution = application.execute(len(cluster.executions), cluster.time_ms + 1, [command])
        outcome = next(iter(execution.outcomes.values()))
        caused = [entry for entry in execution.entries if entry.event_type not in ("tally", "expired")]
        if verdict is not None:
            # What is due comes first, so the reason may be another by then.
            assert outcome == verdict or (len(caused) < len(execution.entries) and not outcome.accepted)
            assert all(entry.event_type == "evidence" for entry in caused)
        void = application.select([command], cluster.time_ms + 1).void
        if void:
            assert not caused or caused[0].event_type == "coordinator"
    stream.flush(70_000)
    for command, verdict in verdicts.items():
        later = application.verdict(command)
        assert verdict is None or (later is not None and later.accepted == verdict.accepted)
