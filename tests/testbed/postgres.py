"""A PostgreSQL server of our own: a cluster in a temporary folder, on a free port, stopped by its own process id."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.testbed.dcmtk import free_port
from tests.testbed.waiting import patience, wait_until

_USER = "postgres"


def programs() -> Path | None:
    """The folder of initdb and postgres, None where the server is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _as_server(*command: str | Path) -> list[str]:
    # PostgreSQL will not run as root.
    prefix = ["runuser", "-u", _USER, "--"] if os.geteuid() == 0 else []
    return [*prefix, *map(str, command)]


class Server:
    """A running server: `url` names its empty database for SQLAlchemy; `stop` and `start` keep what is in it."""

    def __init__(self, programs: Path, home: Path, network: str | None, durable: bool) -> None:
        self._programs, self._home, self._cluster = programs, home, home / "data"
        self._durable = durable
        self._port = free_port()
        self._listen = "127.0.0.1" if network is None else "0.0.0.0"
        self.url = self.url_at("127.0.0.1")
        initialise = [programs / "initdb", "-D", self._cluster, "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(_as_server(*initialise), check=True, capture_output=True)
        if network is not None:
            with (self._cluster / "pg_hba.conf").open("a") as file:
                file.write(f"host all all {network} trust\n")

    def url_at(self, host: str) -> str:
        return f"postgresql+psycopg://{_USER}@{host}:{self._port}/postgres"

    def start(self) -> None:
        options = ["-c", f"listen_addresses={self._listen}", "-c", f"unix_socket_directories={self._home}"]
        if not self._durable:
            options += ["-c", "fsync=off"]
        self._process = subprocess.Popen(
            _as_server(self._programs / "postgres", "-D", self._cluster, "-p", str(self._port), *options),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait(self._programs, self._port)

    def stop(self) -> None:
        """SIGQUIT: an immediate shutdown, as a crash; the next start recovers from the log."""
        # runuser does not pass signals on, so the server's own file names the process
        pid = int((self._cluster / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGQUIT)
        self._process.wait(patience(20))


@contextmanager
def server(network: str | None = None, durable: bool = True) -> Iterator[Server]:
    """A server that can be stopped and started; with `network` (CIDR) it serves hosts of that network too.

    Unless `durable`, it waits for no disk: what it holds survives the death of its processes, not of the machine.
    """
    folder = programs()
    if folder is None:
        raise FileNotFoundError("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory(prefix="worker-pg-") as name:
        home = Path(name)
        if os.geteuid() == 0:
            shutil.chown(home, _USER)
        found = Server(folder, home, network, durable)
        found.start()
        try:
            yield found
        finally:
            found.stop()


@contextmanager
def running(durable: bool = True) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database."""
    with server(durable=durable) as found:
        yield found.url


def _wait(folder: Path, port: int) -> None:
    ready = [str(folder / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]

    def answers() -> bool:
        return subprocess.run(ready, capture_output=True).returncode == 0

    wait_until(answers, "PostgreSQL to start", 30, every=0.1)
