"""The sign journal: what this member has promised, on a disk that may lose power at any moment.

One file, `data/sign.journal`, apart from the record: the last-signed state, the bodies of blocks that were
acknowledged and are not committed yet, and own commands that are not ordered yet. One batch is one append and
one fdatasync (`frames` has the layout). When most of the file is dead, it is written anew beside the old one
and renamed over it.

The driver writes a batch before it sends anything that depends on it. After a failed write nothing is known
about the disk any more: the journal refuses everything from then on (`StorageError`), and the node stops.

* **Torn end.** A write that was not acknowledged is cut back at `open`.
* **Damage.** Anything else that is not as written raises `JournalDamagedError`. There is no repair: start the
  member with a new journal, as an observer that asks to rejoin.
* **Missing.** `JournalMissingError`. A journal is made when the cluster is (`acp init`), so that a missing
  one means a lost disk, and never "nothing signed yet".
* **Rolled back.** A journal restored from a backup looks whole. The other members' witnesses expose it. The
  opposite, a restored *record* beside the right journal, shows in `JournalState.committed_height`: a member
  signs nothing about height h + 1 before its record holds h, so a record below that height has lost blocks
  (which peers still have).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from replication.errors import OperatorError, StorageError
from replication.ordering.blocks import Block
from replication.ordering.effects import KeepCommand, SaveBody, SaveSignState
from replication.ordering.signing import SignState

from .codec import MalformedError
from .files import Files
from .frames import SEAL_SIZE, FrameError, Heading, make_frame, make_seal, read_frames
from .items import Contents, Item, Settled, pack_items, require_not_lower, unpack_items

__all__ = [
    "JournalCounters",
    "JournalDamagedError",
    "JournalExistsError",
    "JournalForeignError",
    "JournalItem",
    "JournalMissingError",
    "JournalState",
    "SignJournal",
]

JournalItem = SaveBody | SaveSignState | KeepCommand

_COMPACT_BYTES: Final = 4 * 1024 * 1024
"""A smaller file is not worth writing anew."""
_COMPACT_RATIO: Final = 4
"""Written anew once it is this many times what is alive in it."""
_MAX_FILE_BYTES: Final = 512 * 1024 * 1024
"""Far above what bounded pools and compaction leave: a larger file is not ours."""


class JournalMissingError(StorageError):
    """There is no journal: what this member has signed is not known."""

    reason: ClassVar[str] = "JOURNAL_MISSING"


class JournalDamagedError(StorageError):
    """The journal is not what was written, beyond the torn end of an unfinished write."""

    reason: ClassVar[str] = "JOURNAL_DAMAGED"


class JournalForeignError(OperatorError):
    """The journal is another member's, or of another cluster."""

    reason: ClassVar[str] = "JOURNAL_FOREIGN"


class JournalExistsError(OperatorError):
    """There is a journal already, and it must not be replaced by an empty one."""

    reason: ClassVar[str] = "JOURNAL_EXISTS"


@dataclass(frozen=True, slots=True)
class JournalState:
    """What a journal held when it was opened; durable."""

    sign_state: SignState
    bodies: tuple[Block, ...]
    commands: tuple[bytes, ...]

    @property
    def committed_height(self) -> int:
        """The record must reach at least this height: this member has signed something that rests on it."""
        state = self.sign_state
        signed = (state.propose, state.prepare, state.commit)
        heights = [last.key.height - 1 for last in signed if last is not None]
        if state.timeout is not None:
            heights.append(state.timeout.timeout.committed_height)
        return max(heights, default=0)


@dataclass(slots=True)
class JournalCounters:
    """Totals since the journal was opened."""

    writes: int = 0
    fsyncs: int = 0
    compactions: int = 0
    bytes_written: int = 0


