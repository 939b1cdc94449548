"""One authority follows another: on disk, in the order in which nobody is cut off, and in no other."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest

from replication.errors import OperatorError
from replication.identity.private_files import read_private
from replication.identity.roles import Role
from replication.identity.tls import CertificateForeignError, authority_of, issue
from replication.node.home import check_home
from replication.node.local import authorities
from replication.node.local.authorities import renew_clients, rotate, trust
from replication.node.local.backups import back_up, restore
from replication.node.local.enrolment import finish, found, invite, renew, request, sign
from replication.node.local.provision import add_executor_home, add_home, provision_cluster


class Place:
    """A cluster by enrolment: an authority, one node, an executor, a viewer."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.node = folder / "authority", folder / "node-1"
        self.executor, self.viewer = folder / "executor", folder / "viewer"
        self.file = self.authority / "ca" / "ca.crt"
        invitation = invite(self.authority, "test")
        asked = [
            request(self.node, invitation, Role.NODE, "node-1", "10.0.0.1:7001"),
            request(self.executor, invitation, Role.EXECUTOR, "executor-1"),
        ]
        found(self.authority, asked)
        for home in (self.node, self.executor):
            finish(home, self.bundle(home, sign_it=False))
        genesis = self.authority / "genesis.json"
        request(self.viewer, genesis, Role.VIEWER, "vera")
        finish(self.viewer, self.bundle(self.viewer))
        self.homes = (self.node, self.executor, self.viewer)

    def bundle(self, home: Path, *, sign_it: bool = True) -> Path:
        (asked,) = home.glob("*.join.json")
        if sign_it:
            return sign(self.authority, asked)[1]
        return self.authority / "bundles" / f"{asked.name.removesuffix('.join.json')}.bundle.json"

    def trusted(self, home: Path) -> int:
        (file,) = [*home.glob("ca.crt"), *home.glob("*/ca.crt")]
        return file.read_bytes().count(b"BEGIN CERTIFICATE")

    def certificate(self, home: Path) -> bytes:
        (file,) = [file for file in home.rglob("*.crt") if file.name != "ca.crt"]
        return file.read_bytes()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_new_authority_takes_over(place: Place) -> None:
    old = place.file.read_bytes()
    stolen = read_private(place.authority / "ca" / "ca.key")
    assert rotate(place.authority) == place.file
    assert read_private(place.authority / "ca" / "ca.key") != stolen
    assert not (place.authority / "invitation.json").exists()
    assert [trust(home, place.file) for home in place.homes] == [2, 2, 2]
    check_home(place.node)
    for home in place.homes:
        renew(home)
        assert finish(home, place.bundle(home)).renewed
        assert authority_of(place.certificate(home), place.file.read_bytes()) != old
    assert renew_clients(place.authority, 30) == ["admin"]

    rotate(place.authority, finish=True)
    assert [trust(home, place.file) for home in place.homes] == [1, 1, 1]
    opened = check_home(place.node)
    assert opened.tls.authorities == place.file.read_bytes() != old
    certificate, key = issue(old, stolen, opened.genesis.cluster_id, Role.NODE, "node-1")
    (place.node / "tls" / "node.crt").write_bytes(certificate)
    (place.node / "tls" / "node.key").write_bytes(key)
    with pytest.raises(CertificateForeignError):
        check_home(place.node)


def test_nobody_cuts_themselves_off(place: Place) -> None:
    rotate(place.authority)
    both = place.file.read_bytes()
    with pytest.raises(OperatorError, match=r"admin\.crt was issued by none .* nothing was changed"):
        rotate(place.authority, finish=True)
    assert place.file.read_bytes() == both
    renew_clients(place.authority, 30)
    rotate(place.authority, finish=True)
    for home in place.homes:
        before = place.trusted(home)
        with pytest.raises(OperatorError, match="Have it issued again first"):
            trust(home, place.file)
        assert place.trusted(home) == before == 1
        renew(home)
        with pytest.raises(OperatorError, match=r"acp enrol trust .* ca\.crt"):
            finish(home, place.bundle(home))
    check_home(place.node)


