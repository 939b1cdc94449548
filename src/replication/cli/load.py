"""Load for a cluster: concurrent clients that propose and wait for the decision, and what that cost.

Every worker proposes, waits until the decision is committed, and proposes again. When its node goes away it
goes on with another one; a proposal that was sent is repeated there under its request id, so that nothing
happens twice."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from replication.client import (
    AsyncClient,
    ClusterHandle,
    ClusterPicture,
    RemoteError,
    merge,
    wait_until_settled,
)
from replication.client.model import ClusterStatus, Counters, Decision

__all__ = ["LoadResult", "Measurement", "measure", "percentile"]

CALL_SECONDS: Final = 20.0
PAUSE_AFTER_ERROR_SECONDS: Final = 0.1
SETTLE_SECONDS: Final = 60.0
WARM_UP_PROPOSALS: Final = 2


@dataclass(slots=True)
class LoadResult:
    """What the workers saw.

    `decisions` are the acknowledged ones, by proposal id; latencies in milliseconds.
    """

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    decisions: dict[str, Decision] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A load with its cost: sums over all nodes that could be asked before and after.

    `missing` are acknowledged decisions that a reachable node does not have: none, or something is badly
    wrong."""

    nodes: int
    clients: int
    load: LoadResult
    cost: Counters
    client_cpu_seconds: float
    blocks: int
    reachable: tuple[str, ...]
    heads_equal: bool
    missing: Mapping[str, tuple[str, ...]]

    @property
    def complete(self) -> bool:
        """Whether every acknowledged decision is on every reachable node, and all of those agree."""
        return self.heads_equal and not any(self.missing.values())

    def as_document(self) -> dict[str, Any]:
        """What `acp bench --json` prints."""
        decided = len(self.load.decisions)
        cpu = self.cost.cpu_seconds + self.client_cpu_seconds
        return {
            "nodes": self.nodes,
            "clients": self.clients,
            "seconds": round(self.load.seconds, 3),
            "decisions": decided,
            "decisions_per_second": _ratio(decided, self.load.seconds),
            "latency_p50_ms": percentile(self.load.latencies_ms, 0.50),
            "latency_p99_ms": percentile(self.load.latencies_ms, 0.99),
            "latency_max_ms": percentile(self.load.latencies_ms, 1.0),
            "signatures_verified_per_decision": _ratio(self.cost.signatures_verified, decided),
            "fsyncs_per_decision": _ratio(self.cost.fsyncs, decided),
            "cpu_seconds_per_decision": _ratio(cpu, decided, 6),
            "node_cpu_seconds_per_decision": _ratio(self.cost.cpu_seconds, decided, 6),
            "client_cpu_seconds_per_decision": _ratio(self.client_cpu_seconds, decided, 6),
            "decisions_per_block": _ratio(decided, self.blocks),
            "blocks": self.blocks,
            "cpus": os.cpu_count(),
            "outcomes": dict(Counter(decision.value for decision in self.load.decisions.values())),
            "errors": dict(self.load.errors),
            "reachable": list(self.reachable),
            "heads_equal": self.heads_equal,
            "missing": {node: list(ids) for node, ids in self.missing.items()},
            "complete": self.complete,
        }


async def measure(handle: ClusterHandle, *, clients: int, seconds: float, spread: bool) -> Measurement:
    """Load the cluster for `seconds` with `clients` workers and report what came of it.

    With `spread` the workers start at different nodes, else all at the first one.
    """
    count = len(handle.endpoints) if spread else 1
    connections = [AsyncClient(handle.starting_at(index)) for index in range(min(count, clients))]
    try:
        observer = connections[0]
        for connection in connections:
            for _ in range(WARM_UP_PROPOSALS):  # connections, caches, first-time imports
                await _one(connection, "warm-up")
        before, own_before = await observer.survey(), time.process_time()
        load = await _run(connections, clients, seconds)
        own_cpu = time.process_time() - own_before
        after = await observer.survey()
        picture = await wait_until_settled(observer, SETTLE_SECONDS, len(after))
        last = picture or merge(after)
        return Measurement(
            nodes=last.status.n,
            clients=clients,
            load=load,
            cost=_cost(before, after),
            client_cpu_seconds=own_cpu,
            blocks=_height(after) - _height(before),
            reachable=tuple(sorted(last.answered)),
            heads_equal=picture is not None,
            missing=await _missing(observer, last, load.decisions),
        )
    finally:
        for connection in connections:
            await connection.disconnect()


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that is at least as large as `share` of all values (nearest rank); None without
    values.
    """
    if not values:
        return None
    ordered = sorted(values)
    rank = max(0, -(-int(share * 1_000_000) * len(ordered) // 1_000_000) - 1)
    return round(ordered[rank], 3)


async def _run(connections: Sequence[AsyncClient], clients: int, seconds: float) -> LoadResult:
    result = LoadResult()
    start = time.perf_counter()
    stop = start + seconds
    await asyncio.gather(
        *(_work(connections[index % len(connections)], index, stop, result) for index in range(clients))
    )
    result.seconds = time.perf_counter() - start
    return result


async def _work(client: AsyncClient, index: int, stop: float, result: LoadResult) -> None:
    """One worker: propose and wait, again and again, until the time is up."""
    while (begin := time.perf_counter()) < stop:
        try:
            proposal_id, decision = await _one(client, f"agent-{index}")
        except RemoteError as error:
            result.errors[error.reason] += 1
            await asyncio.sleep(PAUSE_AFTER_ERROR_SECONDS)
            continue
        result.latencies_ms.append((time.perf_counter() - begin) * 1000)
        result.decisions[proposal_id] = decision


async def _one(client: AsyncClient, target: str) -> tuple[str, Decision]:
    proposal = await client.propose(
        "quarantine",
        target,
        {"signal": "load", "score": 0.97},
        window_ms=0,
        expiry_ms=0,
        wait_for_decision=True,
        timeout_seconds=CALL_SECONDS,
    )
    return proposal.id, proposal.decision


async def _missing(
    client: AsyncClient, picture: ClusterPicture, decisions: Mapping[str, Decision]
) -> dict[str, tuple[str, ...]]:
    """For each member that answers, the acknowledged decisions that it does not have, or has otherwise."""
    missing = {}
    for node in sorted(picture.answered):
        known = {item.id: item.decision async for item in client.list_proposals(page_size=500, node=node)}
        missing[node] = tuple(
            sorted(key for key, decision in decisions.items() if known.get(key) is not decision)
        )
    return missing


def _cost(before: Mapping[str, ClusterStatus], after: Mapping[str, ClusterStatus]) -> Counters:
    """Work done in between, summed over the nodes that answered at the end.

    A restarted node counts from zero.
    """
    total = Counters(0, 0, 0.0, 0, 0)
    for node, status in after.items():
        new, old = status.counters, before[node].counters if node in before else Counters(0, 0, 0.0, 0, 0)
        if new.cpu_seconds < old.cpu_seconds:
            old = Counters(0, 0, 0.0, 0, 0)
        total = Counters(
            total.signatures_verified + new.signatures_verified - old.signatures_verified,
            total.fsyncs + new.fsyncs - old.fsyncs,
            total.cpu_seconds + new.cpu_seconds - old.cpu_seconds,
            total.blocks + new.blocks - old.blocks,
            total.decisions + new.decisions - old.decisions,
        )
    return total


def _height(answers: Mapping[str, ClusterStatus]) -> int:
    return max((member.height for status in answers.values() for member in status.members), default=0)


def _ratio(part: float, whole: float, digits: int = 3) -> float | None:
    return round(part / whole, digits) if whole else None
