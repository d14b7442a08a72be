"""Latency: the time from the last image of a series to its report in the PACS, and from the last series of a study.

    PYTHONPATH=. python benchmarks/latency.py

A worker with the default model, SQLite, the default settings but `[receive] quiet_seconds = 1`, and a Storage SCP. With
`[report] level = "series"`, storescu sends a series over one association; the time is measured from the commit of the
last image (the time in its row) to the end of the report's C-STORE at the SCP. What exceeds `quiet_seconds` is counted,
in three parts:

settling     from the end of quiet_seconds to the row of the job
classifying  to the commit of the result: claim, read, classify, build report and picture
delivering   to the report in the PACS

Of a study, with `level = "study"`, whose series come over one association: from the moment at which its last series
settled to the end of the report's C-STORE, less `[study] quiet_seconds`, which is the default or 1 s. The last of its
series are classified meanwhile. Its parts:

classifying  the last answer for a series, where it comes after `[study] quiet_seconds`
answering    from then on to the row of the study's answer: claim, fuse, build report and picture
delivering   to the report in the PACS
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from benchmarks.rows import Row, arguments, at_most, finish
from tests.testbed import dcmtk
from tests.testbed.pacs import REPORTS, Pacs
from tests.testbed.phantom import Grid, decimal, head_series
from tests.testbed.waiting import wait_until
from tests.testbed.worker_process import WorkerProcess, running
from worker.config.sections import StudySection

QUIET_SECONDS = 1.0
DIFFERENT = 24  # distinct slices; a longer series repeats them at positions of their own


@dataclass(frozen=True, slots=True)
class Load:
    """A series to send, and the longest permitted time to its report."""

    slices: int
    grid: Grid
    limit_seconds: float

    @property
    def name(self) -> str:
        return f"{self.slices} slices of {self.grid.rows * self.grid.columns * 2 // 1000} kB"


LOADS = (
    Load(24, Grid(slices=DIFFERENT), 0.5),
    Load(384, Grid(slices=DIFFERENT, rows=326, columns=326, pixel_mm=0.74), 3.0),
)


@dataclass(frozen=True, slots=True)
class StudyLoad:
    """A study to send, and the longest permitted time to its report."""

    series: int
    slices: int
    limit_seconds: float
    quiet_seconds: float

    @property
    def name(self) -> str:
        return f"{self.series} series of {self.slices} slices"


DEFAULT_QUIET_SECONDS = StudySection().quiet_seconds
STUDY_LOADS = tuple(
    StudyLoad(series, slices, limit, quiet)
    for series, slices, limit in ((6, 24, 1.0), (4, 200, 6.0))
    for quiet in (DEFAULT_QUIET_SECONDS, QUIET_SECONDS)
)


Durations = dict[str, float]  # the stages of a series or a study, and the seconds of each


class ClockedPacs(Pacs):
    """A PACS that records when it stored each report."""

    def __init__(self) -> None:
        super().__init__()
        self.report_times: dict[str, float] = {}  # by SOP Instance UID

    def _store(self, event: Any) -> int:
        status = super()._store(event)
        if str(event.request.AffectedSOPClassUID) in REPORTS:
            self.report_times[str(event.request.AffectedSOPInstanceUID)] = time.time()
        return status


def write_series(folder: Path, drawn: Sequence[Dataset], slices: int, study: str | None = None) -> list[Path]:
    """Write a new series of this many slices; the drawn ones are repeated where there are fewer."""
    folder.mkdir(parents=True, exist_ok=True)
    study, series, files = study or generate_uid(), generate_uid(), []
    for index in range(slices):
        ds = drawn[index * len(drawn) // slices]
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, series, generate_uid()
        ds.InstanceNumber = index + 1
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], decimal(144 * index / slices - 60)]
        files.append(folder / f"{index:04d}.dcm")
        ds.save_as(files[-1], enforce_file_format=True)
    return files


def send_series(worker: WorkerProcess, pacs: ClockedPacs, files: Sequence[Path]) -> Durations:
    """Send a series and wait for its report."""
    dcmtk.storescu(worker.port, files)
    received, settled, answered, report_at = _reported(
        worker,
        pacs,
        f"""SELECT object.sop_instance_uid, series.last_received_at, job.created_at, result.created_at
        FROM result JOIN job ON job.id = result.job_id JOIN series ON series.id = result.series_id
        JOIN object ON object.result_id = result.id AND object.kind = 'report'
        WHERE series.series_instance_uid = '{dcmread(files[0], stop_before_pixels=True).SeriesInstanceUID}'""",
    )
    settling = settled - received - QUIET_SECONDS
    return {"settling": settling, "classifying": answered - settled, "delivering": report_at - answered}


def _reported(worker: WorkerProcess, pacs: ClockedPacs, query: str) -> list[float]:
    """Wait until the PACS has a report; its times, and when it was there, in seconds since 1970.

    `query` gives a row of the SOP Instance UID of the report and the times that led to it.
    """

    def stored() -> list[float] | None:
        worker.require_alive()
        for uid, *times in worker.rows(query):
            if uid in pacs.report_times:
                return [*map(seconds_of, times), pacs.report_times[uid]]
        return None

    return wait_until(stored, "the report", every=0.1)


def seconds_of(text: str) -> float:
    """A time of the database in seconds since 1970."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def send_study(
    worker: WorkerProcess, pacs: ClockedPacs, folder: Path, drawn: Sequence[Dataset], load: StudyLoad
) -> Durations:
    """Send a study and wait for its report."""
    study = generate_uid()
    series = [write_series(folder / f"series-{number}", drawn, load.slices, study) for number in range(load.series)]
    dcmtk.storescu(worker.port, [file for files in series for file in files])
    settled, classified, answered, report_at = _reported(
        worker,
        pacs,
        f"""SELECT object.sop_instance_uid, max(series.settled_at), max(result.created_at), study_result.created_at
        FROM study JOIN study_result ON study_result.id = study.answered_by
        JOIN object ON object.study_result_id = study_result.id AND object.kind = 'report'
        JOIN series ON series.study_instance_uid = study.study_instance_uid
        JOIN result ON result.job_id = series.answered_job_id
        WHERE study.study_instance_uid = '{study}' AND study.state = 'answered'
        GROUP BY object.sop_instance_uid, study_result.created_at HAVING count(*) = {load.series}""",
    )
    quiet_until = settled + load.quiet_seconds
    due = max(quiet_until, classified)
    return {"classifying": due - quiet_until, "answering": answered - due, "delivering": report_at - answered}


