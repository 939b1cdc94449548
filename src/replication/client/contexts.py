"""Names for the clusters that a person works with, in one file of their configuration directory.

A context holds what the connection options would say: a cluster folder, or endpoints with a certificate, its
key and the cluster's authority. It holds no secret itself, but who can write it chooses the cluster that
commands go to, so others may not write it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from replication.client.errors import ConnectionSettingsError, UsageError

__all__ = ["Context", "Contexts", "contexts_path", "load_contexts", "save_contexts"]

CONFIG_VARIABLE: Final = "ACP_CONFIG"
"""Environment variable that names the file."""

MAX_BYTES: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_TEXTS: Final = ("directory", "cert", "key", "ca")


@dataclass(frozen=True, slots=True)
class Context:
    """How to reach one cluster; paths are absolute, empty where nothing is set."""

    directory: str = ""
    endpoints: tuple[str, ...] = ()
    cert: str = ""
    key: str = ""
    ca: str = ""


@dataclass(slots=True)
class Contexts:
    """All contexts by name, and the one in use (empty: none)."""

    current: str = ""
    by_name: dict[str, Context] = field(default_factory=dict)

    def get(self, name: str) -> Context:
        """The context of that name. Raises `UsageError`."""
        if name not in self.by_name:
            known = ", ".join(sorted(self.by_name)) or "none yet"
            raise UsageError(f"There is no context {name!r}. Known: {known}. Add one with: acp context add")
        return self.by_name[name]

    def add(self, name: str, context: Context) -> None:
        """Add or replace a context; the first one is in use at once. Raises `UsageError`."""
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} cannot name a context. Use up to 63 letters, digits, dots, - and _.")
        if not context.directory and not (context.endpoints and context.cert and context.key and context.ca):
            raise UsageError("A context needs --dir, or --endpoint, --cert, --key and --ca together.")
        self.by_name[name] = context
        self.current = self.current or name

    def remove(self, name: str) -> None:
        """Forget a context; the cluster's files stay. Raises `UsageError`."""
        self.get(name)
        del self.by_name[name]
        if self.current == name:
            self.current = ""


def contexts_path(environment: Mapping[str, str] | None = None) -> Path:
    """The file: ``ACP_CONFIG``, else ``acp/contexts.json`` in the user's configuration directory (XDG)."""
    known = os.environ if environment is None else environment
    if known.get(CONFIG_VARIABLE):
        return Path(known[CONFIG_VARIABLE])
    folder = known.get("XDG_CONFIG_HOME", "")
    # The XDG specification has relative paths ignored.
    base = Path(folder) if Path(folder).is_absolute() else Path("~/.config").expanduser()
    return base / "acp" / "contexts.json"


def load_contexts(path: Path) -> Contexts:
    """The contexts of the file, none if there is no file. Raises `ConnectionSettingsError`."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise ConnectionSettingsError(f"{path} cannot be read: {error.strerror}.") from error
    if mode & 0o022:
        raise ConnectionSettingsError(f"{path} can be written by other users. Run: chmod 600 {path}")
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        return _contexts(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise ConnectionSettingsError(
            f"{path} is not a file of contexts ({error}). Put it right, or move it away and add them again."
        ) from error


def save_contexts(path: Path, contexts: Contexts) -> None:
    """Write the file whole or not at all, for its owner alone. Raises `ConnectionSettingsError`."""
    document = {
        "current": contexts.current,
        "contexts": {name: asdict(context) for name, context in sorted(contexts.by_name.items())},
    }
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(document, file, indent=2)
        draft.replace(path)
    except OSError as error:
        raise ConnectionSettingsError(f"{path} cannot be written: {error.strerror}.") from error


def _contexts(document: Any) -> Contexts:
    if not isinstance(document, dict) or not isinstance(document.get("contexts"), dict):
        raise ValueError("no contexts in it")
    by_name = {str(name): _context(str(name), value) for name, value in document["contexts"].items()}
    current = document.get("current", "")
    if current != "" and current not in by_name:
        raise ValueError(f"the one in use, {current!r}, is not among them")
    return Contexts(current, by_name)


def _context(name: str, value: Any) -> Context:
    if not isinstance(value, dict) or not set(value) <= {*_TEXTS, "endpoints"}:
        raise ValueError(f"context {name!r} has unknown settings")
    endpoints = value.get("endpoints", [])
    texts = {key: value.get(key, "") for key in _TEXTS}
    if not isinstance(endpoints, list) or not all(isinstance(t, str) for t in (*endpoints, *texts.values())):
        raise ValueError(f"context {name!r} has a setting that is not text")
    return Context(endpoints=tuple(endpoints), **texts)
