"""What it costs to be watched: `python -m tests.benchmarks.bench_monitoring [--seconds 4] [--rounds 4]`.

One cluster of four members decides what clients propose, in turns alone and with its metrics fetched from
every node each second. Prints decisions a second of each turn, the ratio of the two sums, and how long a
scrape took.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from tests.support.real_cluster import Cluster, made_cluster

from replication.cli.load import measure
from replication.client import open_folder
from replication.node.config import read_config
from replication.node.local.provision import PolicyChoice

CLIENTS: Final = 4
EVERY_SECONDS: Final = 1.0
RULES: Final = '[[rule]]\nwhen = "true"\nvote = "approve"\nreason = "benchmark"\n'


@contextmanager
def scraping(urls: list[str], took: list[float]) -> Iterator[None]:
    """Fetch the metrics of all nodes each second; `took` gets the seconds of each."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            for url in urls:
                began = time.perf_counter()
                with urlopen(url, timeout=10) as response:  # loopback
                    response.read()
                took.append(time.perf_counter() - began)
            stop.wait(EVERY_SECONDS)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def rate(cluster: Cluster, seconds: float) -> float:
    """Decisions a second of clients at all nodes."""
    handle = open_folder(cluster.directory)
    found = asyncio.run(measure(handle, clients=CLIENTS, seconds=seconds, spread=True)).load
    return len(found.decisions) / found.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "approve.toml"
        rules.write_text(RULES, encoding="utf-8")
        choice = PolicyChoice("cel", file=rules)
        with made_cluster(Path(folder) / "cluster", policy=choice, metrics=True) as cluster:
            configs = [read_config(home / "config.toml") for home in cluster.local.homes]
            urls = [f"http://{config.monitoring}/metrics" for config in configs]
            took: list[float] = []
            alone: list[float] = []
            watched: list[float] = []
            rate(cluster, 1.0)
            for number in range(2 * options.rounds):
                is_watched = number % 4 in (1, 2)  # alone, watched, watched, alone: what drifts falls on both
                with scraping(urls, took) if is_watched else nullcontext():
                    (watched if is_watched else alone).append(rate(cluster, options.seconds))
                print(
                    "watched" if is_watched else "alone  ", f"{(watched if is_watched else alone)[-1]:8.1f}/s"
                )
    ratio = sum(watched) / sum(alone)
    print(f"ratio {ratio:.3f}; a scrape took {statistics.median(took) * 1000:.1f} ms (median of {len(took)})")


if __name__ == "__main__":
    main()
