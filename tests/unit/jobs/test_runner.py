from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from tests.testbed.instances import CONTENT, MODEL, classified, later, mr_instance, new_instance, received
from tests.testbed.serving import LoadedModels, one_model
from tests.testbed.waiting import wait_until
from worker.audit.messages import AuditEvent
from worker.db import engine
from worker.db.engine import Database
from worker.db.instances import add_instance, file_fault_counts
from worker.db.jobs import claim_job, retry_parked_jobs
from worker.db.models import model_row
from worker.db.operating.suspensions import resume, suspend
from worker.db.results import NewObject
from worker.db.series import lock_open_series, queue_series
from worker.db.tables import (
    DeliveryRow,
    FileFault,
    InstanceRow,
    JobRow,
    JobState,
    ObjectKind,
    ObjectRow,
    ResultRow,
    SeriesRow,
    ShadowResultRow,
    SliceResultRow,
    Stage,
    StudyRow,
    StudyState,
)
from worker.db.views.search import Search, find_series
from worker.dicom.series_attributes import TYPE_KEY
from worker.dicom.standard import derive_uid
from worker.errors import NotAssessable, Park, Retry
from worker.inference.illustrated import IllustratedResult
from worker.jobs.bundle_store import ServedModel
from worker.jobs.runner import JobRunner
from worker.reporting.outbox import Outbox
from worker.storage.keeper import InstanceKeeper

INSTANCES = [new_instance(number) for number in (1, 2, 3)]


class Clock:
    """Time that moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> datetime:
        return later(self.seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


class RowsOnly(Outbox):
    """Objects without files."""

    def make_objects(
        self, result: IllustratedResult, model: Any, sources: Any, digest: str, before: Any, now: Any
    ) -> list[NewObject]:
        return [
            NewObject(
                kind, "1.2.840.10008.5.1.4.1.1.88.34", derive_uid(kind, digest), f"objects/{kind}-{digest}", "00" * 32
            )
            for kind in (ObjectKind.REPORT, ObjectKind.PICTURE)
        ]


def _result(_paths: Sequence[Path], _kinds: object) -> IllustratedResult:
    return classified(INSTANCES)


def _runner(database: Database, tmp_path: Path, clock: Clock, **changes: Any) -> JobRunner:
    classify, model = changes.pop("classify", _result), changes.pop("model", MODEL)
    values: dict[str, Any] = {
        "database": database,
        "data_dir": tmp_path,
        "models": changes.get("models") or one_model(database, model, classify, clock()),
        "outbox": RowsOnly(tmp_path),
        "destinations": ["pacs", "archive"],
        "owner": "host:1",
        "clock": clock,
        "lease": timedelta(seconds=30),
        "timeout": None,  # pytest's own time limit uses the same timer
        "attempts": 3,
    }
    return JobRunner(**values | changes)


@pytest.fixture
def queued(database: Database, tmp_path: Path) -> Database:
    """A database with one pending job of three instances whose files exist."""
    for one in INSTANCES:
        (tmp_path / one.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / one.path).write_bytes(CONTENT)
    with database.write() as session:
        model = model_row(session, MODEL, later(0))
        for one in INSTANCES:
            add_instance(session, one, later(0))
        series = lock_open_series(session, 1, later(0))
        assert series is not None
        queue_series(session, series, model.id, later(1))
    return database


def _job(database: Database) -> JobRow:
    with database.read() as session:
        return session.scalars(select(JobRow)).one()


def _count(database: Database, row: type[Any]) -> int:
    with database.read() as session:
        return len(session.scalars(select(row)).all())


@pytest.mark.parametrize("known", [3, 2, 0])
def test_a_model_gets_the_attributes_that_were_stored_of_every_instance_or_reads_the_files(
    queued: Database, tmp_path: Path, clock: Clock, known: int
) -> None:
    with queued.write() as session:
        for number, row in enumerate(session.scalars(select(InstanceRow).order_by(InstanceRow.id))):
            row.attributes = {"modality": "MR"} | ({TYPE_KEY: [{"EchoTime": [str(number)]}]} if number < known else {})
    given: list[object] = []

    def classify(paths: Sequence[Path], kinds: object) -> IllustratedResult:
        given.extend([len(paths), kinds])
        return classified(INSTANCES)

    _runner(queued, tmp_path, clock, classify=classify).run_next()
    assert given == [3, [[{"EchoTime": [str(number)]}] for number in range(3)] if known == 3 else None]


def test_result_slices_objects_and_deliveries_come_in_one_transaction(
    queued: Database, tmp_path: Path, clock: Clock
) -> None:
    assert _runner(queued, tmp_path, clock).run_next()
    assert _job(queued).state == JobState.DONE
    assert [_count(queued, row) for row in (ResultRow, SliceResultRow, ObjectRow, DeliveryRow)] == [1, 3, 2, 4]


@pytest.fixture
def looping(queued: Database, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A runner whose loop has run the queued job and would rest for an hour; how often it has polled."""
    monkeypatch.setattr(engine, "_REST_SECONDS", 3600)
    monkeypatch.setattr(engine, "_POLL_SECONDS", 0.01)
    polls: list[int] = []

    class Counted(JobRunner):
        def run_next(self) -> bool:
            polls.append(1)
            return super().run_next()

    runner, stop = _runner(queued, tmp_path, clock), threading.Event()
    counted = Counted(**{field.name: getattr(runner, field.name) for field in fields(JobRunner)})
    thread = threading.Thread(target=counted.run, args=(stop,))
    thread.start()
    wait_until(lambda: _job(queued).state == JobState.DONE, "the first job", every=0.01)
    yield polls
    stop.set()
    thread.join()


