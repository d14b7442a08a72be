"""An archive on a Dask cluster of two processes: one is killed, one series kills, the rest is as without Dask."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom import Dataset, dcmread

from tests.testbed import poisonous_worker
from tests.testbed.dcmtk import free_port
from tests.testbed.phantom import Grid, head_series
from tests.testbed.waiting import patience, wait_until
from tests.testbed.worker_process import COMMAND
from worker.config.settings import Settings
from worker.jobs.bundle_store import BundleStore
from worker.ops.classify_folder import classify_series, read_folder

NAMES = ("a", "b", "poison", "slow", "z")
DASK = [sys.executable, "-m", "dask"]
_MOMENTS = ("ContentTime", "InstanceCreationTime", "ContentDate", "InstanceCreationDate")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bulk")
    for name in NAMES:
        head_series(folder / "archive" / name, grid=Grid(slices=4))
    (folder / "archive" / "a" / "copy.dcm").write_bytes((folder / "archive" / "a" / "IM0001.dcm").read_bytes())
    (folder / "archive" / "notes.txt").write_text("no image")
    return folder


@contextmanager
def started(folder: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = [*COMMAND, "classify", "archive", "--out", "answers", "--format", "json", *options]
    with subprocess.Popen(
        command, cwd=folder, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[list[dict[str, Any]], str]:
    """The answers that a command printed, by the name of their folder, and its other lines."""
    printed, said = process.communicate(timeout=patience(90))
    assert printed, said
    return json.loads(printed), said


def test_a_killed_process_and_a_series_that_kills_cost_no_other_series(folder: Path) -> None:
    environment = {
        "DASK_DISTRIBUTED__WORKER__PRELOAD": poisonous_worker.__name__,
        "WORKER__WORKER__JOB_ATTEMPTS": "2",
    }
    marker = folder / "archive" / "slow" / poisonous_worker.STARTED
    with started(folder, "--workers", "2", **environment) as process:
        pid = wait_until(lambda: marker.is_file() and marker.read_text().strip(), "the slow series", every=0.05)
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        ports = [port for member in family for port in listening(member)]
        assert len(ports) >= 3  # scheduler and workers
        assert {address for address, _ in ports} == {"127.0.0.1"}
        assert [answer for _, port in ports if (answer := answer_to_a_stranger(port))] == []
        assert "MALLOC_TRIM_THRESHOLD_" not in psutil.Process(int(pid)).environ()
        os.kill(int(pid), signal.SIGKILL)
        answers, said = ended(process)
    assert process.returncode == 1
    assert "not read: notes.txt: the file has no DICOM preamble" in said
    assert "not read: copy.dcm: another file has the same SOP Instance UID" in said
    assert said.endswith("1 of 5 series failed; the same command tries them again\n")
    assert "MR" not in said, "nothing of a header is told"
    assert [(answer["status"], answer["reason"]) for answer in answers] == [
        ("failed", "process-died") if name == "poison" else ("classified", None) for name in NAMES
    ]
    assert answers[2]["study"]["reason"] == "process-died"
    lines = (folder / "answers" / "answers.jsonl").read_text().splitlines()
    assert len(lines) == len({json.loads(line)["answer"]["answer"]["series_instance_uid"] for line in lines}) == 4
    assert sorted(path.name for path in (folder / "answers").iterdir()) == [
        "answers.jsonl", "series-1", "series-2", "series-4", "series-5"
    ]  # fmt: skip
    is_as_without_dask(folder, answers[3])


def listening(process: psutil.Process) -> list[tuple[str, int]]:
    try:
        connections = process.net_connections("inet")
    except psutil.NoSuchProcess:  # the poison ended it since it was listed
        return []
    return [(port.laddr.ip, port.laddr.port) for port in connections if port.status == psutil.CONN_LISTEN]


def answer_to_a_stranger(port: int) -> bytes:
    """What a port answers over TLS to whoever has no certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as raw, context.wrap_socket(raw) as connection:
            return connection.recv(1)
    except OSError:  # ssl.SSLError is one
        return b""


def is_as_without_dask(folder: Path, answer: dict[str, Any]) -> None:
    model = BundleStore(Settings()).load_configured()
    [members] = read_folder(folder / "archive" / "slow")[0].values()
    alone = classify_series(members, Settings(), model, folder / "alone", datetime.now(UTC))
    assert alone.answer.probabilities == answer["probabilities"]
    assert alone.written is not None
    assert alone.written.png.read_bytes() == (folder / answer["written"]["png"]).read_bytes()
    for name, written in (("report", alone.written.report), ("picture", alone.written.picture)):
        assert timeless(dcmread(folder / answer["written"][name])) == timeless(dcmread(written))


def timeless(ds: Dataset) -> Dataset:
    for keyword in _MOMENTS:
        del ds[keyword]
    for equipment in ds.ContributingEquipmentSequence:
        del equipment.ContributionDateTime
    return ds


def test_a_cluster_that_runs_does_what_the_output_lacks(folder: Path) -> None:
    written = {path: path.stat().st_mtime_ns for path in (folder / "answers").glob("series-*/*")}
    assert len(written) == 12, "of the test before"
    with running_cluster(folder) as address, started(folder, "--scheduler", address) as process:
        answers, said = ended(process)
    assert process.returncode == 0, said
    assert [answer["status"] for answer in answers] == ["classified"] * 5
    assert answers[2]["written"]["report"] == "answers/series-3/report.dcm"
    assert "classifying series: 1 of 1" in said
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert len((folder / "answers" / "answers.jsonl").read_text().splitlines()) == 5


@contextmanager
def running_cluster(folder: Path) -> Iterator[str]:
    """A scheduler and a worker as docs/bulk.md starts them."""
    address = f"tcp://127.0.0.1:{free_port()}"
    commands = (
        ["scheduler", "--host", address, "--no-dashboard"],
        ["worker", address, "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard"],
    )
    with (folder / "dask.log").open("w") as log:
        processes = [subprocess.Popen([*DASK, *command], cwd=folder, stdout=log, stderr=log) for command in commands]
    try:
        wait_until(lambda: "Registered to" in (folder / "dask.log").read_text(), "the Dask worker", every=0.1)
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(patience(30))
