"""The limit on open files is raised as far as possible; what it leaves is for connections."""

from __future__ import annotations

import subprocess
import sys

import pytest

from replication.node.open_files import LEAST_CONNECTIONS, MAX_CONNECTIONS, RESERVED_FILES

PROGRAM = """
import resource, sys
from replication.node.open_files import room_for_connections
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
print(room_for_connections(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
WANTED = MAX_CONNECTIONS + RESERVED_FILES


@pytest.mark.parametrize(
    ("soft", "hard", "room", "after"),
    [
        (256, 4096, MAX_CONNECTIONS, WANTED),
        (256, 1024, 1024 - RESERVED_FILES, 1024),
        (64, 128, LEAST_CONNECTIONS, 128),
        (4000, 4096, MAX_CONNECTIONS, 4000),
    ],
)
def test_room_for_connections(soft: int, hard: int, room: int, after: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(soft), str(hard)], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [str(room), str(after)]
    assert ("Raise the hard limit" in run.stderr) == (room < MAX_CONNECTIONS)
