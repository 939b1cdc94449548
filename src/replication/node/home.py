"""A node's home: where each file is, and the checks that come before a node may start on it.

    config.toml          configuration (`config`)
    genesis.json         the cluster's genesis file
    keys/signing.pem     the member's Ed25519 key, 0600
    tls/node.crt, tls/node.key (0600), tls/ca.crt
    data/                0700: sign.journal (made with the home), ledger.db and lock (made by the node)
    node.pid, node.log   of the running process
    policy.cel.toml      rules of a cel policy, if config.toml names this file

Whoever is in the genesis file must have its key from there. A home that was made for a later change of
members says `joins` in its config.toml; then the record decides, and until it does the node only follows.

Two processes on one home would sign with one key and forget each other's votes, which is what the safety of
the whole cluster rests on. So the home is locked (flock on data/lock) as long as it is open; the kernel drops
the lock with the process, however it ends, so that no stale lock ever needs to be removed by hand.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

from replication.errors import OperatorError
from replication.identity import tls
from replication.identity.genesis import Genesis, load_genesis
from replication.identity.keys import SigningKey
from replication.identity.members import Member
from replication.identity.private_files import read_private
from replication.node.config import NodeConfig, read_config

__all__ = [
    "CheckedHome",
    "DataDirectoryError",
    "HomeError",
    "HomeFileMissingError",
    "HomeInUseError",
    "HomeMissingError",
    "NodeHome",
    "NotAMemberError",
    "OpenedHome",
    "SigningKeyMismatchError",
    "TransportFiles",
    "check_home",
    "check_transport",
    "open_home",
]

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


class HomeError(OperatorError):
    """A node cannot start on this home."""

    reason: ClassVar[str] = "HOME_INVALID"


class HomeMissingError(HomeError):
    """There is no directory at the path."""

    reason: ClassVar[str] = "HOME_MISSING"


class HomeFileMissingError(HomeError):
    """A file that every home has is not there."""

    reason: ClassVar[str] = "HOME_FILE_MISSING"


class NotAMemberError(HomeError):
    """The configured id is not a member of the genesis file."""

    reason: ClassVar[str] = "NOT_A_MEMBER"


class SigningKeyMismatchError(HomeError):
    """The signing key is not the one that the genesis file has for this member."""

    reason: ClassVar[str] = "SIGNING_KEY_MISMATCH"


class DataDirectoryError(HomeError):
    """The data directory cannot be made or used, or other users may write to it."""

    reason: ClassVar[str] = "DATA_DIRECTORY_REFUSED"


class HomeInUseError(HomeError):
    """Another process runs on this home."""

    reason: ClassVar[str] = "HOME_IN_USE"


@dataclass(frozen=True, slots=True)
class NodeHome:
    """Where everything is in one node's home. Touches no file."""

    path: Path

    @property
    def config(self) -> Path:
        """config.toml"""
        return self.path / "config.toml"

    @property
    def genesis(self) -> Path:
        """The genesis file."""
        return self.path / "genesis.json"

    @property
    def signing_key(self) -> Path:
        """The member's private Ed25519 key."""
        return self.path / "keys" / "signing.pem"

    @property
    def tls_certificate(self) -> Path:
        """The transport certificate."""
        return self.path / "tls" / "node.crt"

    @property
    def tls_key(self) -> Path:
        """The private key of the transport certificate."""
        return self.path / "tls" / "node.key"

    @property
    def tls_authority(self) -> Path:
        """The certificates of the authorities to trust: that of the genesis file, until others follow it."""
        return self.path / "tls" / "ca.crt"

    @property
    def data(self) -> Path:
        """The directory of everything that the node writes and must not lose."""
        return self.path / "data"

    @property
    def ledger(self) -> Path:
        """The SQLite store."""
        return self.data / "ledger.db"

    @property
    def sign_journal(self) -> Path:
        """What the member has signed. Made with the home: where it is missing, the disk was lost."""
        return self.data / "sign.journal"

    @property
    def lock(self) -> Path:
        """The file whose lock says that a process has this home open."""
        return self.data / "lock"

    @property
    def pid(self) -> Path:
        """The process id of the running node."""
        return self.path / "node.pid"

    @property
    def log(self) -> Path:
        """The log of a detached node."""
        return self.path / "node.log"

    @property
    def policy(self) -> Path:
        """Rules of a cel policy, under their usual name; config.toml may name another file."""
        return self.path / "policy.cel.toml"

    @property
    def required(self) -> tuple[Path, ...]:
        """The files that must be there before a node can start."""
        return (
            *(self.config, self.genesis, self.signing_key),
            *(self.tls_certificate, self.tls_key, self.tls_authority),
        )