class SignJournal:
    """An open journal. One thread at a time; the home's lock keeps other processes away."""

    def __init__(self, path: Path, files: Files, heading: Heading, contents: Contents) -> None:
        """For `create` and `open`."""
        self.counters = JournalCounters()
        self._path = path
        self._files = files
        self._heading = heading
        self._contents = contents
        self._descriptor = -1
        self._failure = ""
        self._sequence = 0
        self._end = 0
        self._check = heading.check
        self._settled: list[Item] = []

    @classmethod
    def create(
        cls,
        path: Path,
        cluster_id: bytes,
        member: str,
        state: SignState | None = None,
        *,
        files: Files | None = None,
    ) -> SignJournal:
        """Make a journal that begins with `state` (by default, as on a cluster's first disk, nothing signed).

        Raises JournalExistsError, or StorageError when the disk refuses.
        """
        files = files or Files()
        if files.exists(path):
            raise JournalExistsError(
                f"{path} exists: it says what {member} has signed, and an empty one in its place would let "
                f"it sign again. Move it away only to start {member} as an observer that rejoins."
            )
        contents = Contents(state or SignState())
        journal = cls(path, files, Heading.make(cluster_id, member), contents)
        with journal._failing("make"):
            journal._rewrite()
        return journal

    @classmethod
    def open(
        cls, path: Path, cluster_id: bytes, member: str, *, files: Files | None = None
    ) -> tuple[SignJournal, JournalState]:
        """Open a journal, cut back a torn end, and return what it holds. All of that is durable then.

        Raises JournalMissingError, JournalForeignError, JournalDamagedError, or StorageError when the disk
        refuses.
        """
        files = files or Files()
        try:
            descriptor = files.open(path)
        except FileNotFoundError:
            raise JournalMissingError(
                f"{path} is missing: what {member} has signed is not known, so it must not sign. If its disk "
                f"was lost, start {member} with a new journal: it observes, and asks to be let back in."
            ) from None
        except OSError as error:
            raise StorageError(f"{path} cannot be opened: {error.strerror}. Check owner and mode.") from error
        try:
            journal = cls._load(path, files, descriptor, cluster_id, member)
        except BaseException:
            with suppress(OSError):
                files.close(descriptor)
            raise
        held = journal._contents
        return journal, JournalState(held.state, held.blocks, tuple(held.commands.values()))

    @classmethod
    def _load(cls, path: Path, files: Files, descriptor: int, cluster_id: bytes, member: str) -> SignJournal:
        try:
            text = files.read(descriptor, _MAX_FILE_BYTES + 1)
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}. Check the disk.") from error
        try:
            if len(text) > _MAX_FILE_BYTES:
                raise FrameError(f"it has more than {_MAX_FILE_BYTES} bytes")
            heading = Heading.read(text)
            if (heading.cluster_id, heading.member) != (cluster_id, member):
                raise JournalForeignError(
                    f"{path} belongs to {heading.member} of cluster {heading.cluster_id.hex()}, not to "
                    f"{member} of {cluster_id.hex()}. Put this member's own journal there."
                )
            frames, tail = read_frames(heading, text)
            contents = unpack_items(frame.body for frame in frames)
        except (FrameError, MalformedError) as error:
            raise JournalDamagedError(
                f"{path} is damaged: {error}. It cannot be repaired, and {member} must not sign from an "
                f"older state. Check the disk; then move the file away and start {member} with a new "
                "journal: it observes, and asks to be let back in."
            ) from error
        journal = cls(path, files, heading, contents)
        journal._descriptor = descriptor
        journal._sequence, journal._end, journal._check = len(frames), frames[-1].end, frames[-1].check
        if not tail.is_sealed or tail.size > SEAL_SIZE:
            with journal._failing("cut back"):
                journal._cut_back()
        return journal

    @property
    def sign_state(self) -> SignState:
        """The last-signed state, as it is on the disk."""
        return self._contents.state

    def write(self, items: Sequence[JournalItem]) -> None:
        """Make all `items` durable together, in one write and one sync. What is on the disk is left out.

        Raises StorageError when the disk refuses (then and ever after), and InvariantError, with nothing
        written, for a state that forgets something that was signed.
        """
        self._require_usable()
        fresh = [item for item in items if self._contents.is_news(item)]
        if not fresh:
            return
        state = self._contents.state
        for item in fresh:
            if isinstance(item, SaveSignState):
                require_not_lower(state, item.state)
                state = item.state
        with self._failing("write to"):
            self._write([*self._settled, *fresh])

    def settle(self, height: int, command_digests: Iterable[bytes] = ()) -> None:
        """Bodies up to `height`, and the commands with these SHA-256 digests, are not needed any more.

        Goes to the disk with the next `write`, or at `close`: what a crash brings back was only kept longer.
        """
        kept = self._contents.commands
        settled = Settled(height, tuple(digest for digest in command_digests if digest in kept))
        if self._contents.is_news(settled):
            self._contents.apply(settled)
            self._settled.append(settled)

    def close(self) -> None:
        """Write what was settled, and close the file. Does nothing the second time."""
        if self._descriptor < 0:
            return
        try:
            if not self._failure:
                with self._failing("close"):
                    if self._settled:
                        self._write(self._settled)
                    self._sync()
        finally:
            descriptor, self._descriptor = self._descriptor, -1
            self._failure = self._failure or "it was closed"
            with suppress(OSError):
                self._files.close(descriptor)

    def _write(self, items: Sequence[Item]) -> None:
        body = pack_items(items)
        for item in items:
            self._contents.apply(item)
        size = self._end + len(body)
        if size > _COMPACT_BYTES and size > _COMPACT_RATIO * self._contents.size:
            self._rewrite()
            self.counters.compactions += 1
        else:
            self._append(body)
        self._settled = []
        self.counters.writes += 1

    def _append(self, body: bytes) -> None:
        frame, check = make_frame(self._heading, self._sequence, self._check, body)
        # With room for the seal, which is then written in place and cannot fail for lack of space.
        self._put(frame + bytes(SEAL_SIZE), self._end)
        self._sync()
        self._end += len(frame)
        self._sequence += 1
        self._check = check
        self._seal()

    def _seal(self) -> None:
        """Say that the last frame is durable. Not synced: the next write takes it along."""
        self._put(make_seal(self._heading, self._sequence - 1, self._check), self._end)

    def _rewrite(self) -> None:
        """Write everything alive to a new file, and put it in the place of the old one."""
        heading = Heading.make(self._heading.cluster_id, self._heading.member)
        frame, check = make_frame(heading, 0, heading.check, pack_items(self._contents.items()))
        draft = self._path.with_name(f".{self._path.name}.new")
        self._files.remove(draft)
        descriptor = self._files.create(draft)
        try:
            text = heading.encoded + frame
            self._put(text + bytes(SEAL_SIZE), 0, descriptor)
            self._sync(descriptor)
            self._files.replace(draft, self._path)
            self._files.sync_folder(self._path.parent)
            self.counters.fsyncs += 1
        except BaseException:
            with suppress(OSError):
                self._files.close(descriptor)
            raise
        old, self._descriptor = self._descriptor, descriptor
        self._heading, self._sequence, self._end, self._check = heading, 1, len(text), check
        if old >= 0:
            self._files.close(old)
        self._seal()

    def _cut_back(self) -> None:
        """Remove what is behind the last whole frame, and make sure of everything before it."""
        self._files.truncate(self._descriptor, self._end)
        self._put(bytes(SEAL_SIZE), self._end)
        self._sync()
        self._seal()

    def _put(self, data: bytes, offset: int, descriptor: int | None = None) -> None:
        self._files.write(self._descriptor if descriptor is None else descriptor, data, offset)
        self.counters.bytes_written += len(data)

    def _sync(self, descriptor: int | None = None) -> None:
        self._files.sync(self._descriptor if descriptor is None else descriptor)
        self.counters.fsyncs += 1

    def _require_usable(self) -> None:
        if self._failure:
            raise StorageError(
                f"{self._path} accepts nothing any more: {self._failure}. Sign nothing; restart the node."
            )

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        """From the first error on, the disk's state is unknown, and nothing more is accepted."""
        try:
            yield
        except OSError as error:
            self._failure = f"could not {what} it: {error.strerror or error}"
            raise StorageError(
                f"could not {what} {self._path}: {error.strerror or error}. Nothing more may be signed "
                "here. Check the disk and its free space, then restart the node."
            ) from error
