"""Making a cluster: authority, genesis file, node homes and client certificates, in the layout that nodes
expect.

    DIR/genesis.json            what everybody trusts; its SHA-256 is the cluster's id
    DIR/ca/ca.{crt,key}         the authority; keep the key off the nodes
    DIR/clients/<role>.{crt,key}
    DIR/executors/NAME/         one home an executor: signing.pem, executor.{crt,key}, ca.crt, genesis.json
    DIR/node-K/                 one home a node, K from 1: config.toml, genesis.json, keys/, tls/, data/
    DIR/ID/                     the same for a member that is to be added (`add_home`)

The functions are plain, so that tests and tools can make clusters too. Everything secret is written with mode
0600."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from replication.errors import OperatorError
from replication.identity.genesis import (
    Genesis,
    Rules,
    build_genesis,
    load_genesis,
    parse_genesis,
)
from replication.identity.keys import SigningKey
from replication.identity.members import MAX_MEMBERS, Executor, Member, prove_possession
from replication.identity.names import is_member_id
from replication.identity.private_files import read_private, write_private
from replication.identity.roles import Role
from replication.identity.tls import LEAF_DAYS, create_authority, issue
from replication.ledger.journal import SignJournal
from replication.node.config import NodeConfig, PolicySettings, read_config, split_address, write_config
from replication.node.home import NodeHome
from replication.node.local.addresses import (
    ClusterPlanError,
    checked_address,
    is_loopback,
    pick_free_ports,
    plan_addresses,
    plan_metrics,
    wildcard,
)
from replication.node.policies import load_policy

__all__ = [
    "CLIENT_ROLES",
    "DEFAULT_RULES",
    "ClusterPlanError",
    "PolicyChoice",
    "add_executor_home",
    "add_home",
    "configure",
    "furnish",
    "issue_clients",
    "make_folders",
    "node_homes",
    "parse_policy",
    "pick_free_ports",
    "plan_addresses",
    "provision_cluster",
]

CLIENT_ROLES: Final = (Role.VIEWER, Role.OPERATOR, Role.ADMIN, Role.EXECUTOR)

DEFAULT_RULES: Final = Rules(max_active_proposals=10_000)
"""The voting library's rules, but with room for many clients at once."""

POLICY_FILE: Final = "policy.cel.toml"


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """How a node's voter decides.

    `file` is copied into the node's home; `entry` is ``package.module:callable``.
    """

    kind: str = "manual"
    file: Path | None = None
    entry: str | None = None


def parse_policy(text: str) -> PolicyChoice:
    """``manual``, ``cel:FILE`` or ``python:package.module:callable``. Raises `ClusterPlanError`."""
    kind, _, value = text.partition(":")
    if kind == "manual" and not value:
        return PolicyChoice()
    if kind == "cel" and value:
        if not Path(value).is_file():
            raise ClusterPlanError(
                f"The policy file {value} does not exist. Give the path of a CEL policy (TOML)."
            )
        return PolicyChoice("cel", file=Path(value))
    if kind == "python" and ":" in value:
        return PolicyChoice("python", entry=value)
    raise ClusterPlanError(
        f"{text!r:.200} is not a policy. Write manual, cel:FILE or python:package.module:callable."
    )


