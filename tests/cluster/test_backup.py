"""A backup of a running node becomes a node again, which signs nothing until the others let it back in."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from tests.cluster.conftest import MakeCluster
from tests.support.real_cluster import WAIT_SECONDS, Cluster

from replication.client.model import Decision
from replication.errors import OperatorError
from replication.ledger.journal import SignJournal
from replication.node.local.backups import BackupError, back_up, restore
from replication.node.local.provision import PolicyChoice
from replication.v1 import log_pb2

pytestmark = pytest.mark.cluster


def decide(cluster: Cluster, count: int) -> None:
    with cluster.client() as client:
        for number in range(count):
            proposal = client.propose("quarantine", f"agent-{number}", {}, wait_for_decision=True)
            assert proposal.decision is Decision.APPROVED


def with_forged_signature(blocks: bytes) -> bytes:
    """The blocks of a backup with one signature under the first one replaced, and everything else right."""
    size = int.from_bytes(blocks[:4], "big")
    item = log_pb2.CommittedBlock.FromString(blocks[4 : 4 + size])
    item.certificate.signatures[0].signature = bytes(64)
    raw = item.SerializeToString()
    return len(raw).to_bytes(4, "big") + raw + blocks[4 + size :]


def refuse_damaged(backup: Path, place: Path) -> None:
    """Every edit of a backup is found, and leaves nothing behind."""
    raw = backup.read_bytes()
    head, blocks = raw.split(b"\n", 1)
    higher = json.dumps({**json.loads(head), "height": json.loads(head)["height"] + 1}).encode()
    middle = len(blocks) // 2
    flipped = blocks[:middle] + bytes([blocks[middle] ^ 1]) + blocks[middle + 1 :]
    for number, content in enumerate(
        (
            *(b"", b"{}\n", raw[:-1], raw + b"x", higher + b"\n" + blocks, head + b"\n" + flipped),
            head + b"\n" + with_forged_signature(blocks),
        )
    ):
        damaged = place / f"damaged-{number}"
        damaged.write_bytes(content)
        with pytest.raises(OperatorError):
            restore(damaged, place / "never")
        assert not (place / "never").exists()


def test_a_backup_becomes_a_node_that_is_let_back_in(
    make_cluster: MakeCluster, approving: PolicyChoice, tmp_path: Path
) -> None:
    cluster = make_cluster(policy=approving)
    decide(cluster, 3)
    home, backup = cluster.home("node-4"), tmp_path / "backup"
    answer = cluster.acp("backup", str(home), str(backup), "--with-keys")
    assert answer.code == 0, answer.err
    assert backup.stat().st_mode & 0o077 == 0
    with pytest.raises(BackupError, match="exists"):
        back_up(home, backup)
    back_up(home, tmp_path / "public")
    assert b"PRIVATE KEY" not in (tmp_path / "public").read_bytes()
    refuse_damaged(backup, tmp_path)
    decide(cluster, 2)  # signed after the backup: the restored node must not contradict it
    with pytest.raises(BackupError, match="has a record"):
        restore(backup, home)
    cluster.kill("node-4")
    shutil.rmtree(home)
    assert restore(tmp_path / "public", tmp_path / "bare").missing == (
        "keys/signing.pem",
        "tls/node.crt",
        "tls/node.key",
    )
    answer = cluster.acp("restore", str(backup), str(home), "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["missing"], answer.json["keeps_journal"]) == ([], False)
    cluster.start_one("node-4")
    give_up = time.monotonic() + WAIT_SECONDS
    with cluster.client() as client:
        while not any(m.id == "node-4" and m.incarnation for m in client.members().members):
            assert time.monotonic() < give_up, "it was not let back in"
            time.sleep(0.1)
    decide(cluster, 1)
    assert len(cluster.settle().answered) == 4
    cluster.verified_exports()


def test_an_old_journal_is_put_aside_and_a_right_one_stays(
    make_cluster: MakeCluster, approving: PolicyChoice, tmp_path: Path
) -> None:
    cluster = make_cluster(nodes=1, policy=approving, start=False)
    home, backup = cluster.home("node-1"), tmp_path / "backup"
    shutil.copytree(home, tmp_path / "before")
    cluster.start()
    decide(cluster, 2)
    cluster.stop("node-1")
    back_up(home, backup)  # of a node that does not run
    assert not restore(backup, tmp_path / "before").keeps_journal
    (home / "data" / "ledger.db").unlink()
    assert restore(backup, home).keeps_journal
    journal, state = SignJournal.open(home / "data" / "sign.journal", cluster.genesis.cluster_id, "node-1")
    journal.close()
    assert state.committed_height > 0
    cluster.start()
    decide(cluster, 1)