def _add_job(database: Database, seconds: float) -> None:
    """Another job of the series, due then."""
    with database.write() as session:
        job = session.scalars(select(JobRow)).one()
        values = {"series_id": job.series_id, "model_id": job.model_id, "last_instance_id": job.last_instance_id}
        session.add(JobRow(**values, input_sha256="ee" * 32, not_before=later(seconds), created_at=later(0)))


def _states(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(JobRow.state).order_by(JobRow.id)))


def test_a_job_that_another_process_commits_is_found_while_the_loop_rests(
    queued: Database, looping: list[int], clock: Clock
) -> None:
    with queued.write() as session:
        session.execute(update(StudyRow).values(state=StudyState.PARKED))  # nothing waits any more

    def rests() -> bool:
        polls = len(looping)
        time.sleep(0.2)
        return len(looping) == polls

    if not queued.is_shared:
        wait_until(rests, "the loop to rest", every=0)
    other = Database(queued.engine.url.render_as_string(hide_password=False))
    _add_job(other, clock.seconds)
    other.close()
    wait_until(lambda: _states(queued) == [JobState.DONE] * 2, "the other's job", every=0.01)


def test_a_job_that_becomes_due_by_time_alone_is_found(queued: Database, looping: list[int], clock: Clock) -> None:
    with queued.write() as session:
        session.execute(update(StudyRow).values(state=StudyState.PARKED))
    _add_job(queued, clock.seconds + 60)
    time.sleep(0.3)
    assert _states(queued) == [JobState.DONE, JobState.PENDING]
    clock.seconds += 61
    wait_until(lambda: _states(queued) == [JobState.DONE] * 2, "the job's time", every=0.01)


def test_nothing_is_claimed_while_classification_is_suspended(queued: Database, tmp_path: Path, clock: Clock) -> None:
    runner = _runner(queued, tmp_path, clock)
    with queued.write() as session:
        suspend(session, [Stage.CLASSIFICATION], "somebody", clock())
    assert not runner.run_next()
    assert (_job(queued).state, _job(queued).attempts) == (JobState.PENDING, 0)
    with queued.write() as session:
        resume(session, [Stage.CLASSIFICATION])
    assert runner.run_next()


def test_what_is_missing_of_the_input_is_in_the_result_and_in_its_objects(
    queued: Database, tmp_path: Path, clock: Clock
) -> None:
    reported: list[str | None] = []

    class Noting(RowsOnly):
        def make_objects(self, result: IllustratedResult, *others: Any) -> list[NewObject]:
            reported.append(result.missing)
            return RowsOnly.make_objects(self, result, *others)

    with queued.write() as session:
        session.execute(update(JobRow).values(missing="3 of the 5 images that the sender has"))
    assert _runner(queued, tmp_path, clock, outbox=Noting(tmp_path)).run_next()
    assert reported == ["3 of the 5 images that the sender has"]
    with queued.read() as session:
        [answer] = find_series(session, Search())
    assert answer.missing == "3 of the 5 images that the sender has"


def test_there_is_no_second_job_after_the_first(queued: Database, tmp_path: Path, clock: Clock) -> None:
    runner = _runner(queued, tmp_path, clock)
    assert [runner.run_next(), runner.run_next()] == [True, False]