def provision_cluster(
    directory: Path,
    *,
    nodes: int,
    name: str = "agent-consensus",
    hosts: Sequence[str] = (),
    base_port: int | None = None,
    policy: PolicyChoice | None = None,
    policies: Mapping[str, PolicyChoice] | None = None,
    rules: Rules = DEFAULT_RULES,
    executors: Sequence[str] = (),
    metrics: bool = False,
) -> Genesis:
    """Make a cluster of `nodes` members in `directory`, which must be empty or missing, and return its
    genesis.

    `hosts` is one host, or HOST:PORT, for each node, or one host for all; without, all are on this machine.
    Ports count up from `base_port`; without it, free ones are chosen (7001 and up with `hosts`). `policies`
    overrides `policy` by member id. `executors` are the ids of executors, who get homes of their own. With
    `metrics` every node serves them: on this machine at a free port of loopback, on another host at 9101, or
    above where several nodes share one. If anything fails, what was made is removed again.

    Raises:
        ClusterPlanError: impossible numbers, hosts, ports or ids.
        OperatorError: the folder is not empty or cannot be written, or a policy file is wrong.
    """
    if not 1 <= nodes <= MAX_MEMBERS:
        raise ClusterPlanError(
            f"A cluster of {nodes} nodes is not possible. Choose 1 to {MAX_MEMBERS}; 4 survive one fault."
        )
    addresses = plan_addresses(nodes, hosts, base_port)
    existed = _require_empty(directory)
    try:
        genesis = _build(
            directory, name, addresses, rules, policy or PolicyChoice(), policies or {}, executors
        )
        if metrics:
            for home, listen in zip(node_homes(directory), plan_metrics(addresses), strict=True):
                configure(home, monitoring=listen)
        return genesis
    except OSError as error:
        _undo(directory, existed)
        raise OperatorError(
            f"The cluster could not be written to {directory}: {error.strerror}. Check the folder and its "
            f"free space."
        ) from error
    except BaseException:
        _undo(directory, existed)
        raise


def add_home(
    directory: Path,
    home: Path,
    member_id: str,
    address: str,
    *,
    signing_key: SigningKey | None = None,
    policy: PolicyChoice | None = None,
    metrics: str | None = None,
) -> tuple[bytes, bytes]:
    """Make the home of a member that is to be added to, or replaced in, the cluster of `directory`; return
    its public key and proof of possession. The home must not exist; `directory` must hold the authority's
    key, which issues the node's certificate. Without a `signing_key` a new one is made. `metrics` is where
    the node serves them, HOST:PORT.

    The home makes nobody a member: its node follows the record until a change of members lets it in.

    Raises:
        ClusterPlanError: the id or the address is none.
        OperatorError: the folder, the authority or the policy is not what it must be, or `home` exists.
    """
    checked_address(address)
    genesis, authority = _prepare_addition(directory, home, member_id)
    key = signing_key or SigningKey.generate()
    member = Member(id=member_id, public_key=key.public_key, weight=1, address=address)
    try:
        _make_home(home, member, key, genesis, authority, policy or PolicyChoice(), joins=True)
        if metrics is not None:
            configure(home, monitoring=checked_address(metrics))
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    return key.public_key, prove_possession(key, member_id, genesis.nonce)


def add_executor_home(
    directory: Path, home: Path, name: str, *, signing_key: SigningKey | None = None
) -> tuple[bytes, bytes]:
    """The same for an executor: its home, and what a change of members needs to let it report.

    Raises as `add_home`.
    """
    genesis, authority = _prepare_addition(directory, home, name)
    key = signing_key or SigningKey.generate()
    try:
        home.parent.mkdir(mode=0o700, exist_ok=True)
        _make_executor_home(home, name, key, genesis, authority)
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    return key.public_key, prove_possession(key, name, genesis.nonce)


def _prepare_addition(directory: Path, home: Path, name: str) -> tuple[Genesis, tuple[bytes, bytes]]:
    """The genesis and authority of a cluster folder, when a home can be made there."""
    if not is_member_id(name):
        raise ClusterPlanError(f"{name!r:.100} cannot be a member's id. Use A-Z a-z 0-9 . _ - only.")
    genesis = load_genesis(directory / "genesis.json")
    try:
        authority = (directory / "ca" / "ca.crt").read_bytes(), read_private(directory / "ca" / "ca.key")
    except OSError as error:
        raise OperatorError(
            f"{directory / 'ca'} cannot be read: {error.strerror}. The authority of the cluster has to issue "
            "the certificate; run this where it is kept."
        ) from error
    if home.exists():
        raise OperatorError(f"{home} exists. Choose another folder; nothing was changed.")
    return genesis, authority


