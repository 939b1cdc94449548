"""What is changed in a node process: that it is the right place, acts only when armed, and leaves a trace."""

from __future__ import annotations

import errno
import importlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from replication.faults.harness.behaviours import BEHAVIOURS
from replication.faults.harness.catalogue import KINDS
from replication.faults.harness.crash_points import POINTS
from replication.faults.harness.fault import Need
from replication.faults.harness.inside import Armed, Control, InsideFolder
from replication.faults.harness.message_behaviours import MESSAGE_KINDS
from replication.ordering import messages


@pytest.mark.parametrize("name", sorted(POINTS))
def test_every_crash_point_is_a_function_that_exists(name: str) -> None:
    point = POINTS[name]
    owner, _, method = point.function.partition(".")
    found = getattr(getattr(importlib.import_module(point.module), owner), method)
    assert callable(found)


def test_every_kind_of_message_has_a_name() -> None:
    classes = {item.__name__ for item in messages.Message.__args__}
    assert set(MESSAGE_KINDS) == classes


def test_every_behaviour_is_a_kind_of_fault() -> None:
    for name, behaviour in BEHAVIOURS.items():
        kind = KINDS[name]
        assert kind.settings == behaviour.settings
        assert kind.needs == {Need.INSIDE}
        assert kind.blames == behaviour.lies


def test_what_is_armed_is_seen_inside_and_what_happens_there_outside(tmp_path: Path) -> None:
    folder = InsideFolder(tmp_path / "node-1")
    control = Control(folder.path)
    assert control.armed("silent") is None
    folder.arm(Armed("1 node-1", "silent", {"messages": ("all",)}))
    armed = control.armed("silent")
    assert armed is not None
    assert (armed.key, armed.settings["messages"]) == ("1 node-1", ["all"])
    control.effect(armed, "did not speak")
    assert folder.effects("1 node-1") == ["did not speak"]
    assert folder.effects("2 node-1") == []
    folder.disarm("1 node-1")
    assert control.armed("silent") is None


def test_effects_of_one_fault_are_bounded(tmp_path: Path) -> None:
    folder = InsideFolder(tmp_path)
    control = Control(tmp_path)
    armed = Armed("1", "silent", {})
    for number in range(500):
        control.effect(armed, f"effect {number}")
    assert len(folder.effects("1")) == 100


