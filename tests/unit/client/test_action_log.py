"""What an executor remembers across crashes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replication.client.action_log import ActionLog, ActionLogError, Attempt
from replication.client.model import ExecutionOutcome
from replication.errors import StorageError

ONE, TWO = "11" * 32, "22" * 32
DONE, FAILED = ExecutionOutcome.SUCCEEDED, ExecutionOutcome.FAILED


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "executor" / "actions.log"


def test_attempts_outlive_the_process(path: Path) -> None:
    with ActionLog.open(path) as log:
        log.begin(ONE)
        log.end(ONE, FAILED, "no", 5)
        log.delivered(ONE)
        log.begin(ONE)
        attempt = log.end(ONE, DONE, "yes", 7)
        assert attempt.is_undelivered
    with ActionLog.open(path) as log:
        assert log.attempts(ONE) == (Attempt(FAILED, "no", 5, is_delivered=True), attempt)
        assert log.attempts(TWO) == ()


def test_what_is_over_is_forgotten(path: Path) -> None:
    with ActionLog.open(path) as log:
        for digest in (ONE, TWO):
            log.begin(digest)
            log.end(digest, DONE, "x" * 1000, 5)
        log.delivered(ONE)
        assert log.attempts(ONE) == ()
    long = path.stat().st_size
    with ActionLog.open(path) as log:
        assert [len(log.attempts(digest)) for digest in (ONE, TWO)] == [0, 1]
    assert path.stat().st_size < long - 1000


def test_an_attempt_that_a_crash_ended_does_not_count(path: Path) -> None:
    with ActionLog.open(path) as log:
        log.begin(ONE)
        assert log.attempts(ONE) == ()
    with ActionLog.open(path) as log:
        assert log.attempts(ONE) == ()


def test_attempts_that_are_to_be_made_again_do_not_count(path: Path) -> None:
    with ActionLog.open(path) as log:
        for digest in (ONE, TWO):
            log.begin(digest, "agent", 12)
            log.end(digest, FAILED, "no", 5)
            log.delivered(digest)
        log.again(ONE)
        assert log.attempts(ONE) == ()
    with ActionLog.open(path) as log:
        assert (log.attempts(ONE), len(log.attempts(TWO))) == ((), 1)
        assert log.newest("agent") == 12, "what has overtaken a decision is not forgotten"
        log.begin(ONE)
        log.end(ONE, DONE, "yes", 7)
    with ActionLog.open(path) as log:
        assert [attempt.outcome for attempt in log.attempts(ONE)] == [DONE]


def test_the_newest_decision_about_a_target(path: Path) -> None:
    with ActionLog.open(path) as log:
        assert log.newest("agent") == -1
        log.begin(ONE, "agent", 12)
        log.begin(TWO, "agent", 9)
        log.begin(TWO, "other")
    with ActionLog.open(path) as log:
        assert (log.newest("agent"), log.newest("other")) == (12, -1)


def test_every_cut_of_the_file_is_a_moment_before(path: Path) -> None:
    """A crash cuts the file anywhere. What is read then is what was written up to some line."""
    moments = []
    with ActionLog.open(path) as log:
        for step in (
            lambda: log.begin(ONE, "agent", 3),
            lambda: log.end(ONE, FAILED, "né", 5),
            lambda: log.delivered(ONE),
        ):
            moments.append((log.attempts(ONE), log.newest("agent")))
            step()
        moments.append((log.attempts(ONE), log.newest("agent")))
    whole = path.read_bytes()
    moments.append(((), 3))  # the first step writes two lines
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        with ActionLog.open(path) as log:
            assert (log.attempts(ONE), log.newest("agent")) in moments, size


def test_damage_in_the_middle_is_said(path: Path) -> None:
    with ActionLog.open(path) as log:
        log.begin(ONE)
        log.end(ONE, DONE, "", 5)
    path.write_bytes(path.read_bytes().replace(b"begun", b"b\xffgun"))
    with pytest.raises(ActionLogError, match="line 1, is damaged"):
        ActionLog.open(path)


def test_a_state_that_it_does_not_know_is_damage(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(f'{{"digest": "{ONE}", "state": "paused"}}\n')
    with pytest.raises(ActionLogError, match="line 1, is damaged"):
        ActionLog.open(path)


@pytest.mark.parametrize("written", [0, 5, OSError(28, "No space left on device")])
def test_what_is_not_written_down_is_not_begun(
    path: Path, written: int | OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(descriptor: int, data: bytes) -> int:
        if isinstance(written, OSError):
            raise written
        return real(descriptor, data[:written])

    with ActionLog.open(path) as log:
        real = os.write
        monkeypatch.setattr(os, "write", write)
        with pytest.raises(StorageError, match="cannot be written"):
            log.begin(ONE, "agent", 3)
        monkeypatch.undo()
        assert (log.attempts(ONE), log.newest("agent")) == ((), -1)


def test_one_executor_a_file(path: Path) -> None:
    with ActionLog.open(path), pytest.raises(ActionLogError, match="in use by another executor"):
        ActionLog.open(path)
    with ActionLog.open(path):
        pass


def test_a_disk_that_refuses(path: Path) -> None:
    path.parent.mkdir()
    path.mkdir()
    with pytest.raises(StorageError, match="cannot be opened"):
        ActionLog.open(path)