@pytest.mark.parametrize("crash", ["put", "write_private"])
def test_a_crash_of_the_authority_can_be_done_again(
    place: Place, crash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(authorities, crash, power_cut)
        with pytest.raises(KeyboardInterrupt):
            rotate(place.authority)
    assert sign(place.authority, next(place.node.glob("*.join.json"))), "the one before still issues"
    rotate(place.authority)
    trust(place.node, place.file)
    renew(place.node)
    assert finish(place.node, place.bundle(place.node)).renewed


def test_what_cannot_be_trusted_changes_nothing(place: Place, tmp_path: Path) -> None:
    before = (place.node / "tls" / "ca.crt").read_bytes()
    bad = tmp_path / "bad.crt"
    for data in (b"", b"nothing", place.certificate(place.node), before * 5):
        bad.write_bytes(data)
        with pytest.raises(OperatorError, match=r"bad\.crt"):
            trust(place.node, bad)
    with pytest.raises(OperatorError, match=r"cannot be read"):
        trust(place.node, tmp_path / "none.crt")
    with pytest.raises(OperatorError, match="no home"):
        trust(tmp_path, place.file)
    with pytest.raises(OperatorError, match="acp enrol rotate"):
        trust(place.authority, place.file)
    with pytest.raises(OperatorError, match="not an authority's folder"):
        rotate(place.node)
    assert (place.node / "tls" / "ca.crt").read_bytes() == before
    for _ in range(3):
        rotate(place.authority)
    with pytest.raises(OperatorError, match="at most 4 authorities"):
        rotate(place.authority)


def test_there_has_to_be_a_cluster(tmp_path: Path) -> None:
    invite(tmp_path / "authority", "test")
    for step in (rotate, lambda folder: renew_clients(folder, 1)):
        with pytest.raises(OperatorError, match=r"genesis\.json"):
            step(tmp_path / "authority")


def test_later_hosts_trust_the_authority_of_their_time(place: Place, tmp_path: Path) -> None:
    rotate(place.authority)
    renew_clients(place.authority, 30)
    rotate(place.authority, finish=True)
    late = tmp_path / "late"
    request(late, place.authority / "genesis.json", Role.NODE, "node-2", "10.0.0.2:7001")
    bundle = place.bundle(late)
    with pytest.raises(OperatorError, match="acp enrol trust"):
        finish(late, bundle)
    assert trust(late, place.file) == 1
    finish(late, bundle)
    assert check_home(late).tls.authorities == place.file.read_bytes()


def provisioned(make: Callable[[Path, Path], object], tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "cluster"
    provision_cluster(folder, nodes=1)
    rotate(folder)
    make(folder, folder / "later")
    return folder, folder / "later"


def test_members_by_the_folder_trust_what_the_folder_trusts(tmp_path: Path) -> None:
    folder, home = provisioned(
        lambda folder, home: add_home(folder, home, "node-2", "127.0.0.1:7999"), tmp_path
    )
    assert check_home(home).tls.authorities == (folder / "ca" / "ca.crt").read_bytes()
    assert sorted(renew_clients(folder, 1)) == ["admin", "executor", "operator", "viewer"]


def test_executors_by_the_folder_are_renewed_too(tmp_path: Path) -> None:
    folder, home = provisioned(lambda folder, home: add_executor_home(folder, home, "pager"), tmp_path)
    before = (home / "executor.crt").read_bytes()
    _, bundle = sign(folder, renew(home), new_key=True)
    assert finish(home, bundle).renewed
    assert (home / "executor.crt").read_bytes() != before


def test_a_backup_has_the_authorities(place: Place, tmp_path: Path) -> None:
    rotate(place.authority)
    trust(place.node, place.file)
    back_up(place.node, tmp_path / "public")
    restore(tmp_path / "public", tmp_path / "without-keys")
    assert (tmp_path / "without-keys" / "tls" / "ca.crt").read_bytes() == place.file.read_bytes()
    back_up(place.node, tmp_path / "file", with_keys=True)
    restore(tmp_path / "file", tmp_path / "back")
    now = dt.datetime.now(dt.UTC)
    assert check_home(tmp_path / "back", now=now).tls == check_home(place.node, now=now).tls
