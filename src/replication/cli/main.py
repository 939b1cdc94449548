"""The application `acp`, and the one place where errors become messages and exit codes.

==== =======================================================================
0    done
1    internal error (of this program or of a node)
2    wrong usage, or a request that is malformed
3    no such proposal, voter or entry
4    the state of the cluster does not allow it
5    permission denied, or the certificate is not accepted
6    no node could be reached, or the answer did not come in time
7    verification failed, or something that must hold does not
8    files, keys, configuration, certificates or ports have to be put right
9    a record is damaged, or a disk failed
130  interrupted
==== =======================================================================
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from copy import copy
from enum import IntEnum
from functools import cache
from typing import Annotated

import typer

from replication.cli import agreement as agreement_commands
from replication.cli import audit as audit_commands
from replication.cli import backup as backup_commands
from replication.cli import bench as bench_command
from replication.cli import certificate as certificate_commands
from replication.cli import close as close_command
from replication.cli import contexts as context_commands
from replication.cli import demo as demo_command
from replication.cli import doctor as doctor_command
from replication.cli import drills as drill_commands
from replication.cli import enrol as enrol_commands
from replication.cli import evidence as evidence_command
from replication.cli import execute as execute_command
from replication.cli import executor as executor_commands
from replication.cli import faults as faults_commands
from replication.cli import fuzz as fuzz_command
from replication.cli import health as health_command
from replication.cli import history as history_command
from replication.cli import init as init_command
from replication.cli import log_level as log_level_command
from replication.cli import members as members_commands
from replication.cli import node as node_command
from replication.cli import policy as policy_commands
from replication.cli import proposals as proposals_commands
from replication.cli import propose as propose_command
from replication.cli import report as report_command
from replication.cli import status as status_command
from replication.cli import summary as summary_command
from replication.cli import up as up_commands
from replication.cli import vote as vote_command
from replication.cli import watch as watch_command
from replication.cli.options import with_connection
from replication.cli.output import note
from replication.errors import CallerError, OperatorError, ReplicationError, StorageError

__all__ = ["ExitCode", "app", "exit_code", "main"]

COMPLETION_VARIABLE = "_ACP_COMPLETE"
"""Set by a shell that completes words: typer answers instead of running a command."""

TRACE_VARIABLE = "ACP_TRACEBACK"
"""Set to 1 to see where an error comes from."""


class ExitCode(IntEnum):
    """What the exit codes of `acp` mean."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    DENIED = 5
    UNAVAILABLE = 6
    VERIFICATION = 7
    OPERATOR = 8
    STORAGE = 9
    INTERRUPTED = 130