def configure(home: Path, **settings: Any) -> None:
    """Change settings (fields of `NodeConfig`) of the node of `home`, from its next start on. Raises
    `ConfigError`."""
    file = NodeHome(home).config
    write_config(file, replace(read_config(file), **settings))


def node_homes(directory: Path) -> list[Path]:
    """The homes of a cluster folder's nodes, in the order of the genesis file, and then those of members that
    were added later. Raises `OperatorError`."""
    genesis_file = directory / "genesis.json"
    if not genesis_file.is_file():
        raise OperatorError(
            f"{directory} is not a cluster folder: it has no genesis.json. Make one with: acp init "
            f"{directory} --nodes 4"
        )
    homes = [directory / member for member in load_genesis(genesis_file).members.ids]
    later = (file.parent for file in sorted(directory.glob("*/config.toml")) if file.parent not in homes)
    return [*homes, *(home for home in later if read_config(home / "config.toml").joins)]


def _build(
    directory: Path,
    name: str,
    addresses: Sequence[str],
    rules: Rules,
    policy: PolicyChoice,
    policies: Mapping[str, PolicyChoice],
    executors: Sequence[str],
) -> Genesis:
    authority = create_authority(f"{name} authority")
    keys = {f"node-{number}": SigningKey.generate() for number in range(1, len(addresses) + 1)}
    unknown = sorted(set(policies) - set(keys))
    if unknown:
        raise ClusterPlanError(
            f"There is no node {unknown[0]} to give a policy to. Nodes are {', '.join(keys)}."
        )
    executor_keys = {executor: SigningKey.generate() for executor in executors}
    clashing = [executor for executor in executors if executor in keys or not is_member_id(executor)]
    if clashing or len(executor_keys) != len(executors):
        raise ClusterPlanError(
            f"{(clashing or list(executors))[0]!r:.100} cannot be an executor's id: use A-Z a-z 0-9 . _ - "
            "only, and each id once."
        )
    genesis = _genesis(name, keys, addresses, rules, authority[0], executor_keys)
    for folder in ("ca", "clients"):
        (directory / folder).mkdir(mode=0o700)
    (directory / "genesis.json").write_bytes(genesis.raw)
    (directory / "ca" / "ca.crt").write_bytes(authority[0])
    write_private(directory / "ca" / "ca.key", authority[1])
    issue_clients(directory, genesis, authority, CLIENT_ROLES)
    for member in genesis.members.members:
        chosen = policies.get(member.id, policy)
        _make_home(directory / member.id, member, keys[member.id], genesis, authority, chosen)
    if executor_keys:
        (directory / "executors").mkdir(mode=0o700)
    for executor, executor_key in executor_keys.items():
        _make_executor_home(directory / "executors" / executor, executor, executor_key, genesis, authority)
    return genesis


def issue_clients(
    directory: Path,
    genesis: Genesis,
    authority: tuple[bytes, bytes],
    roles: Sequence[Role],
    days: float = LEAF_DAYS,
) -> None:
    """Make client keys and certificates for `roles` in the folder's clients/. Raises `CertificateError`."""
    (directory / "clients").mkdir(mode=0o700, exist_ok=True)
    for role in roles:
        certificate, key = issue(*authority, genesis.cluster_id, role, role.value, days=days)
        (directory / "clients" / f"{role.value}.crt").write_bytes(certificate)
        write_private(directory / "clients" / f"{role.value}.key", key)


def _genesis(
    name: str,
    keys: Mapping[str, SigningKey],
    addresses: Sequence[str],
    rules: Rules,
    authority: bytes,
    executors: Mapping[str, SigningKey],
) -> Genesis:
    nonce = secrets.token_bytes(32)
    members = [
        Member(id=member_id, public_key=key.public_key, weight=1, address=address)
        for (member_id, key), address in zip(keys.items(), addresses, strict=True)
    ]
    raw = build_genesis(
        name=name,
        created_ms=time.time_ns() // 1_000_000,
        nonce=nonce,
        members=members,
        executors=[Executor(executor, key.public_key) for executor, key in executors.items()],
        possessions={
            owner: prove_possession(key, owner, nonce) for owner, key in {**keys, **executors}.items()
        },
        rules=rules,
        ca_certificate=authority,
    )
    return parse_genesis(raw)


