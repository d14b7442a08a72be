"""Who is dead: leases are taken from nobody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from worker.process import is_running


def test_a_process_is_running_until_it_ends() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_running(process.pid)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended and is not reaped: a zombie
    assert os.path.exists(f"/proc/{process.pid}")
    assert not is_running(process.pid)
    process.communicate()
    assert not is_running(process.pid)


def test_no_library_reports_home() -> None:
    """OpenVINO's import would send an event to Google Analytics and write a client number into the home folder."""
    from openvino.tools.ovc import telemetry_stub, telemetry_utils

    assert telemetry_utils.tm is telemetry_stub


def test_the_database_is_not_readable_by_everybody(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[worker]\ndata_dir = "var"\n[database]\nurl = "sqlite:///var/worker.db"\n')
    command = f"umask 022; exec '{sys.executable}' -m worker migrate --config '{tmp_path / 'config.toml'}'"
    subprocess.run(command, shell=True, check=True, capture_output=True)
    for file in (tmp_path / "var", *(tmp_path / "var").iterdir()):
        assert file.stat().st_mode & 0o007 == 0, file
        assert file.stat().st_mode & 0o600 == 0o600
