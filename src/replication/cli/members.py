"""`acp members`: who the members are, and changing that through the log.

A change is proposed like any other action: a proposal `membership` whose evidence is the change. When 2f+1
voters have approved it, it is carried out as a block of its own, and the next block begins a new epoch. No
certificate, the administrator's included, can change members without those votes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from replication.cli.init import MetricsOption, PolicyOption
from replication.cli.options import Connection, DirectoryOption
from replication.cli.output import console, note, print_json, show_proposal, table

if TYPE_CHECKING:
    from replication.client.model import Proposal

__all__ = [
    "add",
    "add_executor",
    "apply",
    "executor_home",
    "home",
    "listing",
    "remove",
    "remove_executor",
    "replace",
    "reweight",
]

WaitOption = Annotated[
    float,
    typer.Option("--wait", help="Seconds to wait for the votes; 0 only proposes, and `apply` does the rest."),
]
DEFAULT_WAIT_SECONDS = 60.0

MemberArgument = Annotated[str, typer.Argument(metavar="ID", help="The member.")]
ExecutorArgument = Annotated[str, typer.Argument(metavar="ID", help="The executor.")]
AddressOption = Annotated[str, typer.Option(help="HOST:PORT where it is reached.")]
RequestOption = Annotated[
    Path | None,
    typer.Option(help="Its request to join (`acp enrol key`), which says all of this.", metavar="FILE"),
]
PublicKeyOption = Annotated[str, typer.Option(help="Its Ed25519 public key, 64 hex digits.")]
PossessionOption = Annotated[str, typer.Option(help="Its proof of possession, 128 hex digits.")]
WeightOption = Annotated[int, typer.Option(help="Its voting weight.", min=1)]


def listing(options: Connection) -> None:
    """List the members of the current epoch with their keys."""
    with options.open() as client:
        found = client.members(timeout_seconds=options.timeout, node=options.node)
    if options.json:
        print_json(found)
        return
    rows = [
        (
            member.id,
            member.address,
            member.weight,
            member.public_key.hex(),
            member.incarnation.hex()[:16] or "first",
            f"proven by entry {member.evidence_sequence}" if member.faulty else "",
        )
        for member in found.members
    ]
    columns = ("member", "address", ">weight", "public key", "incarnation", "faulty")
    console().print(table(f"Epoch {found.epoch}, since height {found.base_height}", columns, rows))
    if found.executors:
        executors = [(executor.id, executor.public_key.hex()) for executor in found.executors]
        console().print(table("Executors", ("executor", "public key"), executors))


def home(
    member_id: MemberArgument,
    address: AddressOption,
    directory: DirectoryOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to make. Default: DIR/ID.", show_default=False),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Its private key file. Default: a new one is made.", show_default=False),
    ] = None,
    policy: PolicyOption = "manual",
    metrics: MetricsOption = None,
) -> None:
    """Make the home of a member that is to be added or replaced, key included, and print what `add` asks
    for.

    Run it where the authority's key is. The home makes nobody a member: start its node, which follows the
    record, and then propose the change.
    """
    from replication.client import UsageError
    from replication.identity.keys import SigningKey
    from replication.node.local.provision import add_home, parse_policy

    if directory is None:
        raise UsageError("No folder is given. Say where the cluster's authority is with --dir DIR.")
    target = output or directory / member_id
    public_key, proof = add_home(
        directory,
        target,
        member_id,
        address,
        signing_key=None if key is None else SigningKey.load(key),
        policy=parse_policy(policy),
        metrics=metrics,
    )
    note(f"Start it with: acp node --home {target}")
    print_json(
        {
            "id": member_id,
            "address": address,
            "public_key": public_key.hex(),
            "possession": proof.hex(),
            "home": str(target),
        }
    )


def executor_home(
    name: ExecutorArgument,
    directory: DirectoryOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to make. Default: DIR/executors/ID.", show_default=False),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Its private key file. Default: a new one is made.", show_default=False),
    ] = None,
) -> None:
    """Make the home of an executor that is to be added, and print what `add-executor` asks for.

    Run it where the authority's key is.
    """
    from replication.client import UsageError
    from replication.identity.keys import SigningKey
    from replication.node.local.provision import add_executor_home

    if directory is None:
        raise UsageError("No folder is given. Say where the cluster's authority is with --dir DIR.")
    target = output or directory / "executors" / name
    signing_key = None if key is None else SigningKey.load(key)
    public_key, proof = add_executor_home(directory, target, name, signing_key=signing_key)
    note(f"Start it with: acp executor --home {target} --run COMMAND")
    print_json({"id": name, "public_key": public_key.hex(), "possession": proof.hex(), "home": str(target)})


def add_executor(
    options: Connection,
    name: ExecutorArgument,
    public_key: PublicKeyOption,
    possession: PossessionOption,
    wait: WaitOption = DEFAULT_WAIT_SECONDS,
) -> None:
    """Propose a new executor, and take its receipts when the voters have approved."""
    executor = {"id": name, "public_key": public_key, "possession": possession}
    _change(options, name, {"change": "add-executor", "executor": executor}, wait)


def remove_executor(
    options: Connection, name: ExecutorArgument, wait: WaitOption = DEFAULT_WAIT_SECONDS
) -> None:
    """Propose to remove an executor, and take no more receipts of it when the voters have approved."""
    _change(options, name, {"change": "remove-executor", "id": name}, wait)


def add(
    options: Connection,
    member_id: MemberArgument,
    request: RequestOption = None,
    address: AddressOption = "",
    public_key: PublicKeyOption = "",
    possession: PossessionOption = "",
    weight: WeightOption = 1,
    wait: WaitOption = DEFAULT_WAIT_SECONDS,
) -> None:
    """Propose a new member, and let it in when the voters have approved."""
    _change(
        options,
        member_id,
        {"change": "add", "member": _member(member_id, request, address, public_key, possession, weight)},
        wait,
    )


def remove(options: Connection, member_id: MemberArgument, wait: WaitOption = DEFAULT_WAIT_SECONDS) -> None:
    """Propose to remove a member, and remove it when the voters have approved."""
    _change(options, member_id, {"change": "remove", "id": member_id}, wait)


def replace(
    options: Connection,
    member_id: MemberArgument,
    request: RequestOption = None,
    address: AddressOption = "",
    public_key: PublicKeyOption = "",
    possession: PossessionOption = "",
    weight: WeightOption = 1,
    new_id: Annotated[str, typer.Option(help="Its new id, if that changes.", show_default=False)] = "",
    wait: WaitOption = DEFAULT_WAIT_SECONDS,
) -> None:
    """Propose a new key, address or id for a member's seat, and make the change when the voters have
    approved."""
    member = _member(new_id or member_id, request, address, public_key, possession, weight)
    _change(options, member_id, {"change": "replace", "id": member_id, "member": member}, wait)


def reweight(
    options: Connection,
    member_id: MemberArgument,
    weight: Annotated[int, typer.Argument(help="The new voting weight.", min=1)],
    wait: WaitOption = DEFAULT_WAIT_SECONDS,
) -> None:
    """Propose another voting weight for a member, and make the change when the voters have approved."""
    _change(options, member_id, {"change": "reweight", "id": member_id, "weight": weight}, wait)


def apply(
    options: Connection,
    proposal_id: Annotated[str, typer.Argument(metavar="PROPOSAL", help="An approved membership proposal.")],
) -> None:
    """Carry out a change of members that is approved already."""
    with options.open() as client:
        epoch = client.change_members(proposal_id, timeout_seconds=options.timeout, node=options.node)
    _tell(options, proposal_id, epoch)


def _change(options: Connection, subject: str, change: dict[str, Any], wait_seconds: float) -> None:
    from replication.errors import CallerError

    window_ms = round(max(wait_seconds, DEFAULT_WAIT_SECONDS) * 1000)
    with options.open() as client:
        proposal = client.propose(
            "membership",
            subject,
            change,
            window_ms=window_ms,
            expiry_ms=0,
            wait_for_decision=wait_seconds > 0,
            timeout_seconds=wait_seconds + options.timeout,
            node=options.node,
        )
        if not proposal.decided:
            _show_open(options, proposal)
            return
        if not proposal.approved:
            raise CallerError(
                f"The voters did not approve {proposal.id}: {proposal.decision.value}. Nothing was changed."
            )
        epoch = client.change_members(proposal.id, timeout_seconds=options.timeout, node=options.node)
    _tell(options, proposal.id, epoch)


def _show_open(options: Connection, proposal: Proposal) -> None:
    if options.json:
        print_json(proposal)
        return
    show_proposal(proposal)
    note(f"When it is approved: acp members apply {proposal.id}")


def _tell(options: Connection, proposal_id: str, epoch: int) -> None:
    if options.json:
        print_json({"proposal_id": proposal_id, "epoch": epoch})
    else:
        note(f"The change of {proposal_id} is on record; epoch {epoch} has begun.")


def _member(
    member_id: str, request: Path | None, address: str, public_key: str, possession: str, weight: int
) -> dict[str, Any]:
    from replication.client import UsageError

    if request is not None:
        from replication.node.local.enrolment import read_request

        asked = read_request(request)
        if asked.name != member_id or not asked.public_key:
            raise UsageError(
                f"{request} is the request of {asked.role.value} {asked.name}, not of {member_id}."
            )
        public_key, possession = asked.public_key.hex(), asked.possession.hex()
        address = address or asked.address
    if not (address and public_key and possession):
        raise UsageError(
            "Say who is to be a member: --request FILE, or --address, --public-key, --possession."
        )
    return {
        "id": member_id,
        "address": address,
        "public_key": public_key,
        "possession": possession,
        "weight": weight,
    }
