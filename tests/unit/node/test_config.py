"""config.toml: what is accepted, what is refused and how clearly, and that what is written is read back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.errors import OperatorError
from replication.node.config import (
    MAX_CONFIG_BYTES,
    TIMING_RANGES,
    ConfigError,
    NodeConfig,
    PolicySettings,
    Timing,
    format_config,
    parse_config,
    read_config,
    split_address,
    toml_string,
    write_config,
)

HEAD = 'id = "node-1"\nlisten = "127.0.0.1:7001"\n'
FULL = """
id = "node-1"
listen = "127.0.0.1:7001"
may_vote = ["alice", "pager.2"]
[policy]
kind = "cel"
file = "policy.cel.toml"
[timing]
idle_timeout_ms = 1000
gather_ms = 0
repeat_ms = 100
clock_bound_ms = 2000
[log]
level = "debug"
[peers]
"node-2" = "voter-2.example.net:7002"
"node.3" = "[2001:db8::1]:7003"
"""


def test_full() -> None:
    assert parse_config(FULL, "x") == NodeConfig(
        id="node-1",
        listen="127.0.0.1:7001",
        policy=PolicySettings("cel", file="policy.cel.toml"),
        timing=Timing(1000, 0, 100, 2000),
        log_level="debug",
        peers={"node-2": "voter-2.example.net:7002", "node.3": "[2001:db8::1]:7003"},
        may_vote=("alice", "pager.2"),
    )


def test_defaults() -> None:
    config = parse_config(HEAD, "x")
    assert config == NodeConfig("node-1", "127.0.0.1:7001")
    assert config.policy == PolicySettings("manual", None, None)
    assert dataclasses.astuple(config.timing) == (800, 10, 200, 5000)
    assert (config.log_level, dict(config.peers)) == ("info", {})


def test_frozen() -> None:
    config = parse_config(FULL, "x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.id = "node-2"  # type: ignore[misc]
    assert isinstance(config.peers, MappingProxyType)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id = ", "is not valid TOML"),
        ("a = " + "[" * 5000 + "]" * 5000, "is not valid TOML"),
        (HEAD + 'id = "node-2"\n', "is not valid TOML"),
        ("", "id is missing"),
        ('id = "node-1"\n', "listen is missing"),
        ("id = 1\n", "id = 1 is not legal: it must be a string"),
        ('id = ""\n', "id = '' is not legal"),
        ('id = "a b"\nlisten = "a:1"\n', "id = 'a b' is not legal: a member id is 1 to 64 characters"),
        ('id = ".."\nlisten = "a:1"\n', "id = '..' is not legal"),
        (f'id = "{"x" * 65}"\nlisten = "a:1"\n', "is not legal: a member id is 1 to 64 characters"),
        ("listn = 1\n" + HEAD, "unknown key 'listn'; did you mean \"listen\"?"),
        (
            "zzz = 1\n" + HEAD,
            "unknown key 'zzz'; known keys: id, listen, may_vote, policy, timing, log, monitoring, "
            "tracing, peers, joins",
        ),
        (HEAD + "policy = 'cel'\n", "policy = 'cel' is not legal: it must be a table, [policy]"),
        ("may_vote = 'alice'\n" + HEAD, "may_vote = 'alice' is not legal: it must be a list of names"),
        ("may_vote = [1]\n" + HEAD, "may_vote = [1] is not legal"),
        ("may_vote = ['a b']\n" + HEAD, "may_vote = ['a b'] is not legal"),
        (HEAD + "[[timing]]\n", "it must be a table, [timing]"),
        (HEAD + "peers = 1\n", "it must be a table, [peers]"),
        (HEAD + "log = 1\n", "it must be a table, [log]"),
        (HEAD + "[policy]\nkin = 'cel'\n", "unknown key 'policy.kin'; did you mean \"kind\"?"),
        (
            HEAD + "[policy]\nkind = 'cell'\n",
            "policy.kind = 'cell' is not legal: it must be one of manual, cel",
        ),
        (HEAD + "[policy]\nkind = ['cel']\n", "policy.kind = ['cel'] is not legal"),
        (HEAD + "[policy]\nkind = 'cel'\n", "policy.file is missing"),
        (HEAD + "[policy]\nkind = 'cel'\nfile = ''\n", "policy.file = '' is not legal"),
        (HEAD + '[policy]\nkind = "cel"\nfile = "a\\u0000b"\n', "policy.file = 'a\\x00b' is not legal"),
        (
            HEAD + "[policy]\nkind = 'cel'\nfile = 'x'\nentry = 'm:f'\n",
            'policy of kind "cel" does not use it',
        ),
        (
            HEAD + "[policy]\nfile = 'x'\n",
            "policy.file = 'x' is not legal: a policy of kind \"manual\" does not",
        ),
        (HEAD + "[policy]\nkind = 'python'\n", "policy.entry is missing"),
        (HEAD + "[policy]\nkind = 'python'\nentry = 'module'\n", 'it must be "package.module:callable"'),
        (HEAD + "[policy]\nkind = 'python'\nentry = 'a..b:c'\n", 'it must be "package.module:callable"'),
        (HEAD + "[timing]\nrepeat = 200\n", "unknown key 'timing.repeat'; did you mean \"repeat_ms\"?"),
        (
            HEAD + "[log]\nlevel = 'verbose'\n",
            "log.level = 'verbose' is not legal: it must be one of debug, info",
        ),
        (HEAD + "[log]\nlevel = 'INFO'\n", "log.level"),
        (HEAD + "[log]\nformat = 'xml'\n", "it must be one of text, json"),
        (HEAD + "[log]\nlevle = 'info'\n", "unknown key 'log.levle'; did you mean \"level\"?"),
        (HEAD + "[peers]\n'node 2' = 'a:1'\n", "peers.node 2 = 'node 2' is not legal: a member id"),
        (HEAD + "[peers]\nnode-2 = 7002\n", 'peers.node-2 = 7002 is not legal: it must be "host:port"'),
        (HEAD + "[peers]\nnode-2 = 'host'\n", "peers.node-2 = 'host' is not legal"),
        (HEAD + "[peers]\nnode.2 = 'a:1'\n", "peers.node"),
        (HEAD + "[peers]\nnode-1 = 'a:1'\n", "peers.node-1 = 'a:1' is not legal: it is this node itself"),
        ('id = "node-1"\nlisten = "7001"\n', "listen = '7001' is not legal: it must be \"host:port\""),
    ],
)
def test_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "home/config.toml")
    assert str(caught.value).startswith("home/config.toml")
    assert said in str(caught.value)


@pytest.mark.parametrize("name", TIMING_RANGES)
def test_timing_ranges(name: str) -> None:
    low, high = TIMING_RANGES[name]
    for value in (low, high):
        assert getattr(parse_config(f"{HEAD}[timing]\n{name} = {value}\n", "x").timing, name) == value
    for bad in (str(low - 1), str(high + 1), "-1", "800.0", "true", '"800"', "1e3", "[1]"):
        with pytest.raises(ConfigError) as caught:
            parse_config(f"{HEAD}[timing]\n{name} = {bad}\n", "x")
        assert f"timing.{name} = " in str(caught.value)
        assert f"whole number from {low} to {high}" in str(caught.value)


def test_every_timing_has_a_range() -> None:
    assert {each.name for each in dataclasses.fields(Timing)} == TIMING_RANGES.keys()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:7001", ("127.0.0.1", 7001)),
        ("localhost:1", ("localhost", 1)),
        ("node_1.example.net.:65535", ("node_1.example.net.", 65535)),
        ("[::1]:7001", ("::1", 7001)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        *(
            "",
            ":",
            "host",
            "host:",
            ":7001",
            "host:0",
            "host:65536",
            "host:-1",
            "host:+1",
            "host: 1",
            "host:1 ",
        ),
        *("host:٣", "host:1e3", "::1:7001", "[::1]", "[::1:7001", "[zz]:1", "[127.0.0.1]:1", "a b:1", "-a:1"),
        *(
            "http://host:1",
            "host/:1",
            "a..b:1",
            "256.0.0.1:1",
            "1.2.3:1",
            "01.2.3.4:1",
            "user@host:1",
            "host\n:1",
        ),
        *("a" * 64 + ":1", ".".join(["a" * 60] * 5) + ":1", None, 7001, b"host:1"),
    ],
)
def test_bad_addresses(address: object) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_address(address)


def test_error_is_the_operators() -> None:
    assert issubclass(ConfigError, OperatorError)
    assert ConfigError.reason == "CONFIG_INVALID"


def test_unreadable_files(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_config(path)
    path.write_bytes(b'id = "caf\xe9"')
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_config(path)
    path.write_text("#" * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        read_config(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path)


def test_message_is_short_whatever_the_value() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(f'id = "{"x" * 100_000}"\nlisten = "a:1"\n', "x")
    assert len(str(caught.value)) < 400


# ------------------------------------------------------------------------------------------- writing

ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
addresses = st.builds(
    "{}:{}".format, st.sampled_from(["10.0.0.7", "a.example", "[::1]"]), st.integers(1, 65535)
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1)
timings = st.builds(Timing, **{name: st.integers(*limits) for name, limits in TIMING_RANGES.items()})
settings = st.one_of(
    st.just(PolicySettings()),
    st.builds(PolicySettings, st.just("cel"), file=texts),
    st.builds(PolicySettings, st.just("python"), entry=st.just("package.module:thing.method")),
)


@given(
    *(
        ids,
        addresses,
        settings,
        timings,
        st.sampled_from(["debug", "error"]),
        st.dictionaries(ids, addresses),
    ),
    st.none() | st.lists(ids).map(tuple),
)
def test_what_is_written_is_read_back(
    member: str,
    listen: str,
    policy: PolicySettings,
    timing: Timing,
    level: str,
    peers: dict[str, str],
    may_vote: tuple[str, ...] | None,
) -> None:
    peers.pop(member, None)
    config = NodeConfig(member, listen, policy, timing, level, peers, may_vote=may_vote)
    assert parse_config(format_config(config), "x") == config


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_can_be_a_toml_string(text: str) -> None:
    config = f"{HEAD}[policy]\nkind = {toml_string(text)}\n"
    with pytest.raises(ConfigError) as caught:  # no such kind, but it must get as far as that
        parse_config(config, "x")
    assert "is not valid TOML" not in str(caught.value)


def test_write_config(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    first = NodeConfig("node-1", "127.0.0.1:7001", PolicySettings("cel", file='a "b"\\c\n\x7fé🙄.toml'))
    second = NodeConfig("node-1", "127.0.0.1:7002", peers={"node-2": "[::1]:7"}, log_format="json")
    third = NodeConfig("node-1", "127.0.0.1:7003", tracing="http://[::1]:4318/v1/traces")
    for config in (first, second, third):
        write_config(path, config)
        assert read_config(path) == config
    assert [each.name for each in tmp_path.iterdir()] == ["config.toml"]


@pytest.mark.parametrize(
    "config",
    [
        NodeConfig("node 1", "a:1"),
        NodeConfig("node-1", "a"),
        NodeConfig("node-1", "a:1", PolicySettings("cel")),
        NodeConfig("node-1", "a:1", PolicySettings("cel", file="\ud800")),
        NodeConfig("node-1", "a:1", timing=Timing(gather_ms=-1)),
        NodeConfig("node-1", "a:1", log_level="loud"),
        NodeConfig("node-1", "a:1", tracing="127.0.0.1:4318"),
        NodeConfig("node-1", "a:1", tracing="http://a:4318/v1/tra ces"),
        NodeConfig("node-1", "a:1", peers={"node-1": "a:2"}),
    ],
)
def test_illegal_configuration_is_not_written(config: NodeConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        write_config(tmp_path / "config.toml", config)
    assert list(tmp_path.iterdir()) == []


def test_write_config_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="could not be written"):
        write_config(tmp_path / "absent" / "config.toml", NodeConfig("node-1", "a:1"))
