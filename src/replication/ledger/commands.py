"""Commands: what the cluster orders. Reading, writing, signing and checking them.

A command names its epoch, and executes only in that one. `decode_command` judges the bytes alone (sizes,
shape, alphabets, ranges), `verify_command` who signed them; neither looks at the record, so what passes both
may still execute as nothing (a repeat, a vote that came too late).

The `make_*` functions give signed commands as bytes. Their `sign` is a member's private key: a function from
the bytes to be signed to the signature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

from replication.identity import keys
from replication.identity.members import MemberSet
from replication.ordering.application import CommandError
from replication.ordering.blame import contradict
from replication.ordering.statements import is_signed_by_member

from .command_codec import (
    MAX_ACTION_BYTES,
    MAX_BALLOT_VOTES,
    MAX_DETAIL_BYTES,
    MAX_EVIDENCE_BYTES,
    MAX_REASON_BYTES,
    MAX_TARGET_BYTES,
    decode_command,
    encode_command,
)
from .command_kinds import (
    BallotCommand,
    CloseCommand,
    Command,
    CoordinatorChangeCommand,
    EvidenceCommand,
    MembershipCommand,
    ProposalCommand,
    ReceiptCommand,
    RejoinCommand,
    VoteItem,
)

__all__ = [
    "MAX_ACTION_BYTES",
    "MAX_BALLOT_VOTES",
    "MAX_DETAIL_BYTES",
    "MAX_EVIDENCE_BYTES",
    "MAX_REASON_BYTES",
    "MAX_TARGET_BYTES",
    "BallotCommand",
    "CloseCommand",
    "Command",
    "CommandError",
    "CoordinatorChangeCommand",
    "EpochOverError",
    "EvidenceCommand",
    "MembershipCommand",
    "ProposalCommand",
    "ReceiptCommand",
    "RejoinCommand",
    "Sign",
    "VoteItem",
    "decode_command",
    "encode_command",
    "make_ballot",
    "make_close",
    "make_membership",
    "make_proposal",
    "make_receipt",
    "make_rejoin",
    "verify_command",
]

Sign = Callable[[bytes], bytes]


class EpochOverError(CommandError):
    """A command is for another epoch than the current one. Its author signs it again for that one."""

    reason: ClassVar[str] = "EPOCH_OVER"


def verify_command(command: Command, cluster_id: bytes, members: MemberSet) -> None:
    """Check that a decoded command is for the epoch of `members`, and signed by the member (a receipt: or the
    executor) that it names.

    Raises EpochOverError for another epoch, and CommandError for anything else.
    """
    if command.epoch != members.epoch:
        raise EpochOverError(
            f"the command is for epoch {command.epoch}, and the members are those of epoch {members.epoch}; "
            "sign it again for this epoch"
        )
    if isinstance(command, EvidenceCommand):
        _verify_evidence(command, cluster_id, members)
        return
    if isinstance(command, ReceiptCommand):
        public_key, what = members.reporter_key(command.author), "an executor or member"
    else:
        member = members.get(command.author)
        public_key, what = None if member is None else member.public_key, "a member"
    if public_key is None:
        raise CommandError(f"{command.author} is not {what} in epoch {members.epoch}")
    if isinstance(command, CoordinatorChangeCommand):
        coordinator = members.ids[command.view % members.n]
        if command.coordinator != coordinator or command.view == 0:
            raise CommandError(
                f"{command.coordinator} cannot open view {command.view}: its coordinator is {coordinator}, "
                "and view 0 is open from the start"
            )
    if not keys.verify(public_key, command.signature, command.sign_bytes(cluster_id)):
        raise CommandError(f"the signature of {command.author} over its command does not verify")


def _verify_evidence(command: EvidenceCommand, cluster_id: bytes, members: MemberSet) -> None:
    if command.accused not in members:
        raise CommandError(f"the evidence is against {command.accused}, which is not a member")
    if not contradict(command.first, command.second):
        raise CommandError(f"the two statements of {command.accused} do not contradict each other")
    for statement in (command.first, command.second):
        if not is_signed_by_member(statement, cluster_id, members):
            raise CommandError(f"a statement in the evidence is not signed by {command.accused}")


def make_proposal(
    sign: Sign,
    cluster_id: bytes,
    epoch: int,
    *,
    proposer: str,
    request_id: str,
    action: str,
    target: str,
    evidence: bytes,
    window_ms: int,
    expiry_ms: int,
    created_ms: int,
) -> bytes:
    """A signed proposal. `evidence` is canonical JSON of an object; a window or expiry of 0 is none.

    Raises ValueError for a field that has no sign-bytes; what else is wrong, `decode_command` says.
    """
    command = ProposalCommand(
        epoch, proposer, request_id, action, target, evidence, window_ms, expiry_ms, created_ms
    )
    return encode_command(replace(command, signature=sign(command.sign_bytes(cluster_id))))


def make_ballot(sign: Sign, cluster_id: bytes, epoch: int, *, voter: str, votes: Sequence[VoteItem]) -> bytes:
    """A signed ballot of one or more votes on different proposals."""
    command = BallotCommand(epoch, voter, tuple(votes))
    return encode_command(replace(command, signature=sign(command.sign_bytes(cluster_id))))


def make_close(sign: Sign, cluster_id: bytes, epoch: int, *, closer: str, proposal_digest: bytes) -> bytes:
    """A proposer's signed wish to tally now."""
    command = CloseCommand(epoch, closer, proposal_digest)
    return encode_command(replace(command, signature=sign(command.sign_bytes(cluster_id))))


def make_receipt(
    sign: Sign,
    cluster_id: bytes,
    epoch: int,
    *,
    executor: str,
    proposal_digest: bytes,
    outcome: str,
    detail: str,
    executed_ms: int,
) -> bytes:
    """A signed report on an approved proposal; `outcome` is succeeded, failed or partial."""
    command = ReceiptCommand(epoch, executor, proposal_digest, outcome, detail, executed_ms)
    return encode_command(replace(command, signature=sign(command.sign_bytes(cluster_id))))


def make_membership(
    sign: Sign, cluster_id: bytes, epoch: int, *, member: str, change: bytes, proposal_digest: bytes
) -> bytes:
    """A signed change of the member set, as approved under `proposal_digest` (see `membership`)."""
    command = MembershipCommand(epoch, member, change, proposal_digest)
    return encode_command(replace(command, signature=sign(command.sign_bytes(cluster_id))))


def make_rejoin(sign: Sign, cluster_id: bytes, epoch: int, *, member: str, nonce: bytes) -> bytes:
    """A signed request to be let back in under a new incarnation; `nonce` are 32 random bytes."""
    command = RejoinCommand(epoch, member, nonce)
    return encode_command(replace(command, signature=sign(command.sign_bytes(cluster_id))))
