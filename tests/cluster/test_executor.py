"""Executors on a real cluster: what is decided is done, whoever dies in between, and the record says so."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cluster.conftest import MakeCluster
from tests.support.real_cluster import WAIT_SECONDS, Cluster, until

from replication.client import AsyncClient, Client, RemoteError, resolve
from replication.client.action_log import ActionLog
from replication.client.executor import Executor, Order, Result
from replication.client.gate import Gate, GateState
from replication.client.model import ExecutionOutcome, Proposal, SignedReceipt
from replication.identity.keys import SigningKey
from replication.ledger.verify import verify_export
from replication.node.local.provision import PolicyChoice

pytestmark = pytest.mark.cluster


class Enforcement:
    """An executor process whose command appends a line to a file, and ends as the file `code` says."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.home = cluster.directory / "executors" / "fence-1"
        self.done, self.code, self.gate = folder / "done", folder / "code", folder / "gate"
        self.slow = folder / "slow"
        """While it is there, the action on the target that it names goes on."""
        self.code.write_text("0")
        self.script = folder / "act.py"
        self.script.write_text(
            "import json, pathlib, sys, time\n"
            "order = json.load(sys.stdin)\n"
            "line = order['idempotency_key'] + ' ' + order['target'] + chr(10)\n"
            f"open({str(self.done)!r}, 'a').write(line)\n"
            f"slow = pathlib.Path({str(self.slow)!r})\n"
            "def is_slow():\n"
            "    try: return slow.read_text() == order['target']\n"
            "    except FileNotFoundError: return False\n"
            "while is_slow(): time.sleep(0.02)\n"
            f"code = open({str(self.code)!r}).read()\n"
            "time.sleep(600 if code == 'hang' else 0)\n"
            "print('did', order['action'])\n"
            "sys.exit(int(code))\n"
        )

    @contextmanager
    def running(self, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        """The executor, ended with SIGTERM."""
        act = f"{sys.executable} {self.script}"
        command = (
            "executor",
            "--home",
            str(self.home),
            "--run",
            act,
            "--gate",
            str(self.gate),
            "--limit",
            "600",
        )
        with (self.home / "log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "replication.cli", *command, *more], stderr=log)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_SECONDS) in (0, -signal.SIGKILL)

    def delivered(self) -> set[str]:
        """The decisions of which the executor has noted that the record holds its receipt: after others can
        read it there. The log itself is the executor's alone while it runs."""
        whole = (self.home / "actions.log").read_text().rpartition("\n")[0]
        lines = map(json.loads, whole.splitlines())
        return {line["digest"] for line in lines if line["state"] == "delivered"}

    def acts(self) -> list[str]:
        """The targets acted upon so far."""
        return [line.split()[1] for line in self.done.read_text().splitlines()] if self.done.exists() else []


@pytest.fixture
def enforcement(make_cluster: MakeCluster, approving: PolicyChoice, tmp_path: Path) -> Enforcement:
    cluster = make_cluster(policy=approving, executors=["fence-1"])
    return Enforcement(cluster, tmp_path)


def decide(client: Client, target: str, action: str = "quarantine", node: str | None = None) -> Proposal:
    return client.propose(action, target, {"score": 1}, wait_for_decision=True, timeout_seconds=20, node=node)


def executed(client: Client, proposal: Proposal, node: str | None = None) -> Callable[[], Proposal | None]:
    def look() -> Proposal | None:
        try:
            found = client.get_proposal(proposal.id, node=node)
        except RemoteError:
            return None
        return found if found.status.value == "executed" else None

    return look


def test_what_is_decided_is_done_whoever_dies(enforcement: Enforcement) -> None:
    cluster = enforcement.cluster
    with cluster.client() as client:
        before = decide(client, "agent-before")
        with enforcement.running() as process:
            found = until(executed(client, before))
            assert [(item.executor_id, item.outcome.value) for item in found.receipts] == [
                ("fence-1", "succeeded")
            ]
            assert found.receipts[0].detail == "did quarantine"
            # The node that it talks to dies: the first of the genesis.
            cluster.kill("node-1")
            during = decide(client, "agent-during", node="node-3")
            until(executed(client, during, "node-3"))
            # The executor dies in the middle of an action, and does it again.
            enforcement.code.write_text("hang")
            last = decide(client, "agent-last", node="node-3")
            until(lambda: "agent-last" in enforcement.acts())
            process.kill()
            process.wait(WAIT_SECONDS)
        enforcement.code.write_text("0")
        with enforcement.running():
            until(executed(client, last, "node-3"))
        cluster.start_one("node-1")
        cluster.settle()
        for proposal in (before, during, last):
            receipts = client.get_proposal(proposal.id, node="node-1").receipts
            assert [receipt.outcome.value for receipt in receipts] == ["succeeded"]
    acts = enforcement.acts()
    assert [acts.count(f"agent-{name}") for name in ("before", "during", "last")] == [1, 1, 2]
    assert {line.split()[0] for line in enforcement.done.read_text().splitlines()} == {
        proposal.digest.hex() for proposal in (before, during, last)
    }
    gate = Gate(cluster.genesis, enforcement.gate)
    assert gate.check("agent-last").state is GateState.QUARANTINED
    assert verify_export(cluster.export("node-1"), cluster.genesis).executed == 3


def test_a_failure_stays_visible_and_other_actions_are_left_alone(enforcement: Enforcement) -> None:
    cluster = enforcement.cluster
    enforcement.code.write_text("3")
    with cluster.client() as client:
        with enforcement.running("--action", "quarantine"):
            other = decide(client, "agent-o", "restrict")
            failing = decide(client, "agent-f")
            until(lambda: client.get_proposal(failing.id).receipts)
            cluster.settle()
            waiting = {item.id for item in client.list_proposals(unconfirmed=True)}
            assert waiting == {other.id, failing.id}
            assert client.summary().unconfirmed == 2
            receipt = client.get_proposal(failing.id).receipts[0]
            assert (receipt.outcome.value, receipt.detail) == ("failed", "exit code 3: did quarantine")
            listed = cluster.acp("proposals", "--unconfirmed", "--json").json
            assert {item["id"] for item in listed} == waiting
        # It tries again after a while; the last attempt may have been ended with the executor.
        assert set(enforcement.acts()) == {"agent-f"}
        assert len(enforcement.acts()) - len(client.get_proposal(failing.id).receipts) in (0, 1)


def test_a_slow_action_holds_up_neither_others_nor_the_gate(enforcement: Enforcement) -> None:
    cluster = enforcement.cluster
    gate = Gate(cluster.genesis, enforcement.gate)
    enforcement.slow.write_text("agent-1")
    with cluster.client() as client, enforcement.running("--action", "quarantine", "--action", "release"):
        slow = decide(client, "agent-1")
        until(lambda: enforcement.acts() == ["agent-1"])
        release = decide(client, "agent-1", "release")
        for number in (2, 3):
            until(executed(client, decide(client, f"agent-{number}")))
        others = decide(client, "agent-4", "terminate")
        until(lambda: gate.check("agent-4").state is GateState.TERMINATED)
        assert enforcement.acts() == ["agent-1", "agent-2", "agent-3"], "the release waits for its turn"
        assert client.get_proposal(others.id).receipts == ()
        assert not client.get_proposal(slow.id).receipts
        enforcement.slow.unlink()
        for proposal in (slow, release):
            until(executed(client, proposal))
        until(lambda: enforcement.delivered() >= {slow.digest.hex(), release.digest.hex()})
    lines = [line.split()[0] for line in enforcement.done.read_text().splitlines()]
    assert [lines.index(proposal.digest.hex()) for proposal in (slow, release)] == [0, 3]
    assert len(lines) == 4, "nothing is done twice"
    with ActionLog.open(enforcement.home / "actions.log") as log:
        assert log.attempts(slow.digest.hex()) == log.attempts(release.digest.hex()) == ()


def test_what_was_given_up_is_tried_again_and_confirmed_late(enforcement: Enforcement) -> None:
    """Eight receipts say failed, four of them are this executor's: nothing more is done until it is asked."""
    cluster = enforcement.cluster
    with cluster.client() as client:
        proposal = decide(client, "agent-7")
        for number in range(8):
            client.execute(proposal.id, "failed", f"attempt {number}")
        with pytest.raises(RemoteError) as full:
            client.execute(proposal.id, "failed", "one more")
        assert full.value.reason == "TOO_MANY_RECEIPTS"
        digest = proposal.digest.hex()
        with ActionLog.open(enforcement.home / "actions.log") as log:
            for _ in range(4):
                log.begin(digest)
                log.end(digest, ExecutionOutcome.FAILED, "no", 5)
                log.delivered(digest)
        with enforcement.running():
            until(executed(client, decide(client, "agent-8")))
            until(lambda: "--retry prop-0001" in (enforcement.home / "log").read_text())
        assert enforcement.acts() == ["agent-8"]
        with enforcement.running("--retry", proposal.id):
            found = until(executed(client, proposal))
        assert [receipt.outcome.value for receipt in found.receipts] == ["failed"] * 8 + ["succeeded"]
        assert proposal.id not in {item.id for item in client.list_proposals(unconfirmed=True)}
    assert enforcement.acts() == ["agent-8", "agent-7"]
    cluster.settle()
    assert verify_export(cluster.export("node-1"), cluster.genesis).executed == 2


def test_strangers_and_forgers_report_nothing(enforcement: Enforcement) -> None:
    """A certificate of an executor is not enough: the receipt has to be signed with the key on record."""
    cluster, home = enforcement.cluster, enforcement.home
    handle = resolve(
        certificate=home / "executor.crt",
        key=home / "executor.key",
        authority=home / "ca.crt",
        genesis=home / "genesis.json",
        environment={},
    )

    async def never(order: Order) -> Result:
        raise AssertionError(f"acted on {order.proposal_id}")

    async def rounds() -> int:
        key = SigningKey.generate()
        async with AsyncClient(handle) as client:
            with ActionLog.open(cluster.directory / "stranger.log") as log:
                return await Executor(client, "fence-1", key, log, never).round()

    with cluster.client() as client:
        proposal = decide(client, "agent-7")
        assert asyncio.run(rounds()) == 0
        with Client(handle) as stranger:
            forged = SignedReceipt(
                "fence-1", 0, proposal.digest, ExecutionOutcome.SUCCEEDED, "", 5, bytes(64)
            )
            with pytest.raises(RemoteError, match="does not verify"):
                stranger.report_execution(forged)
            with pytest.raises(RemoteError) as denied:
                stranger.execute(proposal.id)
            assert denied.value.status == "PERMISSION_DENIED"
        assert client.get_proposal(proposal.id).receipts == ()


def test_executors_come_and_go_through_the_log(enforcement: Enforcement) -> None:
    cluster = enforcement.cluster
    made = cluster.acp("members", "executor-home", "fence-2")
    assert made.code == 0, made.err
    facts = made.json
    keys = ("--public-key", facts["public_key"], "--possession", facts["possession"])
    added = cluster.acp("members", "add-executor", "fence-2", *keys, "--json")
    assert (added.code, added.json["epoch"]) == (0, 1), added.err
    members = json.loads(cluster.acp("members", "list", "--json").out)
    assert [item["id"] for item in members["executors"]] == ["fence-1", "fence-2"]
    enforcement.home = Path(facts["home"])
    with cluster.client() as client, enforcement.running():
        found = until(executed(client, decide(client, "agent-7")))
        assert found.receipts[0].executor_id == "fence-2"
    removed = cluster.acp("members", "remove-executor", "fence-2", "--json")
    assert (removed.code, removed.json["epoch"]) == (0, 2), removed.err
    assert cluster.acp("members", "remove-executor", "fence-2").code == 4
    cluster.settle()
    cluster.verified_exports()


def test_the_gate_closes_for_what_others_carry_out(enforcement: Enforcement) -> None:
    cluster = enforcement.cluster
    gate = Gate(cluster.genesis, enforcement.gate, max_age_seconds=30)
    with cluster.client() as client, enforcement.running("--action", "terminate"):
        until(lambda: gate.check("agent-q").state is GateState.FREE)
        decided = decide(client, "agent-q")
        client.execute(decided.id)
        until(lambda: gate.check("agent-q").state is GateState.QUARANTINED)
    assert enforcement.acts() == []
