"""Seeded bugs: the ordering protocol with one guard removed, to show that the checkers can fail.

A bug is planted by replacing a few functions for the time of a run (`planting`, `removed_guards`). `family`
names the scenarios that are looked through for it (`simulation.families`, or "twins"): a removed guard shows
only where somebody attacks it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final

from replication.faults.planting import Patch, everywhere, patch, planted, skip
from replication.faults.removed_guards import (
    admit_lower,
    any_closing,
    blame_any_two,
    check_less,
    collect_any_view,
    collect_unsigned,
    count_every_acknowledgement,
    decide_on_prepares,
    decide_own_prepares,
    do_not_catch_up,
    everything_matches,
    f_plus_one,
    forget_lock,
    keep_old_epoch,
    lose,
    lowest_floor,
    name_no_cluster,
    never_timed_out,
    no_lock_in_floor,
    nobody_is_behind,
    one_tag_for_two_phases,
    open_behind,
    prepare_every_block,
    propose_anew,
    repeated_timeouts,
    report_no_lock,
    same_commands_new_header,
    send_first,
    sign_anew,
    sign_anything,
    sign_in_ended_views,
    two_f_plus_one,
    without,
    without_parent,
    without_time,
)
from replication.faults.simulation.families import FAMILIES
from replication.faults.simulation.host import Host
from replication.faults.simulation.twins import jobs, run_prefix
from replication.faults.simulation.world import run
from replication.ordering import timeouts
from replication.ordering.blame import FirstStatements
from replication.ordering.certificates import StatementCollector
from replication.ordering.core import ReplicaCore
from replication.ordering.effects import ApplyBlock, SaveBody, SaveSignState
from replication.ordering.normal_case import NormalCase
from replication.ordering.pool import CommandPool
from replication.ordering.replica import Replica
from replication.ordering.signing import GuardedSigner
from replication.ordering.statements import Phase, StatementKey
from replication.ordering.timeouts import Floor, TimeoutCertificate
from replication.ordering.view_change import ViewChange

__all__ = ["BUGS", "Caught", "SeededBug", "hunt", "hunt_by_name"]

TWINS: Final = "twins"


@dataclass(frozen=True)
class SeededBug:
    """One removed guard."""

    name: str
    what: str
    family: str
    patches: tuple[Patch, ...]


@dataclass(frozen=True)
class Caught:
    """How a bug was found: after how many scenarios and seconds, and by which rule."""

    scenarios: int
    rule: str
    detail: str
    seconds: float = 0.0


def hunt(bug: SeededBug, limit: int = 300, first_seed: int = 0) -> Caught | None:
    """Look through scenarios of the bug's family until one fails; None when `limit` of them did not."""
    with planted(bug.patches):
        if bug.family == TWINS:
            return _hunt_twins(limit)
        for count, seed in enumerate(range(first_seed, first_seed + limit), start=1):
            result = run(FAMILIES[bug.family](seed))
            if result.failed:
                first = result.violations[0]
                return Caught(count, first.rule, first.detail)
    return None


def hunt_by_name(name: str) -> tuple[str, Caught | None]:
    """Hunt for the bug with this name, in a process of its own if need be."""
    began = time.perf_counter()
    caught = hunt(next(bug for bug in BUGS if bug.name == name))
    return name, caught and replace(caught, seconds=time.perf_counter() - began)


def _hunt_twins(limit: int) -> Caught | None:
    """Shares of the canonical scenarios, taken from all over the enumeration."""
    shares = list(jobs())
    scenarios = 0
    for index in range(len(shares)):
        # A step that is coprime to their number visits all of them, in an order without system.
        report = run_prefix(*shares[index * 197 % len(shares)])
        scenarios += report.scenarios
        if report.failures:
            return Caught(scenarios, "twins", report.failures[0])
        if scenarios >= 100 * limit:
            break
    return None


