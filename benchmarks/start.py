"""Start-up time and memory of the worker.

    PYTHONPATH=. python benchmarks/start.py

ready to receive    from `worker serve` (all roles, existing database) until its DICOM port accepts connections
ready to classify   until the line in its log: bundle verified, network compiled, golden cases passed
--help, list        the whole commands `worker --help` and `worker results list`
memory              resident memory of the receiver and of an inference process after a series of 24 slices

The import profiles list the packages that a start spends most time on (seconds in their own modules, -X importtime).
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, arguments, at_most, finish, plain
from tests.testbed import dcmtk
from tests.testbed.imported import imports_of_command, imports_of_role, packages
from tests.testbed.phantom import Grid, head_series
from tests.testbed.waiting import wait_until
from tests.testbed.worker_process import WorkerProcess, run_worker

READY = {"receive": '"receiving"', "infer": '"ready to classify"'}
LIMIT_SECONDS = {"receive": 1.5, "infer": 4.0, "list": 0.35, "help": 0.35}
LIMIT_MB = {"receive": 120.0, "infer": 450.0}


def start_once(folder: Path, settings: dict[str, Any]) -> tuple[float, float]:
    """Start the worker; seconds until it is ready to receive, and ready to classify."""
    worker = WorkerProcess(folder, settings=settings)
    worker.write_config()
    worker.log.unlink(missing_ok=True)
    with worker.log.open("wb") as log:
        begin = time.perf_counter()
        worker.spawn(log)
    try:
        receiving = _seconds_until(begin, lambda: _listens(worker.port), worker)
        classifying = _seconds_until(begin, lambda: READY["infer"] in worker.log.read_text(errors="replace"), worker)
    finally:
        worker.stop(30)
    return receiving, classifying


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _seconds_until(begin: float, condition: Callable[[], bool], worker: WorkerProcess) -> float:
    while not condition():
        worker.require_alive()
        if time.perf_counter() - begin > 120:
            raise TimeoutError(f"the worker was not ready in 120 s:\n{worker.last_log_lines()}")
        time.sleep(0.005)
    return time.perf_counter() - begin


def memory_mb(folder: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Resident memory by role after a series, in megabytes (10^6 bytes)."""
    files = head_series(folder / "head", grid=Grid(slices=24))
    worker = WorkerProcess(folder / "worker", settings=settings).start()
    try:
        wait_until(lambda: READY["infer"] in worker.log.read_text(errors="replace"), "the model")
        source = dcmtk.storescu(worker.port, files)
        if "error" in source.lower():
            raise RuntimeError("storescu failed")
        wait_until(lambda: worker.rows("SELECT count(*) FROM result")[0][0], "the series to be classified")
        return {role: _resident_mb(role, worker.config) for role in READY}
    finally:
        worker.stop(30)


def _resident_mb(role: str, config: Path) -> float:
    """Resident memory of the process of this role with this configuration."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            is_of_role = role.encode() in words or (entry / "comm").read_text() == f"worker-{role}\n"
            if is_of_role and str(config).encode() in words:
                [line] = [line for line in (entry / "status").read_text().splitlines() if line.startswith("VmRSS:")]
                return int(line.split()[1]) * 1024 / 1e6
        except (FileNotFoundError, ProcessLookupError):  # the process has ended meanwhile
            continue
    raise RuntimeError(f"no process of the role {role} is running")


def profile(name: str, imports: dict[str, float]) -> Row:
    first = list(packages(imports).items())[:6]
    return plain(f"imports of {name}", [sum(imports.values())], "s", ", ".join(f"{key} {s:.2f}" for key, s in first))


def main() -> int:
    chosen = arguments(__doc__)
    rounds = 1 if chosen.quick else 9
    settings: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worker = WorkerProcess(folder / "start", settings=settings)
        config = worker.write_config()
        worker.run("migrate")
        starts = [start_once(folder / "start", settings) for _ in range(rounds)]
        helped = [seconds(lambda: run_worker("--help")) for _ in starts]
        listed = [seconds(lambda: json.loads(worker.run("results", "list", "--format", "json").stdout)) for _ in starts]
        rows = [
            at_most("start: ready to receive", [receiving for receiving, _ in starts], LIMIT_SECONDS["receive"], "s"),
            at_most(
                "start: ready to classify", [classifying for _, classifying in starts], LIMIT_SECONDS["infer"], "s"
            ),
            at_most("worker --help", helped, LIMIT_SECONDS["help"], "s"),
            at_most("worker results list", listed, LIMIT_SECONDS["list"], "s"),
        ]
        resident = memory_mb(folder, settings)
        rows += [at_most(f"memory: {role}", [resident[role]], limit, "MB") for role, limit in LIMIT_MB.items()]
        rows.append(profile("worker results list", imports_of_command(config, "results", "list")))
        rows += [
            profile(f"the role {role}", imports_of_role(config, role, folder / f"{role}.log", line))
            for role, line in READY.items()
        ]
    finish("Start and memory", rows, chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