app = typer.Typer(
    name="acp",
    help="Agent Consensus: a cluster of voters that decides together, and proves what it decided.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
audit_app = typer.Typer(help="The replicated audit record.", no_args_is_help=True)
faults_app = typer.Typer(
    help="Faults on purpose: drills on real clusters, simulations.", no_args_is_help=True
)
members_app = typer.Typer(help="The members, and changes of them through the log.", no_args_is_help=True)
enrol_app = typer.Typer(help="Hosts that make their own keys; renewed certificates.", no_args_is_help=True)
policy_app = typer.Typer(help="What a voter says without being asked.", no_args_is_help=True)
context_app = typer.Typer(help="Names for several clusters.", no_args_is_help=True)

CLUSTER, VOTING, ACTING, RECORD = "A cluster", "Voting", "Acting on decisions", "The record"
TOOLS = "Trying it out"

app.command("init", rich_help_panel=CLUSTER)(init_command.init)
app.command("up", rich_help_panel=CLUSTER)(up_commands.up)
app.command("down", rich_help_panel=CLUSTER)(up_commands.down)
app.command("node", rich_help_panel=CLUSTER)(node_command.node)
app.command("status", rich_help_panel=CLUSTER)(with_connection(status_command.status))
app.command("doctor", rich_help_panel=CLUSTER)(with_connection(doctor_command.doctor))
app.command("propose", rich_help_panel=VOTING)(with_connection(propose_command.propose))
app.command("vote", rich_help_panel=VOTING)(with_connection(vote_command.vote))
app.command("close", rich_help_panel=VOTING)(with_connection(close_command.close))
app.command("execute", rich_help_panel=ACTING)(with_connection(execute_command.execute))
app.command("proposals", rich_help_panel=VOTING)(with_connection(proposals_commands.proposals))
app.command("show", rich_help_panel=VOTING)(with_connection(proposals_commands.show))
app.command("history", rich_help_panel=VOTING)(with_connection(history_command.history))
app.command("agreement", rich_help_panel=VOTING)(with_connection(agreement_commands.agreement))
app.command("blocs", rich_help_panel=VOTING)(with_connection(agreement_commands.blocs))
app.add_typer(policy_app, name="policy", rich_help_panel=VOTING)
policy_app.command("test")(with_connection(policy_commands.try_out))
app.command("watch", rich_help_panel=ACTING)(with_connection(watch_command.watch))
app.command("executor", rich_help_panel=ACTING)(executor_commands.executor)
app.command("gate", rich_help_panel=ACTING)(executor_commands.gate)
app.command("summary", rich_help_panel=RECORD)(with_connection(summary_command.summary))
app.command("report", rich_help_panel=RECORD)(with_connection(report_command.report))
app.command("certificate", rich_help_panel=RECORD)(with_connection(certificate_commands.certificate))
app.command("verify", rich_help_panel=RECORD)(certificate_commands.verify)
app.add_typer(audit_app, name="audit", rich_help_panel=RECORD)
audit_app.command("log")(with_connection(audit_commands.log))
audit_app.command("export")(with_connection(audit_commands.export))
audit_app.command("verify")(audit_commands.verify)
app.command("evidence", rich_help_panel=RECORD)(with_connection(evidence_command.evidence))
app.add_typer(members_app, name="members", rich_help_panel=CLUSTER)
members_app.command("list")(with_connection(members_commands.listing))
members_app.command("home")(members_commands.home)
members_app.command("add")(with_connection(members_commands.add))
members_app.command("remove")(with_connection(members_commands.remove))
members_app.command("replace")(with_connection(members_commands.replace))
members_app.command("reweight")(with_connection(members_commands.reweight))
members_app.command("executor-home")(members_commands.executor_home)
members_app.command("add-executor")(with_connection(members_commands.add_executor))
members_app.command("remove-executor")(with_connection(members_commands.remove_executor))
members_app.command("apply")(with_connection(members_commands.apply))
app.add_typer(enrol_app, name="enrol", rich_help_panel=CLUSTER)
enrol_app.command("invite")(enrol_commands.invite)
enrol_app.command("key")(enrol_commands.key)
enrol_app.command("genesis")(enrol_commands.genesis)
enrol_app.command("sign")(enrol_commands.sign)
enrol_app.command("home")(enrol_commands.home)
enrol_app.command("renew")(enrol_commands.renew)
enrol_app.command("rotate")(enrol_commands.rotate)
enrol_app.command("trust")(enrol_commands.trust)
app.add_typer(context_app, name="context", rich_help_panel=CLUSTER)
context_app.command("add")(context_commands.add)
context_app.command("use")(context_commands.use)
context_app.command("list")(context_commands.listing)
context_app.command("remove")(context_commands.remove)
context_app.command("show")(context_commands.show)
app.command("health", rich_help_panel=CLUSTER)(health_command.health)
app.command("log-level", rich_help_panel=CLUSTER)(with_connection(log_level_command.log_level))
app.command("backup", rich_help_panel=CLUSTER)(backup_commands.backup)
app.command("restore", rich_help_panel=CLUSTER)(backup_commands.restore)
app.command("bench", rich_help_panel=TOOLS)(bench_command.bench)
app.command("demo", rich_help_panel=TOOLS)(demo_command.demo)
app.add_typer(faults_app, name="faults", rich_help_panel=TOOLS)
faults_app.command("list")(drill_commands.list_drills)
faults_app.command("run")(drill_commands.run_drills)
faults_app.command("replay")(drill_commands.replay_drill)
faults_app.command("report")(drill_commands.report_drill)
faults_app.command("simulate")(faults_commands.simulate)
faults_app.command("fuzz")(fuzz_command.fuzz)


def _show_version(wanted: bool) -> None:
    if wanted:
        from replication import __version__

        sys.stdout.write(f"acp {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Agent Consensus: a cluster of voters that decides together, and proves what it decided."""


@cache
def _command(name: str) -> Callable[..., object]:
    """What typer makes of the application, without the commands that are not asked for: to build them all
    takes a third of the time in which a short command is over. For a name that is none, all of them."""
    commands = [command for command in app.registered_commands if command.name == name]
    groups = [group for group in app.registered_groups if group.name == name]
    if not (commands or groups):
        return typer.main.get_command(app)
    narrow = copy(app)
    narrow.registered_commands, narrow.registered_groups = commands, groups
    return typer.main.get_command(narrow)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `acp` with `arguments` (default: those of the process) and return the exit code."""
    # What gRPC would log about failed handshakes is in our own messages; its fork handlers are for forking
    # servers.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        _command("" if COMPLETION_VARIABLE in os.environ else next(iter(given), ""))(
            args=given, prog_name="acp"
        )
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except KeyboardInterrupt:
        note("interrupted")
        return ExitCode.INTERRUPTED
    except Exception as error:  # the last place that can turn it into words
        if os.environ.get(TRACE_VARIABLE):
            traceback.print_exc()
        note(describe(error))
        return exit_code(error)
    return ExitCode.OK


def describe(error: Exception) -> str:
    """The error as the person at the terminal reads it."""
    if isinstance(error, ReplicationError):
        fields = "".join(f"\n  {name}: {problem}" for name, problem in getattr(error, "fields", ()))
        call_id = getattr(error, "call_id", "")
        call = f"\n  call {call_id}" if call_id else ""
        return f"error: {error} [{error.reason}]{fields}{call}"
    if isinstance(error, OSError):
        return f"error: {error.filename or 'the system'}: {error.strerror or error}"
    kind = type(error).__name__
    return f"internal error: {kind}: {error}. Run it again with {TRACE_VARIABLE}=1 and report what it shows."


def exit_code(error: Exception) -> ExitCode:
    """The exit code for an error, by who has to act on it."""
    from replication.client import errors as remote
    from replication.ledger.verify import VerificationError

    # The first class that fits counts, so the special ones stand before their families.
    table: tuple[tuple[type[Exception] | tuple[type[Exception], ...], ExitCode], ...] = (
        (VerificationError, ExitCode.VERIFICATION),
        (remote.NotFoundError, ExitCode.NOT_FOUND),
        (remote.ConflictError, ExitCode.CONFLICT),
        ((remote.PermissionDeniedError, remote.UnauthenticatedError), ExitCode.DENIED),
        (
            (
                remote.UnavailableError,
                remote.DeadlineExceededError,
                remote.CallCancelledError,
                remote.ResourceExhaustedError,
            ),
            ExitCode.UNAVAILABLE,
        ),
        (StorageError, ExitCode.STORAGE),
        (CallerError, ExitCode.USAGE),
        ((OperatorError, OSError), ExitCode.OPERATOR),
    )
    for kinds, code in table:
        if isinstance(error, kinds):
            return code
    return ExitCode.INTERNAL
