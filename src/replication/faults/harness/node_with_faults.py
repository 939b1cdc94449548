"""A node for drills: the real server, changed from outside by the behaviours that are named on the command
line.

    python -m replication.faults.harness.node_with_faults --home HOME --inside FOLDER --drill PID
        [--behaviour NAME]... [--bug NAME]

The server that runs is the one that `acp node` runs, started in the same way; each behaviour replaces some of
its functions before it starts, and acts only while the drill has armed it. Nothing in a production node can
be told to lie or to crash: what does that is here, in code that production never imports."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from replication.faults.harness.behaviours import BEHAVIOURS
from replication.faults.harness.inside import Control
from replication.faults.harness.product_bugs import PRODUCT_BUGS, plant_bug
from replication.faults.harness.signature_log import record_signatures

__all__ = ["main"]

PR_SET_PDEATHSIG: Final = 1
"""Of <linux/prctl.h>."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Become the node. Ends the process with the exit code of `acp node`."""
    parser = argparse.ArgumentParser(
        prog="node_with_faults", description="A node whose behaviour a drill can change."
    )
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--inside", type=Path, required=True)
    parser.add_argument("--drill", type=int, required=True, help="pid of the parent")
    parser.add_argument("--behaviour", action="append", default=[], choices=sorted(BEHAVIOURS))
    parser.add_argument("--bug", choices=[bug.name for bug in PRODUCT_BUGS])
    options = parser.parse_args(arguments)
    _die_with(options.drill)
    control = Control(options.inside)
    for name in options.behaviour:
        BEHAVIOURS[name].install(control)
    record_signatures(control)
    if options.bug is not None:
        plant_bug(options.bug)
    sys.argv = ["acp", "node", "--home", str(options.home)]
    runpy.run_module("replication.cli", run_name="__main__", alter_sys=True)


def _die_with(drill: int) -> None:
    """Have the kernel kill this process when its parent dies, so that no drill leaves a node behind."""
    # Where there is no such call (prctl is Linux's), the node works as well, and has to be stopped by hand.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != drill:
        sys.exit("the drill is gone")  # before the kernel could be asked


if __name__ == "__main__":
    main()
