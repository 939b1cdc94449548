"""After the load: waiting until the nodes have one record, and fetching what the checkers are to see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from replication.client import AsyncClient, RemoteError, ResponseError, merge, open_folder
from replication.faults.harness.checks.material import Record, read_record
from replication.faults.harness.cluster import ClusterUnderTest
from replication.ledger.verify import VerificationError

__all__ = ["Gathered", "gather", "wait_for_one_record"]

POLL_SECONDS: Final = 0.1
SURVEY_SECONDS: Final = 3.0
EXPORT_SECONDS: Final = 60.0
CERTIFICATE_SECONDS: Final = 5.0
CERTIFICATES: Final = 12
"""How many decisions are proven at the end, spread over the record, each by another node."""


@dataclass(slots=True)
class Gathered:
    """Exports by member, why others gave none, and certificates by proposal and node."""

    records: dict[str, Record] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    certificates: dict[tuple[str, str], str] = field(default_factory=dict)


async def wait_for_one_record(client: AsyncClient, members: Collection[str], seconds: float) -> bool:
    """Wait until all of `members` answer and have one and the same record; False when the time is up."""
    give_up = time.monotonic() + seconds
    while True:
        answers = await client.survey(timeout_seconds=SURVEY_SECONDS)
        if set(members) <= set(answers):
            picture = merge({member: answers[member] for member in members})
            if picture.settled:
                return True
        if time.monotonic() > give_up:
            return False
        await asyncio.sleep(POLL_SECONDS)


async def gather(cluster: ClusterUnderTest, members: Collection[str], exports: Path) -> Gathered:
    """Fetch the export of each of `members` and keep it as a file, and some certificates."""
    found = Gathered()
    exports.mkdir(exist_ok=True)
    async with AsyncClient(open_folder(cluster.directory, "viewer"), rounds=2) as client:
        for member in members:
            try:
                lines = [
                    f"{line}\n".encode()
                    async for line in client.export_chain(node=member, timeout_seconds=EXPORT_SECONDS)
                ]
                await asyncio.to_thread((exports / f"{member}.jsonl").write_bytes, b"".join(lines))
                found.records[member] = read_record(lines)
            except (RemoteError, ResponseError, ValueError, KeyError) as error:
                found.missing[member] = f"{type(error).__name__}: {error}"
        await _certificates(client, found, CERTIFICATE_SECONDS * cluster.site.pace)
    return found


async def _certificates(client: AsyncClient, found: Gathered, seconds: float) -> None:
    """Certificates of decisions from all over the record, each asked of another node."""
    longest = max(found.records.values(), key=lambda record: len(record.entries), default=Record((), ()))
    decided = [entry["proposal_id"] for entry in longest.of_type("tally", "expired")]
    nodes = sorted(found.records)
    step = max(len(decided) // CERTIFICATES, 1)
    for index, name in enumerate(decided[::step]):
        node = nodes[index % len(nodes)]
        try:
            certificate = await client.certificate(name, node=node, timeout_seconds=seconds)
            found.certificates[name, node] = certificate.text
        except VerificationError:
            # The client has refused it. The checker verifies again, and says so, if it gets the text.
            found.certificates[name, node] = await _raw_certificate(client, name, node, seconds)
        except (RemoteError, ResponseError) as error:
            found.missing[f"{node}, certificate of {name}"] = str(error)


async def _raw_certificate(client: AsyncClient, name: str, node: str, seconds: float) -> str:
    """The text of a certificate as the node gave it, not verified."""
    from dataclasses import replace

    async with AsyncClient(replace(client.handle, genesis=None), rounds=2) as unsuspecting:
        return (await unsuspecting.certificate(name, node=node, timeout_seconds=seconds)).text