def measure_studies(folder: Path, load: StudyLoad, rounds: int) -> list[Durations]:
    drawn = [dcmread(file) for file in head_series(folder / "drawn", grid=Grid(slices=DIFFERENT))]
    with ClockedPacs() as pacs, ready_worker(folder, pacs, "study", load.quiet_seconds) as worker:
        return [send_study(worker, pacs, folder / "sent", drawn, load) for _ in range(rounds + 1)][1:]  # one warms up


def measure(folder: Path, load: Load, rounds: int) -> list[Durations]:
    drawn = [dcmread(file) for file in head_series(folder / "drawn", grid=load.grid)]
    with ClockedPacs() as pacs, ready_worker(folder, pacs, "series") as worker:
        durations = []
        for number in range(rounds + 1):  # the first series warms up
            files = write_series(folder / "sent", drawn, load.slices)
            durations.append(send_series(worker, pacs, files))
            if number == 0:
                durations.clear()
        return durations


@contextmanager
def ready_worker(
    folder: Path, pacs: Pacs, level: str, study_quiet_seconds: float = QUIET_SECONDS
) -> Iterator[WorkerProcess]:
    """A worker that has loaded its model, with that PACS as its destination; it reports each series, or the study."""
    destinations = {"pacs": (pacs.ae_title, pacs.port)}
    settings = {
        "receive": {"quiet_seconds": QUIET_SECONDS},
        "study": {"quiet_seconds": study_quiet_seconds},
        "report": {"level": level},
        "worker": {"lease_seconds": 30},
    }
    with running(folder / "worker", destinations=destinations, settings=settings) as worker:
        ready = "ready to classify"
        wait_until(lambda: ready in worker.log.read_text(errors="replace") or None, "the model", every=0.05)
        yield worker


def row(name: str, durations: Sequence[Durations], limit_seconds: float) -> Row:
    note = ", ".join(f"{stage} {median(item[stage] for item in durations):.2f}" for stage in durations[0])
    return at_most(name, [sum(item.values()) for item in durations], limit_seconds, "s", note)


def main() -> int:
    chosen = arguments(__doc__)
    rows = []
    for load in LOADS[:1] if chosen.quick else LOADS:
        with tempfile.TemporaryDirectory() as name:
            durations = measure(Path(name), load, 2 if chosen.quick else 20)
            rows.append(row(f"report after quiet_seconds, {load.name}", durations, load.limit_seconds))
    for study in STUDY_LOADS[:1] if chosen.quick else STUDY_LOADS:
        with tempfile.TemporaryDirectory() as folder:
            durations = measure_studies(Path(folder), study, 2 if chosen.quick else 10)
            name = f"report after [study] quiet_seconds of {study.quiet_seconds:g} s, {study.name}"
            rows.append(row(name, durations, study.limit_seconds))
    finish("Latency", rows, chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
