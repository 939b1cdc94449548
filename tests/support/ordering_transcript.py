"""The language of the transcripts in tests/unit/ordering/transcripts, and its interpreter.

A transcript is a text: comments that quote the sentence of the protocol at issue, and steps. A step is a
command, a line of dashes, and what the cluster said and did, up to an empty line. Heartbeats (BEAT) and
witnesses (WITNESS) are carried out but not shown. Blocks are called b1, b2, ... in the order in which they
come up, commands as the step that made them says. Positions are written view/height, views alone as v1.

    cluster N [spares=K] [NAME=MS ...]  N members that have greeted each other; settings by their names
    submit MEMBER KIND LABEL [TEXT]     KIND is note, open, vote (on the label TEXT) or members (TEXT: a,b,c)
    tick [MEMBER ...]                   let members work until there is nothing to do at once
    deliver [FROM->TO] [WORD]           deliver what is under way (on one link; of one kind)
    drop [FROM->TO] [WORD]              lose it instead
    settle                              tick, deliver and fetch until nothing is under way
    pass MS / run MS                    let time pass, in one leap, or in steps with everybody awake
    cut MEMBER / heal                   isolate a member, or bring all links back with a greeting
    crash MEMBER / restart MEMBER       the process ends, and comes back from its disk
    fail MEMBER KEPT                    its next write keeps only so many items, and then it crashes
    backup MEMBER / restore MEMBER [state]   copy a disk, and bring the copy back (or only the sign state)
    block LABEL MEMBER LABELS           a valid block of these commands on top of what MEMBER has; labels that
                                        are new become notes of MEMBER
    forge FROM->TO KIND ARGUMENTS       deliver what FROM's key can sign: see `_forged`
    quietly COMMAND                     carry it out, and show nothing of it
    show [MEMBER ...]                   where members are
    evidence MEMBER                     whom the record of a member calls faulty
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from tests.support.ordering_toy import START_MS, Cluster, Node

from replication.ordering.application import command_digest
from replication.ordering.blocks import Block
from replication.ordering.certificates import Certificate
from replication.ordering.effects import ApplyBlock, Effects, SaveBody, SaveSignState
from replication.ordering.messages import (
    Acknowledgement,
    BlockProposal,
    BodyMessage,
    BodyRequest,
    CertificateMessage,
    CommandMessage,
    Heartbeat,
    Message,
    NewViewMessage,
    SuspectMessage,
    TimeoutCertificateMessage,
    TimeoutMessage,
    Witness,
)
from replication.ordering.pacemaker import ReplicaSettings
from replication.ordering.signing import SignState
from replication.ordering.statements import Phase, StatementKey, Timeout

__all__ = ["Interpreter", "split_steps"]

Steps = list[tuple[str, list[str], str]]
"""Of each step: what stands before it, the commands, and what is expected."""


def split_steps(text: str) -> Steps:
    """The steps of a transcript."""
    steps: Steps = []
    preamble: list[str] = []
    commands: list[str] = []
    expected: list[str] | None = None
    for line in [*text.splitlines(), ""]:
        if expected is not None:
            if line:
                expected.append(line)
                continue
            steps.append(("\n".join(preamble), commands, "\n".join(expected)))
            preamble, commands, expected = [], [], None
        elif line.startswith("----"):
            expected = []
        elif line.startswith("#") or not line:
            preamble.append(line)
        else:
            commands.append(line)
    if commands:
        raise ValueError(f"a step without ----: {commands}")
    return steps


class _Crash(Exception):  # noqa: N818 - the name of an event, not of an error
    """The process ends in the middle of a write."""


class _LoggedNode(Node):
    """A node that says what it does."""

    cluster: _LoggedCluster
    is_down = False
    kept: int | None = None

    def carry_out(self, effects: Effects[Any]) -> None:
        if self.kept is not None and effects.persist:
            kept, self.kept = self.kept, None
            self.disk.write(effects.persist[:kept])
            names = [self.cluster.item(item) for item in effects.persist]
            self.cluster.say(f"{self.name} was to write {', '.join(names)}; kept {kept} of it")
            raise _Crash
        for item in effects.persist:
            if isinstance(item, ApplyBlock):
                self.cluster.say(f"{self.name} commits {self.cluster.block_at(item.block)}")
        for send in effects.send:
            text = self.cluster.describe(send.message)
            if text:
                self.cluster.say(f"{self.name} -> {send.to or 'all'}: {text}")
        for behind in effects.behind:
            self.cluster.say(f"{self.name} is behind {behind.peer}, which has block {behind.height}")
        before = self.replica.members.epoch
        super().carry_out(effects)
        if self.replica.members.epoch != before:
            raise AssertionError("the epoch of a replica changes only inside an input")

    def offer(self, sender: str, message: Message) -> None:
        if self.is_down:
            return
        super().offer(sender, message)
        for text in self.refused:
            self.cluster.say(f"{self.name} refuses: {self.cluster.named(text)}")
        self.refused.clear()

    def tick(self) -> None:
        if not self.is_down:
            super().tick()


class _LoggedCluster(Cluster):
    """A cluster whose events are lines."""

    def __init__(self, n: int, spares: int, settings: ReplicaSettings) -> None:
        super().__init__(n, spares=spares, settings=settings)
        self.lines: list[str] = []
        self.labels: dict[bytes, str] = {}
        self.blocks: dict[bytes, str] = {}
        self.made: dict[str, Block] = {}

    def boot(self, *names: str) -> list[Node]:
        started: list[Node] = [_LoggedNode(self, name) for name in names or self.members.ids]
        self.nodes |= {node.name: node for node in started}
        for node in started:
            node.start()
        return started

    def say(self, line: str) -> None:
        """One event. An event that repeats the last one, but for its receiver, joins its line."""
        self.lines.append(line)

    # Names.

    def block_name(self, block_hash: bytes) -> str:
        return self.blocks.setdefault(block_hash, f"b{len(self.blocks) + 1}")

    def block_at(self, block: Block) -> str:
        return f"{self.block_name(block.hash)} at height {block.height}"

    def command_name(self, command: bytes) -> str:
        digest = command_digest(command)
        if digest in self.labels:
            return self.labels[digest]
        kind, author, payload = command[:-64].decode("ascii").split("|")
        if kind == "view":
            return f"view {payload.split(';')[1]} of {author}"
        return f"{kind} {author}" if kind == "rejoin" else f"{kind} against {author}"

    def content(self, block: Block) -> str:
        names = ", ".join(map(self.command_name, block.commands)) or "empty"
        self.made[self.block_name(block.hash)] = block
        return f"{self.block_name(block.hash)} [{names}]"

    def key(self, key: StatementKey) -> str:
        epoch = f" in epoch {key.epoch}" if key.epoch else ""
        return f"{key.view}/{key.height} {self.block_name(key.block_hash)}{epoch}"

    def certificate_name(self, certificate: Certificate) -> str:
        kind = {Phase.PREPARE: "PC", Phase.COMMIT: "CC", Phase.PROPOSE: "P?"}[certificate.key.phase]
        signers = ",".join(name for name, _ in certificate.signatures)
        return f"{kind} {self.key(certificate.key)} by {signers}"

    def timeout_name(self, timeout: Timeout) -> str:
        lock = ""
        if timeout.lock is not None:
            lock = f", lock v{timeout.lock.view} {self.block_name(timeout.lock.block_hash)}"
        return f"v{timeout.view}, committed {timeout.committed_height}{lock}"

    def item(self, item: Any) -> str:
        """Something that is to be written."""
        if isinstance(item, SaveBody):
            return f"body {self.block_name(item.block.hash)}"
        if isinstance(item, SaveSignState):
            return "state"
        if isinstance(item, ApplyBlock):
            return f"block {self.block_name(item.block.hash)}"
        return f"command {self.command_name(item.command)}"

    def named(self, text: str) -> str:
        """A message of an error, with times from the start."""
        words = []
        for word in text.split(" "):
            number = word.rstrip(",:")
            is_time = number.isdigit() and abs(int(number) - START_MS) < 10**9
            words.append(word.replace(number, f"{int(number) - START_MS:+}") if is_time else word)
        return " ".join(words)

    def describe(self, message: Message) -> str:
        """A message in a few words; nothing for what is not shown."""
        match message:
            case BlockProposal():
                parent = message.parent_certificate
                height = 0 if parent is None else parent.key.height
                key = message.statement.key
                return f"PROPOSE {key.view}/{key.height} {self.content(message.block)} on CC of {height}"
            case Acknowledgement():
                return f"{message.statement.key.phase.name} {self.key(message.statement.key)}"
            case CertificateMessage():
                return self.certificate_name(message.certificate)
            case CommandMessage():
                return f"{'OVERDUE' if message.overdue else 'COMMAND'} {self.command_name(message.command)}"
            case SuspectMessage():
                return f"SUSPECT v{message.suspect.view}"
            case TimeoutMessage():
                return f"TIMEOUT {self.timeout_name(message.report.timeout)}"
            case TimeoutCertificateMessage():
                return f"TC {self.tc_name(message.certificate)}"
            case NewViewMessage():
                return f"NEWVIEW v{message.statement.view} by TC {self.tc_name(message.certificate)}"
            case BodyRequest():
                return f"BODY? {self.block_name(message.block_hash)}"
            case BodyMessage():
                return f"BODY {self.block_name(message.block.hash)}"
            case Witness() | Heartbeat():
                return ""

    def tc_name(self, certificate: Any) -> str:
        floor = certificate.floor
        block = "" if floor.block_hash is None else f" and {self.block_name(floor.block_hash)}"
        signers = ",".join(timeout.signer for timeout in certificate.timeouts)
        return f"v{certificate.view} by {signers} (floor {floor.height}{block})"


def _kind(message: Message, shown: str) -> str:
    """The word by which a message is selected: its first when it is shown, or WITNESS, or BEAT."""
    if isinstance(message, Witness):
        return "WITNESS"
    return shown.split(" ")[0] or "BEAT"


class Interpreter:
    """Runs the commands of one transcript."""

    def __init__(self) -> None:
        self._cluster: _LoggedCluster | None = None
        self._commands: dict[str, bytes] = {}
        self._backups: dict[str, Any] = {}

    @property
    def cluster(self) -> _LoggedCluster:
        if self._cluster is None:
            raise ValueError("a transcript begins with `cluster`")
        return self._cluster

    def run(self, commands: Iterable[str]) -> str:
        """Carry out one step; returns what happened."""
        for line in commands:
            word, *arguments = line.split()
            handler: Callable[..., None] = getattr(self, f"_do_{word}")
            handler(*arguments)
        lines, self.cluster.lines = self.cluster.lines, []
        return "\n".join(lines) or "ok"

    def _do_quietly(self, word: str, *arguments: str) -> None:
        shown = list(self.cluster.lines)
        getattr(self, f"_do_{word}")(*arguments)
        self.cluster.lines = shown

    def node(self, name: str) -> _LoggedNode:
        node = self.cluster.nodes[name]
        if not isinstance(node, _LoggedNode):
            raise TypeError(name)
        return node

    def _guard(self, node: _LoggedNode, call: Callable[[], object]) -> None:
        """An input, in which the process may come to its end."""
        try:
            call()
        except _Crash:
            self._end(node)

    def _offer(self, to: str, sender: str, message: Message) -> None:
        node = self.node(to)
        self._guard(node, lambda: node.offer(sender, message))

    def _end(self, node: _LoggedNode) -> None:
        node.is_down = True
        for (sender, to), queue in self.cluster.links.items():
            if to == node.name or sender == node.name:
                queue.clear()
        self.cluster.say(f"{node.name} is down")

    # The cluster.

    def _do_cluster(self, members: str, *options: str) -> None:
        values = {name: int(value) for name, value in (option.split("=") for option in options)}
        spares = values.pop("spares", 0)
        self._commands, self._backups = {}, {}
        self._cluster = _LoggedCluster(int(members), spares, replace(ReplicaSettings(), **values))
        self.cluster.boot()
        self.cluster.settle()

    def _do_start(self, name: str) -> None:
        self.cluster.boot(name)

    # Commands.

    def _do_submit(self, author: str, kind: str, label: str, text: str = "") -> None:
        cluster = self.cluster
        if kind == "note":
            command = cluster.note(author, label)
        elif kind == "open":
            command = cluster.open(author, label, window_ms=int(text or 1_000))
        elif kind == "vote":
            command = cluster.vote(author, self._commands[text])
        elif kind == "members":
            command = cluster.change_members(author, text.split(","))
        else:
            raise ValueError(kind)
        self._commands[label] = command
        cluster.labels[command_digest(command)] = label
        node = self.node(author)
        if not node.is_down:
            self._guard(node, lambda: node.submit(command))

    # Work.

    def _do_tick(self, *names: str) -> None:
        for name in names or tuple(self.cluster.nodes):
            node = self.node(name)
            self._guard(node, node.tick)

    def _select(self, words: Iterable[str]) -> list[tuple[str, str, Message]]:
        """Take what is meant out of the links."""
        link, kind = "", ""
        for word in words:
            if "->" in word:
                link = word
            else:
                kind = word
        taken = []
        for (sender, to), queue in sorted(self.cluster.links.items()):
            if link and link != f"{sender}->{to}":
                continue
            for message in list(queue):
                if kind and _kind(message, self.cluster.describe(message)) != kind:
                    continue
                queue.remove(message)
                taken.append((sender, to, message))
        return taken

    def _do_deliver(self, *words: str) -> None:
        for sender, to, message in self._select(words):
            self._offer(to, sender, message)
        self.cluster.serve()

    def _do_drop(self, *words: str) -> None:
        self._select(words)

    def _do_settle(self) -> None:
        for _ in range(60):
            self._do_tick()
            if not any(self.cluster.links.values()):
                return
            self._do_deliver()
        raise AssertionError("the cluster does not come to rest")

    def _do_pass(self, duration_ms: str) -> None:
        self.cluster.now_ms += int(duration_ms)

    def _do_run(self, duration_ms: str) -> None:
        for _ in range(int(duration_ms) // 50):
            self.cluster.now_ms += 50
            self._do_settle()

    # Faults.

    def _do_cut(self, *names: str) -> None:
        self.cluster.isolate(*names)

    def _do_heal(self) -> None:
        self.cluster.heal()

    def _do_crash(self, name: str) -> None:
        self._end(self.node(name))

    def _do_fail(self, name: str, kept: str) -> None:
        self.node(name).kept = int(kept)

    def _do_restart(self, name: str) -> None:
        node = self.node(name)
        node.is_down = False
        node.restart(trusted=False)
        for peer in list(self.cluster.nodes.values()):
            if peer is not node and not self.node(peer.name).is_down:
                peer.carry_out(peer.replica.greet(name, self.cluster.now_ms))
                node.carry_out(node.replica.greet(peer.name, self.cluster.now_ms))

    def _do_backup(self, name: str) -> None:
        self._backups[name] = self.node(name).disk.snapshot()

    def _do_restore(self, name: str, what: str = "all") -> None:
        self.node(name).disk.roll_back(self._backups[name], blocks_too=what != "state")

    def _do_wipe(self, name: str) -> None:
        self.node(name).disk.sign_state = SignState(self.node(name).sign_state.epoch, b"\x05" * 32)

    # Adversaries.

    def _do_block(self, label: str, name: str, *labels: str) -> None:
        for text in labels:
            if text not in self._commands:
                author = text.rstrip("0123456789")
                self._commands[text] = self.cluster.note(
                    author if author in self.cluster.keys else "m0", text
                )
                self.cluster.labels[command_digest(self._commands[text])] = text
        block = self.cluster.block(self.node(name), *(self._commands[text] for text in labels))
        self.cluster.made[label] = block
        self.cluster.blocks[block.hash] = label

    def _do_forge(self, link: str, kind: str, *arguments: str) -> None:
        sender, to = link.split("->")
        options = dict(item.split("=", 1) for item in arguments if "=" in item)
        plain = [item for item in arguments if "=" not in item]
        message = self._forged(sender, kind, plain, options)
        for name in self.cluster.nodes if to == "all" else [to]:
            if name != sender:
                self.cluster.say(f"{sender} (forged) -> {name}: {self.cluster.describe(message)}")
                self._offer(name, sender, message)

    def _forged(self, sender: str, kind: str, plain: list[str], options: dict[str, str]) -> Message:
        """propose BLOCK, prepare BLOCK, commit BLOCK, pc BLOCK by=a,b,c, cc BLOCK by=a,b,c, suspect, timeout
        [lock=BLOCK by=a,b,c lockview=V], tc by=a,b,c, overdue LABEL; all with view=V (0)."""
        cluster, view = self.cluster, int(options.get("view", "0"))
        by = tuple(options.get("by", "").split(","))
        if kind == "propose":
            return cluster.proposal(sender, self.cluster.made[plain[0]], view)
        if kind in ("prepare", "commit"):
            return Acknowledgement(cluster.statement(Phase(kind), sender, self.cluster.made[plain[0]], view))
        if kind in ("pc", "cc"):
            phase = Phase.PREPARE if kind == "pc" else Phase.COMMIT
            return CertificateMessage(cluster.certificate(phase, self.cluster.made[plain[0]], by, view))
        if kind == "suspect":
            return SuspectMessage(cluster.suspect(sender, view))
        if kind == "timeout":
            lock = None
            if "lock" in options:
                block = self.cluster.made[options["lock"]]
                lock = cluster.certificate(Phase.PREPARE, block, by, int(options.get("lockview", "0")))
            return TimeoutMessage(cluster.report(sender, view, lock=lock))
        if kind == "tc":
            return TimeoutCertificateMessage(cluster.timeout_certificate(view, signers=by))
        if kind in ("overdue", "command"):
            return CommandMessage(self._commands[plain[0]], overdue=kind == "overdue")
        raise ValueError(kind)

    # Looking.

    def _do_show(self, *names: str) -> None:
        for name in names or tuple(self.cluster.nodes):
            self.cluster.say(self._state(self.node(name)))

    def _state(self, node: _LoggedNode) -> str:
        if node.is_down:
            return f"{node.name} is down"
        replica, cluster = node.replica, self.cluster
        epoch = f"epoch {replica.members.epoch}, " if replica.members.epoch else ""
        parts = [f"{node.name}: {epoch}view {replica.view}, height {replica.height}"]
        lock = replica._current_lock()
        if lock is not None:
            parts.append(f"locked on {cluster.block_name(lock.key.block_hash)} of v{lock.key.view}")
        if replica.timed_out:
            parts.append("gave up the view")
        if replica.suspected:
            parts.append(f"suspects, as {replica.suspected}")
        if replica.muted:
            parts.append(f"muted: {replica.muted}")
        if replica.pending_count:
            parts.append(f"{replica.pending_count} pending")
        return ", ".join(parts)

    def _do_evidence(self, name: str) -> None:
        accused = ", ".join(dict.fromkeys(self.node(name).application.accused)) or "nobody"
        self.cluster.say(f"{name}'s record blames {accused}")