def test_what_may_not_be_judged_is_a_result_with_its_reason(queued: Database, tmp_path: Path, clock: Clock) -> None:
    def refuse(_paths: Sequence[Path], _kinds: object) -> IllustratedResult:
        raise NotAssessable("mixed-sizes", "The slices have different sizes.")

    _runner(queued, tmp_path, clock, classify=refuse).run_next()
    with queued.read() as session:
        result = session.scalars(select(ResultRow)).one()
    assert (result.status, result.label, result.reason) == ("not-assessed", None, "mixed-sizes")
    assert _count(queued, DeliveryRow) == 4


@pytest.mark.parametrize("fault", [Retry("busy"), MemoryError(), OSError(5, "input/output"), ValueError("odd")])
def test_a_fault_is_tried_again_with_backoff_then_parked(
    queued: Database, tmp_path: Path, clock: Clock, fault: Exception
) -> None:
    def fail(_paths: Sequence[Path], _kinds: object) -> IllustratedResult:
        raise fault

    runner = _runner(queued, tmp_path, clock, classify=fail)
    waits = []
    for _ in range(3):
        assert runner.run_next()
        assert not runner.run_next()
        waits.append((_job(queued).not_before - clock()).total_seconds())
        clock.seconds += 100
    assert waits[:2] == [2, 4]
    job = _job(queued)
    assert (job.state, job.attempts) == (JobState.PARKED, 3)
    assert job.reason
    assert _count(queued, ResultRow) == 0


def test_a_lasting_fault_is_parked_at_once(queued: Database, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / INSTANCES[0].path).unlink()
    _runner(queued, tmp_path, clock).run_next()
    assert (_job(queued).state, _job(queued).reason) == (JobState.PARKED, "file-missing")


@pytest.mark.parametrize("ruined", [b"y", b"", b"x and more"])
def test_a_file_that_is_not_what_was_received_is_not_classified(
    queued: Database, tmp_path: Path, clock: Clock, ruined: bytes
) -> None:
    (tmp_path / INSTANCES[1].path).write_bytes(ruined)
    _runner(queued, tmp_path, clock).run_next()
    assert (_job(queued).state, _job(queued).reason) == (JobState.PARKED, "file-damaged")
    assert _count(queued, ResultRow) == 0
    with queued.read() as session:
        assert file_fault_counts(session)[FileFault.DAMAGED] == 1


def test_a_parked_job_that_is_retried_is_done(queued: Database, tmp_path: Path, clock: Clock) -> None:
    def park(_paths: Sequence[Path], _kinds: object) -> IllustratedResult:
        raise Park("file-missing")

    _runner(queued, tmp_path, clock, classify=park).run_next()
    with queued.write() as session:
        assert retry_parked_jobs(session, [], clock()) == [1]
    _runner(queued, tmp_path, clock).run_next()
    assert (_job(queued).state, _job(queued).reason) == (JobState.DONE, None)


def test_a_dead_process_loses_its_job_when_the_lease_runs_out(queued: Database, tmp_path: Path, clock: Clock) -> None:
    with queued.write() as session:
        assert claim_job(session, "host:dead", 1, clock(), timedelta(seconds=30)) is not None
    runner = _runner(queued, tmp_path, clock)
    assert not runner.run_next()
    clock.seconds += 31
    assert runner.run_next()
    assert (_job(queued).state, _job(queued).attempts) == (JobState.DONE, 2)


def test_a_job_that_kills_every_process_is_parked(queued: Database, tmp_path: Path, clock: Clock) -> None:
    for _ in range(3):
        with queued.write() as session:
            claim_job(session, "host:dead", 1, clock(), timedelta(seconds=30))
        clock.seconds += 31
    _runner(queued, tmp_path, clock).run_next()
    assert (_job(queued).state, _job(queued).reason) == (JobState.PARKED, "process-died")


def test_a_process_that_lost_its_lease_writes_no_second_result(queued: Database, tmp_path: Path, clock: Clock) -> None:
    def stalled(paths: Sequence[Path], _kinds: object) -> IllustratedResult:
        clock.seconds += 31  # longer than the lease, with no heartbeat
        assert _runner(queued, tmp_path, clock, owner="host:2").run_next()
        return _result(paths)

    _runner(queued, tmp_path, clock, classify=stalled).run_next()
    assert _count(queued, ResultRow) == 1
    assert _count(queued, DeliveryRow) == 4
    assert _job(queued).state == JobState.DONE


def test_the_lease_is_extended_while_a_job_runs(queued: Database, tmp_path: Path, clock: Clock) -> None:
    seen: list[Any] = []

    def slow(paths: Sequence[Path], _kinds: object) -> IllustratedResult:
        clock.seconds += 10
        deadline = threading.Event()
        for _ in range(100):
            deadline.wait(0.05)
            if (until := _job(queued).lease_until) != later(100.3):
                seen.append(until)
                break
        return _result(paths)

    _runner(queued, tmp_path, clock, classify=slow, lease=timedelta(seconds=0.3)).run_next()
    assert seen == [later(110.3)]


