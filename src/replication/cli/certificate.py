"""`acp certificate` and `acp verify`: a proof of a decision, and its check without a network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from replication.cli.options import Connection, DirectoryOption, JsonOption
from replication.cli.output import console, note, pairs, print_json, table, time_text

__all__ = ["GenesisOption", "certificate", "load_trusted", "verify"]

OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Write to FILE instead of stdout.", metavar="FILE", show_default=False
    ),
]
GenesisOption = Annotated[
    Path | None,
    typer.Option(
        help="The genesis file to trust. Default: the one in --dir.", metavar="FILE", show_default=False
    ),
]


def certificate(
    options: Connection,
    proposal_id: Annotated[str, typer.Argument(metavar="ID", help="The proposal, such as prop-0001.")],
    output: OutputOption = None,
) -> None:
    """Fetch the certificate of a decision. With the genesis file at hand (--dir) it is verified as well."""
    from replication.client.files import write_whole

    with options.open() as client:
        found = client.certificate(proposal_id, timeout_seconds=options.timeout, node=options.node)
    text = found.text if found.text.endswith("\n") else f"{found.text}\n"
    if output is None:
        sys.stdout.write(text)
        return
    write_whole(output, text.encode())
    if options.json:
        print_json({"proposal_id": proposal_id, "file": str(output), "verified": found.verified})
    else:
        checked = "verified" if found.verified else "not verified, since no genesis file is at hand"
        note(f"The certificate of {proposal_id} is in {output} ({checked}).")


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A certificate file; - for stdin.")],
    genesis: GenesisOption = None,
    directory: DirectoryOption = None,
    json: JsonOption = False,
) -> None:
    """Verify a decision certificate with nothing but the genesis file.

    Exit code 7 when it does not verify.
    """
    from replication.ledger.verify import MAX_CERTIFICATE_BYTES, verify_certificate

    trusted = load_trusted(genesis, directory)
    report = verify_certificate(read_file(file, MAX_CERTIFICATE_BYTES + 1), trusted)
    facts: dict[str, Any] = {
        "valid": True,
        "authorises": report.authorises,
        "decision": report.decision,
        "cause": report.cause,
        "proposal_id": report.proposal_id,
        "action": report.action,
        "target": report.target,
        "proposer": report.proposer,
        "digest": report.digest.hex(),
        "height": report.height,
        "time_ms": report.time_ms,
        "block_hash": report.block_hash.hex(),
        "signers": list(report.signers),
        "signatures": report.signatures,
        "cluster_id": report.cluster_id.hex(),
    }
    if json:
        print_json({**facts, "evidence": report.evidence, "votes": report.votes})
        return
    screen = console()
    shown = {**facts, "time_ms": time_text(report.time_ms), "signers": ", ".join(report.signers)}
    screen.print(pairs({name.replace("_", " ").removesuffix(" ms"): value for name, value in shown.items()}))
    screen.print(table("Votes that count", ("voter", "vote"), report.votes.items()))
    what = f"{report.action} {report.target}".strip()
    screen.print(
        f"The certificate is valid and {'AUTHORISES' if report.authorises else 'does NOT authorise'}: {what}"
    )


def load_trusted(genesis: Path | None, directory: Path | None) -> Any:
    """The genesis file to verify against. Raises `UsageError` when none is given."""
    from replication.client import UsageError
    from replication.identity.genesis import load_genesis

    if genesis is None and directory is None:
        raise UsageError("A genesis file is needed to know whom to trust. Give it with --genesis FILE.")
    return load_genesis(genesis or Path(directory or ".") / "genesis.json")


def read_file(path: Path, limit: int) -> bytes:
    """At most `limit` bytes of a file, or of stdin for ``-``. Raises `OperatorError`."""
    from replication.errors import OperatorError

    if str(path) == "-":
        return sys.stdin.buffer.read(limit)
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
