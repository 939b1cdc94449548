"""Planted forks, exports that do not verify, and certificates that prove something else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.support.drill_runs import DrillRun, changed_record

from replication.faults.harness.checks import Verdict, read_record
from replication.faults.harness.checks.records import (
    check_certificates,
    check_exports,
    check_forks,
    fork_between,
)


def test_another_block_at_one_height_is_a_fork() -> None:
    run = DrillRun()
    blocks = list(run.record.blocks)
    blocks[3] = replace(blocks[3], hash="ef" * 32)
    result = check_forks(
        run.material(records=run.records_with("node-2", replace(run.record, blocks=tuple(blocks))))
    )
    assert len(result.violations) == 3  # against each of the three others
    assert "height 3" in result.violations[0]


def test_another_entry_at_one_place_is_a_fork() -> None:
    run = DrillRun()
    other = changed_record(run.record, 4, reason="another one")
    assert "entry 4" in fork_between(run.record, other)


def test_a_record_that_begins_the_other_is_no_fork() -> None:
    run = DrillRun()
    shorter = replace(run.record, blocks=run.record.blocks[:3], entries=run.record.entries[:9])
    assert fork_between(run.record, shorter) == ""
    assert fork_between(shorter, run.record) == ""


def test_a_single_record_shows_nothing_about_forks() -> None:
    run = DrillRun()
    assert check_forks(run.material(records={"node-1": run.record})).verdict is Verdict.NOT_RUN


def test_an_export_with_a_changed_byte_is_found() -> None:
    run = DrillRun()
    lines = list(run.sealed.lines())
    lines[5] = lines[5].replace(b"because", b"becauze")
    result = check_exports(
        run.material(records=run.records_with("node-4", replace(run.record, raw=tuple(lines))))
    )
    assert result.violations[0].startswith("node-4: line 6")


def test_a_node_without_an_export_is_found() -> None:
    result = check_exports(DrillRun().material(missing={"node-3": "it does not answer"}))
    assert result.violations == ("node-3: no export: it does not answer",)


def test_lines_that_are_no_export_are_refused() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        read_record([b"hello\n"])


def test_a_certificate_with_a_forged_decision_is_found() -> None:
    run = DrillRun()
    forged = run.certificate.replace('"decision":"approved"', '"decision":"rejected"')
    assert forged != run.certificate
    result = check_certificates(run.material(certificates={("prop-0003", "node-1"): forged}))
    assert result.violations[0].startswith("node-1: certificate of prop-0003")


def test_a_certificate_of_another_proposal_is_found() -> None:
    run = DrillRun()
    result = check_certificates(run.material(certificates={("prop-0001", "node-1"): run.certificate}))
    assert "proves approved of prop-0003" in result.violations[0]


def test_a_certificate_that_the_record_does_not_bear_out_is_found() -> None:
    run = DrillRun()
    other = DrillRun()
    places = [index for index, entry in enumerate(other.record.entries) if entry["event_type"] == "tally"]
    record = changed_record(other.record, places[2], decision="rejected")
    result = check_certificates(run.material(records={"node-1": record}))
    assert "the record says rejected" in result.violations[0]


def test_a_certificate_that_a_reader_could_not_verify_is_found() -> None:
    run = DrillRun()
    answer = {"proposal_id": "prop-0001", "text": "", "problem": "certificate: it is a lie"}
    run.add("certificate", {"proposal_id": "prop-0001"}, answer, node="node-2")
    assert check_certificates(run.material()).violations == (
        "node-2: certificate of prop-0001: certificate: it is a lie",
    )


def test_an_export_is_read_as_it_is() -> None:
    run = DrillRun()
    first = json.loads(run.sealed.lines()[1])
    assert run.record.blocks[0].header == first["header"]
    assert len(run.record.blocks) == len(run.sealed.blocks)
    assert [entry["sequence"] for entry in run.record.entries] == list(range(len(run.record.entries)))
