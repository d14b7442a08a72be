"""The process from which the roles' processes are forked: what they all import is imported once, its memory shared.

It is itself forked from the supervisor, before that has threads, connections or libraries that only some roles need,
and never has any of these: a fork copies locks in whatever state they are in. The supervisor requests processes over a
socket, over which the fork server reports how each of them ended. It ends with the supervisor.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from worker.process import ProcessRole
from worker.service.pulse import PULSE, SUPERVISED

_REQUESTED = (signal.SIGTERM, signal.SIGINT)  # Ctrl-C reaches every process of the terminal; the supervisor stops all
_ANSWER_SECONDS = 30.0
_MESSAGE_BYTES = 64


class ForkServerEnded(Exception):
    """The fork server ended before the supervisor, so that nobody knows how the roles' processes end."""


class ForkServer:
    """The supervisor's side: starts processes and knows how they ended."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._connection, self._pid = connection, pid
        self._ended: dict[int, int] = {}

    def start(self, role: ProcessRole, lifeline: int, pulse: int) -> int:
        """Start a process of this role; its id. Its standard input is `lifeline`, it beats on `pulse` (service/pulse).

        Raises ForkServerEnded.
        """
        try:
            socket.send_fds(self._connection, [role.encode()], [lifeline, pulse])
        except OSError:
            raise ForkServerEnded from None
        deadline = time.monotonic() + _ANSWER_SECONDS
        while (message := self._receive(deadline - time.monotonic())) is not None:
            what, pid = message
            if what == "started":
                self._ended.pop(pid, None)  # of an earlier process with this number
                return pid
        raise ForkServerEnded

    def exit_status(self, pid: int) -> int | None:
        """How a process ended, negative the number of a signal; None while it runs. Raises ForkServerEnded."""
        while self._receive(0.0) is not None:
            pass
        return self._ended.get(pid)

    def close(self) -> None:
        """End it; what it started is to have ended."""
        self._connection.close()
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _receive(self, seconds: float) -> tuple[str, int] | None:
        """The next message and its process, an end noted; None if none comes in time. Raises ForkServerEnded."""
        if not select.select([self._connection], [], [], max(0.0, seconds))[0]:
            return None
        try:
            what, pid, *status = self._connection.recv(_MESSAGE_BYTES).decode().split()
        except (OSError, ValueError):  # nothing: it has ended
            raise ForkServerEnded from None
        if what == "ended":
            self._ended[int(pid)] = int(status[0])
        return what, int(pid)


def fork_server() -> ForkServer | ProcessRole:
    """Start the fork server. Returns as os.fork does: to the supervisor with the server, to each role with its role.

    Call it while this process has a single thread and no connection to a database.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        theirs.close()
        return ForkServer(ours, pid)
    ours.close()
    _name("worker-fork")
    gc.freeze()  # a collection would write to, and so copy, memory that the processes share
    return _serve(theirs)


def _serve(requests: socket.socket) -> ProcessRole:
    """Fork until the supervisor ends; returns in a process that was forked, with its role."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTED)  # for a process that cannot handle them yet, they wait
    wakeup, alarm = os.pipe()
    os.set_blocking(wakeup, False)
    os.set_blocking(alarm, False)
    signal.set_wakeup_fd(alarm)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    while True:
        ready, _, _ = select.select([requests.fileno(), wakeup], [], [])
        try:
            if wakeup in ready:
                os.read(wakeup, 1 << 10)
                _tell_ends(requests)
            if requests.fileno() not in ready:
                continue
            request, descriptors, _, _ = socket.recv_fds(requests, _MESSAGE_BYTES, 2)
        except OSError:
            os._exit(0)  # the supervisor has ended
        if not request:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            requests.close()
            os.close(wakeup)
            os.close(alarm)
            return _become(ProcessRole(request.decode()), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        with suppress(OSError):
            requests.send(f"started {pid}".encode())


def _tell_ends(requests: socket.socket) -> None:
    """Reap what has ended. Raises OSError when there is no supervisor any more."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            requests.send(f"ended {ended[0]} {os.waitstatus_to_exitcode(ended[1])}".encode())


def _become(role: ProcessRole, lifeline: int, pulse: int) -> ProcessRole:
    """Make this process, a fork, one of its own that the supervisor watches and stops."""
    os.dup2(lifeline, 0)
    os.close(lifeline)
    os.environ[SUPERVISED], os.environ[PULSE] = "1", str(pulse)
    _name(f"worker-{role}")
    for number in (signal.SIGCHLD, *_REQUESTED):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _REQUESTED)
    return role


def _name(name: str) -> None:
    """What `ps` and `top` call this process, on Linux: the name, followed in its command line by the arguments."""
    with suppress(OSError):
        Path("/proc/self/comm").write_text(name, encoding="ascii")
        # The command line is read from this process's memory (proc(5): stat, arg_start and arg_end).
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        line = b"\0".join([name.encode(), *map(os.fsencode, sys.argv[1:])])
        if len(line) < end - start:
            with open("/proc/self/mem", "r+b", buffering=0) as memory:
                memory.seek(start)
                memory.write(line.ljust(end - start, b"\0"))
