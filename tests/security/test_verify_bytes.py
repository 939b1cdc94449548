"""Nothing in a verified file is unbound: each flipped byte and each cut is found, and the place is named."""

from __future__ import annotations

import io
import re
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


@pytest.mark.slow
@pytest.mark.parametrize("mask", MASKS, ids=hex)
def test_each_flipped_byte_of_an_export_is_found(
    genesis_and_export: tuple[Genesis, bytes], mask: int
) -> None:
    genesis, export = genesis_and_export
    verify_bytes(export, genesis)
    missed = []
    for position in range(len(export)):
        damaged = bytearray(export)
        damaged[position] ^= mask
        line = export.count(b"\n", 0, position) + 1
        try:
            verify_bytes(bytes(damaged), genesis)
        except VerificationError as error:
            found = re.match(r"line (\d+)", str(error))
            # A flip in the first line may show only at the end; none shows before it happened.
            if found is None or int(found[1]) < line:
                missed.append((position, str(error)))
        else:
            missed.append((position, "accepted"))
    assert not missed


@pytest.mark.slow
def test_each_cut_of_an_export_is_found(genesis_and_export: tuple[Genesis, bytes]) -> None:
    genesis, export = genesis_and_export
    missed = []
    for length in range(len(export)):
        try:
            verify_bytes(export[:length], genesis)
        except VerificationError as error:
            if not re.match(r"line \d+.*: ", str(error)):
                missed.append((length, str(error)))
        else:
            missed.append((length, "accepted"))
    assert not missed


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
