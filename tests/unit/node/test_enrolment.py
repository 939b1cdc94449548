"""Enrolment: hosts make their own keys, only public files travel, and a wrong file gets one clear error."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replication.errors import OperatorError
from replication.identity.enrolment import MAX_BYTES, EnrolmentError, make_bundle, parse_request
from replication.identity.genesis import load_genesis
from replication.identity.roles import Role
from replication.identity.tls import create_request
from replication.node.home import check_home
from replication.node.local.enrolment import finish, found, invite, renew, request, sign
from replication.node.local.provision import ClusterPlanError, plan_addresses


class Ceremony:
    """An authority and four hosts, each with a folder of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.authority = place / "authority"
        self.invitation = invite(self.authority, "test")
        self.requests = [self.ask(number) for number in (1, 2, 10, 3)]

    def ask(self, number: int, folder: str = "host") -> Path:
        home = self.place / f"{folder}-{number}"
        return request(home, self.invitation, Role.NODE, f"node-{number}", f"10.0.0.{number}:7001")

    def bundle(self, name: str) -> Path:
        return self.authority / "bundles" / f"{name}.bundle.json"


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Ceremony:
    ceremony = Ceremony(tmp_path_factory.mktemp("founded"))
    found(ceremony.authority, ceremony.requests)
    return ceremony


@pytest.fixture
def ceremony(founded: Ceremony, tmp_path: Path) -> Ceremony:
    """A copy, to be spoilt."""
    shutil.copytree(founded.place, tmp_path / "copy")
    copy = object.__new__(Ceremony)
    copy.place = tmp_path / "copy"
    copy.authority = copy.place / "authority"
    copy.invitation = copy.authority / "invitation.json"
    copy.requests = [copy.place / file.relative_to(founded.place) for file in founded.requests]
    return copy


