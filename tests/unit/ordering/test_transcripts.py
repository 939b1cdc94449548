"""Scenarios as transcripts (see tests/support/ordering_transcript.py for their language).

Each quotes the sentence of the protocol that it checks. To write the expected parts anew, after a look at
what changed: REWRITE_TRANSCRIPTS=1 pytest tests/unit/ordering/test_transcripts.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.ordering_transcript import Interpreter, split_steps

FOLDER = Path(__file__).with_name("transcripts")
FILES = sorted(FOLDER.glob("*.txt"))


def carried_out(text: str) -> str:
    """The transcript with what really happens."""
    interpreter = Interpreter()
    parts = []
    for preamble, commands, _ in split_steps(text):
        result = interpreter.run(commands)
        parts.append("\n".join(filter(None, [preamble, *commands, "----", result])))
    return "\n\n".join(parts) + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    text = path.read_text("utf-8")
    actual = carried_out(text)
    if os.environ.get("REWRITE_TRANSCRIPTS") == "1":
        path.write_text(actual, "utf-8")
    assert actual.splitlines() == text.splitlines()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_quotes_the_protocol(path: Path) -> None:
    assert "# > " in path.read_text("utf-8")


def test_there_are_transcripts() -> None:
    assert len(FILES) >= 15


def test_a_transcript_that_is_wrong_is_noticed() -> None:
    """The check can fail."""
    text = FILES[0].read_text("utf-8")
    assert carried_out(text.replace("\n----\n", "\n----\nm0 -> m1: lies\n", 1)) == text
