"""Tasks on a Dask cluster: processes of this host, or any cluster that is running. Needs the extra `bulk`.

A Dask scheduler executes whatever a client sends it, and loopback does not isolate users. The local cluster listens on
the loopback interface only and accepts only peers that hold its certificate, which is made for it and lies in a folder
that only this user can read.
"""

from __future__ import annotations

import logging
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any, TypeVar

from worker.errors import StartError, WorkerError

T = TypeVar("T")
R = TypeVar("R")

_LOCAL: dict[str, Any] = {
    # The first death of a worker is reported: `Cluster.run` decides what runs again, and how.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,  # a worker holds the task that it runs, and no other
    "distributed.scheduler.worker-ttl": None,  # the kernel ends a process that hangs
    "distributed.deploy.lost-worker-timeout": "1000 days",  # a process that takes long to start again is not given up
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    # Dask's default sets MALLOC_TRIM_THRESHOLD_ as well, which costs a series 17,500 page faults instead of 60.
    "distributed.nanny.pre-spawn-environ": {
        "OMP_NUM_THREADS": 1,
        "MKL_NUM_THREADS": 1,
        "OPENBLAS_NUM_THREADS": 1,
    },
}
_CONNECT_SECONDS = 30
_LOOK_SECONDS = 1.0
_SILENCE_SECONDS = 60.0  # without an answer; then the cluster is checked
_COUNT_SECONDS = 5.0  # between two counts of the cluster's threads
_DIED = object()  # the worker of a task died
_VANISHED = object()  # a task was answered, and the worker died before it gave us the answer
_AHEAD = 200  # tasks that a shared cluster is given at least, so that an adaptive cluster sees work


@dataclass(frozen=True, slots=True)
class Lost:
    """A task without an answer: why, as a stable word and a sentence."""

    reason: str
    detail: str


class Cluster:
    """A connected Dask cluster."""

    def __init__(self, client: Any, is_local: bool) -> None:
        self._client = client
        self._is_local = is_local
        self._threads, self._counted = 0, -float("inf")

    def ask_workers(self, function: Callable[[T], R], argument: T) -> list[R | Lost]:
        """What `function` returns on each worker that is connected now."""
        answers = self._client.run(function, argument, on_error="return").values()
        return [
            Lost("dask-fault", f"{type(answer).__name__} on a Dask worker") if isinstance(answer, Exception) else answer
            for answer in answers
        ]

    @property
    def threads(self) -> int:
        """The number of tasks that the cluster can work on at a time, now."""
        return sum(self._client.nthreads().values())

    def run(
        self, function: Callable[[T], R], tasks: Iterable[T], attempts: int, stop: Event | None = None
    ) -> Iterator[tuple[T, R | Lost]]:
        """Run `function`, which must not raise, on each task; yield each task with its answer, as they end.

        `tasks` are drawn as workers become free. A task whose worker died runs again once the others have ended, alone,
        so that a task that kills workers takes no other with it; after `attempts` it is Lost. Raises WorkerError when
        the cluster is gone, and KeyboardInterrupt within a second after `stop` was set.
        """
        waiting, suspects = iter(tasks), list[tuple[T, int]]()
        running: dict[str, tuple[T, int]] = {}
        ended: SimpleQueue[Any] = SimpleQueue()
        more = True

        def start(task: T, deaths: int) -> None:
            future = self._client.submit(function, task, key=f"{function.__name__}-{uuid.uuid4().hex}", pure=False)
            running[future.key] = task, deaths
            future.add_done_callback(ended.put)

        while True:
            while more and len(running) < self._window():
                task = next(waiting, None)
                if more := task is not None:
                    start(task, 0)
            if not running and suspects:
                start(*suspects.pop(0))
            if not running:
                return
            future = self._next(ended, stop)
            task, deaths = running.pop(future.key)
            answer = self._answer(future)
            if answer is _VANISHED:
                start(task, deaths)
            elif answer is not _DIED:
                yield task, answer
            elif deaths + 1 < attempts:
                suspects.append((task, deaths + 1))
            else:
                yield task, Lost("process-died", f"the process that worked on it died, {deaths + 1} times in a row")

    def _answer(self, future: Any) -> Any:
        """The answer of a task that ended; _DIED or _VANISHED where a worker died."""
        from distributed import CancelledError, KilledWorker

        if future.status in ("lost", "pending"):
            return _VANISHED
        try:
            return future.result()
        except KilledWorker:
            return _DIED
        except CancelledError:
            raise WorkerError("scheduler-gone", "the connection to the Dask scheduler is lost") from None
        except Exception as fault:  # a task's boundary: whatever a Dask worker raised
            return Lost("dask-fault", f"{type(fault).__name__} on a Dask worker")

    def _window(self) -> int:
        """How many tasks the cluster holds at a time: two for each thread, so that none of them waits for us."""
        if time.monotonic() >= self._counted + _COUNT_SECONDS:
            self._threads, self._counted = self.threads, time.monotonic()
        return max(2 * self._threads, 1 if self._is_local else _AHEAD)

    def _next(self, ended: SimpleQueue[Any], stop: Event | None) -> Any:
        """The next future that ended."""
        silent_since = time.monotonic()
        while True:
            try:
                return ended.get(timeout=_LOOK_SECONDS)
            except Empty:
                if stop is not None and stop.is_set():
                    raise KeyboardInterrupt from None
                if time.monotonic() < silent_since + _SILENCE_SECONDS:
                    continue
                if self._is_local and not self._client.nthreads():
                    raise WorkerError("no-dask-worker", "no process of the local Dask cluster can be started") from None
                silent_since = time.monotonic()