BUGS: Final[tuple[SeededBug, ...]] = (
    # What a model checker of the protocol found to be unsafe, before it was written.
    SeededBug(
        "quorum-2f+1",
        "2f + 1 instead of Q where n is not 3f + 1",
        "quorums",
        everywhere("commit_quorum", two_f_plus_one),
    ),
    SeededBug(
        "prepares-decide",
        "a prepare certificate counts as a commit",
        TWINS,
        (
            *patch(NormalCase, "_on_prepare_certificate", decide_on_prepares),
            *patch(NormalCase, "_lock", decide_own_prepares),
        ),
    ),
    SeededBug(
        "lock-not-reported",
        "a timeout does not report the lock",
        TWINS,
        patch(ViewChange, "_time_out", report_no_lock),
    ),
    SeededBug(
        "maximum-ignored",
        "the lowest report of a timeout certificate counts",
        TWINS,
        patch(TimeoutCertificate, "floor", lowest_floor),
    ),
    SeededBug(
        "lock-ignored",
        "the lock in a timeout certificate is ignored",
        TWINS,
        patch(TimeoutCertificate, "floor", no_lock_in_floor),
    ),
    SeededBug(
        "timeouts-of-f+1",
        "f + 1 timeouts make a certificate",
        TWINS,
        everywhere("commit_quorum", f_plus_one, ("timeouts", "pacemaker")),
    ),
    SeededBug(
        "commit-after-timeout",
        "COMMIT in a view that was given up",
        "views",
        (
            *patch(GuardedSigner, "may_sign", sign_in_ended_views),
            *patch(NormalCase, "_on_prepare_certificate", never_timed_out),
        ),
    ),
    SeededBug(
        "floor-lower",
        "blocks below the floor are proposed and admitted, and what timeouts prove is not learnt",
        TWINS,
        (
            *patch(Floor, "admits", admit_lower),
            *patch(NormalCase, "_propose", do_not_catch_up),
            *patch(ViewChange, "_open_view", open_behind),
            *skip(ViewChange, "_learn_from_proofs"),
        ),
    ),
    SeededBug(
        "floor-ignored",
        "a new block on any commit certificate, whatever the timeout certificate says",
        TWINS,
        (
            *patch(Floor, "admits", lambda _original: lambda *_: True),
            *patch(NormalCase, "_propose_again", propose_anew),
        ),
    ),
    SeededBug(
        "lock-forgotten",
        "the lock is dropped when a view is entered",
        TWINS,
        patch(ViewChange, "_enter", forget_lock),
    ),
    SeededBug(
        "prepares-of-all-views",
        "PREPAREs are added up over views",
        "forgers",
        collect_any_view(Phase.PREPARE),
    ),
    SeededBug(
        "commits-of-all-views", "COMMITs are added up over views", "forgers", collect_any_view(Phase.COMMIT)
    ),
    SeededBug(
        "crash-loses-lock",
        "a restart forgets the lock",
        "crashes",
        patch(ReplicaCore, "__init__", lose(lock=None)),
    ),
    SeededBug(
        "crash-loses-prepare",
        "a restart forgets the last PREPARE",
        "crashes",
        patch(ReplicaCore, "__init__", lose(prepare=None)),
    ),
    SeededBug(
        "crash-loses-timeout",
        "a restart forgets the last TIMEOUT",
        "crashes",
        patch(ReplicaCore, "__init__", lose(timeout=None)),
    ),
    SeededBug(
        "wiped-disk-signs",
        "a member with a wiped disk goes on in the same epoch",
        "wipes",
        skip(ReplicaCore, "_check_incarnation"),
    ),
    SeededBug(
        "prepare-after-timeout",
        "PREPARE in a view that was given up",
        "views",
        (
            *patch(GuardedSigner, "may_sign", sign_in_ended_views),
            *patch(NormalCase, "_prepare", never_timed_out),
        ),
    ),
    # Certificates and signatures.
    SeededBug(
        "certificates-unchecked",
        "certificates are taken as they come",
        "forgers",
        everywhere("check_certificate", lambda _: lambda *_a: None),
    ),
    SeededBug(
        "repeated-signers",
        "a signer that is repeated counts twice",
        "forgers",
        everywhere("check_certificate", check_less(distinct=False)),
    ),
    SeededBug(
        "short-certificates",
        "Q - 1 signatures are enough",
        "forgers",
        everywhere("check_certificate", check_less(missing=1)),
    ),
    SeededBug(
        "one-tag",
        "PREPARE and COMMIT are signed over the same bytes",
        "forgers",
        patch(StatementKey, "sign_bytes", one_tag_for_two_phases),
    ),
    SeededBug(
        "acknowledgements-unsigned",
        "signatures of acknowledgements are not verified",
        "forgers",
        patch(StatementCollector, "add", collect_unsigned),
    ),
    SeededBug(
        "counted-by-hash",
        "acknowledgements of any view and epoch are counted",
        "epochs",
        patch(NormalCase, "_on_acknowledgement", count_every_acknowledgement),
    ),
    SeededBug(
        "timeouts-unsigned",
        "signatures of timeouts are not verified",
        "forgers",
        skip(timeouts, "_check_signature"),
    ),
    SeededBug(
        "timeouts-unproven",
        "what a timeout reports need not be proven",
        "forgers",
        skip(timeouts, "_check_proofs"),
    ),
    SeededBug(
        "timeouts-repeated",
        "one member's timeout counts several times",
        "forgers",
        everywhere("check_timeout_certificate", repeated_timeouts),
    ),
    # The signer, the disk and the driver.
    SeededBug(
        "signs-twice",
        "two blocks at one position are both prepared",
        "views",
        (
            *patch(GuardedSigner, "may_sign", sign_anything),
            *patch(GuardedSigner, "sign", sign_anew),
            *patch(NormalCase, "_answer_repeat", prepare_every_block),
        ),
    ),
    SeededBug(
        "sign-state-not-kept",
        "the sign state is not made durable",
        "crashes",
        patch(ReplicaCore, "_flush", without(SaveSignState)),
    ),
    SeededBug(
        "body-not-kept",
        "the body of a block is not made durable before PREPARE",
        "crashes",
        patch(ReplicaCore, "_flush", without(SaveBody)),
    ),
    SeededBug(
        "block-not-kept",
        "a final block is told before it is durable",
        "crashes",
        patch(ReplicaCore, "_flush", without(ApplyBlock)),
    ),
    SeededBug(
        "sends-first", "the driver sends before it writes", "crashes", patch(Host, "_batch", send_first)
    ),
    SeededBug(
        "witness-ignored",
        "what peers show of one's own statements is ignored",
        "restores",
        skip(Replica, "_check_own"),
    ),
    SeededBug(
        "old-epoch-after-crash",
        "a crash at the end of an epoch leaves the sign state in the old one",
        "epoch-crashes",
        patch(Replica, "start", keep_old_epoch),
    ),
    # Blocks.
    SeededBug(
        "outcome-not-recomputed",
        "what a block claims is not compared with its execution",
        "liars",
        patch(ReplicaCore, "_matches", everything_matches),
    ),
    SeededBug(
        "time-unchecked",
        "block times are not checked",
        "clocks",
        patch(NormalCase, "_check_follows", without_time),
    ),
    SeededBug(
        "parent-unchecked",
        "blocks with another parent are not checked",
        "liars",
        patch(NormalCase, "_check_follows", without_parent),
    ),
    SeededBug(
        "shape-unchecked",
        "cluster, epoch and commands root are not compared with the header",
        "liars",
        skip(ReplicaCore, "_check_shape"),
    ),
    SeededBug(
        "any-cluster",
        "a signature does not say for which cluster it is",
        "neighbours",
        patch(StatementKey, "sign_bytes", name_no_cluster),
    ),
    # Progress.
    SeededBug(
        "said-once",
        "complaints and timeouts are sent only once",
        "lossy",
        skip(ViewChange, "_may_complain", False),
    ),
    SeededBug(
        "censorship",
        "a coordinator is not held to any command",
        "censors",
        patch(CommandPool, "held_since", lambda _original: lambda _self: None),
    ),
    SeededBug(
        "nobody-is-behind",
        "certificates of missing blocks are ignored",
        "lossy",
        patch(ReplicaCore, "_flush", nobody_is_behind),
    ),
    SeededBug(
        "new-header",
        "a locked block is proposed again under a new header",
        "views",
        patch(NormalCase, "_propose_again", same_commands_new_header),
    ),
    SeededBug(
        "view-goes-back",
        "old timeout certificates are entered again",
        "forgers",
        patch(ViewChange, "_on_timeout_certificate", any_closing),
    ),
    SeededBug(
        "innocents-blamed",
        "statements of two views count as a contradiction",
        "views",
        patch(FirstStatements, "record", blame_any_two),
    ),
)
