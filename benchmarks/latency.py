"""How long after its last image a series' report lies in the PACS.

    PYTHONPATH=. python benchmarks/latency.py

A worker with the shipped model, SQLite and the settings it comes with but `quiet_seconds = 1`, and a Storage SCP beside
it. storescu sends a series on one association; the clock runs from the commit of the last image (its row's time) to the
end of the report's C-STORE at the SCP. What is over `quiet_seconds` counts, in three parts:

settling     from the end of quiet_seconds to the job's row
classifying  to the result's commit: claimed, read, classified, report and picture made
delivering   to the report in the PACS
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
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
DIFFERENT = 24  # slices that are really drawn; a longer series shows each several times, at its own place


@dataclass(frozen=True, slots=True)
class Load:
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
class Taken:
    """Seconds of one series."""

    settling: float
    classifying: float
    delivering: float

    @property
    def over(self) -> float:
        return self.settling + self.classifying + self.delivering


class ClockedPacs(Pacs):
    """Notes when it had stored the last report."""

    report_at: float | None = None

    def _store(self, event: object) -> int:
        status = super()._store(event)
        if str(event.request.AffectedSOPClassUID) in REPORTS:  # type: ignore[attr-defined]
            self.report_at = time.time()
        return status


def write_series(folder: Path, drawn: Sequence[Dataset], slices: int) -> list[Path]:
    """A new series of so many slices, 1 mm apart where the drawn ones repeat."""
    folder.mkdir(parents=True, exist_ok=True)
    study, series, files = generate_uid(), generate_uid(), []
    for index in range(slices):
        ds = drawn[index * len(drawn) // slices]
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, series, generate_uid()
        ds.InstanceNumber = index + 1
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], decimal(144 * index / slices - 60)]
        files.append(folder / f"{index:04d}.dcm")
        ds.save_as(files[-1], enforce_file_format=True)
    return files


def one_series(worker: WorkerProcess, pacs: ClockedPacs, files: Sequence[Path]) -> Taken:
    pacs.report_at = None
    dcmtk.storescu(worker.port, files)

    def stored() -> float | None:
        worker.require_alive()
        return pacs.report_at

    report_at = wait_until(stored, "the report", every=0.01)
    received, settled, answered = times(worker)
    return Taken(settled - received - QUIET_SECONDS, answered - settled, report_at - answered)


def times(worker: WorkerProcess) -> tuple[float, float, float]:
    """Of the newest series: last image, job and result, as seconds since 1970."""
    query = """SELECT series.last_received_at, job.created_at, result.created_at
        FROM result JOIN job ON job.id = result.job_id JOIN series ON series.id = result.series_id
        ORDER BY result.id DESC LIMIT 1"""
    [row] = worker.rows(query)
    return tuple(datetime.fromisoformat(one).replace(tzinfo=UTC).timestamp() for one in row)  # type: ignore[return-value]


def measure(folder: Path, load: Load, rounds: int) -> list[Taken]:
    drawn = [dcmread(file) for file in head_series(folder / "drawn", grid=load.grid)]
    with ClockedPacs() as pacs:
        destinations = {"pacs": (pacs.ae_title, pacs.port)}
        settings = {"receive": {"quiet_seconds": QUIET_SECONDS}, "worker": {"lease_seconds": 30}}
        with running(folder / "worker", destinations=destinations, settings=settings) as worker:
            ready = "ready to classify"
            wait_until(lambda: ready in worker.log.read_text(errors="replace") or None, "the model", every=0.05)
            taken = []
            for number in range(rounds + 1):  # the first one warms up
                files = write_series(folder / "sent", drawn, load.slices)
                taken.append(one_series(worker, pacs, files))
                if number == 0:
                    taken.clear()
            return taken


def row(load: Load, taken: Sequence[Taken]) -> Row:
    parts = ("settling", "classifying", "delivering")
    note = ", ".join(f"{part} {median(getattr(one, part) for one in taken):.2f}" for part in parts)
    return at_most(
        f"report after quiet_seconds, {load.name}", [one.over for one in taken], load.limit_seconds, "s", note
    )


def main() -> int:
    chosen = arguments(__doc__)
    rows = []
    for load in LOADS[:1] if chosen.quick else LOADS:
        with tempfile.TemporaryDirectory() as name:
            rows.append(row(load, measure(Path(name), load, 2 if chosen.quick else 20)))
    finish("Latency", rows, chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
