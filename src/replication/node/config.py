"""config.toml of a node: read strictly, so that a typo is an error and never a silently used default.

Everything has one legal shape. An unknown key, a wrong type, a number out of range or a malformed address
stops the node with a message that names the file, the key, the value and what is legal. What the members of
the cluster must agree on (rules, keys, addresses) is not here but in the genesis file.
"""

from __future__ import annotations

import difflib
import os
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv6Address
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

from replication.errors import OperatorError
from replication.identity.names import ID_MAX_LENGTH, is_member_id
from replication.node.toml_text import TomlError, parse_toml

__all__ = [
    "LOG_FORMATS",
    "LOG_LEVELS",
    "POLICY_KINDS",
    "TIMING_RANGES",
    "ConfigError",
    "NodeConfig",
    "PolicySettings",
    "Timing",
    "did_you_mean",
    "format_config",
    "parse_config",
    "read_config",
    "split_address",
    "toml_string",
    "write_config",
]

MAX_CONFIG_BYTES: Final = 256 * 1024
"""A hundred peers take under 10 KiB; a larger file is the wrong file."""

LOG_LEVELS: Final = ("debug", "info", "warning", "error")

LOG_FORMATS: Final = ("text", "json")
"""key=value lines for people and grep, or an object a line for collectors of logs."""

POLICY_KINDS: Final = {"manual": None, "cel": "file", "python": "entry"}
"""Each kind of policy, and the one key that says what it runs."""

TIMING_RANGES: Final = {
    "idle_timeout_ms": (50, 600_000),  # under a round trip or two, a healthy coordinator looks silent
    "gather_ms": (0, 1_000),  # waiting costs each decision this much
    "repeat_ms": (10, 60_000),
    "clock_bound_ms": (100, 600_000),  # host clocks kept by NTP differ by milliseconds, without it by minutes
}
"""Legal range of each timing, both ends included, in milliseconds."""

_ENTRY: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_HOST_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_URL: Final = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+/[!-~]{0,1000}", re.ASCII)
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)


class ConfigError(OperatorError):
    """config.toml does not say what a configuration must say."""

    reason: ClassVar[str] = "CONFIG_INVALID"


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """How the voter decides: `kind` manual, cel (rules in `file`, relative to the home), python (`entry`)."""

    kind: str = "manual"
    file: str | None = None
    entry: str | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations in milliseconds.

    idle_timeout_ms: silence of the coordinator, while there is work, after which it is suspected.
    gather_ms: how long a coordinator waits for votes before it makes a block; 0 does not wait.
    repeat_ms: after how long a message that was not answered is sent again.
    clock_bound_ms: how far a block's time may be from this host's clock.
    """

    idle_timeout_ms: int = 800
    gather_ms: int = 10
    repeat_ms: int = 200
    clock_bound_ms: int = 5_000


def _no_peers() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node's configuration. `monitoring` is where metrics and health are served in plain HTTP, None for
    nowhere. `tracing` is the URL of a collector of traces. `peers` overrides addresses of the record: id to
    ``host:port``. `joins` is for a home that was made for a change of members: the record says whether and
    with which key it is one, not the genesis file. `may_vote` are the names in the certificates of operators
    and administrators that may have this node vote, None for all of them; its own certificate always may."""

    id: str
    listen: str
    policy: PolicySettings = PolicySettings()
    timing: Timing = Timing()
    log_level: str = "info"
    peers: Mapping[str, str] = field(default_factory=_no_peers)
    joins: bool = False
    monitoring: str | None = None
    log_format: str = "text"
    tracing: str | None = None
    may_vote: tuple[str, ...] | None = None