def test_a_job_waits_for_the_model_that_it_names(queued: Database, tmp_path: Path, clock: Clock) -> None:
    newer = replace(MODEL, sha256="cd" * 32, version="2.0")
    assert not _runner(queued, tmp_path, clock, model=newer).run_next()
    assert _runner(queued, tmp_path, clock).run_next()
    with queued.read() as session:
        assert session.scalars(select(ResultRow)).one().model_id == _job(queued).model_id == 1


def test_what_runs_in_shadow_waits_for_the_others_and_leaves_no_answer(
    queued: Database, tmp_path: Path, clock: Clock
) -> None:
    newer = replace(MODEL, sha256="cd" * 32, version="2.0")
    with queued.write() as session:
        in_shadow = model_row(session, newer, later(0)).id
        session.execute(update(SeriesRow).values(state="open"))
        series = lock_open_series(session, 1, later(0))
        assert series is not None
        assert queue_series(session, series, in_shadow, later(0), shadow=True) is not None
    models = LoadedModels(
        {in_shadow: ServedModel(newer, lambda *_: classified(INSTANCES, 0.6)), 1: ServedModel(MODEL, _result)}
    )
    runner = _runner(queued, tmp_path, clock, models=models)
    assert runner.run_next()
    with queued.read() as session:
        [before] = find_series(session, Search())
        assert session.scalars(select(ShadowResultRow)).all() == []
    assert runner.run_next()
    assert not runner.run_next()
    with queued.read() as session:
        [shadow] = session.scalars(select(ShadowResultRow))
        assert (shadow.label, shadow.probability) == ("glioma", 0.6)
        [after] = find_series(session, Search())
    assert before == after
    assert [_count(queued, row) for row in (ResultRow, SliceResultRow, ObjectRow, DeliveryRow)] == [1, 3, 2, 4]


def test_a_parked_shadow_job_is_no_failure_of_the_series(queued: Database, tmp_path: Path, clock: Clock) -> None:
    def park(_paths: Sequence[Path], _kinds: object) -> IllustratedResult:
        raise Park("file-missing")

    with queued.write() as session:
        session.execute(update(JobRow).values(shadow=True))
    _runner(queued, tmp_path, clock, classify=park).run_next()
    assert _job(queued).state == JobState.PARKED
    with queued.read() as session:
        assert [one.status for one in find_series(session, Search())] == ["pending"]


def test_two_processes_never_claim_the_same_job(database: Database, tmp_path: Path, clock: Clock) -> None:
    with database.write() as session:
        model = model_row(session, MODEL, later(0)).id
        for name in "abcdefghij":
            add_instance(session, new_instance(1, name), later(0))
    with database.write() as session:
        for series_id in range(1, 11):
            series = lock_open_series(session, series_id, later(0))
            assert series is not None
            queue_series(session, series, model, later(1))
    claimed: list[int] = []

    def claim(owner: str) -> None:
        while True:
            with database.write() as session:
                job = claim_job(session, owner, model, clock(), timedelta(seconds=30))
            if job is None:
                return
            claimed.append(job.id)

    _in_threads(claim, 4)
    assert sorted(claimed) == list(range(1, 11))


def _in_threads(work: Callable[[str], None], number: int) -> None:
    threads = [threading.Thread(target=work, args=(f"host:{index}",)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_what_does_not_fit_the_report_is_warned_of_once_for_a_series(
    database: Database, tmp_path: Path, clock: Clock
) -> None:
    keeper = InstanceKeeper(database, tmp_path, clock, 0)

    def arrive(number: int) -> None:
        with pytest.warns(UserWarning, match="exceeds the maximum length"):
            keeper.keep(received(mr_instance(number, "long", AccessionNumber="1" * 17)))
        with database.write() as session:
            series = lock_open_series(session, 1, clock())
            assert series is not None
            queue_series(session, series, model_row(session, MODEL, clock()).id, clock())

    def classify(paths: Sequence[Path], _kinds: object) -> IllustratedResult:
        return classified([new_instance(number, "long") for number in range(1, len(paths) + 1)])

    recorded: list[AuditEvent] = []
    runner = _runner(database, tmp_path, clock, classify=classify, record=recorded.append)
    for number in (1, 2):
        arrive(number)
        assert runner.run_next()
        assert _count(database, ResultRow) == number
    keeper.close()
    assert [event.description for event in recorded] == [
        "left out of the report, as it does not fit its VR: AccessionNumber"
    ]
