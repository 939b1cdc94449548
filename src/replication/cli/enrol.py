"""`acp enrol`: hosts that make their own keys join a cluster, and certificates are renewed. No private key
leaves the host that made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from replication.cli.init import MetricsOption, PolicyOption
from replication.cli.options import JsonOption
from replication.cli.output import note, print_json

if TYPE_CHECKING:
    from replication.node.local.enrolment import Finished

__all__ = ["genesis", "home", "invite", "key", "renew", "rotate", "sign", "trust"]

HomeArgument = Annotated[Path, typer.Argument(metavar="HOME", help="The node's home, or a client's folder.")]
AuthorityOption = Annotated[
    Path, typer.Option(help="Folder with the authority's key.", metavar="DIR", show_default=False)
]
DaysOption = Annotated[float, typer.Option(help="How long certificates are good, in days.", min=0.0001)]
DEFAULT_DAYS = 365.0


def invite(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make for the authority.")],
    name: Annotated[str, typer.Option(help="The cluster's name, for people.")] = "agent-consensus",
    json: JsonOption = False,
) -> None:
    """Make the authority of a new cluster, and the invitation that every host needs."""
    from replication.node.local.enrolment import invite as make

    file = make(directory, name)
    _tell(json, {"invitation": str(file)}, f"Take {file} to every host, and run there: acp enrol key")


def key(
    home: HomeArgument,
    invitation: Annotated[
        Path, typer.Option(help="The invitation, or the genesis file of a cluster.", show_default=False)
    ],
    name: Annotated[str, typer.Option(help="The member's or client's name.", show_default=False)],
    address: Annotated[str, typer.Option(help="HOST:PORT where the node will be reached.")] = "",
    role: Annotated[str, typer.Option(help="node, viewer, operator, admin or executor.")] = "node",
    json: JsonOption = False,
) -> None:
    """Make the keys of a node or client on its own host, and its request to join."""
    from replication.client import UsageError
    from replication.identity.roles import Role
    from replication.node.local.enrolment import read_request, request

    if role not in {item.value for item in Role}:
        known = ", ".join(item.value for item in Role)
        raise UsageError(f"{role!r:.80} is not a role. Choose one of: {known}.")
    file = request(home, invitation, Role(role), name, address)
    digest = read_request(file).digest
    _tell(
        json, {"request": str(file), "digest": digest}, f"Take {file} to the authority. Its digest: {digest}"
    )


def genesis(
    requests: Annotated[list[Path], typer.Argument(metavar="REQUEST...", help="Requests of all nodes.")],
    authority: AuthorityOption,
    rules: Annotated[
        Path | None,
        typer.Option(help="Voting rules (TOML), as for `acp init`.", metavar="FILE", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Found the cluster of all nodes (and executors) that ask: the genesis file, and a bundle for each."""
    from replication.node.local.enrolment import found, read_request
    from replication.node.local.rules_file import read_rules

    digests = {str(file): read_request(file).digest for file in requests}
    made = found(authority, requests, read_rules(rules))
    for file, digest in digests.items():
        note(f"{file}: {digest}")
    answer = {"cluster_id": made.cluster_id, "members": list(made.members.ids), "requests": digests}
    _tell(
        json,
        answer,
        f"Cluster {made.cluster_id.hex()} with {made.members.n} members. Compare the digests with those that "
        f"the hosts showed, then take {authority / 'bundles'}/NAME.bundle.json to each.",
    )


def sign(
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="Request to join, or to renew.")],
    authority: AuthorityOption,
    days: DaysOption = DEFAULT_DAYS,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="A founding member's node is replaced, with a new key.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Certify a later member, a client, or the renewal of either."""
    from replication.node.local.enrolment import sign as certify

    item, file = certify(authority, request, days=days, new_key=new_key)
    _tell(
        json,
        {"bundle": str(file), "digest": item.digest},
        f"Certified {item.role.value} {item.name}, digest {item.digest}. Take {file} to its host.",
    )


def home(
    home: HomeArgument,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The authority's answer.")],
    policy: PolicyOption = "manual",
    metrics: MetricsOption = None,
    may_vote: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Name of a client certificate that may have the node vote; may be repeated. A new node "
            "without any votes as told on its host (`acp vote --home`).",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check the authority's answer and put it into the home that asked."""
    from replication.node.local.enrolment import finish
    from replication.node.local.provision import parse_policy

    done = finish(home, bundle, parse_policy(policy), metrics=metrics, may_vote=may_vote or None)
    _tell(
        json, {"home": str(home), "name": done.identity.name, "renewed": done.renewed}, _next_step(home, done)
    )


def renew(
    home: HomeArgument,
    authority: Annotated[
        Path | None,
        typer.Option(help="The authority's folder, where it is on this machine: does all three steps."),
    ] = None,
    days: DaysOption = DEFAULT_DAYS,
    json: JsonOption = False,
) -> None:
    """Make a new transport key, and the request to certify it. The node goes on meanwhile.

    HOME may be the authority's own folder: its clients get new certificates at once.
    """
    from replication.node.local.authorities import renew_clients
    from replication.node.local.enrolment import finish, sign
    from replication.node.local.enrolment import renew as make
    from replication.node.local.enrolment_files import is_authority

    if is_authority(home):
        names = renew_clients(home, days)
        _tell(json, {"home": str(home), "clients": names, "renewed": True}, f"Renewed: {', '.join(names)}.")
        return
    file = make(home)
    if authority is None:
        _tell(json, {"request": str(file)}, f"Have {file} certified: acp enrol sign --authority DIR {file}")
        return
    _, bundle = sign(authority, file, days=days)
    done = finish(home, bundle)
    _tell(json, {"home": str(home), "name": done.identity.name, "renewed": True}, _next_step(home, done))


def _next_step(home: Path, done: Finished) -> str:
    from replication.identity.roles import Role

    if done.renewed:
        return f"{home} has a new certificate. A running node takes it up within seconds."
    if done.identity.role is Role.EXECUTOR:
        return f"Start it: acp executor --home {home} --run COMMAND"
    if done.identity.role is not Role.NODE:
        return f"Try it: acp status --dir {home} --role {done.identity.role.value}"
    if done.is_member:
        return f"{done.identity.name} is a member. Start it: acp node --home {home}"
    return f"Start it: acp node --home {home}. It follows the record until `acp members add` lets it in."


def rotate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The authority's folder.")],
    finish: Annotated[
        bool, typer.Option("--finish", help="Trust the authority that issues now, and no older one.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Make a new authority, which follows the one before.

    First every host trusts both (`acp enrol trust`), then every certificate is renewed, then --finish, and
    every host trusts the new one only.
    """
    from replication.node.local.authorities import rotate as follow

    file = follow(directory, finish=finish)
    _tell(json, {"authorities": str(file)}, f"Take {file} to every host, and run there: acp enrol trust")


def trust(
    home: HomeArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The authority's ca.crt.")],
    json: JsonOption = False,
) -> None:
    """Trust the authorities in FILE and no others. A running node takes them up within seconds."""
    from replication.node.local.authorities import trust as rely

    count = rely(home, file)
    _tell(json, {"home": str(home), "authorities": count}, f"Authorities that {home} trusts now: {count}.")


def _tell(json: bool, answer: Mapping[str, object], text: str) -> None:
    if json:
        print_json(answer)
    else:
        note(text)