def read_config(path: str | os.PathLike[str]) -> NodeConfig:
    """Read a node's config.toml.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or holds anything that is not legal.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}. Check the path and the owner."
        ) from error
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes and cannot be a configuration")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return parse_config(text, str(path))


def parse_config(text: str, origin: str) -> NodeConfig:
    """The configuration that `text` says; `origin` names it in errors.

    Raises:
        ConfigError: as `read_config`.
    """
    try:
        data = parse_toml(text)
    except TomlError as error:
        raise ConfigError(f"{origin} is not valid TOML: {error}") from error
    keys = ("id", "listen", "may_vote", "policy", "timing", "log", "monitoring", "tracing", "peers", "joins")
    top = _Table(origin, "", data, keys)
    member_id = _member_id(top, "id", top.text("id"))
    log = top.table("log", ("level", "format"))
    monitoring = top.table("monitoring", ("listen",))
    tracing = top.table("tracing", ("endpoint",))
    return NodeConfig(
        id=member_id,
        listen=_address(top, "listen", top.text("listen")),
        policy=_policy(top.table("policy", ("kind", "file", "entry"))),
        timing=_timing(top.table("timing", tuple(TIMING_RANGES))),
        log_level=log.choice("level", LOG_LEVELS, "info"),
        log_format=log.choice("format", LOG_FORMATS, "text"),
        monitoring=_address(monitoring, "listen", monitoring.text("listen")) if monitoring.data else None,
        tracing=_collector(tracing) if tracing.data else None,
        peers=_peers(top, member_id),
        joins=top.boolean("joins", default=False),
        may_vote=_names(top, "may_vote"),
    )


def write_config(path: str | os.PathLike[str], config: NodeConfig) -> None:
    """Write `config` so that `read_config` gives it back; an existing file is replaced in one step.

    Raises:
        ConfigError: `config` is not legal (nothing is written), or the file cannot be written.
    """
    target = Path(path)
    text = format_config(config)
    if parse_config(text, str(target)) != config:
        raise ConfigError(
            f"{target}: the configuration cannot be written as TOML without loss: {config!r:.200}"
        )
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ConfigError(f"{target} could not be written: {error.strerror}. Check the folder.") from error


def format_config(config: NodeConfig) -> str:
    """The text of config.toml for `config`, with a comment for the person who edits it."""
    lines = [
        "# Configuration of one voter, read when the node starts. Unknown keys are refused.",
        f"id = {toml_string(config.id)}",
        f"listen = {toml_string(config.listen)}",
        *(["joins = true # the record, not the genesis file, says whether it is a member"] * config.joins),
        *_may_vote_lines(config.may_vote),
        "",
        "[policy] # how this voter decides: manual (a person), cel (file = ...) or python (entry = ...)",
        f"kind = {toml_string(config.policy.kind)}",
    ]
    if config.policy.file is not None:
        lines.append(f"file = {toml_string(config.policy.file)}")
    if config.policy.entry is not None:
        lines.append(f"entry = {toml_string(config.policy.entry)}")
    lines += ["", "[timing] # milliseconds"]
    lines += [f"{each.name} = {getattr(config.timing, each.name)}" for each in fields(Timing)]
    lines += ["", f"[log] # {', '.join(LOG_LEVELS)}", f"level = {toml_string(config.log_level)}"]
    if config.log_format != "text":
        lines.append(f"format = {toml_string(config.log_format)} # {', '.join(LOG_FORMATS)}")
    if config.monitoring is not None:
        lines += ["", "[monitoring] # metrics and health in plain HTTP: not for strangers"]
        lines += [f"listen = {toml_string(config.monitoring)}"]
    if config.tracing is not None:
        lines += ["", "[tracing] # a collector that speaks OTLP over HTTP"]
        lines += [f"endpoint = {toml_string(config.tracing)}"]
    if config.peers:
        lines += ["", "[peers] # where members are reached from this host, when not as the record says"]
        lines += [f"{toml_string(peer)} = {toml_string(address)}" for peer, address in config.peers.items()]
    return "\n".join(lines) + "\n"


def toml_string(text: str) -> str:
    """`text` as a TOML basic string.

    Raises:
        ConfigError: `text` holds half a surrogate pair, which no TOML file can hold.
    """
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ConfigError(f"{text!r:.80} cannot be written as TOML: it is not Unicode text")
    return '"' + "".join(_escaped(char) for char in text) + '"'


def split_address(address: object) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[IPv6]:port``; the host comes without brackets.

    Raises:
        ValueError: with what is wrong, and the legal form.
    """
    form = 'must be "host:port" or "[IPv6 address]:port", for example "127.0.0.1:7001"'
    if not isinstance(address, str):
        raise ValueError(form)
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise ValueError(form)
    if _PORT.fullmatch(port) is None or not 1 <= int(port) <= 65_535:
        raise ValueError(f"{form}; the port must be a whole number from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        try:
            IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError(f"{form}; what is between the brackets is not an IPv6 address") from None
        return host[1:-1], int(port)
    if not _is_host(host):
        raise ValueError(f"{form}; {host!r:.80} is not a host name or address")
    return host, int(port)


def did_you_mean(key: str, known: Collection[str]) -> str:
    """A hint for an unknown `key`: the closest known one if there is one, else all of them."""
    close = difflib.get_close_matches(key, known, n=1)
    return f'did you mean "{close[0]}"?' if close else f"known keys: {', '.join(known)}"


@dataclass(frozen=True, slots=True)
class _Table:
    """A TOML table that accounts for every key; all messages are made here."""

    origin: str
    name: str
    data: dict[str, Any]
    known: tuple[str, ...]

    def __post_init__(self) -> None:
        for key in self.data:
            if key not in self.known:
                raise ConfigError(
                    f"{self.origin}: unknown key {self.path(key)!r}; {did_you_mean(key, self.known)}"
                )

    def path(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key

    def bad(self, key: str, value: object, legal: str) -> ConfigError:
        return ConfigError(f"{self.origin}: {self.path(key)} = {value!r:.100} is not legal: {legal}")

    def text(self, key: str) -> str:
        """A required, non-empty string."""
        if key not in self.data:
            raise ConfigError(f"{self.origin}: {self.path(key)} is missing; it must be given")
        value = self.data[key]
        if not isinstance(value, str) or not value:
            raise self.bad(key, value, "it must be a string in quotes that is not empty")
        return value

    def choice(self, key: str, legal: Collection[str], default: str) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str) or value not in legal:
            raise self.bad(key, value, f"it must be one of {', '.join(legal)}")
        return value

    def integer(self, key: str, low: int, high: int, default: int) -> int:
        value = self.data.get(key, default)
        if type(value) is not int or not low <= value <= high:  # `true` is no number here
            raise self.bad(key, value, f"it must be a whole number from {low} to {high}")
        return value

    def boolean(self, key: str, *, default: bool) -> bool:
        value = self.data.get(key, default)
        if type(value) is not bool:
            raise self.bad(key, value, "it must be true or false")
        return value

    def table(self, key: str, known: tuple[str, ...]) -> _Table:
        value = self.data.get(key, {})
        if not isinstance(value, dict):
            raise self.bad(key, value, f"it must be a table, [{key}]")
        return _Table(self.origin, self.path(key), value, known)


def _policy(table: _Table) -> PolicySettings:
    kind = table.choice("kind", POLICY_KINDS, "manual")
    for key in ("file", "entry"):
        if key != POLICY_KINDS[kind] and key in table.data:
            raise table.bad(key, table.data[key], f'a policy of kind "{kind}" does not use it; remove it')
    if kind == "cel":
        return PolicySettings(kind, file=_policy_file(table))
    if kind == "python":
        entry = table.text("entry")
        if _ENTRY.fullmatch(entry) is None:
            raise table.bad("entry", entry, 'it must be "package.module:callable"')
        return PolicySettings(kind, entry=entry)
    return PolicySettings(kind)


def _policy_file(table: _Table) -> str:
    file = table.text("file")
    if "\x00" in file:
        raise table.bad(
            "file", file, "it must be the path of a file, relative to the node's home or absolute"
        )
    return file


def _collector(table: _Table) -> str:
    endpoint = table.text("endpoint")
    if _URL.fullmatch(endpoint) is None:
        legal = 'it must be the URL of a collector, for example "http://127.0.0.1:4318/v1/traces"'
        raise table.bad("endpoint", endpoint, legal)
    return endpoint


def _timing(table: _Table) -> Timing:
    default = Timing()
    values = {
        name: table.integer(name, low, high, getattr(default, name))
        for name, (low, high) in TIMING_RANGES.items()
    }
    return Timing(**values)


def _peers(top: _Table, own_id: str) -> Mapping[str, str]:
    data = top.data.get("peers", {})
    table = top.table("peers", tuple(data) if isinstance(data, dict) else ())
    for peer, address in table.data.items():
        _member_id(table, peer, peer)
        if peer == own_id:
            raise table.bad(peer, address, 'it is this node itself; its address is "listen"')
        _address(table, peer, address)
    return MappingProxyType(dict(table.data))


def _may_vote_lines(names: tuple[str, ...] | None) -> list[str]:
    if names is None:
        return []
    listed = ", ".join(map(toml_string, names))
    return [f"may_vote = [{listed}] # besides those on this host: certificates of these names"]


def _names(table: _Table, key: str) -> tuple[str, ...] | None:
    names = table.data.get(key)
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) and is_member_id(name) for name in names):
        raise table.bad(key, names, 'it must be a list of names in client certificates, such as ["alice"]')
    return tuple(names)


def _member_id(table: _Table, key: str, value: str) -> str:
    if not is_member_id(value):
        raise table.bad(key, value, f"a member id is 1 to {ID_MAX_LENGTH} characters of A-Z a-z 0-9 . _ -")
    return value


def _address(table: _Table, key: str, value: object) -> str:
    try:
        split_address(value)
    except ValueError as error:
        raise table.bad(key, value, f"it {error}") from None
    return str(value)


def _is_host(host: str) -> bool:
    """A host name (RFC 1123, underscores allowed as container tools make them) or an IPv4 address."""
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or any(_HOST_LABEL.fullmatch(label) is None for label in labels):
        return False
    if not labels[-1].isdigit():
        return True
    # A name never ends in a number: this is meant as an IPv4 address, and 1.2.3.400 or 127.1 are mistakes.
    return len(labels) == 4 and all(
        label.isdigit() and int(label) <= 255 and str(int(label)) == label for label in labels
    )


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char < " " or char == "\x7f":
        return f"\\u{ord(char):04x}"
    return char