def run_inside(folder: Path, behaviours: list[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process where these behaviours are installed, as in a node under the wrapper."""
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from replication.faults.harness.behaviours import BEHAVIOURS\n"
        "from replication.faults.harness.inside import Control\n"
        f"control = Control(Path({str(folder)!r}))\n"
        f"for name in {behaviours!r}: BEHAVIOURS[name].install(control)\n{code}"
    )
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


JOURNAL = """
from replication.ledger.journal import SignJournal
from replication.ordering.effects import KeepCommand
journal = SignJournal.create(control.path / 'sign.journal', bytes(32), 'node-1')
"""


@pytest.mark.parametrize(
    ("point", "passes"),
    [("before-promise", 1), ("after-promise", 1), ("torn-promise", 3)],  # making the journal writes twice
)
def test_a_crash_at_a_point_is_a_kill_that_was_written_down(tmp_path: Path, point: str, passes: int) -> None:
    folder = InsideFolder(tmp_path)
    code = JOURNAL + "journal.write([KeepCommand(b'command')])\nprint('survived')"
    folder.arm(Armed("1", "crash", {"point": point, "pass": passes}))
    done = run_inside(tmp_path, ["crash"], code)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "survived" not in done.stdout
    assert folder.effects("1")[0].startswith("SIGKILL")


def test_nothing_crashes_while_nothing_is_armed(tmp_path: Path) -> None:
    InsideFolder(tmp_path)
    done = run_inside(
        tmp_path, ["crash"], JOURNAL + "journal.write([KeepCommand(b'command')])\nprint('survived')"
    )
    assert done.stdout.strip() == "survived", done.stderr


@pytest.mark.parametrize(("error", "code"), [("EIO", errno.EIO), ("ENOSPC", errno.ENOSPC)])
def test_a_failing_journal_fails_as_the_system_does(tmp_path: Path, error: str, code: int) -> None:
    folder = InsideFolder(tmp_path)
    folder.arm(Armed("1", "disk-error", {"file": "journal", "operation": "sync", "error": error, "times": 1}))
    program = (
        "from replication.ledger.files import Files\n"
        "descriptor = Files().create(control.path / 'file')\n"
        "try:\n    Files().sync(descriptor)\nexcept OSError as error:\n    print(error.errno)\n"
        "Files().sync(descriptor)\nprint('again')"
    )
    done = run_inside(tmp_path, ["disk-error"], program)
    assert done.stdout.split() == [str(code), "again"], done.stderr
    assert folder.effects("1") == [f"{error} on sync of the journal"]


@pytest.mark.parametrize("both", [False, True])
def test_a_failing_record_fails_as_sqlite_does(tmp_path: Path, both: bool) -> None:
    folder = InsideFolder(tmp_path)
    folder.arm(
        Armed("1", "disk-error", {"file": "ledger", "operation": "write", "error": "ENOSPC", "times": 0})
    )
    program = (
        "import sqlite3\n"
        "connection = sqlite3.connect(control.path / 'ledger.db')\n"
        "connection.execute('CREATE TABLE t (x)')\n"
        "for _ in range(2):\n"
        "    try:\n        connection.execute('INSERT INTO t VALUES (1)')\n"
        "    except sqlite3.OperationalError as error:\n        print(error.sqlite_errorcode, error)\n"
    )
    done = run_inside(tmp_path, ["slow-disk", "disk-error"] if both else ["disk-error"], program)
    assert done.stdout.splitlines() == [f"{sqlite3.SQLITE_FULL} database or disk is full"] * 2, done.stderr
    assert folder.effects("1") == ["ENOSPC on write of the ledger"] * 2


def test_a_slow_disk_takes_its_time(tmp_path: Path) -> None:
    folder = InsideFolder(tmp_path)
    folder.arm(Armed("1", "slow-disk", {"sync_ms": 150.0}))
    program = (
        "import time\nfrom replication.ledger.files import Files\n"
        "descriptor = Files().create(control.path / 'file')\n"
        "began = time.monotonic()\nFiles().sync(descriptor)\nprint(time.monotonic() - began)"
    )
    done = run_inside(tmp_path, ["slow-disk"], program)
    assert float(done.stdout) >= 0.15, done.stderr
    assert folder.effects("1")


@pytest.mark.parametrize(("jump", "low", "high"), [(3600.0, 3590, 3700), (-60.0, -70, 40)])
def test_a_wrong_clock_is_off_while_it_is_armed(tmp_path: Path, jump: float, low: float, high: float) -> None:
    folder = InsideFolder(tmp_path)
    folder.arm(Armed("1", "clock", {"jump_seconds": jump, "speed": 1.0}))
    program = (
        "import time\nprint(time.time())\n"
        "from replication.node.clock import NodeClock\nprint(NodeClock()() / 1000)\n"
        "(control.path / 'armed.json').write_text('[]')\nprint(time.time_ns() / 1e9)"
    )
    now = time.time()
    done = run_inside(tmp_path, ["clock"], program)
    wrong, node, right = (float(word) - now for word in done.stdout.split())
    assert low < wrong < high
    assert low < node < high
    assert -1 < right < 60
    assert folder.effects("1") == [f"the clock is {jump:+g} s off"]


def test_a_clock_at_double_speed(tmp_path: Path) -> None:
    folder = InsideFolder(tmp_path)
    folder.arm(Armed("1", "clock", {"jump_seconds": 0.0, "speed": 2.0}))
    program = (
        "import time\na, first, b = time.monotonic(), time.time(), time.monotonic()\ntime.sleep(0.3)\n"
        "c, last, d = time.monotonic(), time.time(), time.monotonic()\nprint(c - b, last - first, d - a)"
    )
    done = run_inside(tmp_path, ["clock"], program)
    inside, shown, around = (float(word) for word in done.stdout.split())
    assert 1.8 * inside < shown < 2.2 * around, done.stderr


def test_signatures_are_written_down_when_they_are_made_and_when_they_leave(tmp_path: Path) -> None:
    InsideFolder(tmp_path)
    program = (
        "from replication.faults.harness.signature_log import record_signatures\n"
        "record_signatures(control)\n"
        "from replication.identity.keys import SigningKey\nfrom replication.node import peers\n"
        "from replication.v1 import peer_service_pb2 as pb\n"
        "key = SigningKey.from_seed(bytes(32))\n"
        "kept, sent = key.sign(b'kept'), key.sign(b'sent')\n"
        "for _ in range(2): peers.encode_frame(pb.PeerMessage(suspect=pb.Suspect(signature=sent)))\n"
        "print(kept.hex(), sent.hex())"
    )
    first = run_inside(tmp_path, [], program)
    kept, sent = first.stdout.split()
    lines = (tmp_path / "signed.log").read_text().splitlines()
    assert lines == [f"s {b'kept'.hex()} {kept}", f"s {b'sent'.hex()} {sent}", f"r {sent}"]
    # A later process of the node sends what the first one made.
    again = program.replace(
        "kept, sent = key.sign(b'kept'), key.sign(b'sent')", "kept = sent = key.sign(b'kept')"
    )
    again = again.replace("key.sign(b'kept')", f"bytes.fromhex('{kept}')")
    assert run_inside(tmp_path, [], again).returncode == 0
    assert (tmp_path / "signed.log").read_text().splitlines()[3:] == [f"r {kept}"]


def test_a_torn_armed_file_is_never_seen(tmp_path: Path) -> None:
    folder = InsideFolder(tmp_path)
    for number in range(50):
        folder.arm(Armed(str(number), "late", {}))
        assert len(json.loads((tmp_path / "armed.json").read_text())) == number + 1
    assert not list(tmp_path.glob(".*.new"))