@dataclass(frozen=True, slots=True)
class TransportFiles:
    """What a node shows to others, and by which authorities it judges what they show. All PEM."""

    certificate: bytes
    key: bytes
    authorities: bytes


@dataclass(frozen=True, slots=True)
class CheckedHome:
    """What is in a home that passed all checks."""

    home: NodeHome
    config: NodeConfig
    genesis: Genesis
    signing_key: SigningKey
    tls: TransportFiles


class OpenedHome:
    """A checked home that this process holds the lock of. Close it (or leave its `with`) when the node has
    stopped."""

    def __init__(self, checked: CheckedHome, lock: int) -> None:
        self._checked = checked
        self._lock: int | None = lock
        self._owner = os.getpid()

    @property
    def checked(self) -> CheckedHome:
        """Everything that was read and judged."""
        return self._checked

    @property
    def home(self) -> NodeHome:
        """Where the files are."""
        return self._checked.home

    @property
    def config(self) -> NodeConfig:
        """The node's configuration."""
        return self._checked.config

    @property
    def genesis(self) -> Genesis:
        """The cluster's genesis file."""
        return self._checked.genesis

    @property
    def member_id(self) -> str:
        """The member that this node is, or is to be."""
        return self._checked.config.id

    @property
    def signing_key(self) -> SigningKey:
        """The member's key."""
        return self._checked.signing_key

    def close(self) -> None:
        """Remove the pid file, then let go of the lock. Does nothing the second time."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        try:
            if self._owner == os.getpid():
                self._release(lock)
        finally:
            os.close(lock)

    def _release(self, lock: int) -> None:
        """Only for the process that took the lock: in a child made by fork it would unlock for its parent."""
        if _read_pid(self.home.pid) == self._owner:
            with contextlib.suppress(OSError):  # a pid file that stays names a process that is gone
                self.home.pid.unlink(missing_ok=True)
        # Closing alone would leave the lock to a child that still has a copy of the descriptor.
        fcntl.flock(lock, fcntl.LOCK_UN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_home(
    path: str | os.PathLike[str], *, now: dt.datetime | None = None, passphrase: bytes | None = None
) -> CheckedHome:
    """Read a home and judge everything in it; changes nothing, and works while a node runs on it.

    Args:
        path: the home's directory.
        now: the time to judge certificates by, with a time zone; None for this host's clock.
        passphrase: of an encrypted signing key.

    Raises:
        HomeError: the directory or a file is missing, the id is not a member, or the key is not the one of
            the genesis file (member and key are not compared for a home that `joins`).
        ConfigError, GenesisError, KeyFileError, CertificateError: a file is not what it must be.
    """
    home = NodeHome(Path(path))
    _require_files(home)
    config = read_config(home.config)
    genesis = load_genesis(home.genesis)
    member = None if config.joins else _member(home, config, genesis)
    signing_key = SigningKey.load(home.signing_key, passphrase)
    if member is not None:
        _require_key(home, member, signing_key)
    transport = _transport(home, genesis, config.id, now or dt.datetime.now(dt.UTC))
    return CheckedHome(home, config, genesis, signing_key, transport)


def check_transport(opened: OpenedHome, now: dt.datetime | None = None) -> TransportFiles:
    """Read the transport certificate, key and authorities of an open home again, and judge them.

    Raises:
        HomeError, CertificateError, KeyFileError: as `check_home`.
    """
    return _transport(opened.home, opened.genesis, opened.member_id, now or dt.datetime.now(dt.UTC))


def open_home(
    path: str | os.PathLike[str], *, now: dt.datetime | None = None, passphrase: bytes | None = None
) -> OpenedHome:
    """Check a home, make its data directory, lock it and write node.pid. For the process that runs the node.

    Raises:
        HomeInUseError: another process has it open.
        DataDirectoryError: the data directory cannot be made or used.
        OperatorError: as `check_home`.
    """
    checked = check_home(path, now=now, passphrase=passphrase)
    _make_data_directory(checked.home.data)
    lock = _take_lock(checked.home)
    try:
        _write_pid(checked.home.pid)
    except BaseException:
        os.close(lock)
        raise
    return OpenedHome(checked, lock)


def _require_files(home: NodeHome) -> None:
    if not home.path.is_dir():
        raise HomeMissingError(
            f"there is no directory {home.path}. Give the home of one node; `acp init` makes the homes of a "
            "cluster."
        )
    for path in home.required:
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise HomeFileMissingError(
                f"{path} is missing. A node's home needs it; copy it from where the cluster was made."
            ) from None
        except OSError as error:
            raise HomeError(f"{path} cannot be looked at: {error.strerror}. Check the owner.") from error
        if not stat.S_ISREG(status.st_mode):
            raise HomeError(f"{path} must be a regular file")


def _member(home: NodeHome, config: NodeConfig, genesis: Genesis) -> Member:
    member = genesis.members.get(config.id)
    if member is None:
        raise NotAMemberError(
            f"{home.config}: id {config.id} is not a member of the cluster in {home.genesis}, whose members "
            f"are {', '.join(genesis.members.ids)}. Correct the id, or bring the genesis file of the right "
            "cluster. (A home for a member that is to be added is made by `acp members home`.)"
        )
    return member


def _require_key(home: NodeHome, member: Member, signing_key: SigningKey) -> None:
    if signing_key.public_key != member.public_key:
        raise SigningKeyMismatchError(
            f"{home.signing_key} has the public key {signing_key.public_key.hex()}, but {home.genesis} has "
            f"{member.public_key.hex()} for {member.id}. Put the key of {member.id} there, or set the id it "
            "is for."
        )


def _transport(home: NodeHome, genesis: Genesis, member_id: str, now: dt.datetime) -> TransportFiles:
    with _naming(home.tls_authority):
        authorities = tls.check_authorities(_read(home.tls_authority))
    certificate, key = _read(home.tls_certificate), read_private(home.tls_key)
    with _naming(home.tls_certificate):
        tls.check_certificate(
            certificate,
            authorities,
            now,
            cluster_id=genesis.cluster_id,
            roles=(tls.Role.NODE,),
            name=member_id,
        )
    with _naming(home.tls_key):
        tls.require_key_pair(certificate, key)
    return TransportFiles(certificate, key, authorities)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Begin the message of a certificate's error with the file."""
    try:
        yield
    except tls.CertificateError as error:
        raise type(error)(f"{path}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise HomeError(f"{path} cannot be read: {error.strerror}. Check the owner.") from error


def _make_data_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise DataDirectoryError(
            f"{path} cannot be made: {error.strerror}. Check the folder above it."
        ) from error
    if status.st_mode & _OTHERS_WRITE:
        raise DataDirectoryError(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: other users could replace what the node "
            f"has signed "
            f"and recorded. If nobody has, run: chmod 700 {shlex.quote(str(path))}"
        )


def _take_lock(home: NodeHome) -> int:
    try:
        lock = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DataDirectoryError(
            f"{home.lock} cannot be opened: {error.strerror}. Check the owner."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        pid = _read_pid(home.pid)
        process = f"process {pid}" if pid is not None else "another process"
        raise HomeInUseError(
            f"{home.path} is in use by {process}. Two processes with one key could contradict each other; "
            "stop that one first, or give this one its own home."
        ) from None
    except OSError as error:
        os.close(lock)
        raise DataDirectoryError(
            f"{home.lock} cannot be locked: {error.strerror}. The home must be on a file system with locks."
        ) from error
    return lock


def _write_pid(path: Path) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        draft.write_text(f"{os.getpid()}\n", encoding="ascii")
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise HomeError(f"{path} could not be written: {error.strerror}. Check the folder.") from error


def _read_pid(path: Path) -> int | None:
    try:
        with path.open("rb") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return None