def edited(file: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_homes_are_complete_and_no_private_key_has_travelled(ceremony: Ceremony) -> None:
    genesis = load_genesis(ceremony.authority / "genesis.json")
    assert genesis.members.ids == ("node-1", "node-2", "node-3", "node-10")
    for number in (1, 2, 3, 10):
        home = ceremony.place / f"host-{number}"
        done = finish(home, ceremony.bundle(f"node-{number}"))
        assert (done.is_member, done.renewed) == (True, False)
        assert check_home(home).config.listen == "0.0.0.0:7001"
        assert (home / "data" / "sign.journal").exists()
        assert stat.S_IMODE((home / "keys" / "signing.pem").stat().st_mode) == 0o600
        assert stat.S_IMODE((home / "tls" / "node.key").stat().st_mode) == 0o600
        assert not (home / "tls" / "node.key.next").exists()
    travelled = [ceremony.invitation, *ceremony.requests, *(ceremony.authority / "bundles").iterdir()]
    assert not any(b"PRIVATE" in file.read_bytes() for file in travelled)
    kept = [file for file in ceremony.authority.rglob("*") if file.is_file()]
    private = {str(file.relative_to(ceremony.authority)) for file in kept if b"PRIVATE" in file.read_bytes()}
    assert private == {"ca/ca.key", "clients/admin.key"}


def test_a_renewal_keeps_everything_but_the_transport_key(ceremony: Ceremony) -> None:
    home = ceremony.place / "host-1"
    finish(home, ceremony.bundle("node-1"))
    before = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
    asked = renew(home)
    assert check_home(home).tls.key == before[home / "tls" / "node.key"], "the old pair stays until then"
    _, bundle = sign(ceremony.authority, asked)
    assert finish(home, bundle).renewed
    after = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
    changed = {str(file.relative_to(home)) for file in after if before.get(file) != after[file]}
    assert changed == {"tls/node.key", "tls/node.crt", "node-1.join.json"}
    check_home(home)


def test_where_a_node_serves_metrics_is_said_with_the_bundle(ceremony: Ceremony) -> None:
    home = ceremony.place / "host-1"
    with pytest.raises(ClusterPlanError, match="host:port"):
        finish(home, ceremony.bundle("node-1"), metrics="9101")
    assert not (home / "config.toml").exists(), "refused before anything was done"
    finish(home, ceremony.bundle("node-1"), metrics="127.0.0.1:9101")
    assert check_home(home).config.monitoring == "127.0.0.1:9101"
    finish(home, ceremony.bundle("node-1"), metrics="10.0.0.1:9101")
    assert check_home(home).config.monitoring == "10.0.0.1:9101", "it may be said later, or again"


def test_who_may_have_a_node_vote_is_said_with_the_bundle(ceremony: Ceremony) -> None:
    home, other = ceremony.place / "host-1", ceremony.place / "host-2"
    bundle = ceremony.bundle("node-1")
    with pytest.raises(OperatorError, match="cannot be the name in a certificate"):
        finish(home, bundle, may_vote=["alice", "a b"])
    assert not (home / "config.toml").exists()
    finish(home, bundle)
    assert check_home(home).config.may_vote == (), "only who is on its host"
    finish(home, bundle, may_vote=["alice"])
    finish(home, bundle, metrics="10.0.0.1:9101")
    assert check_home(home).config.may_vote == ("alice",), "what is not said stays"
    finish(other, ceremony.bundle("node-2"), may_vote=["bob", "carol"])
    assert check_home(other).config.may_vote == ("bob", "carol")
    viewer = ceremony.place / "vera"
    asked = request(viewer, ceremony.authority / "genesis.json", Role.VIEWER, "vera")
    with pytest.raises(OperatorError, match="only nodes vote"):
        finish(viewer, sign(ceremony.authority, asked)[1], may_vote=["alice"])


def test_a_later_member_follows_and_a_client_gets_a_folder(ceremony: Ceremony) -> None:
    later = request(
        ceremony.place / "five", ceremony.authority / "genesis.json", Role.NODE, "node-5", "five:7001"
    )
    _, bundle = sign(ceremony.authority, later)
    assert not finish(ceremony.place / "five", bundle).is_member
    assert check_home(ceremony.place / "five").config.joins
    act = request(ceremony.place / "act", ceremony.invitation, Role.EXECUTOR, "act")
    _, bundle = sign(ceremony.authority, act)
    finish(ceremony.place / "act", bundle)
    names = {str(file.relative_to(ceremony.place / "act")) for file in (ceremony.place / "act").rglob("*")}
    assert names >= {"genesis.json", "signing.pem", "executor.crt", "executor.key", "ca.crt"}
    alice = request(ceremony.place / "alice", ceremony.invitation, Role.OPERATOR, "alice")
    _, bundle = sign(ceremony.authority, alice)
    finish(ceremony.place / "alice", bundle)
    names = {
        str(file.relative_to(ceremony.place / "alice")) for file in (ceremony.place / "alice").rglob("*")
    }
    assert names >= {"genesis.json", "clients/operator.crt", "clients/operator.key", "ca/ca.crt"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(address="10.0.0.66:7001"), "changed after it was signed"),
        (lambda c: c.update(tls_request=create_request("x")[0].decode()), "changed after it was signed"),
        (lambda c: c.update(name="node-7"), "proof of possession"),
        (lambda c: c.update(public_key="00" * 32), "public key"),
        (lambda c: c.update(role="viewer"), "is not a known key"),
        (lambda c: c.update(role="king"), "is not a known key"),
        (lambda c: c.update(tls_request="nonsense"), "not a request for a certificate"),
        (lambda c: c.pop("signature"), "is missing"),
        (lambda c: c.update(nonce="ff"), "hex digits"),
        (lambda c: c.update(address="nowhere"), "HOST:PORT"),
        (lambda c: c.update(format="other/1"), "has the format"),
        (lambda c: c.update(name=7), "must be a string"),
        (lambda c: c.update(name="node 1"), "cannot be a name"),
        (lambda c: c.update(name="x" * 65), "cannot be a name"),
    ],
)
def test_an_edited_request_is_refused(
    ceremony: Ceremony, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    file = edited(ceremony.requests[0], change)
    with pytest.raises(OperatorError, match=message):
        sign(ceremony.authority, file)
    with pytest.raises(OperatorError, match=r"node-1\.join\.json"):
        sign(ceremony.authority, file)


def test_requests_that_no_host_makes(ceremony: Ceremony) -> None:
    content = json.loads(ceremony.requests[0].read_bytes())
    plain = {key: content[key] for key in ("format", "name", "nonce", "tls_request")}
    assert parse_request(json.dumps({**plain, "role": "viewer"}).encode()).role is Role.VIEWER
    with pytest.raises(EnrolmentError, match=r"role 'king' is none\. Roles are viewer"):
        parse_request(json.dumps({**plain, "role": "king"}).encode())
    with pytest.raises(EnrolmentError, match="larger than"):
        parse_request(b" " * (MAX_BYTES + 1))
    with pytest.raises(EnrolmentError, match="given twice"):
        parse_request(b'{"role": "viewer", "role": "node"}')


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"a":1,"a":2}', b"\xff", b'{"role": ["node"]}'])
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    with pytest.raises(OperatorError):
        parse_request(raw)


