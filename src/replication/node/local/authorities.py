"""One authority follows another: because its key may be in wrong hands, or its certificate ends.

Who judges transport certificates has a file with the authorities to trust: ``tls/ca.crt`` of a node,
``ca.crt`` of an executor, ``ca/ca.crt`` of any other client and of the authority itself. Each host's operator
changes it, so that no machine alone decides whom the others trust. In this order nobody is cut off:

1. `rotate` makes the new authority, which is trusted beside the old one, and issues from then on.
2. `trust` takes the file with both to every host.
3. Every certificate is issued again (`enrolment.renew`, `renew_clients`).
4. `rotate` with `finish` leaves only the new authority in the file, and `trust` takes it to every host.

A host refuses a file that would cut itself off. Whether the others have new certificates it cannot know.

The genesis file goes on naming the first authority. It names the cluster, and no certificate is judged by it
any more.
"""

from __future__ import annotations

from pathlib import Path

from replication.identity.enrolment import EnrolmentError
from replication.identity.genesis import load_genesis
from replication.identity.private_files import write_private
from replication.identity.roles import Role
from replication.identity.tls import (
    CertificateForeignError,
    authority_of,
    authority_with_key,
    check_authorities,
    create_authority,
)
from replication.node.local.enrolment_files import (
    authority_file,
    is_authority,
    load_authority,
    naming,
    put,
    read,
    tls_key_file,
    writing,
)
from replication.node.local.provision import issue_clients

__all__ = ["renew_clients", "rotate", "trust"]


def rotate(directory: Path, *, finish: bool = False) -> Path:
    """Let a new authority follow that of `directory`, or with `finish` trust only the one that issues now;
    the file to take to every host.

    After a crash it can be done again: what was made before is trusted too, until it is finished.

    Raises:
        OperatorError: there is no cluster yet, too many authorities are trusted, or the folder's own clients
            have certificates of another than the one that is to be left.
    """
    trusted, key = load_authority(directory)
    genesis = load_genesis(directory / "genesis.json")
    file = directory / "ca" / "ca.crt"
    if finish:
        left = authority_with_key(key, trusted)
        _require_issued(_certificates(directory, Role.ADMIN), left, file)
        with writing(directory):
            put(file, left)
        return file
    certificate, key = create_authority(f"{genesis.name} authority")
    with naming(file):
        trusted = check_authorities(certificate + trusted)
    with writing(directory):
        (directory / "invitation.json").unlink(missing_ok=True)  # it invites to the authority before
        put(file, trusted)
        write_private(directory / "ca" / "ca.key", key)
    return file


def trust(home: Path, file: Path) -> int:
    """Have the node, executor or client of `home` trust the authorities in `file` and no others; how many.

    A running node takes them up within seconds.

    Raises:
        OperatorError: `file` holds no authorities, or `home` has a certificate that none of them issued.
    """
    if is_authority(home):
        raise EnrolmentError(f"{home} is the authority's own folder. Use: acp enrol rotate {home}")
    role = _role(home)
    with naming(file):
        trusted = check_authorities(read(file))
    _require_issued(_certificates(home, role), trusted, file)
    with writing(home):
        put(authority_file(home, role), trusted)
    return trusted.count(b"BEGIN CERTIFICATE")


def renew_clients(directory: Path, days: float) -> list[str]:
    """Issue the clients' certificates in an authority's own folder again, with new keys; whose they are.

    Raises:
        OperatorError: there is no cluster yet, or the folder cannot be written.
    """
    authority = load_authority(directory)
    genesis = load_genesis(directory / "genesis.json")
    own = {role.value for role in Role}
    names = [file.stem for file in _certificates(directory, Role.ADMIN) if file.stem in own]
    with writing(directory):
        issue_clients(directory, genesis, authority, [Role(name) for name in names], days)
    return names


def _role(home: Path) -> Role:
    """What the home is one of; a client of any role stands for all that are no nodes or executors."""
    for role in (Role.NODE, Role.EXECUTOR, Role.ADMIN):
        if authority_file(home, role).exists():
            return role
    raise EnrolmentError(f"{home} is no home: it has no ca.crt. Make one with: acp enrol key {home} …")


def _certificates(home: Path, role: Role) -> list[Path]:
    """The home's own certificates; none before its first one has come."""
    if role is Role.ADMIN:
        return sorted((home / "clients").glob("*.crt"))
    file = tls_key_file(home, role).with_suffix(".crt")
    return [file] if file.exists() else []


def _require_issued(certificates: list[Path], trusted: bytes, by: Path) -> None:
    for file in certificates:
        try:
            authority_of(read(file), trusted)
        except CertificateForeignError:
            raise EnrolmentError(
                f"{file} was issued by none of the authorities that would be left in {by}. Have it issued "
                "again first (acp enrol renew); nothing was changed."
            ) from None
