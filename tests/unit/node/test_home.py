"""A node's home: the checks before a node may start on it, and the lock that keeps a second process out."""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from replication.errors import OperatorError
from replication.identity import tls
from replication.identity.genesis import GenesisError, Rules, build_genesis, load_genesis
from replication.identity.keys import SigningKey
from replication.identity.members import Member, prove_possession
from replication.identity.private_files import KeyFileError
from replication.node import home as home_module
from replication.node.config import ConfigError, NodeConfig, write_config
from replication.node.home import (
    DataDirectoryError,
    HomeError,
    HomeFileMissingError,
    HomeInUseError,
    HomeMissingError,
    NodeHome,
    NotAMemberError,
    SigningKeyMismatchError,
    check_home,
    open_home,
)

NONCE = bytes(range(32))
DAY = dt.timedelta(days=1)


class Cluster:
    """The offline material of one cluster of two, and homes made from it."""

    def __init__(self, name: str) -> None:
        self.keys = {member: SigningKey.generate() for member in ("node-1", "node-2")}
        self.ca_certificate, self.ca_key = tls.create_authority(name)
        self.raw = build_genesis(
            name=name,
            created_ms=1_730_000_000_000,
            nonce=NONCE,
            members=[
                Member(member, key.public_key, 1, f"127.0.0.1:{7001 + number}")
                for number, (member, key) in enumerate(self.keys.items())
            ],
            possessions={member: prove_possession(key, member, NONCE) for member, key in self.keys.items()},
            rules=Rules(),
            ca_certificate=self.ca_certificate,
        )

    def make_home(self, path: Path) -> NodeHome:
        home = NodeHome(path)
        home.signing_key.parent.mkdir(parents=True)
        home.tls_key.parent.mkdir()
        home.genesis.write_bytes(self.raw)
        write_config(home.config, NodeConfig("node-1", "127.0.0.1:7001"))
        self.keys["node-1"].save(home.signing_key)
        home.tls_authority.write_bytes(self.ca_certificate)
        self.issue(home)
        return home

    def issue(
        self,
        home: NodeHome,
        role: tls.Role = tls.Role.NODE,
        name: str = "node-1",
        cluster: bytes | None = None,
    ) -> None:
        cluster_id = load_genesis(home.genesis).cluster_id if cluster is None else cluster
        certificate, key = tls.issue(self.ca_certificate, self.ca_key, cluster_id, role, name, days=30)
        home.tls_certificate.write_bytes(certificate)
        tls.write_private(home.tls_key, key)


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster("first")


@pytest.fixture(scope="module")
def stranger() -> Cluster:
    return Cluster("second")


@pytest.fixture
def home(cluster: Cluster, tmp_path: Path) -> NodeHome:
    return cluster.make_home(tmp_path / "node-1")


def test_layout() -> None:
    home = NodeHome(Path("h"))
    assert {str(path) for path in home.required} == {
        *("h/config.toml", "h/genesis.json", "h/keys/signing.pem"),
        *("h/tls/node.crt", "h/tls/node.key", "h/tls/ca.crt"),
    }
    assert [str(path) for path in (home.ledger, home.sign_journal, home.lock)] == [
        *("h/data/ledger.db", "h/data/sign.journal", "h/data/lock")
    ]
    assert [str(path) for path in (home.pid, home.log, home.policy)] == [
        *("h/node.pid", "h/node.log", "h/policy.cel.toml")
    ]


def test_good_home(home: NodeHome, cluster: Cluster) -> None:
    with open_home(home.path) as opened:
        assert opened.home == home
        assert opened.config.id == opened.member_id == "node-1"
        assert opened.signing_key.public_key == cluster.keys["node-1"].public_key
        assert opened.genesis.raw == cluster.raw
        assert opened.checked.tls.certificate == home.tls_certificate.read_bytes()
        assert opened.checked.tls.key == home.tls_key.read_bytes()
        assert opened.checked.tls.authorities == cluster.ca_certificate
        assert stat.S_IMODE(home.data.stat().st_mode) == 0o700
        assert stat.S_IMODE(home.lock.stat().st_mode) == 0o600
        assert home.pid.read_text() == f"{os.getpid()}\n"
    assert not home.pid.exists()


def test_check_changes_nothing(home: NodeHome) -> None:
    before = sorted(home.path.rglob("*"))
    assert check_home(str(home.path)).config.id == "node-1"
    assert sorted(home.path.rglob("*")) == before


