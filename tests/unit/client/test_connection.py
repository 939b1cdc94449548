"""How to reach a cluster: folder, explicit parts, and what can be wrong before a connection is opened."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import pytest

from replication.client.connection import ClusterHandle, Endpoint, open_folder, parse_endpoint, resolve
from replication.client.errors import ConnectionSettingsError, UnknownMemberError, UsageError
from replication.identity.private_files import KeyFileError, write_private
from replication.identity.roles import (
    CertificateExpiredError,
    CertificateForeignError,
    CertificateMalformedError,
    CertificateNotYetValidError,
    Role,
)
from replication.identity.tls import issue
from replication.node.local.provision import provision_cluster


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "cluster"
    provision_cluster(directory, nodes=4, base_port=7101)
    return directory


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("other") / "cluster"
    provision_cluster(directory, nodes=1)
    return directory


def files(directory: Path, role: str = "admin") -> dict[str, Path]:
    clients = directory / "clients"
    return {
        "certificate": clients / f"{role}.crt",
        "key": clients / f"{role}.key",
        "authority": directory / "ca" / "ca.crt",
    }


def explicit(made: Path, node: str | None = None) -> ClusterHandle:
    """A handle from explicit parts alone."""
    parts = files(made)
    return resolve(
        endpoints=["localhost:9"],
        certificate=parts["certificate"],
        key=parts["key"],
        authority=parts["authority"],
        node=node,
        environment={},
    )


def test_a_folder_says_everything(made: Path) -> None:
    handle = open_folder(made, "viewer")
    assert [endpoint.member_id for endpoint in handle.endpoints] == ["node-1", "node-2", "node-3", "node-4"]
    assert [endpoint.address for endpoint in handle.endpoints][:2] == ["127.0.0.1:7101", "127.0.0.1:7102"]
    assert handle.genesis is not None
    assert handle.certificate == (made / "clients" / "viewer.crt").read_bytes()
    handle.check()


def test_the_folder_may_come_from_the_environment(made: Path) -> None:
    assert resolve(environment={"ACP_DIR": str(made)}).genesis is not None


def test_the_key_never_shows(made: Path) -> None:
    assert "PRIVATE" not in repr(open_folder(made))


def test_explicit_parts_need_no_folder(made: Path) -> None:
    handle = explicit(made)
    assert handle.endpoints == (Endpoint("localhost:9", None),)
    assert handle.genesis is None
    handle.check()


def test_explicit_parts_win_over_the_folder(made: Path, other: Path) -> None:
    handle = resolve(
        directory=made, endpoints=["127.0.0.1:7103", "node-9=[::1]:5"], authority=other / "ca/ca.crt"
    )
    assert handle.endpoints == (Endpoint("127.0.0.1:7103", "node-3"), Endpoint("[::1]:5", "node-9"))
    assert handle.authority == (other / "ca" / "ca.crt").read_bytes()


def test_one_node_can_be_chosen(made: Path) -> None:
    assert resolve(directory=made, node="node-3").endpoints == (Endpoint("127.0.0.1:7103", "node-3"),)
    with pytest.raises(UnknownMemberError, match="node-1, node-2, node-3, node-4"):
        resolve(directory=made, node="node-5")
    with pytest.raises(UnknownMemberError, match="ID=HOST:PORT"):
        explicit(made, node="node-1")


def test_clients_can_start_at_different_nodes(made: Path) -> None:
    handle = open_folder(made)
    assert [item.member_id for item in handle.starting_at(6).endpoints] == [
        "node-3",
        "node-4",
        "node-1",
        "node-2",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "--endpoint, --cert, --key, --ca"),
        ({"endpoints": ["h:1"]}, "--cert, --key, --ca"),
    ],
)
def test_what_is_missing_is_named(arguments: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(endpoints=arguments.get("endpoints", ()), environment={})


def test_half_a_pair_is_refused(made: Path) -> None:
    with pytest.raises(UsageError, match="belong together"):
        resolve(directory=made, certificate=made / "clients" / "viewer.crt")


def test_unknown_roles_are_refused(made: Path) -> None:
    for role in ("root", "node", "../admin"):
        with pytest.raises(UsageError, match="viewer, operator, admin, executor"):
            open_folder(made, role)


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConnectionSettingsError, match="acp init"):
        open_folder(tmp_path / "missing")
    with pytest.raises(ConnectionSettingsError, match=r"no genesis\.json"):
        open_folder(tmp_path)


def test_files_that_are_missing_are_named(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ConnectionSettingsError, match=r"ca\.crt.*--ca"):
        resolve(directory=made, authority=tmp_path / "ca.crt")
    with pytest.raises(KeyFileError, match=r"k\.key"):
        resolve(directory=made, certificate=files(made)["certificate"], key=tmp_path / "k.key")


def test_a_key_that_others_can_read_is_refused(made: Path, tmp_path: Path) -> None:
    key = tmp_path / "open.key"
    shutil.copyfile(files(made)["key"], key)
    key.chmod(0o644)
    with pytest.raises(KeyFileError, match="0644"):
        resolve(directory=made, certificate=files(made)["certificate"], key=key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        ":1",
        "host:0",
        "host:65536",
        "host:x",
        "ho st:1",
        "=h:1",
        "[x]:1",
        "h:٣",
        "a\nb:1",
    ],
)
def test_endpoints_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        parse_endpoint(text)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("h:1", Endpoint("h:1")),
        ("node-1=10.0.0.1:65535", Endpoint("10.0.0.1:65535", "node-1")),
        ("[::1]:7001", Endpoint("[::1]:7001")),
    ],
)
def test_endpoints_are_read(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize(
    ("member_id", "name"),
    [("node-1", "node-1"), ("a.b", "a.b"), ("a_b", None), ("-a", None), ("a..b", None), (None, None)],
)
def test_only_ids_that_are_dns_names_are_demanded_of_the_server(
    member_id: str | None, name: str | None
) -> None:
    assert Endpoint("h:1", member_id).server_name == name


def test_a_foreign_certificate_is_found_before_dialling(made: Path, other: Path) -> None:
    mine = files(other)
    handle = resolve(directory=made, certificate=mine["certificate"], key=mine["key"])
    with pytest.raises(CertificateForeignError, match=r"admin\.crt"):
        handle.check()


def test_a_certificate_of_another_cluster_of_the_same_authority_is_found(made: Path) -> None:
    handle = issued(made, cluster_id=bytes(32))
    with pytest.raises(CertificateForeignError, match="cluster"):
        handle.check()


def test_expired_and_future_certificates_are_found(made: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    with pytest.raises(CertificateExpiredError):
        issued(made, not_before=now - dt.timedelta(days=3), days=1).check()
    with pytest.raises(CertificateNotYetValidError):
        issued(made, not_before=now + dt.timedelta(days=1)).check()


def test_a_key_of_another_certificate_is_found(made: Path) -> None:
    clients = made / "clients"
    handle = resolve(directory=made, certificate=clients / "viewer.crt", key=clients / "admin.key")
    with pytest.raises(CertificateMalformedError, match="pair"):
        handle.check()


def test_a_handle_without_endpoints_is_refused(made: Path) -> None:
    with pytest.raises(UsageError, match="no endpoint"):
        ClusterHandle((), b"", b"", b"")


def issued(
    made: Path, cluster_id: bytes | None = None, not_before: dt.datetime | None = None, days: float = 1
) -> ClusterHandle:
    """A handle with a certificate issued on purpose by the cluster's own authority."""
    genesis = open_folder(made).genesis
    assert genesis is not None
    authority = made / "ca"
    certificate, key = issue(
        (authority / "ca.crt").read_bytes(),
        (authority / "ca.key").read_bytes(),
        cluster_id or genesis.cluster_id,
        Role.VIEWER,
        "someone",
        days=days,
        not_before=not_before,
    )
    target = made / "clients" / "issued.crt"
    target.write_bytes(certificate)
    write_private(made / "clients" / "issued.key", key)
    return resolve(directory=made, certificate=target, key=made / "clients" / "issued.key")
