"""The gate: open, closed, and closed when in doubt."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.record_factory import RecordFactory, dumps

from replication.client.gate import Gate, GateClosedError, GateFiles, GateState
from replication.errors import OperatorError, ReplicationError


class Decisions:
    """Decisions about agents, and their certificates."""

    def __init__(self, seed: int = 0) -> None:
        self.factory = RecordFactory(4, seed=seed)

    def decide(self, action: str, target: str, decision: str = "approved") -> str:
        """Have it decided; the proposal's id."""
        factory = self.factory
        factory.block()
        proposal = factory.propose("node-1", action, target)
        for voter in factory.ids:
            factory.vote(proposal, voter, "approve" if decision == "approved" else "reject")
        factory.tally(proposal, decision)
        return proposal

    def certificate(self, proposal: str) -> str:
        return dumps(self.factory.seal().certificate(proposal)).decode() + "\n"


@pytest.fixture
def decisions() -> Decisions:
    return Decisions()


@pytest.fixture
def files(decisions: Decisions, tmp_path: Path) -> GateFiles:
    return GateFiles(decisions.factory.genesis, tmp_path)


@pytest.fixture
def gate(decisions: Decisions, tmp_path: Path) -> Gate:
    return Gate(decisions.factory.genesis, tmp_path)


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.json")
    return path


@pytest.mark.parametrize(
    ("action", "state", "is_open"),
    [
        ("quarantine", GateState.QUARANTINED, False),
        ("terminate", GateState.TERMINATED, False),
        ("restrict", GateState.RESTRICTED, True),
        ("release", GateState.RELEASED, True),
    ],
)
def test_what_an_action_does(
    decisions: Decisions, files: GateFiles, gate: Gate, action: str, state: GateState, is_open: bool
) -> None:
    files.keep(decisions.certificate(decisions.decide(action, "agent-7")))
    answer = gate.check("agent-7")
    assert (answer.state, answer.is_open) == (state, is_open)
    assert answer.decision is not None
    assert answer.decision.proposal_id in answer.why
    assert gate.check("agent-8").state is GateState.FREE


def test_requiring(decisions: Decisions, files: GateFiles, gate: Gate) -> None:
    assert gate.require("agent-7").state is GateState.FREE
    files.keep(decisions.certificate(decisions.decide("quarantine", "agent-7")))
    with pytest.raises(GateClosedError, match="agent-7 may not run: prop-0001 decided to quarantine it"):
        gate.require("agent-7")


def test_the_newest_decision_counts_in_whatever_order_they_come(
    decisions: Decisions, files: GateFiles, gate: Gate
) -> None:
    first, second = decisions.decide("quarantine", "agent-7"), decisions.decide("release", "agent-7")
    files.keep(decisions.certificate(second))
    files.keep(decisions.certificate(first))
    assert gate.check("agent-7").state is GateState.RELEASED
    files.keep(decisions.certificate(decisions.decide("terminate", "agent-7")))
    assert gate.check("agent-7").state is GateState.TERMINATED


def test_other_actions_and_rejections_change_nothing(
    decisions: Decisions, files: GateFiles, gate: Gate, tmp_path: Path
) -> None:
    files.keep(decisions.certificate(decisions.decide("escalate", "agent-7")))
    files.keep(decisions.certificate(decisions.decide("quarantine", "agent-7", "rejected")))
    assert list(tmp_path.iterdir()) == []
    assert gate.check("agent-7").state is GateState.FREE


def test_an_old_release_does_not_open_what_was_closed_later(
    decisions: Decisions, files: GateFiles, gate: Gate, tmp_path: Path
) -> None:
    files.keep(decisions.certificate(decisions.decide("release", "agent-7")))
    old = only_file(tmp_path).read_bytes()
    files.keep(decisions.certificate(decisions.decide("quarantine", "agent-7")))
    assert not gate.check("agent-7").is_open
    only_file(tmp_path).write_bytes(old)
    assert not gate.check("agent-7").is_open
    only_file(tmp_path).unlink()
    assert not gate.check("agent-7").is_open


def test_it_fails_closed(decisions: Decisions, files: GateFiles, gate: Gate, tmp_path: Path) -> None:
    files.keep(decisions.certificate(decisions.decide("release", "agent-7")))
    path = only_file(tmp_path)
    good = path.read_bytes()
    stranger = Decisions(seed=3)
    foreign = stranger.certificate(stranger.decide("release", "agent-7")).encode()
    other = decisions.certificate(decisions.decide("release", "agent-8")).encode()
    rejected = decisions.certificate(decisions.decide("quarantine", "agent-7", "rejected")).encode()
    for bad in (b"", good[:-9], good.replace(b'"approve"', b'"reject"', 1), foreign, other, rejected):
        path.write_bytes(bad)
        answer = gate.check("agent-7")
        assert answer.state is GateState.UNVERIFIABLE, bad[:50]
        assert not answer.is_open
        assert answer.decision is None
    path.write_bytes(good)
    assert gate.check("agent-7").is_open


def test_a_folder_that_is_gone(decisions: Decisions, tmp_path: Path) -> None:
    answer = Gate(decisions.factory.genesis, tmp_path / "none").check("agent-7")
    assert answer.state is GateState.UNVERIFIABLE


def test_a_folder_that_nobody_keeps(decisions: Decisions, files: GateFiles, tmp_path: Path) -> None:
    gate = Gate(decisions.factory.genesis, tmp_path, max_age_seconds=60)
    assert gate.check("agent-7").state is GateState.UNVERIFIABLE
    files.checked()
    assert gate.check("agent-7").is_open
    long_ago = (tmp_path / "checked").stat().st_mtime - 61
    os.utime(tmp_path / "checked", (long_ago, long_ago))
    assert "up to date" in gate.check("agent-7").why


def test_a_forged_certificate_is_not_kept(decisions: Decisions, files: GateFiles, tmp_path: Path) -> None:
    text = decisions.certificate(decisions.decide("release", "agent-7"))
    with pytest.raises(ReplicationError):
        files.keep(text.replace("agent-7", "agent-8"))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_stays_closed_whatever_comes_later(
    decisions: Decisions, files: GateFiles, gate: Gate, tmp_path: Path
) -> None:
    release = decisions.certificate(decisions.decide("release", "agent-7"))
    files.keep(decisions.certificate(decisions.decide("quarantine", "agent-7")))
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    files.keep(release)  # older than what was damaged, which nobody can see any more
    assert gate.check("agent-7").state is GateState.UNVERIFIABLE
    path.unlink()
    files.keep(release)
    assert gate.check("agent-7").state is GateState.RELEASED


def test_a_folder_that_cannot_be_made(decisions: Decisions, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="cannot be made: Not a directory"):
        GateFiles(decisions.factory.genesis, tmp_path / "file" / "gate")
