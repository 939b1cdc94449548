"""Members come, go and change while the cluster works: nothing is lost, and every proof still verifies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tests.cluster.conftest import MakeCluster
from tests.support.real_cluster import WAIT_SECONDS, Cluster, known, until

from replication.cli.main import ExitCode
from replication.client import AsyncClient, Client, ClusterHandle, Endpoint, open_folder
from replication.client.errors import RemoteError
from replication.client.model import ClusterStatus, Decision
from replication.ledger.verify import verify_certificate, verify_export
from replication.node.local.enrolment import read_request
from replication.node.local.processes import LocalCluster
from replication.node.local.provision import PolicyChoice, pick_free_ports

pytestmark = pytest.mark.cluster


class Growing:
    """A cluster to which nodes are added, beside those of its genesis file."""

    def __init__(self, cluster: Cluster, policy_file: Path) -> None:
        self.cluster = cluster
        self.policy_file = policy_file
        self.endpoints = {member.id: member.address for member in cluster.genesis.members.members}

    def acp(self, *arguments: str) -> Any:
        """Run `acp` with this cluster; its JSON answer."""
        answer = self.cluster.acp(*arguments)
        assert answer.code == ExitCode.OK, answer.err
        return answer.json

    def new_home(self, member: str, folder: str = "") -> dict[str, Any]:
        """A home for a member to be."""
        [port] = pick_free_ports(1)
        self.endpoints[member] = f"127.0.0.1:{port}"
        made: dict[str, Any] = self.acp(
            *("members", "home", member, "--address", self.endpoints[member]),
            *("--policy", f"cel:{self.policy_file}", "-o", str(self.cluster.directory / (folder or member))),
        )
        return made

    def enrol(self, member: str, folder: str) -> Path:
        """The same with a key that is made where it stays; the request, which is all that travels."""
        [port] = pick_free_ports(1)
        self.endpoints[member] = f"127.0.0.1:{port}"
        directory, home = self.cluster.directory, self.cluster.directory / folder
        asked = self.acp(
            *("enrol", "key", str(home), "--name", member, "--address", self.endpoints[member], "--json"),
            *("--invitation", str(directory / "genesis.json")),
        )
        signed = self.acp(
            "enrol", "sign", asked["request"], "--authority", str(directory), "--new-key", "--json"
        )
        assert signed["digest"] == asked["digest"]
        policy = f"cel:{self.policy_file}"
        self.acp("enrol", "home", str(home), signed["bundle"], "--policy", policy, "--json")
        return Path(asked["request"])

    def start(self, folder: str) -> None:
        one = LocalCluster([self.cluster.directory / folder])
        one.start()
        self.cluster.local.children.update(one.children)

    def add(self, member: str) -> None:
        """Make a home, start its node, and let it in."""
        made = self.new_home(member)
        self.start(member)
        self.change("add", member, *self.particulars(made))

    @staticmethod
    def particulars(made: dict[str, Any]) -> tuple[str, ...]:
        return (
            *("--address", made["address"]),
            *("--public-key", made["public_key"], "--possession", made["possession"]),
        )

    def change(self, *arguments: str) -> int:
        """A change of members that is proposed, approved and carried out; the epoch that it began."""
        epoch: int = self.acp("members", *arguments, "--json")["epoch"]
        return epoch

    def handle(self, *nodes: str) -> ClusterHandle:
        folder = open_folder(self.cluster.directory)
        return ClusterHandle(
            tuple(Endpoint(self.endpoints[node], node) for node in nodes or self.endpoints),
            folder.certificate,
            folder.private_key,
            folder.authority,
            folder.genesis,
        )

    def state(self, node: str) -> ClusterStatus | None:
        with Client(self.handle(node), rounds=1) as client:
            return client.survey(timeout_seconds=1.0).get(node)

    def follows(self, node: str, epoch: int) -> bool:
        state = self.state(node)
        return state is not None and state.epoch == epoch

    def settle(self, *nodes: str) -> None:
        """Wait until these nodes have one record."""

        def same() -> bool:
            try:
                with Client(self.handle(*nodes), rounds=1) as client:
                    heads = [client.audit_head(node=node).audit_head for node in nodes]
            except RemoteError:
                return False
            return len(set(heads)) == 1

        until(same, "one record")

    def verify(self, *nodes: str) -> None:
        """These nodes have one record; the last one's export verifies with the genesis file."""
        self.settle(*nodes)

        def same() -> bool:
            with Client(self.handle(*nodes)) as client:
                lines = (f"{line}\n".encode() for line in client.export_chain(node=nodes[-1]))
                report = verify_export(lines, self.cluster.genesis)
                return report.audit_head.hex() == client.audit_head(node=nodes[0]).audit_head

        until(same, "the export ends as another node's record does")

    def decide(self, target: str, node: str) -> str:
        with Client(self.handle(node)) as client:
            proposal = client.propose(
                "restrict", target, wait_for_decision=True, timeout_seconds=WAIT_SECONDS
            )
            assert proposal.approved
            return proposal.id

    @contextmanager
    def load(self, *nodes: str) -> Iterator[dict[str, Decision]]:
        """Clients that propose all the while, at a leisurely pace, since every record is verified after;
        their acknowledged decisions."""
        acknowledged: dict[str, Decision] = {}
        is_over = False

        async def work(node: str) -> None:
            async with AsyncClient(self.handle(node), rounds=2) as client:
                while not is_over:
                    try:
                        proposal = await client.propose(
                            "restrict", "agent-load", wait_for_decision=True, timeout_seconds=15.0
                        )
                    except RemoteError:
                        await asyncio.sleep(0.1)
                        continue
                    acknowledged[proposal.id] = proposal.decision
                    await asyncio.sleep(0.1)

        async def all_of_them() -> None:
            await asyncio.gather(*(work(node) for node in nodes))

        thread = Thread(target=lambda: asyncio.run(all_of_them()))
        thread.start()
        try:
            until(lambda: len(acknowledged) > 2, "the load works")
            yield acknowledged
            count = len(acknowledged)
            until(lambda: len(acknowledged) > count + 2, "the load still works")
        finally:
            is_over = True
            thread.join()

    def assert_known(self, node: str, decisions: dict[str, Decision]) -> None:
        with Client(self.handle(node)) as client:
            known = {item.id: item.decision for item in client.list_proposals(page_size=500)}
        lost = [key for key, decision in decisions.items() if known.get(key) is not decision]
        assert not lost, f"{node} lost acknowledged decisions"


