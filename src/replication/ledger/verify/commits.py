"""Commit certificates: the proof that a block is final."""

from __future__ import annotations

from dataclasses import dataclass

from replication.identity.signbytes import statement_bytes

from .errors import VerificationError
from .reading import Fields, keys
from .records import Header
from .signatures import SignatureChecker

__all__ = ["Commit", "check_commit", "commit_quorum"]

COMMIT_KEYS = keys("phase epoch view height block_hash signatures")
SIGNATURE_KEYS = keys("signer signature")


def commit_quorum(n: int) -> int:
    """Q, the least number of members of which any two sets share an honest one: floor((n + f) / 2) + 1."""
    f = (n - 1) // 3
    return (n + f) // 2 + 1


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit certificate that holds: the view it is of, and who signed."""

    view: int
    signers: tuple[str, ...]


def check_commit(value: object, header: Header, signatures: SignatureChecker) -> Commit:
    """Check that a commit quorum signed this very block.

    More than a quorum may have signed, but each signature that is given must hold: distinct members, in the
    order of the member set, each over the commit statement for one view.
    """
    fields = Fields(value, COMMIT_KEYS, "certificate")
    fields.fixed("phase", "commit", "only this phase makes a block final:")
    fields.fixed("epoch", header.epoch, "the header says")
    fields.fixed("height", header.height, "the header says")
    fields.fixed("block_hash", header.hash.hex(), "the header's hash is")
    view = fields.integer("view")
    members = signatures.members_at(header.epoch)
    given = fields.array("signatures")
    quorum = commit_quorum(members.n)
    if len(given) < quorum:
        raise VerificationError(
            f"certificate.signatures has {len(given)}, but {quorum} of {members.n} members must sign"
        )
    signers: list[str] = []
    last = -1
    for index, item in enumerate(given):
        path = f"certificate.signatures[{index}]"
        signed = Fields(item, SIGNATURE_KEYS, path)
        signer = signed.text("signer")
        if signer not in members:
            raise VerificationError(f"{path}.signer {signer[:80]!r} is not a member in epoch {header.epoch}")
        position = members.index_of(signer)
        if position <= last:
            raise VerificationError(
                f"{path}.signer {signer} is there twice, or not in the order of the members"
            )
        last = position
        message = statement_bytes(
            "commit",
            signatures.cluster_id,
            header.epoch,
            view=view,
            height=header.height,
            block_hash=header.hash,
            signer=signer,
        )
        signatures.check(signer, header.epoch, signed.signature("signature"), message, f"{path}.signature")
        signers.append(signer)
    return Commit(view, tuple(signers))
