"""A small application for simulations: deterministic, cheap, and with everything the seam offers.

Commands are signed by their author. A *subject* is opened by one member, voted on by others, and settled
when a tally quorum has voted or when its window closes in block time; a *note* only leaves an entry. Member
changes carry the signature of an operator whose key no member has, so that an adversary cannot remove the
correct members; views, evidence and rejoins are as `replication.ordering.application` describes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from replication.faults.simulation.judge import contradiction
from replication.identity import keys
from replication.identity.members import Member, MemberSet
from replication.identity.merkle import merkle_root
from replication.identity.signbytes import newview_bytes, rejoin_bytes
from replication.ordering.application import CheckedCommand, CommandError, Selection
from replication.ordering.statements import Evidence, NewView

__all__ = ["Directory", "ToyApplication", "ToyCommand", "ToyExecution", "members_command", "toy_command"]

NOTE: Final = "note"
OPEN: Final = "open"
VOTE: Final = "vote"
MEMBERS: Final = "members"
VIEW: Final = "view"
EVIDENCE: Final = "evidence"
REJOIN: Final = "rejoin"
_KINDS: Final = frozenset({NOTE, OPEN, VOTE, MEMBERS, VIEW, EVIDENCE, REJOIN})
_ALONE: Final = frozenset({MEMBERS, REJOIN})
SIGNATURE_SIZE: Final = 64
MAX_BODY: Final = 4096
_CACHE_SIZE: Final = 8192

REJOIN_INTERVAL_MS: Final = 20_000
"""Block time between two rejoins of a member, as in the ledger: a member that rejoined without end would
begin one epoch after the other, each in view 0 and with empty pools, and nothing else would be ordered."""


@dataclass(frozen=True, slots=True)
class ToyCommand:
    """A command that was read. `payload` depends on the kind."""

    kind: str
    author: str
    payload: str
    digest: bytes


@dataclass
class Directory:
    """What all members of one simulated cluster know: its name, everyone who may ever be a member, the
    operator."""

    cluster_id: bytes
    genesis: MemberSet
    people: Mapping[str, Member]
    operator: bytes
    evidence: dict[bytes, Evidence] = field(default_factory=dict)
    checked: dict[tuple[bytes, int], ToyCommand] = field(default_factory=dict)


def toy_command(
    sign: Callable[[bytes], bytes], cluster_id: bytes, kind: str, author: str, payload: str
) -> bytes:
    """A signed command of one member."""
    body = f"{kind}|{author}|{payload}".encode()
    return body + sign(_signed(cluster_id, body))


def members_command(
    sign: Callable[[bytes], bytes],
    operator: Callable[[bytes], bytes],
    cluster_id: bytes,
    author: str,
    names: Sequence[str],
) -> bytes:
    """A change of the member set to `names` in this order, with the operator's blessing."""
    listed = ",".join(names)
    blessing = operator(b"members" + cluster_id + listed.encode()).hex()
    return toy_command(sign, cluster_id, MEMBERS, author, f"{listed};{blessing}")


def _signed(cluster_id: bytes, body: bytes) -> bytes:
    return b"toy-command" + cluster_id + body


@dataclass
class _Subject:
    deadline_ms: int
    voters: tuple[str, ...] = ()


@dataclass
class _State:
    """Committed state, or what a block would make of it."""

    size: int
    head: bytes
    members: MemberSet
    open: dict[bytes, _Subject]
    recorded_view: int = 0
    incarnations: dict[str, bytes] = field(default_factory=dict)
    rejoined_ms: dict[str, int] = field(default_factory=dict)
    accused: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class ToyExecution:
    """What a block does."""

    entries: tuple[bytes, ...]
    entries_root: bytes
    audit_size: int
    audit_head: bytes
    is_empty: bool
    recorded_view: int
    time_ms: int
    state: _State = field(repr=False)
    added: tuple[bytes, ...] = field(repr=False)
    void: tuple[bytes, ...] = field(default=(), repr=False)


