"""A PostgreSQL server of our own: a cluster in a temporary folder, on a free port, stopped by its own process id."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.testbed.dcmtk import free_port

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


@contextmanager
def running() -> Iterator[str]:
    """The SQLAlchemy URL of an empty database."""
    folder = programs()
    if folder is None:
        raise FileNotFoundError("PostgreSQL is not installed")
    with tempfile.TemporaryDirectory(prefix="worker-pg-") as name:
        home = Path(name)
        if os.geteuid() == 0:
            shutil.chown(home, _USER)
        cluster, port = home / "data", free_port()
        initialise = [folder / "initdb", "-D", cluster, "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(_as_server(*initialise), check=True, capture_output=True)
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={home}"]
        server = subprocess.Popen(
            _as_server(folder / "postgres", "-D", cluster, "-p", str(port), *options),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait(folder, port)
            yield f"postgresql+psycopg://{_USER}@127.0.0.1:{port}/postgres"
        finally:
            # runuser does not pass signals on, so the server's own file names the process
            pid = int((cluster / "postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, 3)  # SIGQUIT: immediate shutdown
            server.wait(20)


def _wait(folder: Path, port: int) -> None:
    deadline = time.monotonic() + 30
    ready = [folder / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(list(map(str, ready)), capture_output=True).returncode != 0:
        if time.monotonic() > deadline:
            raise TimeoutError("PostgreSQL did not start")
        time.sleep(0.1)
