"""The scripts of deploy/container, as its containers would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from tests.support.real_cluster import WAIT_SECONDS, run_acp, until

from replication.cli.main import ExitCode
from replication.node.config import read_config
from replication.node.local.provision import pick_free_ports

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]


@contextmanager
def containers(place: Path) -> Iterator[Path]:
    """The scripts of deploy/container as four nodes and a founder would run them, sharing one folder."""
    exchange = place / "exchange"
    exchange.mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    common = {"PATH": path, "ACP_INBOX": str(exchange), "ACP_OUTBOX": str(exchange)}
    found = {
        "NODES": "node-1 node-2 node-3 node-4",
        "ACP_EXCHANGE": str(exchange),
        "ACP_AUTHORITY": str(place / "authority"),
    }
    started = [start("found.sh", {**common, **found}, place / "founder.log")]
    *ports, metrics = pick_free_ports(5)
    for number, port in enumerate(ports, 1):
        own = {
            "NAME": f"node-{number}",
            "ADDRESS": f"127.0.0.1:{port}",
            "ACP_HOME": str(place / f"n{number}"),
            **({"ACP_METRICS": f"127.0.0.1:{metrics}"} if number == 1 else {}),
        }
        started.append(start("node.sh", {**common, **own}, place / f"node-{number}.log"))
    try:
        assert started[0].wait(2 * WAIT_SECONDS) == 0, (place / "founder.log").read_text()
        yield place / "authority"
    finally:
        for process in started[1:]:
            process.terminate()
        for process in started[1:]:
            assert process.wait(WAIT_SECONDS) == 0, "SIGTERM ends a node in good order"


def start(script: str, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            ["sh", str(ROOT / "deploy" / "container" / script)], env=environment, stdout=file, stderr=file
        )


def is_ready(home: Path) -> bool:
    return run_acp("health", str(home), "--service", "ready").code == ExitCode.OK


def has_voted(home: Path) -> bool:
    return run_acp("vote", "prop-0001", "approve", "--home", str(home)).code == ExitCode.OK


def status_of(url: str) -> int:
    try:
        with urlopen(url, timeout=10) as response:  # loopback
            return int(response.status)
    except HTTPError as error:
        return error.code


def test_the_scripts_of_the_container_make_a_cluster(tmp_path: Path) -> None:
    with containers(tmp_path) as authority:
        for node in ("n1", "n2", "n3", "n4"):
            until(partial(is_ready, tmp_path / node), f"{node} is ready", 2 * WAIT_SECONDS)
        metrics = read_config(tmp_path / "n1" / "config.toml").monitoring
        until(lambda: status_of(f"http://{metrics}/readyz") == 200)
        assert read_config(tmp_path / "n2" / "config.toml").monitoring is None
        answer = run_acp("propose", "quarantine", "agent-1", "--json", directory=authority)
        assert answer.code == ExitCode.OK, answer.err
        answer = run_acp("vote", "prop-0001", "approve", "--node", "node-1", directory=authority)
        assert answer.code == ExitCode.DENIED, "the founder has nobody vote"
        for node in ("n1", "n2", "n3"):
            until(partial(has_voted, tmp_path / node), f"{node} has the proposal, and votes")

        def decision() -> bool:
            shown = run_acp("show", "prop-0001", "--json", directory=authority)
            return bool(shown.json["decision"] == "approved")

        until(decision)
    # Nothing private was in the folder that all of them share.
    assert not any(b"PRIVATE" in file.read_bytes() for file in (tmp_path / "exchange").iterdir())
    answer = run_acp("health", str(tmp_path / "n1"), "--timeout", "0.5")
    assert answer.code == ExitCode.UNAVAILABLE, "a node that is gone is not healthy"
