"""Files of enrolment: where they are in homes and in an authority's folder, and reading and writing them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from replication.errors import OperatorError
from replication.identity.enrolment import EnrolmentError
from replication.identity.private_files import read_private
from replication.identity.roles import Role
from replication.node.home import NodeHome

__all__ = [
    "authority_file",
    "is_authority",
    "load_authority",
    "naming",
    "next_key",
    "put",
    "read",
    "signing_key_file",
    "tls_key_file",
    "writing",
]

NEXT: Final = ".next"
"""What is appended to the name of a private key that has no certificate yet."""

MAX_FILE_BYTES: Final = 4 * 1024 * 1024


def is_authority(directory: Path) -> bool:
    """Whether an authority's private key is in the folder: one by `acp enrol invite`, or by `acp init`."""
    return (directory / "ca" / "ca.key").exists()


def load_authority(directory: Path) -> tuple[bytes, bytes]:
    """The certificates of the authorities that the folder trusts, and the key of the one that issues."""
    if not is_authority(directory):
        raise EnrolmentError(
            f"{directory} is not an authority's folder: it has no ca/ca.key. Make one with: acp enrol invite "
            f"{directory}"
        )
    return read(directory / "ca" / "ca.crt"), read_private(directory / "ca" / "ca.key")


def signing_key_file(home: Path, role: Role) -> Path:
    """The Ed25519 key of a node or executor."""
    return NodeHome(home).signing_key if role is Role.NODE else home / "signing.pem"


def tls_key_file(home: Path, role: Role) -> Path:
    """The private transport key; the certificate beside it ends in .crt."""
    if role is Role.NODE:
        return NodeHome(home).tls_key
    return home / "executor.key" if role is Role.EXECUTOR else home / "clients" / f"{role.value}.key"


def authority_file(home: Path, role: Role) -> Path:
    """The certificates of the authorities that the home trusts."""
    if role is Role.NODE:
        return NodeHome(home).tls_authority
    return home / "ca.crt" if role is Role.EXECUTOR else home / "ca" / "ca.crt"


def next_key(path: Path) -> Path:
    """Where a private key waits for its certificate."""
    return path.with_name(path.name + NEXT)


def read(file: Path) -> bytes:
    """What is in a file of enrolment. Raises `EnrolmentError`."""
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_FILE_BYTES)
    except OSError as error:
        raise EnrolmentError(f"{file} cannot be read: {error.strerror}. Check the path.") from error


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Begin the message of an error with the file."""
    try:
        yield
    except OperatorError as error:
        raise EnrolmentError(f"{file}: {error}") from error


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say of what cannot be written what to do."""
    try:
        yield
    except OSError as error:
        raise EnrolmentError(
            f"{error.filename or folder} cannot be written: {error.strerror}. Check the folder and its free "
            "space."
        ) from error


def put(file: Path, data: bytes) -> None:
    """Replace a public file at once: whoever reads it sees the old one or the new one."""
    draft = file.with_name(f"{file.name}.tmp")
    draft.write_bytes(data)
    draft.replace(file)