@pytest.fixture
def growing(make_cluster: MakeCluster, approving: PolicyChoice) -> Growing:
    assert approving.file is not None
    return Growing(make_cluster(policy=approving), approving.file)


@pytest.mark.timeout(900)  # six changes, each proposed, voted on and carried out
def test_four_become_seven_and_four_again_under_load(growing: Growing) -> None:
    cluster = growing.cluster
    early = growing.decide("agent-early", "node-1")
    later = ("node-5", "node-6", "node-7")
    with growing.load("node-1", "node-2") as decisions:
        for epoch, member in enumerate(later, start=1):
            growing.add(member)
            until(partial(growing.follows, member, epoch), f"{member} is in")
    everybody = tuple(growing.endpoints)

    def complete() -> bool:
        status = growing.acp("status", "--json")
        assert (status["n"], status["f"], status["commit_quorum"], status["epoch"]) == (7, 2, 5, 3)
        return all(member["answered"] and not member["muted"] for member in status["members"])

    until(complete, "all seven answer and sign")
    growing.verify(*everybody)
    middle = growing.decide("agent-middle", "node-7")
    for node in ("node-2", "node-3"):  # five of seven are left: the new ones must sign and vote
        cluster.kill(node)
    growing.decide("agent-needs-them", "node-6")
    for node in ("node-2", "node-3"):
        cluster.start_one(node)
    until(lambda: growing.follows("node-2", 3) and growing.follows("node-3", 3), "they are back")
    with growing.load("node-3", "node-4") as more:
        for member in later:
            growing.change("remove", member)

    def has_left(member: str) -> bool:
        state = growing.state(member)
        return state is not None and state.epoch == 6 and "not a member" in state.muted

    for member in later:
        until(partial(has_left, member), f"{member} learns how its epoch ended")
    last = growing.decide("agent-late", "node-1")
    growing.verify("node-1", "node-2", "node-3", "node-4")
    growing.settle(*growing.endpoints)  # who is no member any more goes on following
    for node in growing.endpoints:
        growing.assert_known(node, decisions | more)
    with cluster.client() as client:
        for number in (early, middle, last):
            text = client.certificate(number).text
            assert verify_certificate(text.encode(), cluster.genesis).authorises


def test_one_who_is_no_member_follows_and_says_so(growing: Growing) -> None:
    growing.new_home("node-5")
    growing.start("node-5")
    number = growing.decide("agent-1", "node-1")

    def has_it() -> bool:
        try:
            with Client(growing.handle("node-5"), rounds=1) as client:
                return client.get_proposal(number).approved
        except RemoteError:
            return False

    until(has_it, "it follows the record without being a member")
    with Client(growing.handle("node-5"), rounds=1) as client:
        with pytest.raises(RemoteError) as caught:
            client.propose("restrict", "agent-2")
        assert caught.value.reason == "NOT_SIGNING"
        assert "not a member in epoch 0" in str(caught.value)
        with pytest.raises(RemoteError) as caught:
            client.vote(number, "approve")