@contextmanager
def open_cluster(workers: int | None, scheduler: str | None) -> Iterator[Cluster]:
    """Start `workers` processes of one thread, or connect to the scheduler at tcp://HOST:PORT or tls://HOST:PORT.

    For tls:// Dask's own configuration names the certificates. Raises StartError: without the extra `bulk`, for an
    address at which no scheduler answers.
    """
    if (workers is None) == (scheduler is None):
        raise StartError("usage", "give --workers or --scheduler, not both")
    try:
        import distributed
    except ImportError:
        hint = "pip install 'brain-mri-worker[bulk]'"
        raise StartError("extra-missing", f"--workers and --scheduler need Dask, the extra `bulk`: {hint}") from None
    if workers is not None:
        with _local_client(workers) as client:
            yield Cluster(client, is_local=True)
        return
    try:
        client = distributed.Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise StartError("no-scheduler", f"no Dask scheduler can be reached at {scheduler}: {error}") from None
    with client:
        yield Cluster(client, is_local=False)


@contextmanager
def _local_client(workers: int) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    with tempfile.TemporaryDirectory(prefix="worker-dask-", ignore_cleanup_errors=True) as folder:
        security = _security(Path(folder))
        with (
            dask.config.set(_LOCAL),
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                protocol="tls",
                security=security,
                dashboard_address=None,
                memory_limit=0,  # a task's memory is limited by the kernel
                local_directory=folder,
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster, security=security, set_as_default=False) as client,
        ):
            yield client


def _security(folder: Path) -> Any:
    """A certificate and its key for one cluster: whoever has no key is refused by every process of it."""
    from distributed import Security

    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "365", "-subj", "/CN=worker", "-addext", "keyUsage=critical,digitalSignature,keyCertSign"]
    try:
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        raise StartError(
            "openssl-missing", "cannot make the certificate of the local Dask cluster: install openssl"
        ) from None
    names = [f"tls_{role}_{part}" for role in ("client", "scheduler", "worker") for part in ("cert", "key")]
    files = {name: key if name.endswith("key") else certificate for name in names}
    return Security(tls_ca_file=certificate, require_encryption=True, **files)
