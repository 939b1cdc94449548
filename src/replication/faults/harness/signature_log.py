"""Every signature that a node makes, written down as it is made, and again when it leaves the process.

A correct node may make a signature, crash before it is on the disk, and decide otherwise when it is back:
nobody has seen the first one. So two signatures contradict each other only if both of them left. A signature
has left when its 64 bytes are in a message that is handed to a link (`peers.encode_frame`); one that an
earlier process of the node made, and that is sent from its disk now, counts the same.

Lines of the log: ``s <signed bytes in hex> <signature in hex>``, and ``r <signature in hex>``.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

from replication.faults.harness.inside import Control

__all__ = ["record_signatures"]

MAX_KEPT: Final = 4096
"""Signatures that were made and have not left: a few at a time. What never leaves has to be forgotten one
day.
"""


class _Unsent:
    """Signatures that have not left this node yet."""

    def __init__(self, log: Path) -> None:
        self._items: OrderedDict[bytes, None] = OrderedDict()
        for line in log.read_text(encoding="ascii").splitlines():
            words = line.split()
            if len(words) == 3:
                self.add(bytes.fromhex(words[2]))
            elif len(words) == 2:
                self._items.pop(bytes.fromhex(words[1]), None)

    def add(self, signature: bytes) -> None:
        """One was made (again)."""
        self._items[signature] = None
        if len(self._items) > MAX_KEPT:
            self._items.popitem(last=False)

    def take_from(self, frame: bytes) -> list[bytes]:
        """Those that are in `frame`, which are no longer unsent."""
        found = [signature for signature in self._items if signature in frame]
        for signature in found:
            del self._items[signature]
        return found


def record_signatures(control: Control) -> None:
    """Have every signature of this process, and every first sending of one, written to the log."""
    from replication.identity.keys import SigningKey
    from replication.node import peers

    unsent = _Unsent(control.path / "signed.log")
    sign, encode = SigningKey.sign, peers.encode_frame

    def signing(self: SigningKey, message: bytes) -> bytes:
        signature = sign(self, message)
        control.note_signed(f"s {message.hex()} {signature.hex()}\n")
        unsent.add(signature)
        return signature

    def encoding(message: Any) -> bytes:
        frame = encode(message)
        for signature in unsent.take_from(frame):
            control.note_signed(f"r {signature.hex()}\n")
        return frame

    SigningKey.sign = signing  # type: ignore[method-assign]
    peers.encode_frame = encoding