def _make_home(
    home: Path,
    member: Member,
    key: SigningKey,
    genesis: Genesis,
    authority: tuple[bytes, bytes],
    policy: PolicyChoice,
    *,
    joins: bool = False,
) -> None:
    make_folders(home)
    key.save(NodeHome(home).signing_key)
    host, _ = split_address(member.address)
    certificate, private = issue(*authority, genesis.cluster_id, Role.NODE, member.id, [host])
    write_private(NodeHome(home).tls_key, private)
    NodeHome(home).tls_certificate.write_bytes(certificate)
    NodeHome(home).tls_authority.write_bytes(authority[0])
    furnish(home, genesis, member.id, member.address, policy, joins=joins)


def make_folders(home: Path) -> None:
    """Make a home's folders, for this user only. The home must not exist."""
    for folder in (home, home / "keys", home / "tls", home / "data"):
        folder.mkdir(mode=0o700)


def furnish(
    home: Path,
    genesis: Genesis,
    member_id: str,
    address: str,
    policy: PolicyChoice,
    *,
    joins: bool,
    may_vote: tuple[str, ...] | None = None,
) -> None:
    """Put into a home with all of keys/ and tls/ the rest, config.toml last. Raises `OperatorError`."""
    settings = _install_policy(home, policy)
    (home / "genesis.json").write_bytes(genesis.raw)
    # With the home, not by the node: a node that finds no journal knows that its disk was lost.
    SignJournal.create(home / "data" / "sign.journal", genesis.cluster_id, member_id).close()
    host, port = split_address(address)
    # mTLS guards the port.
    listen = address if is_loopback(host) else f"{wildcard(host)}:{port}"
    config = NodeConfig(id=member_id, listen=listen, policy=settings, joins=joins, may_vote=may_vote)
    write_config(home / "config.toml", config)


def _make_executor_home(
    home: Path, name: str, key: SigningKey, genesis: Genesis, authority: tuple[bytes, bytes]
) -> None:
    home.mkdir(mode=0o700)
    (home / "genesis.json").write_bytes(genesis.raw)
    (home / "ca.crt").write_bytes(authority[0])
    key.save(home / "signing.pem")
    certificate, private = issue(*authority, genesis.cluster_id, Role.EXECUTOR, name)
    (home / "executor.crt").write_bytes(certificate)
    write_private(home / "executor.key", private)


def _install_policy(home: Path, policy: PolicyChoice) -> PolicySettings:
    settings = PolicySettings(policy.kind, entry=policy.entry)
    if policy.file is not None:
        shutil.copyfile(policy.file, home / POLICY_FILE)
        settings = replace(settings, file=POLICY_FILE)
    if policy.kind != "python":  # importing somebody's module is left to the node's own environment
        load_policy(settings, home)
    return settings


def _require_empty(directory: Path) -> bool:
    """Make `directory` if it is missing; return whether it was there. Refuse one that holds anything."""
    existed = directory.exists()
    try:
        if existed and (not directory.is_dir() or any(directory.iterdir())):
            raise OperatorError(
                f"{directory} exists and is not an empty folder. Choose another folder; nothing was changed."
            )
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(f"The folder {directory} cannot be made: {error.strerror}.") from error
    return existed


def _undo(directory: Path, existed: bool) -> None:
    for item in list(directory.iterdir()):
        if item.is_dir():
            shutil.rmtree(item, ignore_errors=True)
        else:
            item.unlink(missing_ok=True)
    if not existed:
        directory.rmdir()
