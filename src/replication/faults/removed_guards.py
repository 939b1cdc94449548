"""What seeded bugs put in the place of a guard: each function takes the original and replaces it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from replication.errors import PeerError
from replication.faults.planting import Patch, everywhere, patch
from replication.faults.simulation.host import Host
from replication.identity import keys
from replication.ordering import timeouts
from replication.ordering.certificates import Certificate, CertificateError, StatementCollector
from replication.ordering.normal_case import NormalCase
from replication.ordering.quorum import commit_quorum
from replication.ordering.statements import Evidence, Phase, Statement, StatementKey, Timeout
from replication.ordering.timeouts import Floor, TimeoutCertificate

__all__ = [
    "admit_lower",
    "any_closing",
    "blame_any_two",
    "check_less",
    "collect_any_view",
    "collect_unsigned",
    "count_every_acknowledgement",
    "decide_on_prepares",
    "decide_own_prepares",
    "do_not_catch_up",
    "everything_matches",
    "f_plus_one",
    "forget_lock",
    "keep_old_epoch",
    "lose",
    "lowest_floor",
    "never_timed_out",
    "no_lock_in_floor",
    "nobody_is_behind",
    "one_tag_for_two_phases",
    "open_behind",
    "prepare_every_block",
    "propose_anew",
    "repeated_timeouts",
    "report_no_lock",
    "same_commands_new_header",
    "send_first",
    "sign_anew",
    "sign_anything",
    "sign_in_ended_views",
    "two_f_plus_one",
    "without",
    "without_parent",
    "without_time",
]

# -------------------------------------------------------------------------------- quorums and certificates


def two_f_plus_one(_original: Any) -> Any:
    return lambda count: 2 * ((count - 1) // 3) + 1


def f_plus_one(_original: Any) -> Any:
    return lambda count: (count - 1) // 3 + 1


def check_less(*, distinct: bool = True, missing: int = 0) -> Any:
    """A check of certificates that leaves something out."""

    def make(_original: Any) -> Any:
        def check(certificate: Certificate, phase: Phase, cluster_id: bytes, members: Any) -> None:
            key, signers = certificate.key, [signer for signer, _ in certificate.signatures]
            if key.phase is not phase or key.epoch != members.epoch:
                raise CertificateError("another phase or epoch")
            if len(signers) < commit_quorum(members.n) - missing:
                raise CertificateError("too few")
            if distinct and len(set(signers)) < len(signers):
                raise CertificateError("repeated")
            for signer, signature in certificate.signatures:
                member = members.get(signer)
                if member is None:
                    raise CertificateError("foreign")
                if not keys.verify(member.public_key, signature, key.sign_bytes(cluster_id, signer)):
                    raise CertificateError("not signed")

        return check

    return make


def check_any_view(phase_of_bug: Phase) -> Any:
    """Signatures of different views are added up, in one phase."""

    def make(original: Any) -> Any:
        def check(certificate: Certificate, phase: Phase, cluster_id: bytes, members: Any) -> None:
            key = certificate.key
            if phase is not phase_of_bug or key.phase is not phase:
                original(certificate, phase, cluster_id, members)
                return
            found = []
            for signer, signature in certificate.signatures:
                member = members.get(signer)
                views = [
                    replace(key, view=view).sign_bytes(cluster_id, signer) for view in range(key.view + 1)
                ]
                if member is None or not any(
                    keys.verify(member.public_key, signature, signed) for signed in views
                ):
                    raise CertificateError("not signed in any view")
                found.append(signer)
            if len(set(found)) < commit_quorum(members.n) or key.epoch != members.epoch:
                raise CertificateError("too few")

        return check

    return make


def collect_any_view(phase_of_bug: Phase) -> tuple[Patch, ...]:
    def make_add(original: Any) -> Any:
        def add(self: Any, statement: Any) -> Any:
            certificate = original(self, statement)
            if certificate is not None or self._phase is not phase_of_bug:
                return certificate
            key = statement.key
            found: dict[str, bytes] = {}
            for other, signatures in self._signatures.items():
                if (other.height, other.block_hash) == (key.height, key.block_hash):
                    found.update(signatures)
            if len(found) != self._quorum:
                return None
            ordered = sorted(found.items(), key=lambda item: self._members.index_of(item[0]))
            return Certificate(key, tuple(ordered))

        return add

    def make_clear(original: Any) -> Any:
        def clear(self: Any) -> None:
            if self._phase is not phase_of_bug or len(self._signatures) > 64:
                original(self)

        return clear

    return (
        *patch(StatementCollector, "add", make_add),
        *patch(StatementCollector, "clear", make_clear),
        *everywhere("check_certificate", check_any_view(phase_of_bug)),
    )


def collect_unsigned(_original: Any) -> Any:
    def add(self: Any, statement: Any) -> Any:
        if statement.key.phase is not self._phase or statement.signer not in self._members:
            raise PeerError("not a statement of a member")
        found = self._signatures.setdefault(statement.key, {})
        known = len(found)
        found[statement.signer] = statement.signature
        if len(found) != self._quorum or known == len(found):
            return None
        ordered = sorted(found.items(), key=lambda item: self._members.index_of(item[0]))
        return Certificate(statement.key, tuple(ordered))

    return add


def one_tag_for_two_phases(original: Any) -> Any:
    def sign_bytes(self: StatementKey, cluster_id: bytes, signer: str) -> Any:
        key = replace(self, phase=Phase.PREPARE) if self.phase is Phase.COMMIT else self
        return original(key, cluster_id, signer)

    return sign_bytes


def name_no_cluster(original: Any) -> Any:
    def sign_bytes(self: StatementKey, _cluster_id: bytes, signer: str) -> Any:
        return original(self, bytes(32), signer)

    return sign_bytes


def count_every_acknowledgement(_original: Any) -> Any:
    """Aggregated by block hash alone: views and epochs are not looked at."""

    def on_acknowledgement(self: Any, sender: str, statement: Any) -> None:
        candidate = self._candidate
        if candidate is None or statement.key.block_hash != candidate.block.hash or not self.is_coordinator:
            return
        if statement.signer == sender and statement.key.phase is not Phase.PROPOSE:
            key = replace(statement.key, epoch=self.members.epoch, view=self.view)
            collector = self._prepares if key.phase is Phase.PREPARE else self._commits
            found = collector._signatures.setdefault(key, {})
            if sender in found:
                return
            found[sender] = statement.signature
            if len(found) == collector._quorum:
                ordered = sorted(found.items(), key=lambda item: self.members.index_of(item[0]))
                certificate = Certificate(key, tuple(ordered))
                (self._lock if key.phase is Phase.PREPARE else self._decide)(certificate)

    return on_acknowledgement


# ------------------------------------------------------------------------------- locks, timeouts and views


def decide_on_prepares(_original: Any) -> Any:
    return NormalCase._on_commit_certificate


def decide_own_prepares(_original: Any) -> Any:
    def lock(self: Any, certificate: Certificate) -> None:
        self._decide(certificate)

    return lock


def report_no_lock(original: Any) -> Any:
    def time_out(self: Any) -> None:
        self._current_lock = lambda: None
        try:
            original(self)
        finally:
            del self._current_lock

    return time_out


def lowest_floor(_original: Any) -> Any:
    return property(lambda self: Floor(min(item.committed_height for item in self.timeouts)))


def no_lock_in_floor(_original: Any) -> Any:
    return property(lambda self: Floor(max(item.committed_height for item in self.timeouts)))


def admit_lower(original: Any) -> Any:
    def admits(self: Floor, height: int, block_hash: bytes) -> Any:
        return height - 1 < self.height or original(self, height, block_hash)

    return admits


def do_not_catch_up(_original: Any) -> Any:
    """A coordinator opens its view without having caught up to the floor."""

    def propose(self: Any) -> None:
        idle = self.is_coordinator and self._candidate is None and not self.muted and not self.timed_out
        if not idle or self._floor is None or not (self._is_open or self.view == 0):
            return
        if self.height == self._floor.height and self._floor.block_hash is not None:
            self._propose_again(self._floor.block_hash)
        else:
            self._propose_new()

    return propose


def open_behind(original: Any) -> Any:
    def open_view(self: Any) -> None:
        floor = self._floor
        if floor is not None and self.height < floor.height:
            self._floor = replace(floor, height=self.height, block_hash=None)
        original(self)
        self._floor = floor

    return open_view


def propose_anew(_original: Any) -> Any:
    def again(self: Any, _block_hash: bytes) -> None:
        self._propose_new()

    return again


def same_commands_new_header(_original: Any) -> Any:
    def again(self: Any, block_hash: bytes) -> None:
        body = self._bodies.get(block_hash)
        if body is not None:
            self._propose_block(self._new_block(body.commands, body.header.time_ms + 1))

    return again


def forget_lock(original: Any) -> Any:
    def enter(self: Any, *arguments: Any) -> None:
        self._signer.state = replace(self._signer.state, lock=None)
        original(self, *arguments)

    return enter


def sign_in_ended_views(_original: Any) -> Any:
    def may_sign(self: Any, key: StatementKey) -> Any:
        last = self.state.last(key.phase)
        is_next = last is None or key.position > last.key.position or last.key == key
        return not self.muted and key.epoch == self.state.epoch and is_next

    return may_sign


def never_timed_out(original: Any) -> Any:
    """As if the view had not been given up, in one function."""

    def run_on(self: Any, *arguments: Any) -> Any:
        kept = self._signer.state
        self._signer.state = replace(kept, timeout=None)
        shown = self._signer.state
        try:
            return original(self, *arguments)
        finally:
            now = self._signer.state
            self._signer.state = kept if now is shown else replace(now, timeout=kept.timeout)

    return run_on


def sign_anything(_original: Any) -> Any:
    def may_sign(self: Any, key: StatementKey) -> Any:
        return not self.muted and key.epoch == self.state.epoch

    return may_sign


def sign_anew(_original: Any) -> Any:
    def sign(self: Any, key: StatementKey) -> Any:
        made = Statement(key, self._member, self._key.sign(key.sign_bytes(self._cluster_id, self._member)))
        self.state = replace(self.state, **{key.phase.value: made})
        return made

    return sign


def prepare_every_block(_original: Any) -> Any:
    def answer(self: Any, sender: str, block: Any) -> None:
        self._prepare(sender, block)

    return answer


def any_closing(original: Any) -> Any:
    """Timeout certificates of old views count again: the view goes back."""

    def on_closing(self: Any, sender: str, certificate: TimeoutCertificate) -> None:
        if (
            certificate.timeouts
            and certificate.epoch == self.members.epoch
            and certificate.view + 1 < self.view
        ):
            self._enter(certificate.view + 1, certificate.floor, certificate)
            return
        original(self, sender, certificate)

    return on_closing


def repeated_timeouts(_original: Any) -> Any:
    def check(certificate: TimeoutCertificate, cluster_id: bytes, members: Any, base_height: int) -> None:
        if len(certificate.timeouts) < commit_quorum(members.n):
            raise CertificateError("too few")
        highest = max(certificate.timeouts, key=lambda item: item.report)
        timeouts._check_proofs(
            highest, certificate.committed, certificate.lock, cluster_id, members, base_height
        )
        for timeout in certificate.timeouts:
            timeouts._check_signature(timeout, cluster_id, members)

    return check


# --------------------------------------------------------------------------------------- disks and drivers


def lose(**lost: Any) -> Any:
    """A restart forgets a part of the sign state."""

    def make(original: Any) -> Any:
        def init(self: Any, *arguments: Any, **named: Any) -> None:
            *first, restored, settings = arguments
            restored = replace(restored, sign_state=replace(restored.sign_state, **lost))
            original(self, *first, restored, settings, **named)

        return init

    return make


def without(*kinds: type) -> Any:
    """Something is not made durable."""

    def make(original: Any) -> Any:
        def flush(self: Any) -> Any:
            effects = original(self)
            effects.persist[:] = [item for item in effects.persist if not isinstance(item, kinds)]
            return effects

        return flush

    return make


def send_first(original: Any) -> Any:
    """A driver that sends before it writes."""

    def batch(self: Host, replica: Any) -> Any:
        effects = original(self, replica)
        for item in effects.send:
            self._dispatch(item.to, item.message)
        effects.send.clear()
        return effects

    return batch


def keep_old_epoch(original: Any) -> Any:
    """After a crash at the end of an epoch, the sign state stays in the old one."""

    def start(self: Any, now_ms: int) -> Any:
        begin = self._signer.begin_epoch
        self._signer.begin_epoch = lambda _epoch: None
        try:
            return original(self, now_ms)
        finally:
            self._signer.begin_epoch = begin

    return start


# ---------------------------------------------------------------------------------------- blocks and blame


def without_time(original: Any) -> Any:
    def check_follows(self: Any, sender: str, block: Any) -> None:
        now_ms = self._now_ms
        self._now_ms = block.header.time_ms
        try:
            original(self, sender, block)
        finally:
            self._now_ms = now_ms

    return check_follows


def without_parent(original: Any) -> Any:
    def check_follows(self: Any, sender: str, block: Any) -> None:
        if block.header.parent == self._head.hash:
            original(self, sender, block)

    return check_follows


def everything_matches(_original: Any) -> Any:
    return staticmethod(lambda _header, _execution: True)


def blame_any_two(original: Any) -> Any:
    def record(self: Any, item: Any) -> Any:
        found = original(self, item)
        if found is not None or isinstance(item, Timeout):
            return found
        for other in self._kept.get(item.signer, {}).values():
            if isinstance(other, Timeout) or other.key.phase is not item.key.phase:
                continue
            if other.key.height == item.key.height and other.key.view != item.key.view:
                return Evidence(other, item)
        return None

    return record


def nobody_is_behind(original: Any) -> Any:
    def flush(self: Any) -> Any:
        effects = original(self)
        effects.behind.clear()
        return effects

    return flush
