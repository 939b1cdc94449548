"""The audit chain: every edit, cut and reorder is found, and a tally checks only what is new."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.voting_sessions import Clock, cast, decide

from replication.consensus import AuditEntry, ConsensusProtocol, model
from replication.consensus.chain import GENESIS_PREV_HASH, ChainGuard, make_entry, verify_entries
from replication.consensus.errors import CanonicalJSONError

FIVE = ["a", "b", "c", "d", "e"]
FIELDS = [field.name for field in dataclasses.fields(AuditEntry)]


def chain_of(length: int) -> tuple[ChainGuard, list[AuditEntry]]:
    guard, log = ChainGuard(), list[AuditEntry]()
    for number in range(length):
        guard.extend(log, "event", f"prop-{number}", "a", {"number": number, "list": [1]}, 10 + number)
    return guard, log


def rehashed(entries: list[AuditEntry]) -> list[AuditEntry]:
    """The same events as a chain without a flaw, as a forger who knows the rules would write it."""
    forged: list[AuditEntry] = []
    for sequence, entry in enumerate(entries):
        prev_hash = forged[-1].hash if forged else GENESIS_PREV_HASH
        forged.append(
            make_entry(
                sequence, entry.event_type, entry.proposal_id, entry.actor_id, entry.data, entry.timestamp,
                prev_hash,
            )
        )  # fmt: skip
    return forged


# ------------------------------------------------------------------------------- what is written


def test_entries_are_numbered_and_linked() -> None:
    _, log = chain_of(4)
    assert [entry.sequence for entry in log] == [0, 1, 2, 3]
    assert [entry.prev_hash for entry in log] == ["", *(entry.hash for entry in log[:3])]
    for entry in log:
        assert len(bytes.fromhex(entry.hash)) == 32
        assert entry.hash == entry.compute_hash(entry.prev_hash)
    assert len({entry.hash for entry in log}) == 4


@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_what_was_written_verifies(length: int) -> None:
    guard, log = chain_of(length)
    assert verify_entries(log)
    assert guard.verify(log)
    assert guard.verify_new(log)
    assert guard.verify_new(log)


def test_an_event_without_a_hash_is_not_written() -> None:
    guard, log = chain_of(2)
    with pytest.raises(CanonicalJSONError):
        guard.extend(log, "event", None, None, {"bad": math.nan}, 0)
    assert len(log) == 2
    guard.extend(log, "event", None, None, {}, 0)
    assert guard.verify(log)


def test_an_entry_does_not_follow_the_callers_dictionary() -> None:
    data = {"a": 1}
    entry = make_entry(0, "event", None, None, data, 0, "")
    data["a"] = 2
    assert entry.data == {"a": 1}


# --------------------------------------------------------------------------------- what is found


def other(value: Any) -> Any:
    """A value of the same kind that is not the same."""
    if isinstance(value, dict):
        return {**value, "number": -1}
    if isinstance(value, str):
        return ("0" if value[:1] != "0" else "1") + value[1:]
    return value + 1


@pytest.mark.parametrize("position", [0, 2, 4])
@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("change", [other, lambda _: None, lambda _: math.nan, lambda _: object()])
def test_every_edit_of_a_field_is_found(name: str, position: int, change: Callable[[Any], Any]) -> None:
    guard, log = chain_of(5)
    before = getattr(log[position], name)
    setattr(log[position], name, change(before))
    assert not verify_entries(log)
    assert not guard.verify(log)
    assert not guard.verify_new(log)
    setattr(log[position], name, before)
    assert guard.verify_new(log)
    assert guard.verify(log)


@pytest.mark.parametrize("position", [0, 2, 4])
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_gone_is_found(name: str, position: int) -> None:
    guard, log = chain_of(5)
    delattr(log[position], name)
    assert not verify_entries(log)
    assert not guard.verify(log)
    assert not guard.verify_new(log)


def test_an_edit_deep_in_the_data_is_found() -> None:
    guard, log = chain_of(3)
    log[1].data["list"].append(2)
    assert not guard.verify(log)


@pytest.mark.parametrize("position", [0, 2, 4])
def test_an_edit_with_its_hash_recomputed_is_found_by_the_link_or_the_end(position: int) -> None:
    guard, log = chain_of(5)
    log[position].data["number"] = 99
    log[position].hash = log[position].compute_hash(log[position].prev_hash)
    assert verify_entries(log) is (position == 4)  # alone, a chain does not know where it ended
    assert not guard.verify(log)


def test_a_gap_in_the_numbers_is_found_though_every_hash_and_link_is_right() -> None:
    _, log = chain_of(3)
    log.append(make_entry(4, "event", None, None, {}, 0, log[-1].hash))
    assert not verify_entries(log)


def delete(log: list[AuditEntry], position: int) -> None:
    del log[position]


def truncate(log: list[AuditEntry], position: int) -> None:
    del log[position:]


def swap(log: list[AuditEntry], position: int) -> None:
    log[position - 1], log[position] = log[position], log[position - 1]


def repeat(log: list[AuditEntry], position: int) -> None:
    log.insert(position, log[position])


def replace_by_nothing(log: list[AuditEntry], position: int) -> None:
    log[position] = None  # type: ignore[call-overload]


SHAPES = [delete, truncate, swap, repeat, replace_by_nothing]


@pytest.mark.parametrize("position", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("change", SHAPES)
def test_every_change_of_shape_is_found(
    change: Callable[[list[AuditEntry], int], None], position: int
) -> None:
    guard, log = chain_of(5)
    change(log, position)
    assert not guard.verify(log)
    assert not guard.verify_new(log)


@pytest.mark.parametrize("position", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("change", [delete, truncate, swap, repeat])
def test_a_chain_rewritten_without_a_flaw_is_found(
    change: Callable[[list[AuditEntry], int], None], position: int
) -> None:
    guard, log = chain_of(5)
    change(log, position)
    forged = rehashed(log)
    assert verify_entries(forged)
    assert not guard.verify(forged)


def test_an_entry_added_behind_the_guards_back_is_found() -> None:
    guard, log = chain_of(3)
    log.append(make_entry(3, "event", None, None, {}, 0, log[-1].hash))
    assert verify_entries(log)
    assert not guard.verify(log)
    assert not guard.verify_new(log)


# ------------------------------------------------------------------------------ in a session


def edit_first(session: ConsensusProtocol) -> None:
    session.audit_log[0].data["target"] = "agent-8"


def edit_last(session: ConsensusProtocol) -> None:
    session.audit_log[-1].actor_id = "e"


def test_a_tally_says_whether_the_entries_since_the_last_one_are_intact() -> None:
    session = ConsensusProtocol(FIVE, clock=Clock())
    assert decide(session, "AAA").hash_chain_valid
    proposal_id = session.propose("a", "release")
    cast(session, proposal_id, "AAA")
    edit_last(session)
    result = session.tally(proposal_id)
    assert not result.hash_chain_valid
    assert result.approved  # the record is broken; the votes were counted as they came
    assert session.audit_log[-1].data["hash_chain_valid"] is False
    assert not session.verify_audit_chain()


def test_one_broken_entry_is_not_forgotten() -> None:
    session = ConsensusProtocol(FIVE, clock=Clock())
    session.propose("a", "release")
    edit_last(session)
    assert not decide(session, "AAA").hash_chain_valid
    assert not decide(session, "AAA").hash_chain_valid


def test_what_a_tally_has_checked_is_left_to_the_full_verification() -> None:
    session = ConsensusProtocol(FIVE, clock=Clock())
    decide(session, "AAA")
    edit_first(session)
    assert decide(session, "AAA").hash_chain_valid
    assert not session.verify_audit_chain()
    assert session.summary()["audit_chain_valid"] is False


@pytest.mark.parametrize("change", SHAPES)
def test_a_session_finds_changes_of_its_log(change: Callable[[list[AuditEntry], int], None]) -> None:
    session = ConsensusProtocol(FIVE, clock=Clock())
    decide(session, "AAA")
    assert session.verify_audit_chain()
    change(session._audit_log, 2)
    assert not session.verify_audit_chain()


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sequence numbers of the audit entries that are hashed, in order."""
    hashed: list[int] = []
    original = model.entry_hash

    def counting(sequence: int, *fields: Any) -> str:
        hashed.append(sequence)
        return original(sequence, *fields)

    monkeypatch.setattr(model, "entry_hash", counting)
    return hashed


def test_a_tally_hashes_only_what_is_new(hashing: list[int]) -> None:
    session = ConsensusProtocol(FIVE, clock=Clock())
    for _ in range(50):
        proposal_id = session.propose("a", "release")
        cast(session, proposal_id, "AAARR")
        written = len(session.audit_log)
        hashing.clear()
        session.tally(proposal_id)
        first_new = max(0, written - 7)  # the tally before this one, the proposal, five votes
        assert hashing == [*range(first_new, written), written]  # each once, and then its own entry


def test_a_full_verification_hashes_everything_once(hashing: list[int]) -> None:
    session = ConsensusProtocol(FIVE, clock=Clock())
    for _ in range(10):
        decide(session, "AAARR")
    hashing.clear()
    assert session.verify_audit_chain()
    assert hashing == list(range(70))


@pytest.mark.parametrize("length", [10, 1000])
def test_with_a_broken_entry_a_tally_does_not_hash_more_and_more(length: int, hashing: list[int]) -> None:
    guard, log = chain_of(length)
    log[0].data["number"] = 99
    hashing.clear()
    assert not guard.verify_new(log)
    assert hashing == [0]
