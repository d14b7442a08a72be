"""The worker as a person runs it: `worker serve` as a process of its own, with a configuration file of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

import httpx
from typer.testing import CliRunner, Result

from tests.testbed.dcmtk import free_port
from tests.testbed.waiting import patience, wait_until
from worker.cli.app import app

COMMAND = [sys.executable, "-m", "worker"]
ENDED = ("classified", "not-assessed", "refused", "failed")


class WorkerProcess:
    """One worker with its folder: `start`, `stop`, `kill`, and what it says of its series.

    `destinations` maps a name to (AE title, port) on 127.0.0.1, or (AE title, port, host). `settings` adds keys or
    sections to the file: `{"receive": {"allowed_peers": ["PACS"]}}`. Series are reported, unless these say otherwise.
    """

    def __init__(
        self,
        folder: Path,
        *,
        destinations: Mapping[str, tuple[str, int] | tuple[str, int, str]] | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        """`host` is the address it listens on; `prefix` a command that runs it elsewhere: `ip netns exec NAME`."""
        self.folder = folder
        self.host = host
        self.port = port or free_port()
        self.web_port = free_port()
        self.config = folder / "config.toml"
        self.log = folder / "worker.log"
        self._destinations = dict(destinations or {})
        self._settings = dict(settings or {})
        self._prefix = list(prefix)
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def write_config(self) -> Path:
        sections: dict[str, dict[str, Any]] = {
            "worker": {"ae_title": "AI_WORKER", "data_dir": "var", "lease_seconds": 3},
            "receive": {
                "host": self.host,
                "port": self.port,
                "quiet_seconds": 1,
                "minimum_free_bytes": 1 << 24,
            },
            "study": {"quiet_seconds": 1},
            "report": {"level": "series"},
            "database": {"url": "sqlite:///var/worker.db"},
            "web": {"host": self.host, "port": self.web_port},
        }
        for name, keys in self._settings.items():
            sections.setdefault(name, {}).update(keys)
        lines = []
        for name, keys in sections.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""]
        for name, (ae_title, port, *elsewhere) in self._destinations.items():
            lines += ["[[destination]]", f'name = "{name}"', f'ae_title = "{ae_title}"']
            lines += [f'host = "{elsewhere[0] if elsewhere else "127.0.0.1"}"', f"port = {port}", ""]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text("\n".join(lines))
        return self.config

    def start(self, seconds: float = 180, *, until: Callable[[], bool] | None = None) -> Self:
        """Start `worker serve` and wait until it is ready; RuntimeError with the end of its log when it is not.

        Ready is healthy, or what `until` says: a sender comes back once the port takes it, be the page there or not.
        """
        self.write_config()
        with self.log.open("ab") as log:
            self.spawn(log)

        def ready() -> bool:
            self.require_alive()
            return (until or self.healthy)()

        try:
            wait_until(ready, "worker serve to be ready", seconds, every=0.1)
        except TimeoutError as error:
            raise RuntimeError(f"{error}:\n{self.last_log_lines()}") from None
        return self

    def spawn(self, log: BinaryIO) -> None:
        """Start `worker serve` with the configuration that is there, and wait for nothing."""
        self._process = subprocess.Popen(
            [*self._prefix, *COMMAND, "serve", "--config", str(self.config)],
            cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip

    def healthy(self) -> bool:
        try:
            return httpx.get(f"http://{self.host}:{self.web_port}/health", timeout=patience(2)).status_code == 200
        except httpx.TransportError:
            return False

    def listens(self) -> bool:
        """Whether its DICOM port takes a connection."""
        try:
            socket.create_connection((self.host, self.port), timeout=patience(2)).close()
        except OSError:
            return False
        return True

    def require_alive(self) -> None:
        """RuntimeError with the end of its log when the service has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"worker serve exited {self._process.returncode}:\n{self.last_log_lines()}")

    def kill(self) -> None:
        """SIGKILL to every process of the worker at once, as a power cut would."""
        if self._process is None:
            return
        self._signal_group(signal.SIGKILL)
        self._process.wait(patience(10))
        # A receiver that is still dying holds the port, and would be taken for the next one.
        wait_until(lambda: not self.listens(), "the port to be free", every=0.01)
        self._process = None

    def stop(self, seconds: float = 10) -> int:
        """SIGTERM to the service alone, as systemd does; its exit code.

        subprocess.TimeoutExpired when it is not gone in time, RuntimeError when a process of it outlives it.
        """
        if self._process is None:
            raise RuntimeError("the worker is not running")
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(patience(seconds))
        time.sleep(0.2)
        if self._signal_group(signal.SIGKILL):
            raise RuntimeError("a process of the worker outlived it")
        self._process = None
        return code

    def _signal_group(self, number: signal.Signals) -> bool:
        """False when no process of the worker is left; its group is its own (start_new_session)."""
        if self._process is None:
            return False
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def run(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Another command of the worker on the same configuration."""
        return run_worker(
            *arguments, "--config", str(self.config), timeout=timeout, cwd=self.folder, environment=self._environment
        )

    def command(self, *arguments: str) -> Result:
        """Like `run`, but within this process: for a command that many tests call, as each `run` starts a Python."""
        environment = {key: value for key, value in self._environment.items() if os.environ.get(key) != value}
        return CliRunner().invoke(app, [*arguments, "--config", str(self.config)], env=environment)

    def results(self) -> list[dict[str, Any]]:
        """`worker results list --format json`."""
        done = self.command("results", "list", "--format", "json")
        if done.exit_code != 0:
            raise RuntimeError(f"worker results list exited {done.exit_code}: {done.stderr}") from done.exception
        listed: list[dict[str, Any]] = json.loads(done.stdout)
        return listed

    def result(self, series_instance_uid: str) -> dict[str, Any] | None:
        """What it says of one series; None when it has not heard of it. RuntimeError when it lists it twice."""
        found = [one for one in self.results() if one["series_instance_uid"] == series_instance_uid]
        if len(found) > 1:
            raise RuntimeError("one series is listed twice")
        return found[0] if found else None

    def wait_for_result(self, series_instance_uid: str, seconds: float = 120) -> dict[str, Any]:
        """Its result once it has ended: classified, not assessed, refused or failed."""
        # A look at the database costs least; the command is asked when there is an end.
        settled = f"""
            SELECT count(*) FROM series LEFT JOIN job ON job.series_id = series.id
            WHERE series_instance_uid = '{series_instance_uid}'
            AND (series.state = 'refused' OR job.state IN ('done', 'parked'))"""

        def ended() -> dict[str, Any] | None:
            self.require_alive()
            if not self.rows(settled)[0][0]:
                return None
            found = self.result(series_instance_uid)
            return found if found and found["status"] in ENDED else None

        return wait_until(ended, "the series to end", seconds)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query of its SQLite database says, read beside the running worker."""
        database = sqlite3.connect(f"file:{self.folder / 'var' / 'worker.db'}?mode=ro", uri=True, timeout=patience(10))
        try:
            return database.execute(query).fetchall()
        finally:
            database.close()

    @property
    def data(self) -> Path:
        """Its data folder, a shared one where the settings say so."""
        return self.folder / str(self._settings.get("worker", {}).get("data_dir", "var"))

    def last_log_lines(self, count: int = 30) -> str:
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])


def run_worker(
    *arguments: str, timeout: float = 120, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`worker ARGUMENTS` to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, env=dict(environment or os.environ),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience(timeout), check=False,
    )  # fmt: skip


@contextmanager
def running(folder: Path, start_seconds: float = 180, **options: Any) -> Iterator[WorkerProcess]:
    """A worker for the length of a `with` block; whatever is left of it is killed at the end."""
    worker = WorkerProcess(folder, **options)
    try:
        yield worker.start(start_seconds)
    finally:
        worker.kill()
