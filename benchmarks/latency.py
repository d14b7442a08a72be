"""Latency: the time from the last image of a series to its report in the PACS, and of a study to its answer.

    PYTHONPATH=. python benchmarks/latency.py

A worker with the default model, SQLite and the default settings but `quiet_seconds = 1`, and a Storage SCP. storescu
sends a series over one association; the time is measured from the commit of the last image (the time in its row) to the
end of the report's C-STORE at the SCP. What exceeds `quiet_seconds` is counted, in three parts:

settling     from the end of quiet_seconds to the row of the job
classifying  to the commit of the result: claim, read, classify, build report and picture
delivering   to the report in the PACS

Of a study, whose series come over one association: from the moment at which its last series settled to the row of the
study's answer, less `[study] quiet_seconds`, in which the last of its series are classified.
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

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from benchmarks.rows import Row, arguments, at_most, finish
from tests.testbed import dcmtk
from tests.testbed.pacs import REPORTS, Pacs
from tests.testbed.phantom import Grid, decimal, head_series
from tests.testbed.waiting import wait_until
from tests.testbed.worker_process import WorkerProcess, running

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
    """A study to send, and the longest permitted time to its answer."""

    series: int
    slices: int
    limit_seconds: float

    @property
    def name(self) -> str:
        return f"{self.series} series of {self.slices} slices"


STUDY_LOADS = (StudyLoad(6, 24, 1.0), StudyLoad(4, 200, 6.0))


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds that a series took, by stage."""

    settling: float
    classifying: float
    delivering: float

    @property
    def total(self) -> float:
        return self.settling + self.classifying + self.delivering


class ClockedPacs(Pacs):
    """A PACS that records when it stored the last report."""

    report_at: float | None = None

    def _store(self, event: object) -> int:
        status = super()._store(event)
        if str(event.request.AffectedSOPClassUID) in REPORTS:  # type: ignore[attr-defined]
            self.report_at = time.time()
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
    pacs.report_at = None
    dcmtk.storescu(worker.port, files)

    def stored() -> float | None:
        worker.require_alive()
        return pacs.report_at

    report_at = wait_until(stored, "the report", every=0.01)
    received, settled, answered = times(worker)
    return Durations(settled - received - QUIET_SECONDS, answered - settled, report_at - answered)


def times(worker: WorkerProcess) -> tuple[float, float, float]:
    """When the last image, the job and the result of the newest series were recorded, in seconds since 1970."""
    query = """SELECT series.last_received_at, job.created_at, result.created_at
        FROM result JOIN job ON job.id = result.job_id JOIN series ON series.id = result.series_id
        ORDER BY result.id DESC LIMIT 1"""
    [row] = worker.rows(query)
    received, settled, answered = map(seconds_of, row)
    return received, settled, answered


def seconds_of(text: str) -> float:
    """A time of the database in seconds since 1970."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def send_study(worker: WorkerProcess, folder: Path, drawn: Sequence[Dataset], load: StudyLoad) -> float:
    """Send a study and wait for its answer; the seconds that it took beyond the quiet time."""
    study = generate_uid()
    series = [write_series(folder / f"series-{number}", drawn, load.slices, study) for number in range(load.series)]
    dcmtk.storescu(worker.port, [file for files in series for file in files])
    query = f"""SELECT max(series.settled_at), study_result.created_at
        FROM study JOIN study_result ON study_result.id = study.answered_by
        JOIN series ON series.study_instance_uid = study.study_instance_uid
        WHERE study.study_instance_uid = '{study}' AND study.state = 'answered' GROUP BY study_result.created_at
        HAVING count(*) = {load.series}"""

    def answered() -> list[tuple[str, str]]:
        worker.require_alive()
        return worker.rows(query)

    [(settled, created)] = wait_until(answered, "the study's answer", every=0.05)
    return seconds_of(created) - seconds_of(settled) - QUIET_SECONDS


def measure_studies(folder: Path, load: StudyLoad, rounds: int) -> list[float]:
    drawn = [dcmread(file) for file in head_series(folder / "drawn", grid=Grid(slices=DIFFERENT))]
    with ClockedPacs() as pacs, ready_worker(folder, pacs) as worker:
        return [send_study(worker, folder / "sent", drawn, load) for _ in range(rounds + 1)][1:]  # the first warms up


def measure(folder: Path, load: Load, rounds: int) -> list[Durations]:
    drawn = [dcmread(file) for file in head_series(folder / "drawn", grid=load.grid)]
    with ClockedPacs() as pacs, ready_worker(folder, pacs) as worker:
        durations = []
        for number in range(rounds + 1):  # the first series warms up
            files = write_series(folder / "sent", drawn, load.slices)
            durations.append(send_series(worker, pacs, files))
            if number == 0:
                durations.clear()
        return durations


@contextmanager
def ready_worker(folder: Path, pacs: Pacs) -> Iterator[WorkerProcess]:
    """A worker that has loaded its model, with that PACS as its destination."""
    destinations = {"pacs": (pacs.ae_title, pacs.port)}
    settings = {
        "receive": {"quiet_seconds": QUIET_SECONDS},
        "study": {"quiet_seconds": QUIET_SECONDS},
        "worker": {"lease_seconds": 30},
    }
    with running(folder / "worker", destinations=destinations, settings=settings) as worker:
        ready = "ready to classify"
        wait_until(lambda: ready in worker.log.read_text(errors="replace") or None, "the model", every=0.05)
        yield worker


def row(load: Load, durations: Sequence[Durations]) -> Row:
    parts = ("settling", "classifying", "delivering")
    note = ", ".join(f"{part} {median(getattr(series, part) for series in durations):.2f}" for part in parts)
    return at_most(
        f"report after quiet_seconds, {load.name}",
        [series.total for series in durations],
        load.limit_seconds,
        "s",
        note,
    )


def main() -> int:
    chosen = arguments(__doc__)
    rows = []
    for load in LOADS[:1] if chosen.quick else LOADS:
        with tempfile.TemporaryDirectory() as name:
            rows.append(row(load, measure(Path(name), load, 2 if chosen.quick else 20)))
    for study in STUDY_LOADS[:1] if chosen.quick else STUDY_LOADS:
        with tempfile.TemporaryDirectory() as name:
            seconds = measure_studies(Path(name), study, 2 if chosen.quick else 10)
            rows.append(at_most(f"answer after [study] quiet_seconds, {study.name}", seconds, study.limit_seconds, "s"))
    finish("Latency", rows, chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
