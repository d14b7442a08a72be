"""A hospital in small: one worker, one PACS that it reports to, and a sender that pushes series."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from tests.testbed import dcmtk, pacs, worker_process
from tests.testbed.pacs import Pacs
from tests.testbed.waiting import wait_until
from tests.testbed.worker_process import WorkerProcess

# The states of the deliveries of a study and of its series.
_DELIVERIES = """
    SELECT delivery.state FROM delivery JOIN object ON object.id = delivery.object_id
    LEFT JOIN result ON result.id = object.result_id LEFT JOIN series ON series.id = result.series_id
    LEFT JOIN study_result ON study_result.id = object.study_result_id
    LEFT JOIN study ON study.id = study_result.study_id
    WHERE '{}' IN (series.study_instance_uid, study.study_instance_uid)"""


@dataclass(frozen=True)
class Answer:
    """What the PACS received for one study: DICOM files by SOP Instance UID."""

    reports: Mapping[str, bytes]
    pictures: Mapping[str, bytes]


@dataclass(frozen=True)
class Site:
    worker: WorkerProcess
    pacs: Pacs

    def push(self, paths: list[Path], *options: str) -> Dataset:
        """Send a series with storescu, each file in its own transfer syntax; the header of its first file."""
        dcmtk.storescu(self.worker.port, paths, *options)
        return header(paths[0])

    def answer(self, source: Dataset, seconds: float = 120) -> Answer:
        """The report and the picture of the source's study, once the PACS holds both and every delivery is made."""

        def delivered() -> Answer | None:
            self.worker.require_alive()
            found = Answer(
                self.pacs.files(pacs.REPORTS, source.StudyInstanceUID),
                self.pacs.files(pacs.PICTURES, source.StudyInstanceUID),
            )
            if not (found.reports and found.pictures):
                return None
            states = {state for (state,) in self.worker.rows(_DELIVERIES.format(source.StudyInstanceUID))}
            return found if states == {"delivered"} else None

        return wait_until(delivered, "the report and the picture to arrive in the PACS", seconds)


def header(path: Path) -> Dataset:
    return dcmread(path, stop_before_pixels=True)


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[Site]:
    """A worker and its PACS for the length of a `with` block; `options` are WorkerProcess's."""
    with Pacs() as receiver:
        destinations = {"pacs": (receiver.ae_title, receiver.port)}
        with worker_process.running(folder, destinations=destinations, **options) as worker:
            yield Site(worker, receiver)