class ToyApplication:
    """Implements `replication.ordering.application.Application`."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self._done: set[bytes] = set()
        head = sha256(b"toy-genesis" + directory.cluster_id).digest()
        self._state = _State(1, head, directory.genesis, {})

    def genesis_execution(self) -> ToyExecution:
        """The execution of block 0."""
        state = self._state
        return ToyExecution((), merkle_root(()), state.size, state.head, False, 0, 0, state, ())

    # What the replica asks.

    @property
    def members(self) -> MemberSet:
        """Members of the current epoch."""
        return self._state.members

    @property
    def recorded_view(self) -> int:
        """Highest view of this epoch that the record shows."""
        return self._state.recorded_view

    @property
    def accused(self) -> tuple[str, ...]:
        """Members that the record shows as proven faulty, in any epoch."""
        return tuple(name for _, name in self._state.accused)

    @property
    def head(self) -> bytes:
        """Audit head of the committed state."""
        return self._state.head

    def incarnation(self, member: str) -> bytes:
        """Nonce of the incarnation in which a member may sign."""
        return self._state.incarnations.get(member, b"")

    def is_faulty(self, member: str) -> bool:
        """Whether the record accuses a member in this epoch."""
        return (self._state.members.epoch, member) in self._state.accused

    def check(self, command: bytes) -> CheckedCommand:
        """Size, shape, author, signature. Raises CommandError."""
        read = self._read(command)
        return CheckedCommand(
            read.digest,
            read.author,
            announce=read.kind in (OPEN, EVIDENCE),
            keep=read.kind in (OPEN, VOTE),
        )

    def is_done(self, digest: bytes) -> bool:
        """Whether a command was committed already."""
        return digest in self._done

    def select(self, commands: Sequence[bytes], time_ms: int) -> Selection:
        """Openings before votes on them; member changes alone; repeats and late votes are void."""
        chosen: list[bytes] = []
        void: list[bytes] = []
        opened: set[bytes] = set()
        votes: list[tuple[bytes, bytes]] = []
        for command in commands:
            try:
                read = self._read(command)
            except CommandError:
                void.append(command)
                continue
            if read.digest in self._done or self._is_void(read):
                void.append(command)
            elif read.kind == REJOIN and self._rejoins_too_soon(read, time_ms):
                continue
            elif read.kind in _ALONE:
                return Selection((command,), True, tuple(void))
            elif read.kind == VOTE:
                votes.append((command, bytes.fromhex(read.payload.split(";")[0])))
            else:
                chosen.append(command)
                if read.kind == OPEN:
                    opened.add(read.digest)
        ready = 0
        for command, subject in votes:
            if subject in opened or subject in self._state.open:
                chosen.append(command)
                ready += subject in opened
            elif subject in self._done:
                void.append(command)
        return Selection(tuple(chosen), not opened or ready >= len(opened), tuple(void))

    def next_deadline_ms(self) -> int | None:
        """When the first window closes."""
        return min((subject.deadline_ms for subject in self._state.open.values()), default=None)

    def execute(self, height: int, time_ms: int, commands: Sequence[bytes]) -> ToyExecution:
        """Windows that closed first, then the commands, then subjects settled by them."""
        committed = self._state
        state = _State(
            committed.size,
            committed.head,
            committed.members,
            dict(committed.open),
            committed.recorded_view,
            committed.incarnations,
            committed.rejoined_ms,
            committed.accused,
        )
        entries: list[bytes] = []
        added: dict[bytes, None] = {}
        for digest in _due(state.open, time_ms):
            del state.open[digest]
            entries.append(b"expired" + digest)
        reads = [self._read(command) for command in commands]
        alone = len(reads) == 1
        for read in reads:
            if read.digest in self._done or read.digest in added or self._is_void(read):
                continue
            entry = self._apply(state, read, height, time_ms, alone)
            if entry is not None:
                added[read.digest] = None
                entries.append(entry)
        for digest in _settled(state):
            del state.open[digest]
            entries.append(b"settled" + digest)
        for entry in entries:
            state.head = sha256(state.head + entry).digest()
        state.size += len(entries)
        return ToyExecution(
            tuple(entries),
            merkle_root(entries),
            state.size,
            state.head,
            not entries,
            state.recorded_view,
            time_ms,
            state,
            tuple(added),
        )

    def commit(self, execution: ToyExecution) -> None:
        """Make an execution the committed state."""
        self._state = execution.state
        self._done.update(execution.added)

    # Commands that the replica makes.

    def view_command(self, opening: NewView) -> bytes:
        """The command that records a new coordinator."""
        payload = f"{opening.epoch};{opening.view};{opening.tc_digest.hex()}"
        return f"{VIEW}|{opening.signer}|{payload}".encode() + opening.signature

    def evidence_command(self, evidence: Evidence) -> bytes:
        """The command that records a contradiction. The bytes name it; the directory has the content."""
        name = sha256(repr(evidence).encode()).digest()
        self.directory.evidence[name] = evidence
        return f"{EVIDENCE}|{evidence.accused}|{name.hex()}".encode() + bytes(SIGNATURE_SIZE)

    def rejoin_command(self, member: str, nonce: bytes, sign: Callable[[bytes], bytes]) -> bytes:
        """The command by which a member that lost its disk asks for a new incarnation."""
        epoch = self._state.members.epoch
        signature = sign(rejoin_bytes(self.directory.cluster_id, epoch, member=member, nonce=nonce))
        return f"{REJOIN}|{member}|{epoch};{nonce.hex()}".encode() + signature

    # Reading and checking.

    def _read(self, command: bytes) -> ToyCommand:
        epoch = self._state.members.epoch
        cache = self.directory.checked
        found = cache.get((command, epoch))
        if found is None:
            found = self._checked(command)
            if len(cache) >= _CACHE_SIZE:
                cache.clear()
            cache[command, epoch] = found
        return found

    def _checked(self, command: bytes) -> ToyCommand:
        if not SIGNATURE_SIZE < len(command) <= MAX_BODY:
            raise CommandError(f"a toy command of {len(command)} bytes")
        body, signature = command[:-SIGNATURE_SIZE], command[-SIGNATURE_SIZE:]
        parts = body.decode("ascii", "replace").split("|")
        if len(parts) != 3 or parts[0] not in _KINDS:
            raise CommandError("not a toy command")
        read = ToyCommand(parts[0], parts[1], parts[2], sha256(command).digest())
        try:
            valid = self._is_authentic(read, body, signature)
        except (ValueError, IndexError) as error:
            raise CommandError(f"a malformed {read.kind} command: {error}") from error
        if not valid:
            raise CommandError(f"a {read.kind} command that is not of {read.author}, or not valid")
        return read

    def _is_authentic(self, read: ToyCommand, body: bytes, signature: bytes) -> bool:
        cluster_id, members = self.directory.cluster_id, self._state.members
        author = members.get(read.author)
        if author is None:
            return False
        if read.kind == EVIDENCE:
            evidence = self.directory.evidence.get(bytes.fromhex(read.payload))
            return (
                evidence is not None
                and evidence.accused == read.author
                and contradiction(evidence.first, evidence.second, cluster_id, members) is not None
            )
        if read.kind == VIEW:
            epoch, view, digest = read.payload.split(";")
            signed = newview_bytes(
                cluster_id,
                int(epoch),
                view=int(view),
                tc_digest=bytes.fromhex(digest),
                signer=read.author,
            )
            is_coordinator = members.ids[int(view) % members.n] == read.author
            return is_coordinator and keys.verify(author.public_key, signature, signed)
        if read.kind == REJOIN:
            epoch, nonce = read.payload.split(";")
            signed = rejoin_bytes(cluster_id, int(epoch), member=read.author, nonce=bytes.fromhex(nonce))
            return keys.verify(author.public_key, signature, signed)
        if read.kind == MEMBERS:
            listed, blessing = read.payload.split(";")
            blessed = b"members" + cluster_id + listed.encode()
            if not keys.verify(self.directory.operator, bytes.fromhex(blessing), blessed):
                return False
        elif read.kind == VOTE:
            bytes.fromhex(read.payload.split(";")[0])
        elif read.kind == OPEN:
            int(read.payload.split(";")[0])
        return keys.verify(author.public_key, signature, _signed(cluster_id, body))

    def _is_void(self, read: ToyCommand) -> bool:
        """Whether a command of these kinds could not change the committed state any more."""
        state = self._state
        if read.kind == VIEW:
            epoch, view, _ = read.payload.split(";")
            return int(epoch) != state.members.epoch or int(view) <= state.recorded_view
        if read.kind == EVIDENCE:
            return (
                self.directory.evidence[bytes.fromhex(read.payload)].first.epoch,
                read.author,
            ) in state.accused
        if read.kind == REJOIN:
            return int(read.payload.split(";")[0]) != state.members.epoch
        return False

    def _rejoins_too_soon(self, read: ToyCommand, time_ms: int) -> bool:
        last_ms = self._state.rejoined_ms.get(read.author)
        return last_ms is not None and time_ms < last_ms + REJOIN_INTERVAL_MS

    # Effects of one command.

    def _apply(self, state: _State, read: ToyCommand, height: int, time_ms: int, alone: bool) -> bytes | None:
        label = f"{read.kind}|{read.author}|{height}|".encode() + read.digest
        if read.kind in _ALONE and not alone:
            return None
        if read.kind == VOTE:
            subject = state.open.get(bytes.fromhex(read.payload.split(";")[0]))
            if subject is None or read.author in subject.voters:
                return None
            opened = bytes.fromhex(read.payload.split(";")[0])
            state.open[opened] = _Subject(subject.deadline_ms, (*subject.voters, read.author))
        elif read.kind == OPEN:
            state.open[read.digest] = _Subject(time_ms + int(read.payload.split(";")[0]))
        elif read.kind == VIEW:
            state.recorded_view = int(read.payload.split(";")[1])
        elif read.kind == EVIDENCE:
            evidence = self.directory.evidence[bytes.fromhex(read.payload)]
            state.accused = (*state.accused, (evidence.first.epoch, read.author))
        elif read.kind == REJOIN:
            if self._rejoins_too_soon(read, time_ms):
                return None
            state.rejoined_ms = {**state.rejoined_ms, read.author: time_ms}
            nonce = bytes.fromhex(read.payload.split(";")[1])
            state.incarnations = {**state.incarnations, read.author: nonce}
            self._begin_epoch(state, state.members.ids)
        elif read.kind == MEMBERS:
            names = read.payload.split(";")[0].split(",")
            if tuple(names) == state.members.ids or not all(name in self.directory.people for name in names):
                return None
            self._begin_epoch(state, names)
        return label

    def _begin_epoch(self, state: _State, names: Sequence[str]) -> None:
        people = self.directory.people
        state.members = MemberSet(state.members.epoch + 1, tuple(people[name] for name in names))
        state.recorded_view = 0


def _due(subjects: Mapping[bytes, _Subject], time_ms: int) -> list[bytes]:
    late = [(item.deadline_ms, digest) for digest, item in subjects.items() if item.deadline_ms < time_ms]
    return [digest for _, digest in sorted(late)]


def _settled(state: _State) -> list[bytes]:
    members = state.members
    quorum = 2 * members.max_faulty + 1
    return [
        digest
        for digest, subject in state.open.items()
        if sum(voter in members for voter in subject.voters) >= quorum
    ]