def test_a_cluster_is_founded_once_and_of_its_own_nodes(ceremony: Ceremony, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="is founded"):
        found(ceremony.authority, ceremony.requests)
    other = Ceremony(tmp_path / "other")
    with pytest.raises(OperatorError, match="another cluster's invitation"):
        found(other.authority, [*other.requests, ceremony.requests[0]])
    with pytest.raises(OperatorError, match="id node-1"):
        found(other.authority, [*other.requests, other.ask(1, "twice")])
    assert not (other.authority / "genesis.json").exists()
    with pytest.raises(OperatorError, match="authority's folder"):
        found(tmp_path, other.requests)


def test_a_bundle_must_answer_the_request(ceremony: Ceremony, tmp_path: Path) -> None:
    home = ceremony.place / "host-1"
    with pytest.raises(OperatorError, match="node-2"):
        finish(home, ceremony.bundle("node-2"))
    other = Ceremony(tmp_path / "other")
    found(other.authority, other.requests)
    with pytest.raises(OperatorError, match="another cluster"):
        finish(home, other.bundle("node-1"))
    assert not (home / "config.toml").exists()
    with pytest.raises(OperatorError, match="no request"):
        finish(tmp_path, ceremony.bundle("node-1"))
    stranger = other.place / "host-2"
    finish(stranger, other.bundle("node-2"))
    genesis = load_genesis(ceremony.authority / "genesis.json")
    certificate = json.loads(other.bundle("node-1").read_text(encoding="utf-8"))["certificate"].encode()
    mixed = tmp_path / "mixed.json"
    mixed.write_bytes(make_bundle(genesis, certificate))
    with pytest.raises(OperatorError, match="not issued by this cluster's authority"):
        finish(home, mixed)


def test_a_bundle_of_another_authority_is_refused(ceremony: Ceremony, tmp_path: Path) -> None:
    """Whoever read the invitation knows the nonce, and can make a whole cluster around a node's request."""
    forger = tmp_path / "forger"
    invite(forger, "test")
    nonce = json.loads(ceremony.invitation.read_text(encoding="utf-8"))["nonce"]
    edited(forger / "invitation.json", lambda content: content.update(nonce=nonce))
    found(forger, ceremony.requests)
    with pytest.raises(OperatorError, match="not that of the invitation"):
        finish(ceremony.place / "host-1", forger / "bundles" / "node-1.bundle.json")


def test_nobody_else_gets_a_members_certificate(ceremony: Ceremony) -> None:
    thief = ceremony.ask(1, "thief")
    with pytest.raises(OperatorError, match="another key than the genesis file"):
        sign(ceremony.authority, thief)
    item, bundle = sign(ceremony.authority, thief, new_key=True)
    assert item.name == "node-1"
    with pytest.raises(OperatorError, match="somebody has put in theirs"):
        finish(ceremony.place / "thief-1", bundle)  # as the true node-1 would find, had it been the other way


def test_a_node_that_replaces_another_knows_the_cluster_beforehand(
    ceremony: Ceremony, tmp_path: Path
) -> None:
    home = tmp_path / "new"
    asked = request(home, ceremony.authority / "genesis.json", Role.NODE, "node-1", "10.0.0.9:7001")
    _, bundle = sign(ceremony.authority, asked, new_key=True)
    assert not finish(home, bundle).is_member
    assert check_home(home).config.joins


def test_a_used_home_gets_no_new_sign_journal(ceremony: Ceremony) -> None:
    home = ceremony.place / "host-1"
    finish(home, ceremony.bundle("node-1"))
    (home / "data" / "ledger.db").touch()
    (home / "config.toml").unlink()
    with pytest.raises(OperatorError, match="would forget"):
        finish(home, ceremony.bundle("node-1"))


def test_addresses_may_be_given_whole() -> None:
    assert plan_addresses(2, ["a.example:7001", "b.example:9"], None) == ["a.example:7001", "b.example:9"]
    assert plan_addresses(2, ["a.example:7", "b.example"], 80) == ["a.example:7", "b.example:80"]
