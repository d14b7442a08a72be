"""What a person sees when a start is not possible, and what systemd sees when it stops the service."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.testbed import dcmtk, site, worker_process
from tests.testbed.pacs import Behaviour
from tests.testbed.waiting import patience, wait_until
from tests.testbed.worker_process import WorkerProcess

# Ten seconds are promised; the rest is for a machine that is busy with other tests.
STOP_SECONDS = 30


def assert_one_clear_line(worker: WorkerProcess, *words: str) -> None:
    """`worker serve` ends by itself with an exit code other than 0 and one line that holds the words."""
    worker.write_config()
    done = worker.run("serve", timeout=patience(30))
    assert done.returncode not in (0, None)
    # What the other roles logged on their way (JSON) is not meant for the person who started it.
    lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


def test_unknown_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    assert_one_clear_line(WorkerProcess(tmp_path, settings={"receive": {"quiet_second": 1}}), "quiet_seconds")


def test_wrong_value_names_its_key(tmp_path: Path) -> None:
    assert_one_clear_line(WorkerProcess(tmp_path, settings={"receive": {"port": "eleven"}}), "receive.port")


def test_unknown_environment_variable_is_named(tmp_path: Path) -> None:
    assert_one_clear_line(WorkerProcess(tmp_path, environment={"WORKER__RECEIVE__PROT": "104"}), "PROT")


@pytest.mark.parametrize("section", ["receive", "web"])
def test_port_in_use(section: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_one_clear_line(WorkerProcess(tmp_path, settings={section: {"port": port}}), str(port))


def test_missing_bundle(tmp_path: Path) -> None:
    assert_one_clear_line(
        WorkerProcess(tmp_path, environment={"WORKER__WORKER__BUNDLE": "nowhere"}), "bundle", "nowhere"
    )


def test_database_of_a_newer_version(tmp_path: Path) -> None:
    worker = WorkerProcess(tmp_path)
    worker.write_config()
    assert worker.run("migrate").returncode == 0
    database = sqlite3.connect(tmp_path / "var" / "worker.db")
    with database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    assert_one_clear_line(worker, "newer")


def test_file_that_is_no_database(tmp_path: Path) -> None:
    worker = WorkerProcess(tmp_path)
    worker.write_config()
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "worker.db").write_bytes(b"not a database " * 100)
    assert_one_clear_line(worker, "database")


def test_environment_overrides_a_key_and_an_idle_worker_stops_with_exit_code_0(tmp_path: Path) -> None:
    port = dcmtk.free_port()
    with worker_process.running(tmp_path, environment={"WORKER__RECEIVE__PORT": str(port)}) as worker:
        dcmtk.echoscu(port)
        assert worker.stop(STOP_SECONDS) == 0


@pytest.mark.parametrize("moment", ["receiving", "classifying", "reporting"])
def test_busy_worker_stops_in_time_and_goes_on_after_a_restart(
    moment: str, long_head: list[Path], tmp_path: Path
) -> None:
    paths = long_head[180:200] if moment == "reporting" else long_head
    with site.running(tmp_path / "worker", settings={"receive": {"quiet_seconds": 8}}) as hospital:
        hospital.pacs.behaviour = Behaviour.SLOW if moment == "reporting" else Behaviour.ACCEPT
        sender = subprocess.Popen(
            [dcmtk.command("storescu"), "-aec", "AI_WORKER", "127.0.0.1", str(hospital.worker.port), *map(str, paths)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        begun = {
            "receiving": "SELECT count(*) >= 10 FROM instance",
            "classifying": "SELECT count(*) FROM job WHERE state = 'running'",
            "reporting": "SELECT count(*) FROM delivery WHERE state = 'sending'",
        }[moment]
        wait_until(lambda: hospital.worker.rows(begun)[0][0], moment, every=0.01)
        assert hospital.worker.stop(STOP_SECONDS) == 0
        sender.wait(patience(60))
        hospital.pacs.behaviour = Behaviour.ACCEPT
        hospital.worker.start()
        source = hospital.push(paths)  # what was acknowledged before is known, the rest is new
        answer = hospital.answer(source)
        assert len(answer.reports) == len(answer.pictures) == 1
