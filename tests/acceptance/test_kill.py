"""Power cuts: SIGKILL to every process of the worker, at the worst moments, then a restart (invariants 1 to 4)."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from tests.testbed import dcmtk, phantom, site
from tests.testbed.pacs import Behaviour
from tests.testbed.site import Site
from tests.testbed.waiting import patience, wait_until
from tests.testbed.worker_process import WorkerProcess

ACKNOWLEDGED = "Received Store Response (Success)"


# A sender that lost its connection gets this long after the restart to send the rest.
QUIET_SECONDS = 8
PATIENT = {"receive": {"quiet_seconds": QUIET_SECONDS}, "report": {"level": "study"}}


def assert_stored_once(worker: WorkerProcess, paths: list[Path]) -> None:
    """Every file of the series is one row and one file of the same pixels; nothing else of it is there."""
    sent = {str((ds := dcmread(path)).SOPInstanceUID): ds.PixelData for path in paths}
    stored = worker.rows("SELECT sop_instance_uid, path FROM instance")
    assert Counter(uid for uid, _ in stored) == Counter(sent.keys())
    for uid, path in stored:
        assert dcmread(worker.folder / "var" / path).PixelData == sent[uid]
    files = [path for path in (worker.folder / "var" / "instances").rglob("*") if path.is_file()]
    assert len(files) == len(sent)


def assert_answered_once(hospital: Site, source: Dataset, *, sent_again: bool = False) -> None:
    """Exactly one answer, report and picture of the study, now and after the time that a second one would take."""
    answer = hospital.answer(source)
    time.sleep(QUIET_SECONDS + 1)
    assert hospital.answer(source) == answer
    assert len(answer.reports) == len(answer.pictures) == 1
    assert hospital.worker.rows("SELECT count(*) FROM study_result") == [(1,)]
    assert hospital.pacs.stored.keys() == {*answer.reports, *answer.pictures}
    if not sent_again:
        assert set(hospital.pacs.receipts.values()) == {1}


def test_kill_while_a_series_is_being_sent(long_head: list[Path], tmp_path: Path) -> None:
    paths = long_head[:150]
    with site.running(tmp_path / "worker", settings=PATIENT) as hospital:
        sender = subprocess.Popen(
            [
                dcmtk.command("storescu"), "-v", "-aec", "AI_WORKER",
                "127.0.0.1", str(hospital.worker.port), *map(str, paths),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        wait_until(lambda: hospital.worker.rows("SELECT count(*) FROM instance")[0][0] >= 20, "20 slices", every=0.01)
        hospital.worker.kill()
        printed, _ = sender.communicate(timeout=patience(60))
        acknowledged = printed.count(ACKNOWLEDGED)
        assert 20 <= acknowledged < len(paths), "the kill must fall into the sending"
        hospital.worker.start(until=hospital.worker.listens)
        time.sleep(1.5)  # longer than a look for settled series takes: a sender does not come back at once
        # It sends again only what was not acknowledged: the rest is ours to have kept.
        source = hospital.push(paths[acknowledged:])
        assert_answered_once(hospital, source)
        assert_stored_once(hospital.worker, paths)


def test_kill_while_a_series_is_being_classified(long_head: list[Path], tmp_path: Path) -> None:
    with site.running(tmp_path / "worker", settings=PATIENT) as hospital:
        source = hospital.push(long_head)
        running = "SELECT count(*) FROM job WHERE state = 'running'"
        wait_until(lambda: hospital.worker.rows(running)[0][0], "the job to run", every=0.01)
        hospital.worker.kill()
        assert hospital.worker.rows(running)[0][0] == 1, "the kill must fall into the classification"
        assert hospital.worker.rows("SELECT count(*) FROM result")[0][0] == 0
        hospital.worker.start()
        assert_answered_once(hospital, source)
        assert_stored_once(hospital.worker, long_head)


@pytest.mark.parametrize("behaviour", [Behaviour.SLOW, Behaviour.ABORT], ids=["mid-answer", "pacs-aborts"])
def test_kill_while_the_report_is_being_sent(behaviour: Behaviour, tmp_path: Path) -> None:
    with site.running(tmp_path / "worker", settings=PATIENT) as hospital:
        hospital.pacs.behaviour = behaviour
        source = hospital.push(phantom.head_series(tmp_path / "head"))
        sending = "SELECT count(*) FROM delivery WHERE attempts > 0 OR state = 'sending'"
        wait_until(lambda: hospital.worker.rows(sending)[0][0], "a delivery to begin", every=0.01)
        hospital.worker.kill()
        hospital.pacs.behaviour = Behaviour.ACCEPT
        hospital.worker.start()
        # The PACS may get an object twice, under one UID: to it that is one object (invariant 3).
        assert_answered_once(hospital, source, sent_again=True)
