"""What a process of the worker imports: its own account of it, from the first line to the last."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.testbed.waiting import patience, wait_until
from tests.testbed.worker_process import COMMAND

# -X importtime: microseconds in the module itself, with all it imports, and its name, indented by depth.
_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)")


def imports_of_command(config: Path, *arguments: str) -> dict[str, float]:
    """Seconds that each module took by itself, in `worker ARGUMENTS` run to its end."""
    done = subprocess.run(
        [*COMMAND, *arguments, "--config", str(config)],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=patience(120),
    )
    if done.returncode != 0:
        raise RuntimeError(f"worker {' '.join(arguments)} exited {done.returncode}")
    return _parse(done.stderr.splitlines())


def imports_of_role(config: Path, role: str, log: Path, ready: str, seconds: float = 120) -> dict[str, float]:
    """The same of `worker serve --role`, which is ended as soon as its log has a line with `ready`."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--role", role, "--config", str(config)],
            env=_environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip
    try:

        def is_ready() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"worker serve --role {role} exited {process.returncode}")
            return ready in log.read_text(errors="replace")

        wait_until(is_ready, f"{role} to be ready", seconds, every=0.05)
        lines = log.read_text(errors="replace").splitlines()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(patience(30))
    return _parse(lines)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}


def _parse(lines: Sequence[str]) -> dict[str, float]:
    found = [_LINE.match(line) for line in lines]
    return {one[3]: int(one[1]) / 1e6 for one in found if one}


def packages(imports: dict[str, float]) -> dict[str, float]:
    """Seconds by top-level package, the slowest first."""
    sums: dict[str, float] = {}
    for name, seconds in imports.items():
        package = name.partition(".")[0]
        sums[package] = sums.get(package, 0.0) + seconds
    return dict(sorted(sums.items(), key=lambda one: -one[1]))
