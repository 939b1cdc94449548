"""A member that leaves out, delays or does not hear some messages: faulty without saying anything false.

With these, a voter is silent or omits selectively; a coordinator stalls while its heart beats, or censors a
member. Kinds of messages are named after the classes of `replication.ordering.messages`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from replication.faults.harness.behaviour import Behaviour
from replication.faults.harness.inside import Armed, Control
from replication.faults.harness.scenario import Group
from replication.faults.harness.settings import Number, Words

if TYPE_CHECKING:
    from replication.node.driver import Driver
    from replication.node.peers import PeerLinks
    from replication.ordering.messages import Message

__all__ = ["BEHAVIOURS_HERE", "MESSAGE_KINDS", "kind_of"]

MESSAGE_KINDS: Final = {
    "BlockProposal": "proposal",
    "Acknowledgement": "acknowledgement",
    "CertificateMessage": "certificate",
    "CommandMessage": "command",
    "Heartbeat": "heartbeat",
    "SuspectMessage": "suspect",
    "TimeoutMessage": "timeout",
    "TimeoutCertificateMessage": "timeout-certificate",
    "NewViewMessage": "new-view",
    "Witness": "witness",
    "BodyRequest": "body-request",
    "BodyMessage": "body",
}
"""The names that settings use, by the class of the message."""

ALL_MESSAGES: Final = "all"
_WHICH: Final = Words((ALL_MESSAGES,), (ALL_MESSAGES, *MESSAGE_KINDS.values()))


def kind_of(message: object) -> str:
    """The name of a message's kind."""
    return MESSAGE_KINDS[type(message).__name__]


def _concerns(armed: Armed, message: object) -> bool:
    which = armed.settings["messages"]
    return ALL_MESSAGES in which or kind_of(message) in which


def _others(links: Any) -> list[str]:
    """The peers that a message for all goes to."""
    return list(links._links)


def _install_silent(control: Control) -> None:
    from replication.node.peers import PeerLinks

    send = PeerLinks.send

    def silent(self: PeerLinks, to: str | None, message: Message) -> None:
        armed = control.armed("silent")
        if armed is None or not _concerns(armed, message):
            send(self, to, message)
            return
        unheard = armed.settings["to"]
        receivers = [to] if to is not None else _others(self)
        for receiver in receivers:
            if ALL_MESSAGES in unheard or receiver in unheard:
                control.effect(armed, f"did not send {kind_of(message)} to {receiver}")
            else:
                send(self, receiver, message)

    PeerLinks.send = silent  # type: ignore[method-assign]


def _install_late(control: Control) -> None:
    from replication.node.peers import PeerLinks

    send = PeerLinks.send

    def late(self: PeerLinks, to: str | None, message: Message) -> None:
        armed = control.armed("late")
        if armed is None or not _concerns(armed, message):
            send(self, to, message)
            return
        control.effect(armed, f"sent {kind_of(message)} {armed.settings['delay_ms']:g} ms late")
        asyncio.get_running_loop().call_later(armed.settings["delay_ms"] / 1000, send, self, to, message)

    PeerLinks.send = late  # type: ignore[method-assign]


def _install_deaf(control: Control) -> None:
    from replication.node.driver import Driver

    receive = Driver.receive

    async def deaf(self: Driver, sender: str, message: Message) -> None:
        armed = control.armed("deaf")
        if armed is not None and _concerns(armed, message):
            ignored = armed.settings["to"]
            if ALL_MESSAGES in ignored or sender in ignored:
                control.effect(armed, f"ignored {kind_of(message)} of {sender}")
                return
        await receive(self, sender, message)

    Driver.receive = deaf  # type: ignore[method-assign]


def _install_censor(control: Control) -> None:
    from replication.ledger.commands import decode_command
    from replication.node.driver import Driver
    from replication.ordering.messages import CommandMessage

    receive = Driver.receive

    async def censoring(self: Driver, sender: str, message: Message) -> None:
        armed = control.armed("censor")
        if armed is not None and isinstance(message, CommandMessage):
            author = decode_command(message.command).author
            if author in armed.settings["authors"]:
                control.effect(armed, f"ignored a command of {author}, which {sender} sent")
                return
        await receive(self, sender, message)

    Driver.receive = censoring  # type: ignore[method-assign]


BEHAVIOURS_HERE: Final = (
    Behaviour(
        name="silent",
        group=Group.VOTER,
        summary="the node does not send some kinds of messages, to some members or to all",
        settings={"messages": _WHICH, "to": Words((ALL_MESSAGES,))},
        install=_install_silent,
    ),
    Behaviour(
        name="late",
        group=Group.VOTER,
        summary="the node sends some kinds of messages late; its heart beats in time",
        settings={"messages": _WHICH, "delay_ms": Number(300.0, 1.0, 600_000.0)},
        install=_install_late,
    ),
    Behaviour(
        name="deaf",
        group=Group.COORDINATOR,
        summary="the node ignores some kinds of messages of some members, or of all: censorship",
        settings={"messages": _WHICH, "to": Words((ALL_MESSAGES,))},
        install=_install_deaf,
    ),
    Behaviour(
        name="censor",
        group=Group.COORDINATOR,
        summary="the node ignores every command of some members, whoever sends or passes it on",
        settings={"authors": Words()},
        install=_install_censor,
    ),
)
