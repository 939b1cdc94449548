"""How to reach one cluster: endpoints, credentials, and the genesis file that says what to trust.

Two ways in, which may be mixed (what is given explicitly wins):

* a cluster folder as `acp init` makes it: addresses and member ids from ``genesis.json``, the certificate of
  a role from ``clients/<role>.crt`` and ``.key``, the authority from ``ca/ca.crt``;
* explicit endpoints, certificate, key and authority.

Everything that can be wrong locally is found here, before a connection is opened, because gRPC reports a
refused certificate only as a closed socket: files that are missing, a key that is readable by others or
belongs to another certificate, a certificate that expired or was issued by another cluster's authority."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from replication.client.errors import ConnectionSettingsError, UnknownMemberError, UsageError
from replication.identity.genesis import Genesis, load_genesis
from replication.identity.private_files import read_private
from replication.identity.roles import CertificateError, Role
from replication.identity.tls import check_certificate, require_key_pair

__all__ = ["DIRECTORY_VARIABLE", "ClusterHandle", "Endpoint", "open_folder", "parse_endpoint", "resolve"]

DIRECTORY_VARIABLE: Final = "ACP_DIR"
"""Environment variable that names the cluster folder when no folder is given."""

DEFAULT_ROLE: Final = "admin"

_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)
_DNS_LABELS: Final = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
_MAX_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One node's address, ``host:port``. With a `member_id` the node has to prove that it is this member."""

    address: str
    member_id: str | None = None

    @property
    def server_name(self) -> str | None:
        """The name that the node's certificate must carry instead of the host; None where an id is no DNS
        name.
        """
        if self.member_id is None or not _DNS_LABELS.fullmatch(self.member_id):
            return None
        return self.member_id

    def __str__(self) -> str:
        return f"{self.member_id} at {self.address}" if self.member_id else self.address


@dataclass(frozen=True, slots=True)
class ClusterHandle:
    """Everything needed to open connections to one cluster. The private key never shows in `repr`.

    `endpoints` are tried in order, and after them, if it `may_learn`, those of members that came later.
    `certificate_name` says in messages where the certificate came from. With a `genesis`, decision
    certificates are verified as they are fetched."""

    endpoints: tuple[Endpoint, ...]
    certificate: bytes
    private_key: bytes = field(repr=False)
    authority: bytes
    genesis: Genesis | None = field(default=None, repr=False)
    certificate_name: str = "the client certificate"
    may_learn: bool = True

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise UsageError(
                "There is no endpoint to ask. Give --endpoint HOST:PORT or a cluster folder (--dir)."
            )

    def check(self, now: dt.datetime | None = None) -> None:
        """Refuse credentials that no node can accept, with the reason.

        Raises:
            CertificateError: the certificate is malformed, expired, not yet valid or not of this cluster, or
            the
                private key belongs to another one. The message starts with the certificate's name.
        """
        try:
            check_certificate(
                self.certificate,
                self.authority,
                now or dt.datetime.now(dt.UTC),
                cluster_id=None if self.genesis is None else self.genesis.cluster_id,
            )
            require_key_pair(self.certificate, self.private_key)
        except CertificateError as error:
            raise type(error)(f"{self.certificate_name}: {error}") from error

    def endpoint_of(self, member_id: str) -> Endpoint:
        """The endpoint of a member. Raises `UnknownMemberError` with the members that are known."""
        for endpoint in self.endpoints:
            if endpoint.member_id == member_id:
                return endpoint
        known = ", ".join(endpoint.member_id for endpoint in self.endpoints if endpoint.member_id)
        raise UnknownMemberError(
            f"There is no member {member_id!r:.80} to ask. "
            + (f"Known members: {known}." if known else "Give its address with --endpoint ID=HOST:PORT.")
        )

    def only(self, member_id: str) -> ClusterHandle:
        """The same cluster, but asking one member and no other."""
        return replace(self, endpoints=(self.endpoint_of(member_id),), may_learn=False)

    def starting_at(self, index: int) -> ClusterHandle:
        """The same cluster with the endpoints rotated, to spread clients over nodes."""
        turn = index % len(self.endpoints)
        return replace(self, endpoints=self.endpoints[turn:] + self.endpoints[:turn])


def parse_endpoint(text: str) -> Endpoint:
    """``HOST:PORT`` or ``MEMBER-ID=HOST:PORT``, with ``[...]`` around an IPv6 address.

    Raises `UsageError`.
    """
    member_id, separator, address = text.rpartition("=")
    host, _, port = address.rpartition(":")
    if (separator and not member_id) or not _is_host(host) or not _is_port(port):
        raise UsageError(
            f"{text!r:.200} is not an endpoint. Write HOST:PORT, such as 127.0.0.1:7001, or ID=HOST:PORT."
        )
    return Endpoint(address, member_id or None)


