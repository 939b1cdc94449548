"""Addresses that cannot be listened at, each with its own words; and the log, one line an event."""

from __future__ import annotations

import io
import json
import logging
import shlex
import socket
from collections.abc import Iterator

import pytest

from replication.node.listening import ListenError, PortInUseError, require_free_port
from replication.node.logs import LineFormatter, configure_logging


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_port_that_somebody_listens_on(taken: str) -> None:
    with pytest.raises(PortInUseError, match=taken) as error:
        require_free_port(taken)
    assert error.value.reason == "PORT_IN_USE"


def test_a_free_port_stays_free(taken: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = f"127.0.0.1:{probe.getsockname()[1]}"
    require_free_port(free)
    require_free_port(free)


@pytest.mark.parametrize("listen", ["192.0.2.1:7001", "no-such-host.invalid:7001"])
def test_an_address_of_somebody_else(listen: str) -> None:
    with pytest.raises(ListenError) as error:
        require_free_port(listen)
    assert not isinstance(error.value, PortInUseError)
    assert listen in str(error.value)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The root logger as a node sets it up; put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("info", "node-1", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def test_every_event_is_one_line_whatever_is_in_it(log: io.StringIO) -> None:
    logger = logging.getLogger("replication.node.peers")
    logger.info("peer %s said %s", "node-2", "\x1b[31m\nlevel=error node=node-3")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("plain")
    logger.debug("not shown")
    first, second = log.getvalue().splitlines()
    assert first.isascii()
    assert "\x1b" not in first
    fields = dict(part.split("=", 1) for part in shlex.split(second, posix=False) if "=" in part)
    assert (fields["level"], fields["node"], fields["at"]) == ("error", "node-1", "node.peers")
    assert json.loads(second.split("error=", 1)[1]).endswith("ValueError: two\nlines")


def test_the_time_is_utc_with_milliseconds() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "hello", (), None)
    record.created, record.msecs = 1_700_000_000.25, 250.0
    line = LineFormatter("n").format(record)
    assert line == "time=2023-11-14T22:13:20.250Z level=info node=n at=x msg=hello"
