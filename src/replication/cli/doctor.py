"""`acp doctor`: what is wrong with a cluster, and what to do about it."""

from __future__ import annotations

import shutil
import socket
import stat
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from replication.cli.options import Connection
from replication.cli.output import console, note, print_json, table

if TYPE_CHECKING:
    from replication.client import Client, ClusterHandle, Endpoint
    from replication.client.diagnosis import Evidence, Finding
    from replication.client.model import ClusterStatus

__all__ = ["SURVEY_SECONDS", "doctor", "examine"]

FINDINGS = 4
"""Exit code when something was found (`main.ExitCode.CONFLICT`)."""

SURVEY_SECONDS = 3.0
FREE_BYTES = 1 << 30
"""A node that cannot write stops; a gigabyte is days of a busy cluster."""

PLAIN_SECONDS = 1.0

RECENT_ENTRIES = 1_000
"""How far back in the record changes of the coordinator are looked for."""

PAGE_SIZE = 500


def doctor(options: Connection) -> None:
    """Look for what is wrong: nodes, quorum, records, clocks, certificates, files here. Exit code 4 if
    something is."""
    from replication.client import Client
    from replication.client.diagnosis import diagnose

    handle = options.handle()
    with Client(handle, rounds=1) as client:
        evidence = examine(client, handle, min(SURVEY_SECONDS, options.timeout))
    findings = [*diagnose(evidence), *_homes(options.directory)]
    if options.json:
        print_json([_document(finding) for finding in findings])
    elif findings:
        rows = [(finding.severity, finding.subject, finding.what, finding.advice) for finding in findings]
        console().print(table("Findings", ("severity", "where", "what", "what to do"), rows))
    else:
        note(f"{len(evidence.answers)} nodes answered, and nothing is wrong with them.")
    if findings:
        raise typer.Exit(FINDINGS)


def examine(client: Client, handle: ClusterHandle, seconds: float) -> Evidence:
    """Ask all nodes how they are, for `seconds` each time; what does not answer is looked at from outside."""
    from replication.client import RemoteError
    from replication.client.diagnosis import Evidence

    asked_ms = time.time_ns() // 1_000_000
    answers = client.survey(timeout_seconds=seconds)
    known = {endpoint.member_id or endpoint.address: endpoint for endpoint in handle.endpoints}
    addresses = {member.id: member.address for answer in answers.values() for member in answer.members}
    failures = {
        name: _why_silent(endpoint, handle)
        for name, endpoint in known.items()
        if name not in answers and endpoint.address not in {addresses.get(node) for node in answers}
    }
    membership = summary = None
    changes_ms: list[int] = []
    if answers:
        try:
            membership = client.members(timeout_seconds=seconds)
            summary = client.summary(timeout_seconds=seconds)
            start = max(0, client.audit_head(timeout_seconds=seconds).audit_size - RECENT_ENTRIES)
            page = client.audit_entries(start, PAGE_SIZE, event_type="coordinator", timeout_seconds=seconds)
            changes_ms = [entry.time_ms for entry in page.entries]
        except RemoteError as error:
            note(f"The record could not be asked: {error}")
    return Evidence(
        answers=answers,
        asked_ms=asked_ms,
        failures=failures,
        membership=membership,
        summary=summary,
        cluster_id=None if handle.genesis is None else handle.genesis.cluster_id,
        client_expires_ms=_expiry_ms(handle.certificate),
        changes_ms=changes_ms,
        hashes=_hashes(client, answers, seconds),
    )


def _hashes(
    client: Client, answers: Mapping[str, ClusterStatus], seconds: float
) -> dict[int, dict[str, str]]:
    """Where longer records would end if they were as short as others, by length and node; see
    `diagnosis.Evidence`. All nodes are asked at once, one entry after another, for `seconds` in all."""
    from replication.client.diagnosis import shorter_lengths

    hashes: dict[int, dict[str, str]] = defaultdict(dict)

    def ask(node: str, sizes: list[int]) -> None:
        give_up = time.monotonic() + seconds
        for size in sizes:
            hashes[size][node] = shown = _shown(client, node, size - 1, give_up - time.monotonic())
            if not shown:
                return

    with ThreadPoolExecutor(max_workers=len(answers) or 1) as threads:
        asking = [threads.submit(ask, node, sizes) for node, sizes in shorter_lengths(answers).items()]
    for asked in asking:
        asked.result()
    return hashes


def _shown(client: Client, node: str, sequence: int, seconds: float) -> str:
    """The hash of an entry, as a node shows it; empty if it does not."""
    from replication.client import RemoteError, ResponseError, UsageError

    try:
        page = client.audit_entries(sequence, 1, node=node, timeout_seconds=max(seconds, 0.001))
    except (RemoteError, ResponseError, UsageError):
        return ""
    return page.entries[0].hash if page.entries else ""


def _why_silent(endpoint: Endpoint, handle: ClusterHandle) -> str:
    """What a node without an answer does when it is spoken to without TLS."""
    host, _, port = endpoint.address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PLAIN_SECONDS) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            connection.settimeout(PLAIN_SECONDS)
            answer = connection.recv(64)
    except ConnectionRefusedError:
        return f"nothing listens at {endpoint.address}"
    except TimeoutError:
        return f"{endpoint.address} takes connections and does not go on; is the process stopped?"
    except OSError as error:
        return f"{endpoint.address}: {error.strerror or error}"
    if len(answer) > 9 and answer[3:4] == b"\x04":
        return (
            f"{endpoint.address} speaks HTTP/2 without TLS: that is not a node, or something takes TLS "
            "off before it"
        )
    return (
        f"{endpoint.address} answers, but not to this client; is its certificate of this cluster, and valid?"
    )


def _expiry_ms(pem: bytes) -> int:
    from cryptography import x509

    return round(x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp() * 1000)


def _homes(directory: Path | None) -> Iterator[Finding]:
    """Files of a home, or of a folder with homes: who may read private keys, and the room on the disk."""
    from replication.client.diagnosis import Finding

    if directory is None:
        return
    for key in sorted([*directory.rglob("*.key"), *directory.rglob("signing.pem")]):
        mode = stat.S_IMODE(key.stat().st_mode)
        if mode & 0o077:
            yield Finding(
                "critical",
                str(key),
                f"others may read it (mode {mode:04o})",
                f"chmod 600 {key}, and think of a new key.",
            )
    for data in sorted([*directory.glob("data"), *directory.glob("*/data")]):
        free = shutil.disk_usage(data).free
        if free < FREE_BYTES:
            yield Finding(
                "warning",
                str(data),
                f"{free // (1 << 20)} MiB are free on its disk",
                "Make room: a node that cannot write stops.",
            )


def _document(finding: Finding) -> dict[str, str]:
    return {
        "severity": finding.severity,
        "subject": finding.subject,
        "what": finding.what,
        "advice": finding.advice,
    }
