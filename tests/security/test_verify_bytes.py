"""Nothing in a verified file is unbound: each flipped byte and each cut is found, and the place is named."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import pytest
from tests.support.record_factory import dumps, small_record

from replication.identity import keys
from replication.identity.genesis import Genesis
from replication.ledger.verify import (
    MAX_LINE_BYTES,
    VerificationError,
    read_lines,
    verify_certificate,
    verify_export,
)
from replication.ledger.verify.export import _Reader

# The lowest bit (another digit or letter), the bit of upper case, the bit that leaves ASCII.
MASKS = (0x01, 0x20, 0x80)


@pytest.fixture(autouse=True)
def _remembered_verifications(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature's answer never changes, and here the same ones are asked for thousands of times."""
    monkeypatch.setattr(keys, "verify", lru_cache(maxsize=None)(keys.verify))


@pytest.fixture(scope="module")
def genesis_and_export() -> tuple[Genesis, bytes]:
    record = small_record().seal()
    return record.genesis, record.export()


def verify_bytes(export: bytes, genesis: Genesis) -> None:
    verify_export(read_lines(io.BytesIO(export)), genesis)


def changes(line: bytes) -> Iterator[tuple[str, bytes]]:
    """The line with each byte changed in each way, and cut at each length."""
    for position in range(len(line)):
        for mask in MASKS:
            damaged = bytearray(line)
            damaged[position] ^= mask
            yield f"byte {position} changed by {mask:#x}", bytes(damaged)
        yield f"cut to {position} bytes", line[:position]


def test_each_flipped_byte_and_each_cut_of_an_export_is_found(
    genesis_and_export: tuple[Genesis, bytes],
) -> None:
    """Of the line alone where it is refused at once, as nearly all are; else in the whole file."""
    genesis, export = genesis_and_export
    lines = export.splitlines(keepends=True)
    reader, missed, later = _Reader(genesis, None), [], 0
    for number, line in enumerate(lines, 1):
        for change, damaged in changes(line):
            # A flip in the first line may show only at the end; one of a line's end makes two lines one.
            # Some of the others go the whole way too, to see that the place is named.
            sampled = change.startswith(f"byte {number} ")
            if number > 1 and not sampled and damaged.splitlines(keepends=True) == [damaged]:
                try:
                    reader.feed(damaged)
                except VerificationError:
                    continue
                reader = fed(genesis, lines[: number - 1])  # it has taken the damaged line for a good one
            later += 1
            rest = b"" if change.startswith("cut") else b"".join(lines[number:])
            try:
                verify_bytes(b"".join(lines[: number - 1]) + damaged + rest, genesis)
            except VerificationError as error:
                found = re.match(r"line (\d+).*: ", str(error))
                if found is None or int(found[1]) < number - (damaged == b""):
                    missed.append((number, change, str(error)))
            else:
                missed.append((number, change, "accepted"))
        reader.feed(line)
    assert not missed
    assert later < len(export), "most are refused at once"
    whole = replace(reader.finish(len(lines)), signatures=0)  # it has counted those of what it refused
    assert whole == replace(verify_export(lines, genesis), signatures=0), "what was refused changed nothing"


def fed(genesis: Genesis, lines: list[bytes]) -> _Reader:
    reader = _Reader(genesis, None)
    for line in lines:
        reader.feed(line)
    return reader


def test_each_removed_line_and_each_pair_of_swapped_lines_is_found() -> None:
    record = small_record().seal()
    lines = record.lines()
    for index in range(len(lines)):
        with pytest.raises(VerificationError, match=r"^line \d+"):
            verify_export([*lines[:index], *lines[index + 1 :]], record.genesis)
        with pytest.raises(VerificationError, match=r"^line \d+"):
            verify_export([*lines[: index + 1], *lines[index:]], record.genesis)
        for other in range(index):
            swapped = list(lines)
            swapped[index], swapped[other] = swapped[other], swapped[index]
            with pytest.raises(VerificationError, match=r"^line \d+"):
                verify_export(swapped, record.genesis)


@pytest.mark.parametrize("tail", [b"\n", b" ", b"{}\n", b"\x00", b"{"])
def test_nothing_may_follow_the_end(genesis_and_export: tuple[Genesis, bytes], tail: bytes) -> None:
    genesis, export = genesis_and_export
    with pytest.raises(VerificationError, match=r"^line 22"):
        verify_bytes(export + tail, genesis)


def test_a_well_formed_line_after_the_end_is_found(genesis_and_export: tuple[Genesis, bytes]) -> None:
    genesis, export = genesis_and_export
    with pytest.raises(VerificationError, match=r"^line 22, block 4: there is more after the end line"):
        verify_bytes(export + export.splitlines(keepends=True)[-1], genesis)


def test_an_endless_line_is_refused_without_reading_it_all(genesis_and_export: tuple[Genesis, bytes]) -> None:
    genesis, _ = genesis_and_export
    endless = io.BytesIO(b'{"a":"' + b"a" * (3 * MAX_LINE_BYTES))
    with pytest.raises(VerificationError, match=rf"^line 1: longer than {MAX_LINE_BYTES} bytes"):
        verify_export(read_lines(endless), genesis)
    assert endless.tell() <= MAX_LINE_BYTES + 1


@pytest.mark.parametrize("proposal_id", ["prop-0001", "prop-0002", "prop-0003", "prop-0004"])
def test_each_flipped_byte_and_each_cut_of_a_certificate_is_found(proposal_id: str) -> None:
    record = small_record().seal()
    text = dumps(record.certificate(proposal_id)) + b"\n"
    verify_certificate(text, record.genesis)
    missed = []
    for position in range(len(text)):
        for mask in MASKS[:2]:
            damaged = bytearray(text)
            damaged[position] ^= mask
            try:
                verify_certificate(bytes(damaged), record.genesis)
            except VerificationError as error:
                if not str(error).startswith("certificate"):
                    missed.append((position, str(error)))
            else:
                missed.append((position, "accepted"))
        with pytest.raises(VerificationError, match=r"^certificate: "):
            verify_certificate(text[:position], record.genesis)
    with pytest.raises(VerificationError, match=r"^certificate: "):
        verify_certificate(text + b"\n", record.genesis)
    assert not missed
