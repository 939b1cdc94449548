"""Decision certificates: the proof of one decision, for somebody who has nothing else than the genesis file.

The format, and what each part proves, is described where it is checked: `ledger.verify.certificate` and
`ledger.verify.succession`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from replication.consensus.canonical import canonical_json
from replication.consensus.model import AuditEntry
from replication.identity.merkle import inclusion_path
from replication.ordering.certificates import Certificate

from .exporting import certificate_object, entry_object, header_object
from .schema import RecordDamagedError

if TYPE_CHECKING:
    from .reading import RecordReading

__all__ = ["CERTIFICATE_FORMAT", "decision_certificate"]

CERTIFICATE_FORMAT: Final = "agent-consensus/certificate/1"

Json = dict[str, Any]


def decision_certificate(record: RecordReading, proposal_id: str) -> str | None:
    """The certificate as one line of canonical JSON with its newline; None for an unknown or open
    proposal."""
    found = record.ask(
        "SELECT sequence, tally_sequence, decided_epoch FROM proposals WHERE id = ? AND status <> 'open'",
        proposal_id,
    )
    if not found:
        return None
    sequence, tally_sequence, epoch = found[0]
    tally, height = record.query_entries("WHERE entries.sequence = ?", tally_sequence)[0]
    proof = _inclusion(record, height, tally)
    document: Json = {
        "format": CERTIFICATE_FORMAT,
        "cluster_id": record.genesis.cluster_id.hex(),
        "proposal": entry_object(record.entry(sequence)),
        "votes": [entry_object(entry) for entry in _counted_votes(record, proposal_id, tally)],
        "tally": entry_object(tally),
        "inclusion": proof["inclusion"],
        "header": proof["header"],
        "commit": proof["commit"],
    }
    excluded = sorted(tally.data.get("excluded", {}).values())
    if excluded:
        document["evidence"] = [entry_object(record.entry(item)) for item in excluded]
    if epoch > 0:
        document["epochs"] = _succession(record, epoch)
    return canonical_json(document).decode("utf-8") + "\n"


def _counted_votes(record: RecordReading, proposal_id: str, tally: AuditEntry) -> list[AuditEntry]:
    """The last vote of everyone whom the tally names."""
    last: dict[str, AuditEntry] = {}
    for entry in record.entries_of(proposal_id, "vote"):
        if entry.sequence < tally.sequence and entry.actor_id in tally.data["votes"]:
            last[entry.actor_id or ""] = entry
    return sorted(last.values(), key=lambda entry: entry.sequence)


def _inclusion(record: RecordReading, height: int, entry: AuditEntry) -> Json:
    """That an entry stands in a block, and the block's header and commit certificate."""
    block, certificate = record.block(height)
    own = [item for item, _ in record.query_entries("WHERE height = ? ORDER BY entries.sequence", height)]
    index = next(position for position, item in enumerate(own) if item.sequence == entry.sequence)
    path = inclusion_path([bytes.fromhex(item.hash) for item in own], index)
    return {
        "inclusion": {"index": index, "size": len(own), "path": [node.hex() for node in path]},
        "header": header_object(block.header),
        "commit": certificate_object(_required(certificate, height)),
    }


def _succession(record: RecordReading, epoch: int) -> list[Json]:
    """From the members of the genesis file to those of `epoch`: the block that ended each epoch before it."""
    links = []
    found = record.query_entries("WHERE event_type = 'membership' ORDER BY entries.sequence LIMIT ?", epoch)
    for entry, height in found:
        links.append({"entry": entry_object(entry), **_inclusion(record, height, entry)})
    return links


def _required(certificate: Certificate | None, height: int) -> Certificate:
    if certificate is None:
        raise RecordDamagedError(f"block {height} has no certificate")
    return certificate
