"""What floods cost: `python -m tests.benchmarks.bench_floods [--seconds 60] [KIND ...]`.

Four members decide what honest clients propose, while an attacker floods the first of them (the coordinator)
from a process of its own. For each flood: decisions a second without it and with it, the ratio, the growth of
the node's memory, and what the attacker was answered. Kinds are those of tests/support/floods.py; by default
oversized requests, streams, and messages with bad signatures. For those of a member, the fourth is stopped
and its keys are the attacker's.

The attacker shares this machine's cores with the cluster, at a lower priority. Exit code 1 when the node grew
by more than 64 MiB, ended, or nothing was decided.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from tests.support.floods import FLOODS, OF_MEMBERS, flooding, memory_bytes
from tests.support.real_cluster import Cluster, made_cluster

from replication.cli.load import Measurement, measure
from replication.client import open_folder
from replication.node.local.provision import PolicyChoice

DEFAULT: Final = ("oversize", "watch", "signatures")
CLIENTS: Final = 4
MAX_GROWTH_BYTES: Final = 64 * 1024 * 1024
RULES: Final = '[[rule]]\nwhen = "true"\nvote = "approve"\nreason = "benchmark"\n'


def load(cluster: Cluster, seconds: float) -> Measurement:
    """Honest clients at all nodes."""
    handle = open_folder(cluster.directory)
    return asyncio.run(measure(handle, clients=CLIENTS, seconds=seconds, spread=True))


def run(cluster: Cluster, kind: str, seconds: float) -> bool:
    """One flood; prints its line, and says whether all was well."""
    pid, rates = cluster.pid("node-1"), []
    load(cluster, 1.0)
    before = memory_bytes(pid)
    growth = 0
    for flood in (nullcontext(), flooding(kind, cluster.directory)):
        with flood as attack:
            measured = load(cluster, seconds)
            rates.append(len(measured.load.decisions) / measured.load.seconds)
            growth = max(growth, memory_bytes(pid) - before) if attack else 0
    quiet, flooded = rates
    answers = dict(attack.answers) if attack else {}
    well = growth < MAX_GROWTH_BYTES and flooded > 0 and cluster.pid("node-1") == pid
    print(
        f"{kind:12} {quiet:8.1f}/s quiet {flooded:8.1f}/s flooded  ratio {flooded / quiet:.2f}  "
        f"memory {growth / 2**20:+.0f} MiB  {answers}{'' if well else '  FAILED'}",
        flush=True,
    )
    return well


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", choices=[*FLOODS, []])
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    kinds = sorted(arguments.kinds or DEFAULT, key=lambda kind: kind in OF_MEMBERS)
    well = True
    with tempfile.TemporaryDirectory(prefix="acp-floods-") as folder:
        policy = Path(folder) / "approve.toml"
        policy.write_text(RULES, encoding="utf-8")
        with made_cluster(Path(folder) / "cluster", policy=PolicyChoice("cel", file=policy)) as cluster:
            stopped = False
            for kind in kinds:
                if kind in OF_MEMBERS and not stopped:
                    cluster.stop("node-4")
                    stopped = True
                well = run(cluster, kind, arguments.seconds) and well
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
