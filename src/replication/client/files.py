"""Files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from replication.errors import OperatorError

__all__ = ["write_whole"]


def write_whole(path: Path, data: bytes) -> None:
    """Write a whole file or leave the old one. Raises `OperatorError`."""
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error.strerror}. Check the folder.") from error
