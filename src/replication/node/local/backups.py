"""Backups of a node's record, taken while it runs, and homes made from them.

A backup is one file: a line of JSON (genesis file, configuration, policy, authorities that it trusts, height;
keys only when asked), then every committed block with its commit certificate, each as a length and a
`CommittedBlock`. A running node is asked for its blocks by its own certificate, so that its file is only ever
open in the node itself.

**What was signed is never in a backup.** An old sign journal would let the member sign what contradicts what
it signed after the backup. So a restored home has a record and no journal, which is a lost disk: the node
starts under a new incarnation, observes, and signs again only when the others have let it back in
(`node.storage`). A journal that is still there stays, and stays right: the record may lie behind it. One that
knows of less than the backup is an old copy itself, and is put aside.

Nothing in a backup is trusted but its genesis file, which the caller may compare: every block has to carry
the signatures of a commit quorum, and is executed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final

import grpc
from google.protobuf.message import DecodeError

from replication.errors import CallerError, OperatorError, PeerError
from replication.identity.genesis import Genesis, parse_genesis
from replication.identity.private_files import write_private
from replication.identity.tls import check_authorities
from replication.ledger import codec
from replication.ledger.application import VotingApplication
from replication.ledger.journal import SignJournal
from replication.ledger.store import Store
from replication.node.config import parse_config
from replication.node.home import CheckedHome, HomeInUseError, NodeHome, check_home, open_home
from replication.node.local.contact import own_channel
from replication.node.peers import FETCH_BYTES, MAX_MESSAGE_BYTES
from replication.ordering.blocks import Block, commands_root
from replication.ordering.certificates import Certificate, check_certificate
from replication.ordering.statements import Phase
from replication.v1 import log_pb2, peer_service_pb2, peer_service_pb2_grpc

__all__ = ["BackupError", "Restored", "back_up", "restore"]

BACKUP_FORMAT: Final = "agent-consensus/backup/2"
"""2 holds the authorities that the node trusted."""

MAX_HEAD_BYTES: Final = 4 * 1024 * 1024
"""A genesis file (1 MiB at most), as a string in JSON, and a configuration."""

CALL_SECONDS: Final = 30.0

_LENGTH: Final = struct.Struct(">I")
_TEXTS: Final = ("genesis", "config", "policy", "authorities")
_KEYS: Final = ("keys/signing.pem", "tls/node.key", "tls/node.crt")

Pairs = Iterator[tuple[Block, Certificate]]


class BackupError(OperatorError):
    """A backup cannot be made, or is not whole, or does not prove what it says; nothing was changed."""

    reason: ClassVar[str] = "BACKUP_REFUSED"


@dataclass(frozen=True, slots=True)
class Restored:
    """What a backup was, and which files the home still needs before a node can start on it."""

    genesis: Genesis
    member_id: str
    height: int
    missing: tuple[str, ...]
    keeps_journal: bool


def back_up(path: Path, file: Path, *, with_keys: bool = False) -> int:
    """Write a backup of the home at `path`, whether its node runs or not; the height that is in it.

    Raises:
        BackupError: the file exists or cannot be written, or the node does not answer.
        OperatorError, StorageError: the home or its record is not what it must be.
    """
    if file.exists():
        raise BackupError(f"{file} exists. Choose another name; a backup is never overwritten.")
    checked = check_home(path)
    try:
        opened = open_home(path)
    except HomeInUseError:
        with _connected(checked) as fetch:
            height = fetch(2**62).height
            return _write(checked, file, height, _fetched(fetch, height), with_keys)
    with opened:
        store = Store.create_or_open(opened.home.ledger, opened.genesis)
        with contextlib.closing(store):
            return _write(checked, file, store.height, _stored(store), with_keys)


def restore(file: Path, path: Path) -> Restored:
    """Make the home at `path` from a backup, or put the record back into a home that has lost it.

    Raises:
        BackupError: the backup is not whole or not genuine, or the home has a record or another genesis file.
    """
    home = NodeHome(path)
    if home.ledger.exists():
        raise BackupError(
            f"{path} has a record already, which may be newer than the backup. If it is damaged, move "
            f"{home.data} away first."
        )
    try:
        with file.open("rb") as stream:
            head = _read_head(file, stream)
            return _restore(file, stream, head, home)
    except OSError as error:
        raise BackupError(
            f"{error.filename or file} cannot be read or written: {error.strerror}. Check the path and the "
            "free space."
        ) from error


@dataclass(frozen=True, slots=True)
class _Head:
    genesis: Genesis
    config: str
    member_id: str
    policy: str
    height: int
    authorities: bytes
    keys: dict[str, str]


def _restore(file: Path, stream: BinaryIO, head: _Head, home: NodeHome) -> Restored:
    is_new = not home.path.exists()
    if not is_new and home.genesis.exists() and home.genesis.read_bytes() != head.genesis.raw:
        raise BackupError(f"{home.path} is of another cluster than {file}. Nothing was changed.")
    for folder in (home.path, home.path / "keys", home.path / "tls", home.data):
        folder.mkdir(mode=0o700, exist_ok=True)
    draft = home.data / f"restore.{secrets.token_hex(8)}.db"
    try:
        _replay(file, stream, head, draft)
        _furnish(home, head)
        _put_aside_old_journal(home, head)
        draft.replace(home.ledger)
    except BaseException:
        for left in home.data.glob(f"{draft.name}*"):
            left.unlink()
        if is_new:
            for folder in (home.data, home.path / "tls", home.path / "keys", home.path):
                with contextlib.suppress(OSError):
                    folder.rmdir()
        raise
    missing = tuple(str(item.relative_to(home.path)) for item in home.required if not item.exists())
    return Restored(head.genesis, head.member_id, head.height, missing, home.sign_journal.exists())


def _replay(file: Path, stream: BinaryIO, head: _Head, target: Path) -> None:
    """Verify every block, execute it, and write it to a new record at `target`."""
    with contextlib.closing(Store.create_or_open(target, head.genesis)) as store:
        application = VotingApplication(head.genesis, store)
        for block, certificate in _blocks(file, stream, head.height):
            try:
                _append(store, application, block, certificate)
            except (PeerError, CallerError) as error:
                raise BackupError(f"{file}: block {block.height} is not genuine: {error}") from error
        if store.height != head.height:
            raise BackupError(f"{file} ends at block {store.height} of {head.height}: it is not whole.")
        problem = store.verify()
        if problem:
            raise BackupError(f"{file}: the record made from it does not verify: {problem}")


def _append(store: Store, application: VotingApplication, block: Block, certificate: Certificate) -> None:
    """The checks by which a replica takes a fetched block (`ordering.replica`), then the block."""
    header, (head, _), members = block.header, store.head(), application.members
    if (header.cluster_id, header.epoch) != (store.genesis.cluster_id, members.epoch):
        raise PeerError("it is of another cluster or epoch")
    if (header.height, header.parent) != (head.height + 1, head.hash):
        raise PeerError(f"it does not follow block {head.height}")
    if (certificate.key.height, certificate.key.block_hash) != (header.height, header.hash):
        raise PeerError("it comes with the certificate of another block")
    check_certificate(certificate, Phase.COMMIT, store.genesis.cluster_id, members)
    if commands_root(block.commands) != header.commands_root:
        raise PeerError("it does not hold the commands that its header names")
    execution = application.execute(header.height, header.time_ms, block.commands)
    outcome = execution.audit_size, execution.audit_head, execution.entries_root
    if outcome != (header.audit_size, header.audit_head, header.entries_root):
        raise PeerError("its commands have another outcome than its header says")
    store.append(block, certificate, execution.entries)
    application.commit(execution)


def _furnish(home: NodeHome, head: _Head) -> None:
    """Everything but record and journal. What is there stays."""
    config = parse_config(head.config, str(home.config))
    files = {home.genesis: head.genesis.raw, home.tls_authority: head.authorities}
    if config.policy.file is not None:
        files[home.path / Path(config.policy.file).name] = head.policy.encode()
    files[home.config] = head.config.encode()
    for path, data in files.items():
        if not path.exists():
            path.write_bytes(data)
    for name, text in head.keys.items():
        if not (home.path / name).exists():
            write_private(home.path / name, text.encode())


def _put_aside_old_journal(home: NodeHome, head: _Head) -> None:
    """A member signs nothing about height h + 1 before its record holds h; and the backup holds `height`."""
    if not home.sign_journal.exists():
        return
    journal, state = SignJournal.open(home.sign_journal, head.genesis.cluster_id, head.member_id)
    journal.close()
    if state.committed_height < head.height - 1:
        home.sign_journal.replace(home.sign_journal.with_suffix(f".old-{secrets.token_hex(4)}"))


def _write(checked: CheckedHome, file: Path, height: int, pairs: Iterable[Any], with_keys: bool) -> int:
    """Write the backup beside its place, readable by this user only, and move it there when it is whole."""
    home, policy = checked.home, checked.config.policy.file
    head = {
        "format": BACKUP_FORMAT,
        "genesis": checked.genesis.raw.decode("utf-8"),
        "config": home.config.read_text(encoding="utf-8"),
        "policy": "" if policy is None else (home.path / policy).read_text(encoding="utf-8"),
        "height": height,
        "authorities": checked.tls.authorities.decode("ascii"),
        "keys": {name: (home.path / name).read_text(encoding="ascii") for name in _KEYS if with_keys},
    }
    draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}.tmp")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(json.dumps(head).encode("ascii") + b"\n")
            for block, certificate in pairs:
                item = log_pb2.CommittedBlock(
                    block=codec.block_to_pb(block), certificate=codec.certificate_to_pb(certificate)
                ).SerializeToString()
                stream.write(_LENGTH.pack(len(item)) + item)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    except OSError as error:
        raise BackupError(f"{file} cannot be written: {error.strerror}. Check the folder.") from error
    finally:
        draft.unlink(missing_ok=True)
    return height


def _read_head(file: Path, stream: BinaryIO) -> _Head:
    raw = stream.readline(MAX_HEAD_BYTES)
    try:
        head = json.loads(raw)
        if head["format"] != BACKUP_FORMAT:
            raise ValueError(f"its format is {head['format']!r:.80}, not {BACKUP_FORMAT}")
        texts = (*(head[name] for name in _TEXTS), *head["keys"].values())
        if not all(isinstance(text, str) for text in texts) or not set(head["keys"]) <= set(_KEYS):
            raise ValueError("its first line is not what it must be")
        if type(head["height"]) is not int or head["height"] < 0:
            raise ValueError("its height is no whole number")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackupError(f"{file} is not a backup by acp: {error}") from error
    config = parse_config(head["config"], f"config.toml in {file}")
    genesis = parse_genesis(head["genesis"].encode())
    authorities = check_authorities(head["authorities"].encode())
    return _Head(
        genesis, head["config"], config.id, head["policy"], head["height"], authorities, head["keys"]
    )


def _blocks(file: Path, stream: BinaryIO, height: int) -> Pairs:
    for number in range(1, height + 1):
        raw = stream.read(_LENGTH.size)
        size = _LENGTH.unpack(raw)[0] if len(raw) == _LENGTH.size else 0
        item = stream.read(size) if 0 < size <= MAX_MESSAGE_BYTES else b""
        if not item or len(item) != size:
            raise BackupError(f"{file} breaks off or is damaged at block {number} of {height}.")
        try:
            committed = log_pb2.CommittedBlock.FromString(item)
            yield codec.block_from_pb(committed.block), codec.certificate_from_pb(committed.certificate)
        except (DecodeError, PeerError) as error:
            raise BackupError(f"{file} is damaged at block {number} of {height}: {error}") from error
    if stream.read(1):
        raise BackupError(f"{file} goes on behind its last block, {height}: it is not what was written.")


def _stored(store: Store) -> Pairs:
    height = 1
    while page := store.blocks(height, FETCH_BYTES):
        yield from page
        height = page[-1][0].height + 1


def _fetched(fetch: Any, height: int) -> Pairs:
    number = 1
    while number <= height:
        page = fetch(number).blocks
        if not page:
            raise BackupError(f"the node gives no block {number} of {height}.")
        for item in page[: height + 1 - number]:
            yield codec.block_from_pb(item.block), codec.certificate_from_pb(item.certificate)
        number += len(page)


@contextlib.contextmanager
def _connected(checked: CheckedHome) -> Iterator[Any]:
    """Ask the running node of a home for pages of its blocks, with its own certificate."""
    with own_channel(checked) as channel:
        stub = peer_service_pb2_grpc.PeerServiceStub(channel)

        def fetch(height: int) -> peer_service_pb2.FetchBlocksResponse:
            request = peer_service_pb2.FetchBlocksRequest(from_height=height, max_bytes=FETCH_BYTES)
            try:
                return stub.FetchBlocks(request, timeout=CALL_SECONDS, wait_for_ready=True)
            except grpc.RpcError as error:
                raise BackupError(
                    f"the node of {checked.home.path} gives no blocks: {error}"[:300]
                ) from error

        yield fetch