def test_weights_and_keys_change(growing: Growing) -> None:
    cluster = growing.cluster
    assert growing.change("reweight", "node-2", "3") == 1
    weights = {m["id"]: m["weight"] for m in growing.acp("members", "list", "--json")["members"]}
    assert weights["node-2"] == 3
    before = growing.decide("agent-before", "node-2")
    request = growing.enrol("node-4", "node-4-new")
    assert cluster.stop("node-4") == ExitCode.OK
    growing.start("node-4-new")
    assert growing.change("replace", "node-4", "--request", str(request)) == 2
    until(lambda: growing.follows("node-4", 2), "the new key's node is in")
    keys = {m["id"]: m["public_key"] for m in growing.acp("members", "list", "--json")["members"]}
    assert keys["node-4"] == read_request(request).public_key.hex()
    cluster.kill("node-3")
    after = growing.decide("agent-after", "node-4")  # three are left, so that the new key must sign
    cluster.start_one("node-3")
    growing.verify("node-1", "node-2", "node-3", "node-4")
    with cluster.client() as client:
        for number in (before, after):
            assert verify_certificate(client.certificate(number).text.encode(), cluster.genesis).authorises
    growing.start("node-4")  # the old home: its key is nobody's any more
    until(
        lambda: "has another key in epoch 2" in cluster.acp("status").out or _old_is_muted(growing), "muted"
    )


def _old_is_muted(growing: Growing) -> bool:
    old = next(m.address for m in growing.cluster.genesis.members.members if m.id == "node-4")
    growing.endpoints["node-4"] = old
    state = growing.state("node-4")
    return state is not None and "has another key" in state.muted


def test_a_change_that_the_voters_reject_changes_nothing(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    with cluster.client() as client:
        proposal = client.propose("membership", "node-4", {"change": "remove", "id": "node-4"}, window_ms=0)
        for node in ("node-1", "node-2", "node-3"):
            known(client, proposal, node)
            client.vote(proposal.id, "reject", node=node)
    cluster.settle()
    answer = cluster.acp("members", "apply", proposal.id)
    assert answer.code == ExitCode.CONFLICT
    assert cluster.acp("status", "--json").json["epoch"] == 0


def ends_with(code: int, cluster: Cluster, node: str) -> bool:
    return cluster.acp("summary", "--node", node).code == code


def test_a_client_outlives_all_members_that_it_was_told_of(
    make_cluster: MakeCluster, approving: PolicyChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One member after another is replaced and stopped. A client that works all the while knows the new ones
    by then; another one, with the genesis file alone, has nobody left to ask."""
    monkeypatch.setattr("replication.client.roster.LEARN_SECONDS", 0.0)
    cluster = make_cluster(policy=approving)
    cluster.settle()
    assert approving.file is not None
    growing = Growing(cluster, approving.file)
    first = cluster.genesis.members.ids
    with Client(open_folder(cluster.directory)) as client:
        for old, new in zip(first, ("node-5", "node-6", "node-7", "node-8"), strict=True):
            made = growing.new_home(new)
            growing.start(new)
            some = next(member for member in growing.endpoints if member != old)
            growing.acp(
                "members",
                "replace",
                old,
                "--new-id",
                new,
                *growing.particulars(made),
                "--node",
                some,
                "--json",
            )
            until(partial(growing.follows, new, int(new[-1]) - 4), f"{new} is in")
            cluster.kill(old)
            del growing.endpoints[old]
            decided = client.propose(
                "restrict", f"agent-{new}", wait_for_decision=True, timeout_seconds=WAIT_SECONDS
            )
            assert decided.decision is Decision.APPROVED
            assert client.endpoint_of(new).address == growing.endpoints[new]
            expected = ExitCode.OK if old != first[-1] else ExitCode.USAGE
            until(partial(ends_with, expected, cluster, new))  # the genesis file does not name it
        growing.settle(*growing.endpoints)
        assert client.get_proposal(decided.id, node="node-8").id == decided.id
        until(lambda: client.survey().keys() == growing.endpoints.keys())
    with Client(open_folder(cluster.directory), rounds=1) as late, pytest.raises(RemoteError):
        late.summary()
    assert cluster.acp("summary", "--endpoint", f"node-8={growing.endpoints['node-8']}").code == ExitCode.OK
