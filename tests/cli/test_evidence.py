"""`acp evidence` believes no node: signatures are verified with the genesis file, or the whole record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.support.epoch_factory import EpochFactory

from replication.cli.evidence import evidence
from replication.cli.options import Connection
from replication.client.model import AuditEntry, EntryPage
from replication.ledger.verify import VerificationError, verify_evidence

Run = Callable[..., tuple[int, list[dict[str, Any]]]]


def early(factory: EpochFactory) -> None:
    factory.evidence("node-2", factory.statement("node-2"), factory.statement("node-2", block="other"))


def recorded(*, later_epoch: bool) -> EpochFactory:
    factory = EpochFactory(4)
    factory.block()
    early(factory)
    if later_epoch:
        factory.block()
        factory.rejoin("node-3", bytes(range(32)))
        factory.block()
        factory.evidence("node-4", factory.timeout("node-4", 3, 6), factory.timeout("node-4", 3, 5))
    return factory


class FakeClient:
    """A node's answers: the entries it lists, and the lines it exports."""

    def __init__(self, lines: list[bytes]) -> None:
        self.lines = [line.decode().rstrip("\n") for line in lines]
        self.listed: list[AuditEntry] = []
        for line in self.lines:
            item = json.loads(line)
            if item.get("event_type") == "evidence":
                self.listed.append(
                    AuditEntry(
                        item["sequence"],
                        "evidence",
                        "",
                        "cluster",
                        item["data"],
                        1,
                        "0" * 64,
                        item["hash"],
                        1,
                    )
                )

    def audit_entries(self, start: int, limit: int, **_: Any) -> EntryPage:
        return EntryPage(tuple(item for item in self.listed if item.sequence >= start)[:1], 99)

    def export_chain(self, **_: Any) -> Iterator[str]:
        return iter(self.lines)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[dict[str, Any]]]]:
    def work(client: FakeClient, genesis: bytes | None) -> tuple[int, list[dict[str, Any]]]:
        @contextmanager
        def opened(_: Connection) -> Iterator[FakeClient]:
            yield client

        monkeypatch.setattr(Connection, "open", opened)
        file = None
        if genesis is not None:
            file = tmp_path / "genesis.json"
            file.write_bytes(genesis)
        code = 0
        try:
            evidence(Connection(json=True), file)
        except typer.Exit as end:
            code = end.exit_code
        return code, json.loads(capsys.readouterr().out)

    return work


@pytest.mark.parametrize("later_epoch", [False, True])
def test_evidence_that_holds_is_verified(run: Run, later_epoch: bool) -> None:
    record = recorded(later_epoch=later_epoch).seal()
    code, found = run(FakeClient(record.lines()), record.genesis.raw)
    assert code == 0
    assert [item["data"]["accused"] for item in found] == ["node-2", "node-4"][: 1 + later_epoch]
    assert all(item["verified"] is True for item in found)


def test_without_a_genesis_file_nothing_is_claimed(run: Run) -> None:
    code, found = run(FakeClient(recorded(later_epoch=False).seal().lines()), None)
    assert (code, [item["verified"] for item in found]) == (0, [None])


@pytest.mark.parametrize("which", [0, 1])
def test_a_node_that_blames_another_is_found_out(run: Run, which: int) -> None:
    record = recorded(later_epoch=True).seal()
    client = FakeClient(record.lines())
    lie = deepcopy(dict(client.listed[which].data))
    lie["accused"] = "node-1"
    entry = client.listed[which]
    client.listed[which] = AuditEntry(
        entry.sequence, "evidence", "", "cluster", lie, 1, entry.prev_hash, entry.hash, 1
    )
    code, found = run(client, record.genesis.raw)
    assert code == 7
    assert [item["verified"] for item in found] == [which != 0, which != 1]
    assert found[which]["problem"]


def test_evidence_of_a_record_that_does_not_verify_proves_nothing(run: Run) -> None:
    record = recorded(later_epoch=True).seal()
    client = FakeClient(record.lines())
    client.lines.pop()
    code, found = run(client, record.genesis.raw)
    assert code == 7
    assert [item["verified"] for item in found] == [True, False], "the first one proves itself"
    assert "cut off" in found[1]["problem"]


def test_evidence_by_itself() -> None:
    factory = recorded(later_epoch=False)
    record = factory.seal()
    [data] = [item.data for item in FakeClient(record.lines()).listed]
    assert verify_evidence(data, record.genesis.cluster_id, record.genesis.members) == "node-2"
    with pytest.raises(VerificationError, match="not a signature of node-2"):
        verify_evidence(data, bytes(32), record.genesis.members)
    same = {**data, "second": data["first"]}
    with pytest.raises(VerificationError, match="do not contradict"):
        verify_evidence(same, record.genesis.cluster_id, record.genesis.members)