def test_check_works_while_a_node_runs(home: NodeHome) -> None:
    with open_home(home.path):
        assert check_home(home.path).config.id == "node-1"


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(HomeMissingError, match="there is no directory"):
        open_home(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(HomeMissingError):
        open_home(tmp_path / "file")


@pytest.mark.parametrize("number", range(6))
def test_each_missing_file_is_named(home: NodeHome, number: int) -> None:
    missing = home.required[number]
    missing.unlink()
    with pytest.raises(HomeFileMissingError, match=f"{missing} is missing"):
        open_home(home.path)
    missing.mkdir()
    with pytest.raises(HomeError, match="must be a regular file"):
        open_home(home.path)


@pytest.mark.parametrize("which", ["signing_key", "tls_key"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_private_keys_must_be_private(home: NodeHome, which: str, mode: int) -> None:
    key: Path = getattr(home, which)
    key.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600") as caught:
        open_home(home.path)
    assert str(key) in str(caught.value)


def test_bad_config_and_genesis(home: NodeHome, cluster: Cluster) -> None:
    home.genesis.write_bytes(cluster.raw[:-10])
    with pytest.raises(GenesisError):
        open_home(home.path)
    home.config.write_text("id = 1")
    with pytest.raises(ConfigError):
        open_home(home.path)


def test_id_must_be_a_member(home: NodeHome) -> None:
    write_config(home.config, NodeConfig("node-9", "127.0.0.1:7001"))
    with pytest.raises(NotAMemberError, match=r"node-9 is not a member .* node-1, node-2"):
        open_home(home.path)


def test_peers_may_be_later_members(home: NodeHome) -> None:
    """The record decides who is a member, and it is not read yet."""
    write_config(home.config, NodeConfig("node-1", "127.0.0.1:7001", peers={"node-7": "a:1"}))
    assert check_home(home.path).config.peers == {"node-7": "a:1"}


def test_a_home_that_joins_has_an_id_and_a_key_of_its_own(home: NodeHome, cluster: Cluster) -> None:
    newcomer = SigningKey.generate()
    home.signing_key.unlink()
    newcomer.save(home.signing_key)
    write_config(home.config, NodeConfig("node-1", "127.0.0.1:7001", joins=True))
    assert check_home(home.path).signing_key.public_key == newcomer.public_key
    write_config(home.config, NodeConfig("node-9", "127.0.0.1:7001", joins=True))
    with pytest.raises(tls.CertificateError, match="node-1"):  # the certificate is still another's
        check_home(home.path)


def test_signing_key_must_be_the_members(home: NodeHome, cluster: Cluster) -> None:
    home.signing_key.unlink()
    cluster.keys["node-2"].save(home.signing_key)
    with pytest.raises(SigningKeyMismatchError, match=cluster.keys["node-2"].public_key.hex()):
        open_home(home.path)


def test_encrypted_signing_key(home: NodeHome, cluster: Cluster) -> None:
    home.signing_key.unlink()
    cluster.keys["node-1"].save(home.signing_key, b"secret")
    with pytest.raises(KeyFileError):
        check_home(home.path)
    assert check_home(home.path, passphrase=b"secret").config.id == "node-1"


def test_certificate_of_another_member(home: NodeHome, cluster: Cluster) -> None:
    cluster.issue(home, name="node-2")
    with pytest.raises(tls.CertificateWrongRoleError, match=r"node\.crt: .* node-2"):
        open_home(home.path)


def test_certificate_of_another_role(home: NodeHome, cluster: Cluster) -> None:
    cluster.issue(home, role=tls.Role.ADMIN)
    with pytest.raises(tls.CertificateWrongRoleError, match="admin"):
        open_home(home.path)


def test_certificate_for_another_cluster(home: NodeHome, cluster: Cluster) -> None:
    cluster.issue(home, cluster=bytes(32))
    with pytest.raises(tls.CertificateForeignError):
        open_home(home.path)


def test_certificate_of_another_authority(home: NodeHome, stranger: Cluster) -> None:
    stranger.issue(home)
    with pytest.raises(tls.CertificateForeignError, match=r"node\.crt"):
        open_home(home.path)


def test_authority_must_be_that_of_the_cluster(home: NodeHome, stranger: Cluster) -> None:
    home.tls_authority.write_bytes(stranger.ca_certificate)
    with pytest.raises(tls.CertificateForeignError, match=r"bring this cluster's ca\.crt"):
        open_home(home.path)


def test_certificate_dates(home: NodeHome) -> None:
    now = dt.datetime.now(dt.UTC)
    assert check_home(home.path, now=now + 29 * DAY).config.id == "node-1"
    with pytest.raises(tls.CertificateExpiredError, match=r"node\.crt: the certificate expired"):
        check_home(home.path, now=now + 31 * DAY)
    with pytest.raises(tls.CertificateNotYetValidError):
        check_home(home.path, now=now - DAY)


def test_tls_key_must_fit_the_certificate(home: NodeHome, cluster: Cluster) -> None:
    certificate = home.tls_certificate.read_bytes()
    cluster.issue(home)
    home.tls_certificate.write_bytes(certificate)
    with pytest.raises(tls.CertificateMalformedError, match=r"node\.key: .* not a pair"):
        open_home(home.path)


def test_data_directory_that_others_may_write(home: NodeHome) -> None:
    home.data.mkdir()
    home.data.chmod(0o770)
    with pytest.raises(DataDirectoryError, match="chmod 700"):
        open_home(home.path)
    home.data.chmod(0o750)
    open_home(home.path).close()


def test_data_directory_that_is_none(home: NodeHome) -> None:
    home.data.touch()
    with pytest.raises(DataDirectoryError, match="cannot be made"):
        open_home(home.path)


def test_lock_file_that_is_a_link(home: NodeHome, tmp_path: Path) -> None:
    home.data.mkdir()
    home.lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataDirectoryError, match="cannot be opened"):
        open_home(home.path)
    assert not (tmp_path / "elsewhere").exists()


def test_second_open_is_refused_and_names_the_process(home: NodeHome) -> None:
    with open_home(home.path):
        with pytest.raises(HomeInUseError, match=f"in use by process {os.getpid()}"):
            open_home(home.path)
        assert home.pid.exists(), "the refused one leaves the pid file alone"
        home.pid.unlink()
        with pytest.raises(HomeInUseError, match="in use by another process"):
            open_home(home.path)
    open_home(home.path).close()


HOLDER = """
import sys
from replication.node.home import open_home
opened = open_home(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def test_lock_is_held_against_other_processes_and_dies_with_its_own(home: NodeHome) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(HomeInUseError, match=rf"in use by process {holder.pid}"):
            open_home(home.path)
    finally:
        holder.kill()
        holder.communicate()
    assert home.pid.read_text() == f"{holder.pid}\n", "kill -9 leaves the pid file behind"
    with open_home(home.path):
        assert home.pid.read_text() == f"{os.getpid()}\n"


def test_a_home_and_its_copy_are_two_homes(home: NodeHome, tmp_path: Path) -> None:
    """The lock is on the directory's own file; that a key runs only once is more than it can promise."""
    shutil.copytree(home.path, tmp_path / "copy")
    with open_home(home.path), open_home(tmp_path / "copy"):
        pass


def test_close_twice_and_foreign_pid_file(home: NodeHome) -> None:
    opened = open_home(home.path)
    home.pid.write_text("1\n")
    opened.close()
    opened.close()
    assert home.pid.read_text() == "1\n", "a pid file that names another process is not ours to remove"


def test_lock_is_released_when_the_pid_file_cannot_be_written(home: NodeHome) -> None:
    home.pid.mkdir()
    with pytest.raises(HomeError, match="could not be written"):
        open_home(home.path)
    home.pid.rmdir()
    open_home(home.path).close()
    assert not list(home.path.glob(".node.pid*"))


def test_file_system_without_locks(home: NodeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(DataDirectoryError, match="cannot be locked"):
        open_home(home.path)


def test_lock_does_not_stay_with_a_copy_of_the_descriptor(
    home: NodeHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child made by fork has such a copy; os.dup makes one without forking the test runner."""
    copies: list[int] = []
    flock = fcntl.flock

    def copying(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        if not copies:
            copies.append(os.dup(descriptor))

    monkeypatch.setattr(fcntl, "flock", copying)
    open_home(home.path).close()
    try:
        open_home(home.path).close()
    finally:
        os.close(copies[0])


def test_forked_child_does_not_unlock_for_its_parent(home: NodeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_home(home.path)
    unlocked: list[int] = []
    with monkeypatch.context() as as_child:
        as_child.setattr(os, "getpid", lambda: 1)
        as_child.setattr(fcntl, "flock", lambda descriptor, operation: unlocked.append(operation))
        opened.close()
    assert (unlocked, home.pid.exists()) == ([], True)


def test_each_error_has_its_own_reason() -> None:
    errors = [
        getattr(home_module, name)
        for name in home_module.__all__
        if name.endswith("Error") and issubclass(getattr(home_module, name), OperatorError)
    ]
    assert len({error.reason for error in errors}) == len(errors) == 7
    assert HomeInUseError.reason == "HOME_IN_USE"
