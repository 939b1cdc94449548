"""`acp executor` and `acp gate`: carrying decisions out, and asking whether a target may run."""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from replication.cli.certificate import GenesisOption, load_trusted
from replication.cli.options import DirectoryOption, JsonOption
from replication.cli.output import note, print_json

if TYPE_CHECKING:
    from replication.client import ClusterHandle
    from replication.client.action_log import ActionLog
    from replication.client.executor import Act

__all__ = ["executor", "gate"]

CLOSED = 4
"""Exit code of `acp gate` for a target that may not run (`main.ExitCode.CONFLICT`)."""

LOG_FILE = "actions.log"


def executor(
    home: Annotated[
        Path,
        typer.Option(help="The executor's own folder, as `acp init --executor` makes it.", metavar="DIR"),
    ],
    run: Annotated[
        str | None,
        typer.Option(help="Run this command for each decision; it gets the order as JSON on stdin."),
    ] = None,
    webhook: Annotated[
        str | None, typer.Option(help="POST each decision to this address.", metavar="URL")
    ] = None,
    action: Annotated[
        list[str] | None, typer.Option(help="Act on these actions only; may be repeated.", show_default=False)
    ] = None,
    gate_folder: Annotated[
        Path | None,
        typer.Option(
            "--gate", help="Keep this folder up to date for gates.", metavar="DIR", show_default=False
        ),
    ] = None,
    retry: Annotated[
        list[str] | None,
        typer.Option(
            help="Try this proposal again that was given up; may be repeated.",
            metavar="ID",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[float, typer.Option("--limit", help="Seconds an action may take.", min=0.1)] = 60.0,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="[ID=]HOST:PORT of a node. Default: those of the genesis.", show_default=False),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
) -> None:
    """Carry out approved decisions until told to stop (SIGTERM, Ctrl-C), and report each with a signed
    receipt.

    Nothing is done before the decision's certificate has verified. An action may be asked for twice, with
    the same idempotency key. What has failed four times is left to a person, also after a restart; --retry
    gives it four attempts more."""
    from replication.client import UsageError
    from replication.client.acting import run_command, send_webhook
    from replication.client.action_log import ActionLog

    if (run is None) == (webhook is None):
        raise UsageError("Say how to act: either --run COMMAND or --webhook URL.")
    for wanted in retry or ():
        if not re.fullmatch(r"prop-[0-9]{4,}", wanted):
            raise UsageError(f"--retry {wanted!r:.80} is no proposal. Give an id such as prop-0001.")
    act = run_command(shlex.split(run), limit) if run is not None else send_webhook(webhook or "", limit)
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    handle = _handle(home, endpoint or [])
    with ActionLog.open(home / LOG_FILE) as log:
        asyncio.run(_work(home, handle, log, act, action or [], gate_folder, retry or []))


async def _work(
    home: Path,
    handle: ClusterHandle,
    log: ActionLog,
    act: Act,
    actions: list[str],
    gate_folder: Path | None,
    retry: list[str],
) -> None:
    from replication.client import AsyncClient
    from replication.client.executor import Executor
    from replication.client.gate import GateFiles
    from replication.identity.keys import SigningKey

    name = _name(home, handle)
    key = SigningKey.load(home / "signing.pem")
    files = None
    if gate_folder is not None and handle.genesis is not None:
        files = GateFiles(handle.genesis, gate_folder)
    async with AsyncClient(handle) as client:
        executor = Executor(client, name, key, log, act, actions=actions, gate=files, retry=retry)
        work = asyncio.create_task(executor.run())
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, work.cancel)
        note(f"{name} acts on {', '.join(actions) or 'every action'}.")
        try:
            await work
        except asyncio.CancelledError:
            note("Stopped. An action that was under way is done again at the next start.")


def _handle(home: Path, endpoints: list[str]) -> ClusterHandle:
    from replication.client import resolve

    return resolve(
        endpoints=endpoints,
        certificate=home / "executor.crt",
        key=home / "executor.key",
        authority=home / "ca.crt",
        genesis=home / "genesis.json",
        role="executor",
        environment={},
    )


def _name(home: Path, handle: ClusterHandle) -> str:
    """The executor's id, which its certificate states."""
    import datetime as dt

    from replication.identity.roles import Role
    from replication.identity.tls import check_certificate

    identity = check_certificate(
        handle.certificate, handle.authority, dt.datetime.now(dt.UTC), roles={Role.EXECUTOR}
    )
    return identity.name


def gate(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Whom to let run.")],
    folder: Annotated[Path, typer.Option("--gate", help="The folder that an executor keeps.", metavar="DIR")],
    genesis: GenesisOption = None,
    directory: DirectoryOption = None,
    max_age: Annotated[
        float | None,
        typer.Option(help="Seconds since the executor looked last, at most.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Ask whether a target may run, of certificates on disk: no node is asked. Exit code 0 if it may, 4 if
    not."""
    from replication.client.gate import Gate

    answer = Gate(load_trusted(genesis, directory), folder, max_age_seconds=max_age).check(target)
    if json:
        certificate = answer.decision
        print_json(
            {
                "target": target,
                "open": answer.is_open,
                "state": answer.state,
                "why": answer.why,
                "proposal_id": certificate and certificate.proposal_id,
            }
        )
    else:
        print(f"{'OPEN' if answer.is_open else 'CLOSED'}: {target} is {answer.state.value}: {answer.why}")
    if not answer.is_open:
        raise typer.Exit(CLOSED)
