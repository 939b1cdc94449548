"""The transport certificate of a node: gRPC is given a configuration only when there is another one."""

from __future__ import annotations

from pathlib import Path

from replication.identity.genesis import load_genesis
from replication.identity.roles import Role
from replication.identity.tls import issue
from replication.node.home import TransportFiles, open_home
from replication.node.local.authorities import rotate, trust
from replication.node.local.provision import provision_cluster
from replication.node.transport import Transport


def test_a_configuration_is_given_once_for_each_change(tmp_path: Path) -> None:
    """Given at every handshake, it corrupted the heap under hundreds of connections (test_hostile.py)."""
    folder = tmp_path / "cluster"
    provision_cluster(folder, nodes=1)
    genesis = load_genesis(folder / "genesis.json")
    with open_home(folder / "node-1") as opened:
        transport = Transport(opened)
        assert [transport._new_server_configuration() for _ in range(3)] == [None] * 3
        authority = (folder / "ca" / "ca.crt").read_bytes(), (folder / "ca" / "ca.key").read_bytes()
        pair = issue(*authority, genesis.cluster_id, Role.NODE, "node-1", ["127.0.0.1"])
        transport._files = TransportFiles(*pair, authority[0])
        assert transport._new_server_configuration() is not None
        assert transport._new_server_configuration() is None


def test_authorities_to_trust_are_noticed_and_bad_ones_change_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    provision_cluster(folder, nodes=1)
    with open_home(folder / "node-1") as opened:
        transport = Transport(opened)
        first = transport.authority
        assert not transport._changed()
        trust(folder / "node-1", rotate(folder))
        assert transport._changed()
        assert not transport._changed()
        assert transport.authority == first, "that of the certificate"
        assert transport._new_server_configuration() is not None
        opened.home.tls_authority.write_bytes(b"spoilt")
        assert not transport._changed()
        assert transport._new_server_configuration() is None
        transport.channel_credentials()
