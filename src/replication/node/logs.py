"""The log of a node: one line an event, in key=value form or as a JSON object, on stderr.

A message may hold text of strangers (a target, a peer's words). Every value is quoted as JSON where it holds
anything but plain characters, so that nobody can forge a line or drive a terminal.

What is logged while a call is answered has the id of the call, ``call=…``: it is in the error that the client
got.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from contextvars import ContextVar
from typing import Final, TextIO

__all__ = ["CALL_ID", "JsonFormatter", "LineFormatter", "configure_logging", "log_level", "set_log_level"]

CALL_ID: Final[ContextVar[str]] = ContextVar("call_id", default="")
"""The call that this task answers; empty in all others."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9._:/@-]+", re.ASCII)
_PACKAGE: Final = "replication."


class LineFormatter(logging.Formatter):
    """``time=… level=… node=… at=… msg="…"``, with ``call=…`` before the last where there is a call, and
    ``error="…"`` with the traceback where there is one."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        """The record in one line."""
        return " ".join(f"{key}={_quoted(value)}" for key, value in self._parts(record).items())

    def _parts(self, record: logging.LogRecord) -> dict[str, str]:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        parts = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "node": self._node,
            "at": record.name.removeprefix(_PACKAGE),
        }
        if call_id := CALL_ID.get():
            parts["call"] = call_id
        parts["msg"] = record.getMessage()
        if record.exc_info:
            parts["error"] = self.formatException(record.exc_info)
        return parts


class JsonFormatter(LineFormatter):
    """The same keys as an object of strings, in ASCII and on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        return json.dumps(self._parts(record))


def configure_logging(level: str, node: str, stream: TextIO | None = None, form: str = "text") -> None:
    """Send the log of this process to `stream` (default: stderr). `level` is one of `config.LOG_LEVELS`,
    `form` one of `config.LOG_FORMATS`."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(node) if form == "json" else LineFormatter(node))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    set_log_level(level)


def log_level() -> str:
    """The level at which this process logs."""
    return logging.getLevelName(logging.getLogger().level).lower()


def set_log_level(level: str) -> None:
    """Log at `level`, one of `config.LOG_LEVELS`, from now on; a restart reads the configuration again."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    # Says at info and below what is of use to the developers of these libraries only.
    for noisy in ("asyncio", "grpc"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value)
