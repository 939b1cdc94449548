"""Private files: modes are judged by their bits (so for root as well), and writes are whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from replication.errors import OperatorError
from replication.identity import private_files
from replication.identity.private_files import KeyFileError, read_private, require_private, write_private


@pytest.fixture(params=[0o000, 0o022, 0o277])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_the_mode_is_0600_whatever_the_umask(tmp_path: Path) -> None:
    write_private(tmp_path / "secret", b"data")
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert read_private(tmp_path / "secret") == b"data"
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_the_file_never_exists_with_another_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    real = os.fchmod

    def record(descriptor: int, mode: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        real(descriptor, mode)

    monkeypatch.setattr(os, "fchmod", record)
    before = os.umask(0)
    try:
        write_private(tmp_path / "secret", b"data")
    finally:
        os.umask(before)
    assert modes == [0o600]


def test_an_open_file_is_replaced_by_a_closed_one(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    path.chmod(0o666)
    write_private(path, b"new")
    assert read_private(path) == b"new"


def test_data_is_on_disk_before_the_rename_and_the_rename_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> Path:
        assert source.read_bytes() == b"data"
        events.append("rename")
        return real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_private(tmp_path / "secret", b"data")
    assert events == ["file", "rename", "folder"]


@pytest.mark.parametrize("call", ["fsync", "fchmod"])
def test_a_failed_write_leaves_the_old_file_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "secret"
    write_private(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(
        KeyFileError, match=r"could not be written: No space left on device\. Check the folder"
    ):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="nowhere"):
        write_private(tmp_path / "nowhere" / "secret", b"data")


@pytest.mark.parametrize("check", [require_private, read_private])
@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o777, 0o440])
def test_a_file_open_to_others_is_refused_with_the_fix(tmp_path: Path, mode: int, check: object) -> None:
    path = tmp_path / "my key"
    write_private(path, b"data")
    path.chmod(mode)
    assert callable(check)
    with pytest.raises(OperatorError, match=rf"mode {mode:04o}.*run: chmod 600 '{path}'"):
        check(path)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_for_the_owner_alone_is_accepted(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    write_private(path, b"data")
    path.chmod(mode)
    require_private(path)
    assert read_private(path) == b"data"


def test_a_link_is_judged_by_what_it_points_to(tmp_path: Path) -> None:
    write_private(tmp_path / "secret", b"data")
    (tmp_path / "link").symlink_to("secret")
    assert read_private(tmp_path / "link") == b"data"
    (tmp_path / "secret").chmod(0o644)
    with pytest.raises(KeyFileError, match="0644"):
        require_private(tmp_path / "link")


@pytest.mark.parametrize("check", [require_private, read_private])
def test_what_is_no_regular_file_is_refused_and_hangs_nobody(tmp_path: Path, check: object) -> None:
    assert callable(check)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyFileError, match="not a regular file"):
        check(tmp_path / "pipe")
    with pytest.raises(KeyFileError, match=r"not a regular file|cannot be read"):
        check(tmp_path)
    with pytest.raises(KeyFileError, match="cannot be read: No such file"):
        check(tmp_path / "nothing")


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    write_private(tmp_path / "secret", bytes(private_files.MAX_PRIVATE_FILE_BYTES))
    assert len(read_private(tmp_path / "secret")) == private_files.MAX_PRIVATE_FILE_BYTES
    write_private(tmp_path / "secret", bytes(private_files.MAX_PRIVATE_FILE_BYTES + 1))
    with pytest.raises(KeyFileError, match="cannot be a key"):
        read_private(tmp_path / "secret")
