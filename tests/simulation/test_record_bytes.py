"""A record of two hundred entries, damaged in every byte and cut at every length.

The export: each byte changed in two ways, each length. A damaged line has to be refused by the verifier as it
stood in front of that line, and must leave it as it was, so that one way through the file is enough. The
store: bytes in use are changed and the file is opened; `RECORD_SHARE` of them are tried in one run, from
`RECORD_FROM` on, so that runs with other numbers, and a soak, get to all. The numbers are printed.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import lru_cache
from pathlib import Path
from random import Random

import pytest
from tests.security.test_record_damage import Judge, flip, long_cluster, make, used

from replication.identity import keys
from replication.identity.genesis import Genesis
from replication.ledger.verify import VerificationError, verify_export
from replication.ledger.verify.export import _Reader

MASKS = (0x01, 0x20)
"""The lowest bit (another digit or letter), and the bit of upper case."""

SHARE = 1 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else int(os.environ.get("RECORD_SHARE", "24"))
FIRST = int(os.environ.get("RECORD_FROM", "0"))


@pytest.fixture(autouse=True)
def _remembered_verifications(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature's answer never changes, and here the same ones are asked for many times."""
    monkeypatch.setattr(keys, "verify", lru_cache(maxsize=None)(keys.verify))


@pytest.fixture(scope="module")
def genesis_and_lines() -> tuple[Genesis, list[bytes]]:
    record = long_cluster().record
    return record.genesis, record.lines()


def is_refused(reader: _Reader, line: bytes) -> bool:
    try:
        reader.feed(line)
    except VerificationError:
        return True
    return False


def is_accepted(lines: list[bytes], genesis: Genesis) -> bool:
    try:
        verify_export(lines, genesis)
    except VerificationError:
        return False
    return True


@pytest.mark.slow
def test_every_byte_of_an_export_changed(genesis_and_lines: tuple[Genesis, list[bytes]]) -> None:
    genesis, lines = genesis_and_lines
    reader, counts = _Reader(genesis, None), Counter[str]()
    for number, line in enumerate(lines):
        for position in range(len(line)):
            for mask in MASKS:
                damaged = bytearray(line)
                damaged[position] ^= mask
                text = bytes(damaged)
                # A changed byte may make two lines of one.
                pieces = text.splitlines(keepends=True)
                if number and len(pieces) == 1 and is_refused(reader, text):
                    counts["refused at once"] += 1
                    continue
                changed = [*lines[:number], *pieces, *lines[number + 1 :]]
                assert not is_accepted(changed, genesis), f"line {number + 1}, byte {position}, {mask:#x}"
                counts["refused later"] += 1
                reader = _Reader(genesis, None)  # it may have taken the damaged line for a good one
                for before in lines[:number]:
                    reader.feed(before)
        reader.feed(line)
    assert reader.finish(len(lines)) == verify_export(lines, genesis), (
        "what was refused has changed something"
    )
    print(f"{counts.total()} damaged exports of {len(lines)} lines: {dict(counts)}")
    assert counts.total() == len(MASKS) * sum(map(len, lines))
    assert counts["refused at once"] > 0.98 * counts.total()


@pytest.mark.slow
def test_every_length_of_an_export(genesis_and_lines: tuple[Genesis, list[bytes]]) -> None:
    genesis, lines = genesis_and_lines
    reader, cuts = _Reader(genesis, None), 0
    for number, line in enumerate(lines):
        with pytest.raises(VerificationError):
            reader.finish(number)  # cut between two lines
        cuts += 1
        for length in range(1, len(line)):
            assert is_refused(reader, line[:length]), f"line {number + 1} cut to {length} bytes"
            cuts += 1
        reader.feed(line)
    assert reader.finish(len(lines)) == verify_export(lines, genesis), (
        "what was refused has changed something"
    )
    print(f"{cuts} lengths of an export of {len(lines)} lines")
    assert cuts == sum(map(len, lines))


@pytest.mark.slow
def test_bytes_of_the_store_changed(tmp_path: Path) -> None:
    judge = Judge(make(long_cluster(), tmp_path), tmp_path / "ledger.db")
    positions = used(judge.record.content)[FIRST % SHARE :: SHARE]
    flip(judge, positions, Random(FIRST))
    judge.report(f"one in {SHARE} of the bytes in use of {len(judge.record.content)}, from {FIRST % SHARE}")
    assert judge.counts["found"] > 0.9 * judge.counts.total()
