"""The files of a new cluster, and the processes that may or may not be its nodes."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from replication.cli.incidents import load_incidents
from replication.cli.load import percentile
from replication.cli.main import ExitCode, main
from replication.errors import OperatorError
from replication.identity.genesis import load_genesis
from replication.identity.keys import SigningKey
from replication.identity.members import admit_member_key
from replication.identity.roles import Role
from replication.identity.tls import check_certificate
from replication.node.config import read_config
from replication.node.home import check_home
from replication.node.local.addresses import plan_metrics
from replication.node.local.processes import is_node_of, read_pid, running_pid, stop_pids
from replication.node.local.provision import (
    CLIENT_ROLES,
    ClusterPlanError,
    PolicyChoice,
    add_home,
    node_homes,
    pick_free_ports,
    plan_addresses,
    provision_cluster,
)

APPROVE = '[[rule]]\nwhen = "true"\nvote = "approve"\nreason = "test"\n'


def test_the_layout_is_complete_and_private(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    genesis = provision_cluster(directory, nodes=4, name="test")
    assert load_genesis(directory / "genesis.json") == genesis
    assert genesis.members.ids == ("node-1", "node-2", "node-3", "node-4")
    now = dt.datetime.now(dt.UTC)
    for role in CLIENT_ROLES:
        certificate = (directory / "clients" / f"{role.value}.crt").read_bytes()
        check_certificate(
            certificate, genesis.ca_certificate, now, cluster_id=genesis.cluster_id, roles=[role]
        )
    secret = [*directory.rglob("*.key"), *directory.rglob("signing.pem")]
    assert len(secret) == 1 + 4 + 4 + 4
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in secret)


def test_every_home_is_one_that_a_node_accepts(tmp_path: Path) -> None:
    genesis = provision_cluster(tmp_path / "cluster", nodes=4)
    for home, member in zip(node_homes(tmp_path / "cluster"), genesis.members.members, strict=True):
        check_home(home)
        assert (home / "genesis.json").read_bytes() == genesis.raw
        assert SigningKey.load(home / "keys" / "signing.pem").public_key == member.public_key
        config = read_config(home / "config.toml")
        assert (config.id, config.listen, config.policy.kind) == (member.id, member.address, "manual")
        node = (home / "tls" / "node.crt").read_bytes()
        identity = check_certificate(node, genesis.ca_certificate, dt.datetime.now(dt.UTC))
        assert (identity.role, identity.name) == (Role.NODE, member.id)


def test_a_folder_with_anything_in_it_is_refused_and_untouched(tmp_path: Path) -> None:
    directory = tmp_path / "cluster"
    directory.mkdir()
    (directory / "mine").write_text("precious", encoding="utf-8")
    with pytest.raises(OperatorError, match="not an empty folder"):
        provision_cluster(directory, nodes=1)
    assert [path.name for path in directory.iterdir()] == ["mine"]
    with pytest.raises(OperatorError, match="not an empty folder"):
        provision_cluster(directory / "mine", nodes=1)


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    provision_cluster(tmp_path, nodes=1)
    assert (tmp_path / "node-1").is_dir()


def test_what_was_made_is_removed_when_something_is_wrong(tmp_path: Path) -> None:
    policy = tmp_path / "bad.toml"
    policy.write_text('[[rule]]\nwhen = "((("\nvote = "approve"\n', encoding="utf-8")
    with pytest.raises(OperatorError, match="rule 1"):
        provision_cluster(tmp_path / "cluster", nodes=2, policy=PolicyChoice("cel", file=policy))
    assert not (tmp_path / "cluster").exists()
    with pytest.raises(ClusterPlanError, match="node-9"):
        provision_cluster(tmp_path / "cluster", nodes=2, policies={"node-9": PolicyChoice()})
    assert not (tmp_path / "cluster").exists()


def test_policies_are_installed(tmp_path: Path) -> None:
    policy = tmp_path / "approve.toml"
    policy.write_text(APPROVE, encoding="utf-8")
    provision_cluster(
        tmp_path / "cluster",
        nodes=3,
        policy=PolicyChoice("cel", file=policy),
        policies={"node-2": PolicyChoice("python", entry="mine:decide"), "node-3": PolicyChoice()},
    )
    first, second, third = (
        read_config(home / "config.toml").policy for home in node_homes(tmp_path / "cluster")
    )
    assert (first.kind, first.file) == ("cel", "policy.cel.toml")
    assert (tmp_path / "cluster" / "node-1" / "policy.cel.toml").read_text(encoding="utf-8") == APPROVE
    assert (second.kind, second.entry) == ("python", "mine:decide")
    assert third.kind == "manual"


@pytest.mark.parametrize(
    ("nodes", "hosts", "base_port", "addresses"),
    [
        (2, (), 7001, ["127.0.0.1:7001", "127.0.0.1:7002"]),
        (2, ("a", "b"), None, ["a:7001", "b:7001"]),
        (3, ("a", "b", "a"), 80, ["a:80", "b:80", "a:81"]),
        (2, ("h",), 80, ["h:80", "h:81"]),
        (1, ("[::1]",), 80, ["[::1]:80"]),
    ],
)
def test_addresses(nodes: int, hosts: tuple[str, ...], base_port: int | None, addresses: list[str]) -> None:
    assert plan_addresses(nodes, hosts, base_port) == addresses


def test_nodes_of_other_hosts_listen_everywhere(tmp_path: Path) -> None:
    provision_cluster(tmp_path / "cluster", nodes=1, hosts=["node-1.example.org"])
    assert read_config(tmp_path / "cluster" / "node-1" / "config.toml").listen == "0.0.0.0:7001"


def test_metrics_have_ports_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "cluster"
    assert main(["init", str(directory), "--metrics", "--json"]) == 0
    told = [member["metrics"] for member in json.loads(capsys.readouterr().out)["members"]]
    configs = [read_config(home / "config.toml") for home in node_homes(directory)]
    assert [config.monitoring for config in configs] == told
    assert all(listen.startswith("127.0.0.1:") for listen in told)
    assert len({*told, *(config.listen for config in configs)}) == 8


@pytest.mark.parametrize(
    ("addresses", "planned"),
    [
        (["a:7001", "b:7001"], ["0.0.0.0:9101", "0.0.0.0:9101"]),
        (["a:7001", "a:9102", "a:7003"], ["0.0.0.0:9101", "0.0.0.0:9103", "0.0.0.0:9104"]),
        (["[2001:db8::1]:9101"], ["[::]:9102"]),
    ],
)
def test_metrics_of_other_hosts_are_where_one_looks_for_them(
    addresses: list[str], planned: list[str]
) -> None:
    assert plan_metrics(addresses) == planned


def test_no_metrics_unless_they_are_asked_for(tmp_path: Path) -> None:
    provision_cluster(tmp_path / "cluster", nodes=1)
    assert read_config(tmp_path / "cluster" / "node-1" / "config.toml").monitoring is None


def test_free_ports_are_different() -> None:
    assert min(pick_free_ports(20, range(20_000, 31_000))) >= 31_000
    assert len(set(pick_free_ports(20))) == 20


def test_init_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "cluster"
    assert main(["init", str(directory), "--nodes", "2", "--name", "mine", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["cluster_id"] == load_genesis(directory / "genesis.json").cluster_id.hex()
    assert len(document["members"]) == 2
    assert main(["init", str(directory)]) == ExitCode.OPERATOR


def test_a_pid_counts_only_with_the_home_on_its_command_line(tmp_path: Path) -> None:
    home, other = tmp_path / "node-1", tmp_path / "node-2"
    home.mkdir()
    other.mkdir()
    code = "import time; print('up', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code, "--home", str(home)], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            (home / "node.pid").write_text(f"{process.pid}\n", encoding="ascii")
            (other / "node.pid").write_text(f"{process.pid}\n", encoding="ascii")
            assert running_pid(home) == process.pid
            assert running_pid(other) is None
            assert not is_node_of(os.getpid(), home)
            stop_pids({other: process.pid}, seconds=0.1)
            assert process.poll() is None, "not a node of that home: not ours to stop"
            stop_pids({home: process.pid}, seconds=20, reap=process.poll)
            assert process.poll() is not None
            assert running_pid(home) is None
        finally:
            process.kill()


def test_a_node_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code = f"{ignore}; print('up', flush=True); time.sleep(60)"
    said: list[str] = []
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            stop_pids({tmp_path: process.pid}, seconds=0.2, reap=process.poll, report=said.append)
            assert process.wait() == -9
        finally:
            process.kill()
    assert "killed" in said[0]


@pytest.mark.parametrize("text", ["", "x", "-5", "0", "1", "99999999999999999999", "12 13"])
def test_files_that_hold_no_pid(tmp_path: Path, text: str) -> None:
    (tmp_path / "node.pid").write_text(text, encoding="ascii")
    assert read_pid(tmp_path) is None


def test_down_with_nothing_running(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    provision_cluster(tmp_path / "cluster", nodes=1)
    assert main(["down", "--dir", str(tmp_path / "cluster"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"stopped": []}


def test_up_refuses_another_number_of_nodes(tmp_path: Path) -> None:
    provision_cluster(tmp_path / "cluster", nodes=1)
    assert main(["up", "--dir", str(tmp_path / "cluster"), "--nodes", "4"]) == ExitCode.USAGE


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([3.0], 0.5, 3.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0),
        ([4.0, 1.0, 3.0, 2.0], 1.0, 4.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([float(n) for n in range(1, 102)], 0.99, 100.0),
    ],
)
def test_percentiles_by_nearest_rank(values: list[float], share: float, expected: float | None) -> None:
    assert percentile(values, share) == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1: not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"nmae": "x"}', "unknown key 'nmae'"),
        ('{"name": 1}', "name has the wrong type"),
        ('{"name": "x"}', "action is missing"),
        ('{"name":"x","action":"a","target":"t","evidence":{},"expect":{"decision":"maybe"}}', "expect"),
        ('{"name":"x","action":"a","target":"t","evidence":{},"expect":"reject"}', "a decision and a status"),
        ("", "no incidents"),
    ],
)
def test_incidents_are_read_strictly(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "incidents.jsonl"
    file.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(OperatorError, match=words):
        load_incidents(file)


def test_the_example_incidents_are_read() -> None:
    file = Path(__file__).parents[2] / "deploy" / "examples" / "incidents.jsonl"
    assert len(load_incidents(file)) >= 20


def test_a_home_for_a_member_to_be(tmp_path: Path) -> None:
    genesis = provision_cluster(tmp_path / "cluster", nodes=2)
    home = tmp_path / "cluster" / "node-3"
    public_key, proof = add_home(tmp_path / "cluster", home, "node-3", "127.0.0.1:7003")
    checked = check_home(home)
    assert (checked.config.id, checked.config.joins) == ("node-3", True)
    assert checked.signing_key.public_key == public_key
    admit_member_key("node-3", public_key, genesis.nonce, proof)
    assert node_homes(tmp_path / "cluster")[-1] == home
    with pytest.raises(OperatorError, match="exists"):
        add_home(tmp_path / "cluster", home, "node-3", "127.0.0.1:7003")
    with pytest.raises(ClusterPlanError, match="cannot be a member's id"):
        add_home(tmp_path / "cluster", tmp_path / "x", "node 3", "127.0.0.1:7003")
    with pytest.raises(ClusterPlanError, match="host:port"):
        add_home(tmp_path / "cluster", tmp_path / "w", "node-4", "127.0.0.1:7004", metrics="9101")
    assert not (tmp_path / "w").exists()
    options = ["--address", "127.0.0.1:7004", "--dir", str(tmp_path / "cluster"), "--metrics", "[::1]:9101"]
    assert main(["members", "home", "node-4", *options]) == 0
    assert check_home(tmp_path / "cluster" / "node-4").config.monitoring == "[::1]:9101"
    (tmp_path / "cluster" / "ca" / "ca.key").unlink()
    with pytest.raises(OperatorError):
        add_home(tmp_path / "cluster", tmp_path / "y", "node-4", "127.0.0.1:7004")
    assert not (tmp_path / "y").exists()