def open_folder(directory: Path, role: str = DEFAULT_ROLE) -> ClusterHandle:
    """The cluster whose folder `acp init` made, with the client certificate of `role`."""
    return resolve(directory=directory, role=role, environment={})


def resolve(
    *,
    directory: Path | None = None,
    role: str = DEFAULT_ROLE,
    endpoints: Sequence[str] = (),
    certificate: Path | None = None,
    key: Path | None = None,
    authority: Path | None = None,
    genesis: Path | None = None,
    node: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> ClusterHandle:
    """Work out the connection from a cluster folder, from explicit parts, or from both.

    `node` narrows it to one member. The folder may come from the variable ``ACP_DIR`` of `environment`
    (default: the process's). Nothing is dialled.

    Raises:
        UsageError: too little is given, or something malformed.
        ConnectionSettingsError, OperatorError: a file is missing, unreadable or not what it should be.
    """
    folder = _folder(directory, os.environ if environment is None else environment)
    if folder is None:
        _require_explicit(endpoints or genesis, certificate, key, authority)
    _require_role(role)
    if (certificate is None) != (key is None):
        raise UsageError("--cert and --key belong together. Give both, or neither.")
    known = _genesis(folder, genesis)
    certificate = certificate or _in_folder(folder, "clients", f"{role}.crt")
    key = key or _in_folder(folder, "clients", f"{role}.key")
    authority = authority or _in_folder(folder, "ca", "ca.crt")
    handle = ClusterHandle(
        endpoints=_endpoints(endpoints, known),
        certificate=_read(certificate, "client certificate", "--cert"),
        private_key=read_private(key),
        authority=_read(authority, "certificate authority", "--ca"),
        genesis=known,
        certificate_name=str(certificate),
    )
    return handle.only(node) if node else handle


def _folder(directory: Path | None, environment: Mapping[str, str]) -> Path | None:
    if directory is None and environment.get(DIRECTORY_VARIABLE):
        directory = Path(environment[DIRECTORY_VARIABLE])
    if directory is not None and not directory.is_dir():
        raise ConnectionSettingsError(
            f"{directory} is not a cluster folder: it does not exist. Make one with: acp init {directory} "
            f"--nodes 4"
        )
    return directory


def _require_explicit(
    endpoints: Sequence[str] | Path | None,
    certificate: Path | None,
    key: Path | None,
    authority: Path | None,
) -> None:
    given = {"--endpoint": bool(endpoints), "--cert": certificate, "--key": key, "--ca": authority}
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise UsageError(
            f"No cluster is given. Name its folder with --dir DIR (or the variable {DIRECTORY_VARIABLE}), or "
            f"add "
            f"what is missing of --endpoint, --cert, --key and --ca: {', '.join(missing)}."
        )


def _require_role(role: str) -> None:
    roles = [item.value for item in Role if item is not Role.NODE]
    if role not in roles:
        raise UsageError(f"{role!r:.80} is not a client role. Choose one of: {', '.join(roles)}.")


def _genesis(folder: Path | None, path: Path | None) -> Genesis | None:
    if path is None and folder is not None:
        path = folder / "genesis.json"
        if not path.is_file():
            raise ConnectionSettingsError(
                f"{folder} is not a cluster folder: it has no genesis.json. Give the folder that acp init "
                f"made."
            )
    return None if path is None else load_genesis(path)


def _in_folder(folder: Path | None, *parts: str) -> Path:
    if folder is None:  # _require_explicit made sure that the part was given
        raise UsageError(f"{parts[-1]} is neither given nor in a cluster folder.")
    return folder.joinpath(*parts)


def _endpoints(texts: Sequence[str], genesis: Genesis | None) -> tuple[Endpoint, ...]:
    members = {} if genesis is None else {member.address: member.id for member in genesis.members.members}
    if not texts:
        return tuple(Endpoint(address, member_id) for address, member_id in members.items())
    parsed = [parse_endpoint(text) for text in texts]
    return tuple(
        item if item.member_id else replace(item, member_id=members.get(item.address)) for item in parsed
    )


def _read(path: Path, what: str, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConnectionSettingsError(
            f"The {what} {path} cannot be read: {error.strerror}. Give another file with {option}."
        ) from error


def _is_host(host: str) -> bool:
    if host.startswith("[") and host.endswith("]"):
        try:
            return ipaddress.ip_address(host[1:-1]).version == 6
        except ValueError:
            return False
    return _HOST.fullmatch(host) is not None


def _is_port(port: str) -> bool:
    return port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= _MAX_PORT
