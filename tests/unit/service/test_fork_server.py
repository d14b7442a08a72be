"""Roles' processes are forks that share nothing with one another but what was imported before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.testbed.waiting import patience, wait_until
from worker.process import ProcessRole, is_running

# Another process, because pytest has threads. It ends with what the supervisor does in a test.
PROGRAM = """
import os, signal, stat, sys, threading, time
from contextlib import suppress
from worker.process import ProcessRole
from worker.service.fork_server import ForkServerEnded, fork_server
from worker.service.pulse import PULSE

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # at once, beside other processes

server = fork_server()
if isinstance(server, ProcessRole):
    modes = []
    for number in range(64):
        with suppress(OSError):
            modes.append(os.fstat(number).st_mode)
    sockets, pipes = sum(map(stat.S_ISSOCK, modes)), sum(map(stat.S_ISFIFO, modes))
    if server is ProcessRole.SEND:
        sys.exit(7)
    say(server, threading.active_count(), sockets, pipes)
    shown = [open("/proc/self/" + name, "rb").read().rstrip(bytes(1)) for name in ("comm", "cmdline")]
    os.write(int(os.environ[PULSE]), b"".join(shown))
    os.read(0, 1)  # the lifeline
    say(server, "ends")
    os._exit(0)

def start(role):
    (its_lifeline, lifeline), (pulse, its_pulse) = os.pipe(), os.pipe()
    pid = server.start(role, its_lifeline, its_pulse)
    os.close(its_lifeline), os.close(its_pulse)
    return pid, lifeline, pulse

def status(pid):
    while (code := server.exit_status(pid)) is None:
        time.sleep(0.01)
    return code

{supervise}
"""


def _run(supervise: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(supervise=supervise), "serve", "--config", "x.toml"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience(60), check=False,
    )  # fmt: skip


def test_a_role_beats_ends_with_its_lifeline_and_has_nothing_of_another_s() -> None:
    done = _run("""
first, second = start(ProcessRole.RECEIVE), start(ProcessRole.INFER)
say(os.read(first[2], 64), os.read(second[2], 64))
os.close(first[1])
say(status(first[0]), server.exit_status(second[0]))
os.kill(second[0], signal.SIGTERM)
say(status(second[0]))
server.close()
""")
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    # A pipe for its standard input and its pulse; standard output and error of the test are pipes, too.
    assert sorted(lines[:2]) == ["infer 1 0 4", "receive 1 0 4"]
    names = ("worker-receive", "worker-infer")
    assert lines[2:] == [
        " ".join(str(f"{name}\n{name}\0serve\0--config\0x.toml".encode()) for name in names),
        "receive ends", "0 None", str(-signal.SIGTERM)
    ]  # fmt: skip


def test_exit_statuses_are_told_in_any_order() -> None:
    done = _run("""
pids = [start(ProcessRole.SEND)[0] for _ in range(20)]
say({status(pid) for pid in reversed(pids)}, server.exit_status(1))
server.close()
""")
    assert (done.stdout, done.stderr) == ("{7} None\n", "")


def test_the_supervisor_notices_that_the_server_was_killed() -> None:
    done = _run("""
pid, lifeline, pulse = start(ProcessRole.RECEIVE)
os.read(pulse, 64)
os.kill(server._pid, signal.SIGKILL)
for call in (lambda: status(pid), lambda: start(ProcessRole.SEND)):
    try:
        call()
    except ForkServerEnded:
        say("noticed")
""")
    assert done.stdout.splitlines()[1:3] == ["noticed", "noticed"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_and_the_roles_end_with_a_supervisor_that_is_killed(number: signal.Signals) -> None:
    script = PROGRAM.format(supervise="say('pids', server._pid, start(ProcessRole.RECEIVE)[0]); signal.pause()")
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as supervisor:
        try:
            assert supervisor.stdout is not None
            line = next(line for line in supervisor.stdout if line.startswith("pids"))
            server, role = map(int, line.split()[1:])
            os.kill(server, signal.SIGTERM)  # Ctrl-C and service managers reach every process; this one is not to end
            time.sleep(0.1)
            assert is_running(server)
        finally:
            supervisor.send_signal(number)
        wait_until(lambda: not is_running(server) and not is_running(role), "the end of all", seconds=30)


def test_the_service_is_named_by_role() -> None:
    assert {f"worker-{role}" for role in ProcessRole} == {
        "worker-receive", "worker-infer", "worker-send", "worker-web",
    }  # fmt: skip  # at most 15 characters, the rest is cut
    assert all(len(f"worker-{role}") <= 15 for role in ProcessRole)
