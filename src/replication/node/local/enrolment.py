"""Enrolment on disk: each host makes its own keys, and only public files travel (`identity.enrolment`).

    AUTHORITY/ca/ca.crt, ca.key (0600)      the authority for transport certificates (see `authorities`)
    AUTHORITY/invitation.json               goes to every host
    AUTHORITY/genesis.json, clients/        once there is a cluster: a cluster folder for `acp --dir`
    AUTHORITY/bundles/NAME.bundle.json      goes back to the host NAME

    HOME/keys/signing.pem, tls/ca.crt       made or noted when the host makes its request
    HOME/NAME.join.json                     the request, goes to the authority
    HOME/tls/node.key.next                  the private key that the request is about, until its certificate
                                            is here; a running node keeps its pair until both are replaced

An executor has ``signing.pem``, ``executor.key``, ``executor.crt`` and ``ca.crt`` in its folder. Any other
client has ``clients/ROLE.key``, ``ROLE.crt`` and ``ca/ca.crt`` in its folder instead, as in a cluster folder,
so that `acp --dir HOME --role ROLE` finds them.

Every step checks all that it is given before it writes anything, and can be done again after a crash.
"""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from replication.identity.enrolment import (
    SIGNERS,
    Bundle,
    EnrolmentError,
    Invitation,
    JoinRequest,
    is_genesis,
    make_bundle,
    make_invitation,
    make_request,
    parse_bundle,
    parse_invitation,
    parse_request,
)
from replication.identity.genesis import Genesis, Rules, build_genesis, load_genesis, parse_genesis
from replication.identity.keys import SigningKey
from replication.identity.members import Executor, Member
from replication.identity.names import is_member_id
from replication.identity.private_files import read_private, write_private
from replication.identity.roles import Identity, Role
from replication.identity.tls import (
    LEAF_DAYS,
    CertificateForeignError,
    check_authorities,
    check_certificate,
    create_authority,
    create_request,
    identity_from_certificate,
    issue_requested,
    require_key_pair,
)
from replication.node.config import read_config, split_address
from replication.node.home import NodeHome
from replication.node.local.addresses import checked_address
from replication.node.local.enrolment_files import (
    authority_file,
    load_authority,
    naming,
    next_key,
    put,
    read,
    signing_key_file,
    tls_key_file,
    writing,
)
from replication.node.local.provision import (
    DEFAULT_RULES,
    PolicyChoice,
    configure,
    furnish,
    issue_clients,
    make_folders,
)

__all__ = ["Finished", "finish", "found", "invite", "read_request", "renew", "request", "sign"]


@dataclass(frozen=True, slots=True)
class Finished:
    """What `finish` made of a home: whether the genesis file has the member, and whether it was a renewal."""

    identity: Identity
    is_member: bool
    renewed: bool


