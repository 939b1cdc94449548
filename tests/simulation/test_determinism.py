"""The same seed gives the same run, event by event, in another process with another hash seed."""

from __future__ import annotations

import os
import subprocess
import sys

SEEDS = 100
PROGRAM = """
from replication.faults.simulation.scenario import draw
from replication.faults.simulation.world import run
for seed in range({first}, {first} + {count}):
    print(seed, run(draw(seed)).digest)
"""


def test_two_fresh_processes_agree() -> None:
    runs = []
    for hash_seed in ("1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        runs.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(first=900_000, count=SEEDS)],
                stdout=subprocess.PIPE,
                env=environment,
                text=True,
            )
        )
    one, other = (run.communicate()[0].splitlines() for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    assert len(one) == SEEDS
    assert one == other
