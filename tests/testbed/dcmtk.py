"""DCMTK's programs as peers: the C++ toolkit that half of the world's PACS testing is done with.

TCP_NODELAY=1 is what a deployed sender uses; without it Nagle's algorithm adds 40 ms to each small message.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.testbed.waiting import patience, wait_until

_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


def command(program: str) -> str:
    """Where DCMTK's program is. pynetdicom has scripts of the same names, which an active environment puts first."""
    for folder in os.get_exec_path():
        path = shutil.which(program, path=folder)
        if path is not None:
            with open(path, "rb") as file:
                if file.read(2) != b"#!":
                    return path
    raise FileNotFoundError(f"{program} of DCMTK is not installed")


def installed(program: str = "storescu") -> bool:
    try:
        command(program)
    except FileNotFoundError:
        return False
    return True


def run(program: str, *arguments: str | Path, timeout: float = 120, check: bool = True) -> str:
    """What the program printed, both streams; RuntimeError with it when the program failed and `check` is set."""
    done = subprocess.run(
        [command(program), *map(str, arguments)],
        env=_ENVIRONMENT, timeout=patience(timeout), text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if check and done.returncode != 0:
        raise RuntimeError(f"{program} exited {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout


def storescu(
    port: int,
    paths: Sequence[Path],
    *options: str,
    called: str = "AI_WORKER",
    calling: str = "PACS",
    check: bool = True,
) -> str:
    """Send files or folders (`+sd +r` in the options) to 127.0.0.1:`port`, each in its own transfer syntax."""
    return run("storescu", "-v", *options, "-aec", called, "-aet", calling, "127.0.0.1", str(port), *paths, check=check)


def echoscu(port: int, *, called: str = "AI_WORKER", calling: str = "PACS") -> str:
    return run("echoscu", "-aec", called, "-aet", calling, "127.0.0.1", str(port))


@contextmanager
def storescp(folder: Path, *options: str, at_once: bool = True) -> Iterator[int]:
    """A running storescp that writes what it gets under `folder`; yields its port. `at_once`: with TCP_NODELAY."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [command("storescp"), "+B", "+xa", "-aet", "PACS", "-od", str(folder), *options, str(port)]
    environment = _ENVIRONMENT if at_once else {**_ENVIRONMENT, "TCP_NODELAY": "0"}
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(patience(10))


def _ports() -> Iterator[int]:
    """Below those that outgoing connections get; each process of pytest-xdist has its own, and takes them in turn."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = range(20_000 + process % 4, 32_000, 4)
    first = os.getpid() % len(own)
    return itertools.cycle([*own[first:], *own[:first]])


_PORTS = _ports()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on; it is given again only after all others."""
    return next(filter(_is_free, _PORTS))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that has ended does not hold it
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    """Return once something listens; RuntimeError when the process ends first, TimeoutError when the time is over."""

    def listens() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"the process ended with {process.returncode} before it listened")
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, f"a process to listen on port {port}", seconds, every=0.05)