def invite(directory: Path, name: str) -> Path:
    """Make the authority of a cluster to be in `directory`, empty or missing; the invitation's path.

    Raises:
        OperatorError: the folder is not empty or cannot be written.
    """
    with writing(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise EnrolmentError(f"{directory} is not empty. Choose another folder; nothing was changed.")
        certificate, key = create_authority(f"{name} authority")
        raw = make_invitation(Invitation(name, secrets.token_bytes(32), certificate))
        (directory / "ca").mkdir(mode=0o700)
        write_private(directory / "ca" / "ca.key", key)
        (directory / "ca" / "ca.crt").write_bytes(certificate)
        (directory / "invitation.json").write_bytes(raw)
    return directory / "invitation.json"


def request(home: Path, invitation_file: Path, role: Role, name: str, address: str = "") -> Path:
    """Make the keys of `name` in the new folder `home`; the path of the request to send to the authority.

    `invitation_file` may be the genesis file of a cluster that exists; then no other is accepted later.
    Only a node has an address.

    Raises:
        OperatorError: the folder exists, the invitation cannot be used, or the name or address is none.
    """
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise EnrolmentError(
            f"{home} exists and is not an empty folder. Choose another; nothing was changed."
        )
    if (role is Role.NODE) != bool(address):
        raise EnrolmentError("A node needs an address (--address HOST:PORT), and nobody else has one.")
    raw = read(invitation_file)
    with naming(invitation_file):
        invitation = parse_invitation(raw)
    exists = is_genesis(raw)
    key = SigningKey.generate() if role in SIGNERS else None
    tls_request, tls_key = create_request(f"{role.value} {name}")
    made = make_request(invitation, role, name, tls_request, address=address, key=key)
    pending, authority = tls_key_file(home, role), authority_file(home, role)
    with writing(home):
        if home.exists():
            home.rmdir()
        home.parent.mkdir(parents=True, exist_ok=True)
        if role is Role.NODE:
            make_folders(home)
        for folder in (home, pending.parent, authority.parent):
            folder.mkdir(mode=0o700, exist_ok=True)
        if key is not None:
            key.save(signing_key_file(home, role))
        authority.write_bytes(invitation.authority)
        if exists:
            (home / "genesis.json").write_bytes(raw)
        write_private(next_key(pending), tls_key)
        return _write_request(home, name, made)


def renew(home: Path) -> Path:
    """Make a new transport key for the finished node or client of `home`; the path of its request.

    The node goes on with the old key and certificate until `finish` replaces both.

    Raises:
        OperatorError: `home` is none that is finished.
    """
    genesis = load_genesis(home / "genesis.json")
    old = _old_request(home)
    name, role, address = old.name, old.role, old.address
    key = SigningKey.load(signing_key_file(home, role)) if role in SIGNERS else None
    tls_request, tls_key = create_request(f"{role.value} {name}")
    invitation = Invitation(genesis.name, genesis.nonce, genesis.ca_certificate)
    made = make_request(invitation, role, name, tls_request, address=address, key=key)
    with writing(home):
        write_private(next_key(tls_key_file(home, role)), tls_key)
        return _write_request(home, name, made)


def read_request(file: Path) -> JoinRequest:
    """The request in a file, judged; messages name the file. Raises as `parse_request`."""
    raw = read(file)
    with naming(file):
        return parse_request(raw)


def found(directory: Path, files: Sequence[Path], rules: Rules = DEFAULT_RULES) -> Genesis:
    """Found the cluster: the genesis file of all nodes and executors that ask, and a bundle for each.

    The members stand in the order of their names (node-2 before node-10). The folder gets the certificate of
    an administrator of its own.

    Raises:
        OperatorError: there is a cluster already, a request is not good, or two clash.
    """
    authority = load_authority(directory)
    if (directory / "genesis.json").exists():
        raise EnrolmentError(
            f"{directory / 'genesis.json'} exists: the cluster is founded. For a later member, sign its "
            "request with `acp enrol sign`, and propose it with `acp members add --request`."
        )
    raw = read(directory / "invitation.json")
    with naming(directory / "invitation.json"):
        invitation = parse_invitation(raw)
    requests = [read_request(file) for file in files]
    for file, item in zip(files, requests, strict=True):
        _require_nonce(file, item, invitation.nonce)
        if item.role not in SIGNERS:
            raise EnrolmentError(
                f"{file}: only nodes and executors found a cluster. Sign the request of a "
                f"{item.role.value} afterwards."
            )
    requests.sort(key=lambda item: _natural(item.name))
    genesis = parse_genesis(
        build_genesis(
            name=invitation.name,
            created_ms=time.time_ns() // 1_000_000,
            nonce=invitation.nonce,
            members=[
                Member(item.name, item.public_key, 1, item.address)
                for item in requests
                if item.role is Role.NODE
            ],
            executors=[
                Executor(item.name, item.public_key) for item in requests if item.role is Role.EXECUTOR
            ],
            possessions={item.name: item.possession for item in requests},
            rules=rules,
            ca_certificate=invitation.authority,
        )
    )
    with writing(directory):
        for item in requests:
            _bundle(directory, genesis, authority, item, LEAF_DAYS)
        issue_clients(directory, genesis, authority, (Role.ADMIN,))
        put(directory / "genesis.json", genesis.raw)  # last: until it is there, this can be done again
    return genesis


def sign(
    directory: Path, file: Path, *, days: float = LEAF_DAYS, new_key: bool = False
) -> tuple[JoinRequest, Path]:
    """Certify a request for the cluster of `directory`: of a later member, a client, or a renewal; the
    request, and the path of its bundle.

    With `new_key`, a name of the genesis file may come with another member key: its node is being replaced.

    Raises:
        OperatorError: there is no cluster yet, or the request is not good.
    """
    authority = load_authority(directory)
    genesis = load_genesis(directory / "genesis.json")
    item = read_request(file)
    _require_nonce(file, item, genesis.nonce)
    members = genesis.members
    known = {member.id: member.public_key for member in members.members}
    known |= {executor.id: executor.public_key for executor in members.executors}
    if item.role in SIGNERS and known.get(item.name, item.public_key) != item.public_key and not new_key:
        raise EnrolmentError(
            f"{file}: the request of {item.name} is signed with another key than the genesis file has for "
            "it. If that node is being replaced, add --new-key; otherwise somebody else made this request."
        )
    with writing(directory):
        return item, _bundle(directory, genesis, authority, item, days)


def finish(
    home: Path,
    file: Path,
    policy: PolicyChoice | None = None,
    *,
    metrics: str | None = None,
    may_vote: Sequence[str] | None = None,
) -> Finished:
    """Put a bundle into the home that asked for it. The first time this completes the home (and makes the
    sign journal); later it replaces the transport key and certificate, and a running node takes both up.

    From its next start on a node serves metrics at `metrics`, HOST:PORT, and votes as those say who are on
    its host or have a client certificate with one of the names in `may_vote`. What is None stays as it is; a
    new node serves none, and has no names.

    Raises:
        OperatorError: the bundle is not for this home and its request, or not good.
    """
    raw, asked = read(file), _old_request(home)
    if metrics is not None:
        checked_address(metrics)
    for name in may_vote or ():
        if not is_member_id(name):
            raise EnrolmentError(f"{name!r:.100} cannot be the name in a certificate. Nothing was changed.")
    settings = {"monitoring": metrics, "may_vote": None if may_vote is None else tuple(may_vote)}
    settings = {key: value for key, value in settings.items() if value is not None}
    if settings and asked.role is not Role.NODE:
        raise EnrolmentError(
            f"{home} is no home of a node: only nodes vote and serve metrics. Nothing was changed."
        )
    with naming(file):
        bundle = parse_bundle(raw)
        _require_answer(home, asked, bundle)
        target = tls_key_file(home, asked.role)
        private = read_private(next_key(target) if next_key(target).exists() else target)
        require_key_pair(bundle.certificate, private)
    if (home / "genesis.json").exists() and (home / "genesis.json").read_bytes() != bundle.genesis.raw:
        raise EnrolmentError(f"{file} is of another cluster than {home}. Nothing was changed.")
    renewed = target.with_suffix(".crt").exists()
    member = bundle.genesis.members.get(asked.name) if asked.role is Role.NODE else None
    # Under the name of a member with another key it is to replace that one, which the record decides.
    is_member = member is not None and member.public_key == asked.public_key
    with writing(home):
        write_private(target, private)
        put(target.with_suffix(".crt"), bundle.certificate)
        next_key(target).unlink(missing_ok=True)
        if asked.role is not Role.NODE:
            (home / "genesis.json").write_bytes(bundle.genesis.raw)
        elif not (home / "config.toml").exists():
            _complete(home, bundle, asked, policy or PolicyChoice(), joins=not is_member)
    if settings:
        configure(home, **settings)
    return Finished(bundle.identity, is_member, renewed)


def _complete(home: Path, bundle: Bundle, asked: JoinRequest, policy: PolicyChoice, *, joins: bool) -> None:
    paths = NodeHome(home)
    if paths.ledger.exists():
        raise EnrolmentError(
            f"{home} has a record but no config.toml: it has been used. A new sign journal would forget what "
            "this member has signed. Restore config.toml, or enrol with a new key in another folder."
        )
    paths.sign_journal.unlink(missing_ok=True)  # of a try that did not come to its end; no node ran on it
    furnish(home, bundle.genesis, asked.name, asked.address, policy, joins=joins, may_vote=())


def _require_answer(home: Path, asked: JoinRequest, bundle: Bundle) -> None:
    """The bundle answers the request that was made here, by the authority that was invited by."""
    genesis = bundle.genesis
    if genesis.nonce != asked.nonce:
        raise EnrolmentError("it is of another cluster than the invitation was. Nothing was changed.")
    authorities = check_authorities(read(authority_file(home, asked.role)))
    # Who was invited by a genesis file has it; there, another authority may have followed that file's.
    known = (home / "genesis.json").exists()
    if not known and genesis.ca_certificate.split() != authorities.split():
        raise EnrolmentError("its authority is not that of the invitation. Do not use it; ask who made it.")
    try:
        check_certificate(
            bundle.certificate,
            authorities,
            dt.datetime.now(dt.UTC),
            cluster_id=genesis.cluster_id,
            roles=(asked.role,),
            name=asked.name,
        )
    except CertificateForeignError as error:
        raise EnrolmentError(
            f"{error} If another authority has followed the one that this host knows, bring its ca.crt, and "
            f"run: acp enrol trust {home} ca.crt"
        ) from error
    member = genesis.members.get(asked.name)
    if asked.role is not Role.NODE or member is None or (home / "config.toml").exists():
        return
    if member.public_key != asked.public_key and not (home / "genesis.json").exists():
        raise EnrolmentError(
            f"its genesis file has another key for {asked.name} than was made here: somebody has put in "
            "theirs on the way. Do not start this cluster; compare the digests of the requests at the "
            "authority."
        )
    if member.public_key == asked.public_key and member.address != asked.address:
        raise EnrolmentError(
            f"its genesis file has {asked.name} at {member.address}, but the request said {asked.address}."
        )


def _old_request(home: Path) -> JoinRequest:
    """The request that was last made here; that of a home by `acp init` follows from its other files."""
    files = sorted(home.glob("*.join.json"))
    if len(files) == 1:
        return read_request(files[0])
    if files:
        raise EnrolmentError(f"{home} has several requests ({files[0].name}, …). Leave the one that counts.")
    if (home / "executor.crt").is_file():
        key = SigningKey.load(signing_key_file(home, Role.EXECUTOR))
        name, nonce = _executor(home), load_genesis(home / "genesis.json").nonce
        return JoinRequest(Role.EXECUTOR, name, nonce, b"", "", "", key.public_key)
    if not (home / "config.toml").is_file():
        raise EnrolmentError(f"{home} has no request to join. Make one with: acp enrol key {home} …")
    paths = NodeHome(home)
    config, genesis = read_config(paths.config), load_genesis(paths.genesis)
    member = genesis.members.get(config.id)
    key = SigningKey.load(paths.signing_key)
    return JoinRequest(
        Role.NODE,
        config.id,
        genesis.nonce,
        b"",
        "",
        config.listen if member is None else member.address,
        key.public_key,
    )


def _executor(home: Path) -> str:
    return identity_from_certificate(read(home / "executor.crt")).name


def _bundle(
    directory: Path, genesis: Genesis, authority: tuple[bytes, bytes], item: JoinRequest, days: float
) -> Path:
    hosts = [split_address(item.address)[0]] if item.role is Role.NODE else []
    identity = Identity(genesis.cluster_id, item.role, item.name)
    certificate = issue_requested(*authority, item.tls_request, identity, hosts, days=days)
    (directory / "bundles").mkdir(mode=0o700, exist_ok=True)
    target = directory / "bundles" / f"{item.name}.bundle.json"
    target.write_bytes(make_bundle(genesis, certificate))
    return target


def _require_nonce(file: Path, item: JoinRequest, nonce: bytes) -> None:
    if item.nonce != nonce:
        raise EnrolmentError(
            f"{file} was made with another cluster's invitation. Make it again with that of this one."
        )


def _write_request(home: Path, name: str, raw: bytes) -> Path:
    file = home / f"{name}.join.json"
    file.write_bytes(raw)
    return file


def _natural(name: str) -> list[tuple[int, str]]:
    """Names with numbers in the order in which people count."""
    words = "".join(char if char.isdecimal() else f" {char} " for char in name).split()
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in words]
