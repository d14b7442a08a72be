"""SIGKILL at each step that takes in a correction, a decision on a conflict, or answers a study, and what is left.

`python -m tests.testbed.killed FOLDER correct|accept|reject|study` kills a child at the first step that it reaches on
that way, the next child at the second, and so on, and prints how many of them left everything as it was, and how many
left it done. A step is a function of ours that is entered, and each line of those that change files or rows. It exits
with 1 where one left anything else, or where giving the same again does not complete it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy import select

from tests.testbed import answered
from tests.testbed.databases import make_tables
from tests.testbed.instances import MODEL, NOON, classified, later, mr_instance, received
from worker.config.sections import WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import kept_files
from worker.db.jobs import claim_job, end_job, release_leases_of
from worker.db.models import model_row
from worker.db.results import NewObject, add_result
from worker.db.series import lock_open_series, queue_series
from worker.db.studies.answering import StudySettling
from worker.db.tables import (
    ConflictRow,
    DeliveryRow,
    DeliveryState,
    EarlierVersionRow,
    InstanceRow,
    JobRow,
    JobState,
    ObjectKind,
    ObjectRow,
    SeriesRow,
    StudyResultRow,
    StudyRow,
)
from worker.inference.illustrated import IllustratedResult
from worker.jobs.bundle_store import ServedModel
from worker.jobs.studies import StudyRunner
from worker.jobs.study_objects import StudyObjects
from worker.reporting.outbox import Outbox
from worker.storage.integrity import Integrity, fault_of
from worker.storage.keeper import InstanceKeeper
from worker.storage.spool import remove_leftovers
from worker.storage.versions.conflicts import Conflicts, NoSuchConflict

KILLED_IN = ("storage/keeper.py", "storage/pending.py", "versions/repetition.py",
             "versions/conflicts.py", "versions/corrections.py", "db/deliveries.py",
             "jobs/studies.py", "jobs/study_objects.py", "db/results.py", "reporting/outbox.py")  # fmt: skip
BY_LINE = ("_commit", "store", "_store", "_repeat", "move", "accept", "reject", "correct_instances", "_settle_again",
           "decide_conflict", "_commit_compared", "supersede_deliveries", "_write")  # fmt: skip
WRONG, RIGHT = mr_instance(), mr_instance(PatientID="R1", SeriesInstanceUID="1.2.3")
OTHER = mr_instance(PatientID="R1", PixelData=bytes(512))


class Place:
    """A data folder with its database."""

    def __init__(self, folder: Path) -> None:
        self.data = folder
        self.database = Database(f"sqlite:///{folder / 'worker.db'}")

    def keep(self, ds: Any) -> None:
        keeper = InstanceKeeper(self.database, self.data, lambda: NOON, 0)
        keeper.keep(received(ds))
        keeper.close()

    def decide(self, decision: str) -> None:
        settings = Settings(worker=WorkerSection(data_dir=self.data))
        conflicts = Conflicts(self.database, settings, lambda _event: None)
        if decision == "accept":
            conflicts.accept(1, "ada", None, NOON)
        else:
            conflicts.reject(1, "ada", None, NOON)

    def answer_study(self) -> None:
        """Answer the study after its lease, if it was claimed before."""
        moment = datetime.now(UTC) + timedelta(hours=1)
        with self.database.write() as session:
            release_leases_of(session, "host:1", moment)
        outbox, integrity = Outbox(self.data, level="study"), Integrity(self.database, self.data, lambda: moment)
        objects = StudyObjects(self.database, self.data, outbox, integrity, ("pacs", "archive"))
        lease, settling = timedelta(seconds=5), StudySettling(timedelta(seconds=5))
        StudyRunner(
            self.database, self.data, "host:1", lambda: moment, lease=lease, settling=settling, attempts=9,
            objects=objects,
        ).run_next({1: ServedModel(MODEL, classify=_no_pixels)})  # fmt: skip

    def state(self) -> tuple[Any, ...]:
        """Everything that the change changes, by content. AssertionError where a file is not what its row says."""
        with self.database.read() as session:
            row = session.scalars(select(InstanceRow)).one()
            series = {one.id: one for one in session.scalars(select(SeriesRow))}
            earlier = list(session.scalars(select(EarlierVersionRow)))
            for each in (row, *earlier):
                assert fault_of(self.data / each.path, each.sha256, each.size) is None, each.path
            return (
                (self.data / row.path).read_bytes(),
                series[row.series_id].series_instance_uid,
                series[row.series_id].patient_id,
                sorted((one.state, one.corrections) for one in series.values()),
                [(self.data / one.path).read_bytes() for one in earlier],
                [(job.state, job.reason) for job in session.scalars(select(JobRow))],
                [(delivery.state, delivery.reason) for delivery in session.scalars(select(DeliveryRow))],
                [conflict.decision for conflict in session.scalars(select(ConflictRow))],
                [(study.state, study.answered_by) for study in session.scalars(select(StudyRow))],
                [result.number for result in session.scalars(select(StudyResultRow))],
                [(one.path, one.sha256) for one in session.scalars(select(ObjectRow))],
            )

    def orphans(self) -> set[str]:
        """Files that no row names."""
        with self.database.read() as session:
            named = {path for path, _ in kept_files(session)}
        files = {path.relative_to(self.data).as_posix() for path in self.data.rglob("*.dcm")}
        return (files | {str(path) for path in (self.data / "instances" / "incoming").iterdir()}) - named


def _no_pixels(_paths: object) -> IllustratedResult:
    raise AssertionError("the series is classified")


def prepare_study(folder: Path) -> None:
    """A study of a series that is classified and reported."""
    folder.mkdir(parents=True)
    place = Place(folder)
    make_tables(place.database)
    answered.answer(place.database, folder)
    place.database.close()


def prepare(folder: Path) -> None:
    """An instance whose series has a pending job and an earlier report on its way, and a conflict that waits."""
    folder.mkdir(parents=True)
    place = Place(folder)
    make_tables(place.database)
    place.keep(WRONG)
    with place.database.write() as session:
        series = lock_open_series(session, 1, later(0))
        assert series is not None
        for model in (MODEL, replace(MODEL, sha256="cd" * 32)):
            queue_series(session, series, model_row(session, model, NOON).id, NOON)
        job = claim_job(session, "me", 1, NOON, timedelta(seconds=30))
        assert job is not None
        end_job(session, job.id, "me", JobState.DONE, NOON)
        report = NewObject(ObjectKind.REPORT, "1.2", "1.2.3.4", "objects/1", "00" * 32)
        add_result(session, job, classified(), {}, [report], ["pacs", "archive"], NOON)
        session.get_one(DeliveryRow, 2).state = DeliveryState.FAILED
    place.keep(OTHER)
    place.database.close()


def change(place: Place, what: str) -> None:
    if what == "correct":
        place.keep(RIGHT)
    elif what == "study":
        place.answer_study()
    else:
        place.decide(what)


def kill_at(number: int) -> None:
    """Have this process killed at the `number`th step that it has not made before."""
    seen: set[tuple[str, int]] = set()

    def step(frame: FrameType, _event: str, _argument: Any) -> Any:
        seen.add((frame.f_code.co_filename, frame.f_lineno))
        if len(seen) >= number:
            os.kill(os.getpid(), signal.SIGKILL)
        return step

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        if "/worker/" not in file or not file.endswith(KILLED_IN):
            return None
        step(frame, event, argument)
        return step if frame.f_code.co_name in BY_LINE else None

    sys.settrace(enter)


def died(place: Place, what: str, number: int) -> bool:
    """Whether a child was killed before it had made the change."""
    child = os.fork()
    if not child:
        kill_at(number)
        change(place, what)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise AssertionError(f"the child exited {os.WEXITSTATUS(status)} at line {number}")
    return os.WIFSIGNALED(status)


def content(folder: Path) -> str:
    """A digest of the names and the content of all files, without the index that SQLite builds anew from its log."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if not path.name.endswith("-shm")):
        digest.update(f"{path.relative_to(folder)}\0{path.stat().st_size if path.is_file() else ''}\0".encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def main(folder: Path, what: str) -> tuple[int, int]:
    """How many kills left everything as it was, and how many left the change made."""
    (prepare_study if what == "study" else prepare)(folder / "before")
    shutil.copytree(folder / "before", folder / "after")
    before, after = Place(folder / "before"), Place(folder / "after")
    change(after, what)
    expected = [before.state(), after.state()]
    counts = [0, 0]
    outcomes: dict[str, int] = {}  # by what a kill left
    number = 1
    tried = folder / "tried"
    place = Place(tried)  # one for all, closed between: it compiles each statement once
    while True:
        shutil.copytree(folder / "before", tried)
        killed = died(place, what, number)
        left = content(tried)
        if left not in outcomes:  # bytes that an earlier kill left were completed then
            outcomes[left] = expected.index(place.state())
            remove_leftovers(tried)
            with suppress(NoSuchConflict):  # the decision had been carried out
                change(place, what)
            assert place.state() == expected[1], number
            assert not place.orphans(), (number, place.orphans())
            place.database.close()
        counts[outcomes[left]] += 1
        shutil.rmtree(tried)
        if not killed:
            return counts[0], counts[1]
        number += 1


if __name__ == "__main__":
    print(*main(Path(sys.argv[1]), sys.argv[2]))
