"""The suite ends, and says at which test, whatever a test does to the process that runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.testbed.waiting import patience
from tests.unit.test_mirror import ROOT

KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
HUNG = "ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock"
HARMLESS = "".join(f"def test_{name}() -> None:\n    pass\n" for name in "abcd")


@pytest.mark.parametrize("fault", [KILLED, HUNG])
def test_a_test_that_ends_its_process_or_hangs_in_c_ends_the_run_by_name(tmp_path: Path, fault: str) -> None:
    for number in range(4):
        (tmp_path / f"test_harmless_{number}.py").write_text(HARMLESS)
    fatal = f"import ctypes, os, signal\n{HARMLESS}def test_fatal() -> None:\n    {fault}\n"
    (tmp_path / "test_one.py").write_text(fatal)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    command += ["-n", "2", "--dist", "loadfile", "-o", "faulthandler_timeout=2", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=patience(60), check=False)
    assert done.returncode == 1, done.stdout
    assert "FAILED test_one.py::test_fatal" in done.stdout
