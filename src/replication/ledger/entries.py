"""Making audit entries: each with the canonical JSON of its data, which is hashed now and stored soon.

The hash of an entry covers the canonical JSON of all its fields (`consensus.model.entry_hash`). Its data is
the long one of them, and the store needs the same text. So the text is made once: it is put between the
others in the place that RFC 8785 gives it (keys in order), and remembered until the entry is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from json.encoder import encode_basestring as _quoted  # escapes as RFC 8785 does
from typing import Any, Final

from replication.consensus.canonical import canonical_json
from replication.consensus.errors import CanonicalJSONError
from replication.consensus.model import AuditEntry

__all__ = ["data_text", "new_entry"]

_REMEMBERED: Final = 16_384
"""Some blocks of the largest size; what was forgotten is made again."""

_texts: Final[dict[str, str]] = {}
"""The data's canonical JSON, by the hash of the entry, which covers it."""


def new_entry(
    sequence: int,
    event_type: str,
    proposal_id: str,
    actor_id: str,
    data: Mapping[str, Any],
    timestamp: float,
    prev_hash: str,
) -> AuditEntry:
    """The next entry of the chain, as `consensus.chain.make_entry` makes it.

    Raises CanonicalJSONError if a field has no canonical form.
    """
    own = dict(data)
    text = canonical_json(own).decode("utf-8")
    whole = (
        f'{{"actor_id":{_quoted(actor_id)},"data":{text},"event_type":{_quoted(event_type)},'
        f'"prev_hash":{_quoted(prev_hash)},"proposal_id":{_quoted(proposal_id)},"sequence":{sequence},'
        f'"timestamp":{_number(timestamp)}}}'
    )
    try:
        digest = sha256(whole.encode("utf-8")).hexdigest()
    except UnicodeEncodeError as error:
        raise CanonicalJSONError(f"No canonical JSON form (RFC 8785): {error}") from error
    entry = AuditEntry(sequence, event_type, proposal_id, actor_id, own, timestamp, prev_hash, digest)
    if len(_texts) >= _REMEMBERED:
        _texts.clear()
    _texts[digest] = text
    return entry


def data_text(entry: AuditEntry) -> str:
    """The canonical JSON of an entry's data; remembered for entries that were made here lately."""
    text = _texts.get(entry.hash)
    return canonical_json(entry.data).decode("utf-8") if text is None else text


@lru_cache(maxsize=64, typed=True)
def _number(timestamp: float) -> str:
    """A block's time, which all its entries share."""
    return canonical_json(timestamp).decode("utf-8")
