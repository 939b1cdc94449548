"""The side of the drill that lives inside a node process: what is armed, and what was seen there.

A node under test that needs it runs under `node_with_faults`, with a folder of its own outside of its home:

    armed.json      which behaviours are armed now, with their settings; replaced by the drill while the node
    runs effects.jsonl   what the behaviours did, one JSON object a line, written before the deed (it may be
    the last) signed.log      every signature the process made (`s`), and which of them left it (`r`)

The drill's half of the conversation is `InsideFolder`, the node's is `Control`.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["Armed", "Control", "InsideFolder"]

ARMED: Final = "armed.json"
EFFECTS: Final = "effects.jsonl"
SIGNED: Final = "signed.log"
MAX_EFFECTS: Final = 100
"""How many deeds of one armed behaviour are written down."""


@dataclass(frozen=True, slots=True)
class Armed:
    """A behaviour that is armed: `key` names the fault it is armed for."""

    key: str
    behaviour: str
    settings: Mapping[str, Any]


class InsideFolder:
    """The drill's view of one node's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._armed: dict[str, Armed] = {}
        self._write()

    @property
    def signed(self) -> Path:
        """The log of signatures."""
        return self.path / SIGNED

    def arm(self, armed: Armed) -> None:
        """From now on the node behaves so."""
        self._armed[armed.key] = armed
        self._write()

    def disarm(self, key: str) -> None:
        """Take back what was armed under `key`."""
        if self._armed.pop(key, None) is not None:
            self._write()

    def effects(self, key: str) -> list[str]:
        """What the behaviour armed under `key` has done so far."""
        return [item["text"] for item in self._effects() if item["key"] == key]

    def _effects(self) -> Iterator[Mapping[str, str]]:
        path = self.path / EFFECTS
        if not path.exists():
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)

    def _write(self) -> None:
        text = json.dumps(
            [
                {"key": item.key, "behaviour": item.behaviour, "settings": dict(item.settings)}
                for item in self._armed.values()
            ]
        )
        draft = self.path / f".{ARMED}.new"
        draft.write_text(text, encoding="utf-8")
        draft.replace(self.path / ARMED)


class Control:
    """The node's view: what is armed at this moment. Safe to ask from any thread, and cheap enough to ask
    always.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._version = -1
        self._armed: tuple[Armed, ...] = ()
        self._counts: dict[str, int] = {}
        self._effects = os.open(path / EFFECTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._signed = os.open(path / SIGNED, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def armed(self, behaviour: str) -> Armed | None:
        """How this behaviour is armed now; None when it is not."""
        self._read_if_changed()
        return next((item for item in self._armed if item.behaviour == behaviour), None)

    def count(self, key: str) -> int:
        """How often this was called for `key` in this process, this call included."""
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + 1
            return self._counts[key]

    def effect(self, armed: Armed, text: str) -> None:
        """Write down what is about to happen. It is with the kernel when this returns, and survives
        SIGKILL.

        """
        if self.count(f"effects of {armed.key}") <= MAX_EFFECTS:
            line = json.dumps({"key": armed.key, "text": text}) + "\n"
            os.write(self._effects, line.encode("utf-8"))

    def note_signed(self, line: str) -> None:
        """Add a line to the log of signatures."""
        os.write(self._signed, line.encode("ascii"))

    def _read_if_changed(self) -> None:
        path = self.path / ARMED
        version = path.stat().st_mtime_ns
        if version == self._version:
            return
        with self._lock:
            items = json.loads(path.read_text(encoding="utf-8"))
            self._armed = tuple(Armed(item["key"], item["behaviour"], item["settings"]) for item in items)
            self._version = version
