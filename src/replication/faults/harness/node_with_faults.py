"""A node for drills: the real server, changed from outside by the behaviours that are named on the command
line.

    python -m replication.faults.harness.node_with_faults --home HOME --inside FOLDER [--behaviour NAME]...

The server that runs is the one that `acp node` runs, started in the same way; each behaviour replaces some of
its functions before it starts, and acts only while the drill has armed it. Nothing in a production node can
be told to lie or to crash: what does that is here, in code that production never imports."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from replication.faults.harness.behaviours import BEHAVIOURS
from replication.faults.harness.inside import Control
from replication.faults.harness.signature_log import record_signatures

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Become the node. Ends the process with the exit code of `acp node`."""
    parser = argparse.ArgumentParser(
        prog="node_with_faults", description="A node whose behaviour a drill can change."
    )
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--inside", type=Path, required=True)
    parser.add_argument("--behaviour", action="append", default=[], choices=sorted(BEHAVIOURS))
    options = parser.parse_args(arguments)
    control = Control(options.inside)
    for name in options.behaviour:
        BEHAVIOURS[name].install(control)
    record_signatures(control)
    sys.argv = ["acp", "node", "--home", str(options.home)]
    runpy.run_module("replication.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
