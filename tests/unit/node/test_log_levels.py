"""The log as JSON, and its level while the process runs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from replication.node.logs import configure_logging, log_level, set_log_level


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    noisy = {name: logging.getLogger(name).level for name in ("asyncio", "grpc")}
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in noisy.items():
        logging.getLogger(name).setLevel(old)


def test_each_event_is_one_json_object_whatever_it_says(stream: io.StringIO) -> None:
    configure_logging("info", "node-1", stream, "json")
    log = logging.getLogger("replication.node.server")
    log.info('evil "target"\n{"level": "critical"}\x1b[2J')
    try:
        raise ValueError("bad")
    except ValueError:
        log.exception("a step failed")
    first, second = stream.getvalue().splitlines()
    assert json.loads(first)["msg"] == 'evil "target"\n{"level": "critical"}\x1b[2J'
    assert json.loads(first)["node"] == "node-1"
    assert json.loads(first)["at"] == "node.server"
    assert "\x1b" not in first
    assert "ValueError: bad" in json.loads(second)["error"]


def test_the_level_can_be_changed_while_the_process_runs(stream: io.StringIO) -> None:
    configure_logging("warning", "node-1", stream)
    log = logging.getLogger("replication.node.server")
    log.debug("hidden")
    set_log_level("debug")
    assert log_level() == "debug"
    log.debug("shown")
    assert "hidden" not in stream.getvalue()
    assert "shown" in stream.getvalue()
    set_log_level("error")
    log.warning("quiet")
    assert "quiet" not in stream.getvalue()
