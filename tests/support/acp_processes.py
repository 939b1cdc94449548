"""Runs of `acp`, each a process of its own, without the second that importing everything takes each time.

A process that has imported the program, and done nothing else yet, waits for orders; each run is a fork of
it, with the arguments, environment, working directory and standard streams that were ordered.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

MAX_ORDER_BYTES = 1 << 20


@cache
def _office() -> socket.socket:
    """Where orders are given: a socket to the process that waits for them. It ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        waiting = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "GRPC_VERBOSITY": "NONE", "GRPC_ENABLE_FORK_SUPPORT": "0"},  # as acp does
        )

    def close() -> None:
        ours.close()
        waiting.wait()

    atexit.register(close)
    return ours


def run(
    arguments: Sequence[str], environment: Mapping[str, str], stdin: str, seconds: float
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one run. Raises TimeoutExpired after `seconds`."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                order = json.dumps([list(arguments), dict(environment), str(Path.cwd())]).encode()
                assert len(order) <= MAX_ORDER_BYTES
                descriptors = [file.fileno() for file in (given, out, err, theirs)]
                socket.send_fds(_office(), [order], descriptors)
            ours.settimeout(seconds)
            with ours.makefile("r") as answers:
                pid = int(answers.readline())
                try:
                    code = answers.readline()
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    raise subprocess.TimeoutExpired(list(arguments), seconds) from None
        return int(code or -signal.SIGKILL), _text(out), _text(err)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _wait_for_orders(office: socket.socket) -> None:
    import replication.client  # noqa: F401  # what almost every command needs
    from replication.cli.main import main

    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        main(["status", "--help"])  # has the rest imported

    signal.signal(
        signal.SIGCHLD, signal.SIG_IGN
    )  # nobody waits for the runs: they tell themselves how they ended
    while True:
        order, descriptors, _, _ = socket.recv_fds(office, MAX_ORDER_BYTES, 4)
        if not order:
            return
        if os.fork() == 0:
            office.close()
            _carry_out(order, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _carry_out(order: bytes, descriptors: Sequence[int]) -> NoReturn:
    from replication.cli.main import main

    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for standard, descriptor in enumerate(descriptors[:3]):
            os.dup2(descriptor, standard)
        arguments, environment, folder = json.loads(order)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        answers = socket.socket(fileno=descriptors[3])
        answers.sendall(f"{os.getpid()}\n".encode())
        sys.argv = ["acp", *arguments]
        code = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        answers.sendall(f"{int(code)}\n".encode())
    finally:
        os._exit(code)


if __name__ == "__main__":
    _wait_for_orders(socket.socket(fileno=int(sys.argv[1])))
