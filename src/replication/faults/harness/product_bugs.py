"""Seeded bugs: a node with one guard removed, to show that the drills can fail.

Nothing in the product knows of these. The wrapper of a node under test (`node_with_faults`) replaces a
function or two before the server starts; all nodes of the cluster run so. For each bug there is a ready
drill that must fail then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

from replication.faults.planting import Patch, patch, skip

__all__ = ["PRODUCT_BUGS", "ProductBug", "plant_bug"]


RECORDS: Final = "every export verifies offline"
BLAME: Final = "nobody is blamed without reason"
VIEWS: Final = "coordinators are replaced when they have to be"
PROGRESS: Final = "the cluster goes on, and recovers in time"
PROCESSES: Final = "processes end only when they have to"
"""Names of checks, as reports have them."""


@dataclass(frozen=True, slots=True)
class ProductBug:
    """One removed guard. `drill` is the ready scenario that shows it; `patches` are made in the node's
    process."""

    name: str
    what: str
    drill: str
    check: str
    patches: Callable[[], tuple[Patch, ...]]


def plant_bug(name: str) -> None:
    """Remove the guard in this process, for good."""
    bug = next(bug for bug in PRODUCT_BUGS if bug.name == name)
    for owner, attribute, make in bug.patches():
        setattr(owner, attribute, make(vars(owner)[attribute]))


def _votes_unsigned() -> tuple[Patch, ...]:
    from replication.ledger import commands

    return patch(commands, "keys", lambda _keys: SimpleNamespace(verify=lambda *_: True))


def _double_votes_forgiven() -> tuple[Patch, ...]:
    from replication.ledger.execution import _Draft

    return skip(_Draft, "_record_double_vote")


def _equivocation_unseen() -> tuple[Patch, ...]:
    from replication.ordering.blame import FirstStatements

    return (*skip(FirstStatements, "record"), *skip(FirstStatements, "record_certificate", ()))


def _censorship_borne() -> tuple[Patch, ...]:
    from replication.ordering.pool import CommandPool

    return skip(CommandPool, "held_since")


def _coordinator_for_ever() -> tuple[Patch, ...]:
    from replication.ordering.view_change import ViewChange

    return skip(ViewChange, "_watch_coordinator")


def _requests_repeated() -> tuple[Patch, ...]:
    """Neither the record nor the memory of a node knows a request again."""
    from replication.ledger import rulings
    from replication.node.services.retries import Retries
    from replication.node.services.writing import Writing

    def anew(_original: Any) -> Any:
        async def once(_self: Any, _request_id: str, _content: object, work: Any) -> Any:
            return await work()

        return once

    return (
        *skip(rulings, "_requested"),
        *skip(rulings, "_requested_elsewhere"),
        *skip(Writing, "_requested"),
        *patch(Retries, "once", anew),
    )


def _nobody_catches_up() -> tuple[Patch, ...]:
    from replication.node.catchup import CatchUp

    return (*skip(CatchUp, "behind"), *skip(CatchUp, "look"))


def _pages_believed() -> tuple[Patch, ...]:
    from replication.ordering import replica

    return skip(replica, "check_certificate")


def _promises_unwritten() -> tuple[Patch, ...]:
    from replication.node import recorder
    from replication.ordering.effects import SaveSignState

    def without_states(original: Any) -> Any:
        return lambda run: [item for item in original(run) if not isinstance(item, SaveSignState)]

    return patch(recorder, "newest_state_only", without_states)


def _liars_counted() -> tuple[Patch, ...]:
    from replication.ledger.polls import OpenPoll

    def counting(original: Any) -> Any:
        return lambda self, vote, *, is_faulty: original(self, vote, is_faulty=False)

    return (*patch(OpenPoll, "record", counting), *skip(OpenPoll, "discount", False))


def _liars_coordinate() -> tuple[Patch, ...]:
    from replication.ledger.application import VotingApplication

    return skip(VotingApplication, "is_faulty", False)


def _keys_readable() -> tuple[Patch, ...]:
    from replication.identity import private_files

    return skip(private_files, "_require_private_status")


def _homes_shared() -> tuple[Patch, ...]:
    import fcntl

    return patch(fcntl, "flock", lambda _original: lambda *_: None)


PRODUCT_BUGS: Final = (
    ProductBug(
        "votes-unsigned",
        "signatures of votes and proposals are not verified",
        "voter-forges",
        RECORDS,
        _votes_unsigned,
    ),
    ProductBug(
        "double-votes-forgiven",
        "two votes of one member are no evidence",
        "voter-double-votes",
        BLAME,
        _double_votes_forgiven,
    ),
    ProductBug(
        "equivocation-unseen",
        "two statements of one member are no evidence",
        "coordinator-equivocates",
        BLAME,
        _equivocation_unseen,
    ),
    ProductBug(
        "liars-counted",
        "votes of a member that is proven faulty still count",
        "voter-double-votes",
        RECORDS,
        _liars_counted,
    ),
    ProductBug(
        "liars-coordinate",
        "a coordinator that is proven faulty stays",
        "coordinator-equivocates",
        VIEWS,
        _liars_coordinate,
    ),
    ProductBug(
        "censorship-borne",
        "nobody holds the coordinator to a command that waits",
        "coordinator-censors",
        VIEWS,
        _censorship_borne,
    ),
    ProductBug(
        "coordinator-for-ever",
        "nobody watches whether the coordinator does its work",
        "coordinator-killed",
        VIEWS,
        _coordinator_for_ever,
    ),
    ProductBug(
        "requests-repeated",
        "a request that is sent again happens again",
        "process-upgrade",
        PROCESSES,
        _requests_repeated,
    ),
    ProductBug(
        "nobody-catches-up",
        "a node that lacks blocks fetches none",
        "catch-up-crashes",
        PROGRESS,
        _nobody_catches_up,
    ),
    ProductBug(
        "pages-believed",
        "certificates of fetched blocks are not verified",
        "catch-up-lies",
        RECORDS,
        _pages_believed,
    ),
    ProductBug(
        "promises-unwritten",
        "what a member signs is not written down before it is sent",
        "process-kills",
        PROGRESS,
        _promises_unwritten,
    ),
    ProductBug(
        "keys-readable",
        "a key that everybody can read is used",
        "process-mistakes",
        PROCESSES,
        _keys_readable,
    ),
    ProductBug(
        "homes-shared",
        "two processes may run on one home",
        "process-mistakes",
        PROCESSES,
        _homes_shared,
    ),
)
"""Each is caught by its drill."""
