"""Scaling with more processes and more rows.

    PYTHONPATH=. python benchmarks/scale.py

inference   series per second of two processes of one thread against one, each `worker serve --role infer` with the
            default model on a queue that becomes due at once; in turn; and the time of a series in one such process,
            from claim to commit, as a multiple of reading it and running the network, in this process on one thread:
            with a report of each series, and with one of each study of six series, which is the default
claims      jobs claimed per second from PostgreSQL by 8 processes at once, each claim in a transaction of its own
rows        processor time of the database for a series (SQLite, in this process), from its first instance to its last
            delivery, with 10 and with 100,000 series stored
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

from pydicom import dcmread
from sqlalchemy import func, insert, select, update

from benchmarks.bench import COSTED
from benchmarks.latency import DIFFERENT, write_series
from benchmarks.rows import Row, add_common, against, at_least, at_most, cores, finish, plain, processor_seconds
from tests.testbed import postgres
from tests.testbed.instances import MODEL, NOON, classified, later, new_instance, received
from tests.testbed.phantom import Grid, head_series
from tests.testbed.waiting import wait_until
from tests.testbed.worker_process import COMMAND, WorkerProcess
from worker.config.sections import Level
from worker.config.settings import load_settings
from worker.db import models
from worker.db.deliveries import claim_deliveries, end_delivery
from worker.db.engine import Database
from worker.db.instances import add_instance, instances_of, stored_instances
from worker.db.jobs import claim_job, end_job
from worker.db.migrate import migrate
from worker.db.models import model_row
from worker.db.results import NewObject, add_result
from worker.db.series import lock_open_series, queue_series
from worker.db.tables import (
    DeliveryRow,
    DeliveryState,
    InstanceRow,
    JobRow,
    JobState,
    ObjectKind,
    ObjectRow,
    ResultRow,
    SeriesRow,
    SeriesState,
    SeriesStatus,
    StudyRow,
    StudyState,
)
from worker.dicom.standard import derive_uid
from worker.inference.bundle import default_bundle, load_bundle, verified_identity
from worker.inference.engines import OpenVinoEngine
from worker.inference.preprocess import preprocess
from worker.logs import configure_logs
from worker.receive.settle import settle_series
from worker.send.destinations import kinds
from worker.storage.keeper import InstanceKeeper

CLAIMERS = 8
LEASE = timedelta(seconds=30)
NEVER = datetime.max.replace(tzinfo=NOON.tzinfo, year=2999)
READY = "ready to classify"
TOGETHER = 6  # series of a study
WHOLE_JOB = {24: 1.35, 200: 1.15}  # slices -> goal: claim to commit, as a multiple of reading and network


# --- two inference processes ------------------------------------------------------------------------------------


class Site:
    """A data folder with a queue whose jobs are not due yet, and inference processes on it."""

    def __init__(self, folder: Path, level: Level = "series") -> None:
        self.folder, self.level = folder, level
        self.worker = WorkerProcess(folder, settings={"worker": {"inference_threads": 1}, "report": {"level": level}})
        self.config = self.worker.write_config()
        self.worker.run("migrate")
        self.settings = load_settings(self.config, kinds())
        self.database = Database(self.settings.database.url)

    def fill(self, series: int, slices: int, together: int = 1) -> None:
        """Store and settle this many series, so many a study; their jobs are not due yet."""
        drawn = [dcmread(file) for file in head_series(self.folder / "drawn", grid=Grid(slices=DIFFERENT))]
        keeper = InstanceKeeper(self.database, self.settings.worker.data_dir, lambda: NOON, 0)
        for number in range(series):
            study = f"2.25.7{number // together}"
            for file in write_series(self.folder / "sent", drawn, slices, study):
                keeper.keep(received(dcmread(file)))
        keeper.close()
        with self.database.write() as session:
            models.set_configured_model(session, verified_identity(default_bundle()), NOON)
        settle_series(self.database, self.settings, later(3600))
        with self.database.write() as session:
            session.execute(update(JobRow).values(not_before=NEVER))

    @contextmanager
    def processes(self, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Run inference processes that are ready to classify."""
        command = [*COMMAND, "serve", "--role", "infer", "--config", str(self.config)]
        logs = [self.folder / f"infer{index}.log" for index in range(count)]
        running = []
        try:
            for log in logs:
                with log.open("wb") as file:
                    running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file))
            for log in logs:
                wait_until(lambda log=log: READY in log.read_text(errors="replace") or None, "the model", every=0.05)
            yield running
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(30)

    def rate(self, series: int) -> float:
        """Make this many jobs due, and wait until the last is done, and its report is made; series per second."""
        with self.database.write() as session:
            held = select(JobRow.id).where(JobRow.state == JobState.PENDING).order_by(JobRow.id).limit(series)
            ids = session.scalars(held).all()
            if len(ids) != series:
                raise RuntimeError(f"{len(ids)} of {series} jobs are pending")
            session.execute(update(JobRow).where(JobRow.id.in_(ids)).values(not_before=NOON))
        begin = time.perf_counter()

        def ended() -> bool:
            with self.database.read() as session:
                done = select(func.count()).where(JobRow.id.in_(ids), JobRow.state == JobState.DONE)
                studies = select(SeriesRow.study_instance_uid).join(JobRow).where(JobRow.id.in_(ids))
                answered = select(StudyRow.study_instance_uid).where(StudyRow.state == StudyState.ANSWERED)
                unanswered = studies.where(SeriesRow.study_instance_uid.not_in(answered)).limit(1)
                are_done = session.scalar(done) == len(ids)
                return are_done and (self.level == "series" or session.scalar(unanswered) is None)

        wait_until(ended, "the series to be classified", 600, every=0.01)
        return len(ids) / (time.perf_counter() - begin)


def inference(folder: Path, rounds: int, series: int) -> list[Row]:
    """Compare one and two processes on series of 24 slices, then measure one process on series of 200."""
    site = Site(folder / "short")
    site.fill(rounds * 3 * series, 24)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for count, measured in rates.items():
            with site.processes(count):
                measured.append(site.rate(series * count))
    site.database.close()
    long = Site(folder / "long")
    long.fill(2 * rounds, 200)
    with long.processes(1):
        long.rate(rounds)  # warm up
        slow = long.rate(rounds)
    long.database.close()
    studies = {slices: _rate_of_studies(folder, slices, rounds) for slices in WHOLE_JOB}
    two = against("two inference processes of one thread", rates[2], rates[1], "one process", "series/s", 1.95)
    note = "one process, one thread"
    return [
        two,
        whole_job(folder, 24, median(rates[1]), rounds),
        whole_job(folder, 200, slow, rounds),
        *(whole_job(folder, slices, rate, rounds, f", {TOGETHER} a study") for slices, rate in studies.items()),
        plain(COSTED[24], rates[1], "series/s", note),
        plain(COSTED[200], [slow], "series/s", note),
    ]


def _rate_of_studies(folder: Path, slices: int, rounds: int) -> float:
    """Series per second of one process where each study of several has a single report."""
    site = Site(folder / f"studies-{slices}", level="study")
    site.fill((rounds + 1) * TOGETHER, slices, TOGETHER)
    with site.processes(1):
        site.rate(TOGETHER)  # warm up
        rate = site.rate(rounds * TOGETHER)
    site.database.close()
    return rate


def whole_job(folder: Path, slices: int, rate: float, rounds: int, which: str = "") -> Row:
    """The time of a series from claim to commit, `rate` a second, against reading it and the network alone."""
    bundle = load_bundle(default_bundle())
    engine = OpenVinoEngine(bundle, "int8", threads=1)
    drawn = [dcmread(file) for file in head_series(folder / f"drawn-{slices}", grid=Grid(slices=DIFFERENT))]
    files = write_series(folder / f"read-{slices}", drawn, slices)

    def reading_and_network() -> None:
        engine.run(preprocess(files, bundle.preprocessing).tensor)

    reading_and_network()  # warm up
    alone = [processor_seconds(reading_and_network)[1] for _ in range(3 * rounds)]
    note = f"{1000 / rate:.0f} ms by the clock; reading and network {1000 * median(alone):.0f} ms of a processor"
    return at_most(
        f"{slices} slices{which}, claim to commit",
        [1 / rate / median(alone)],
        WHOLE_JOB[slices],
        "x reading + network",
        note,
    )


# --- claims -----------------------------------------------------------------------------------------------------


def claims(jobs: int, seconds: float) -> Row | None:
    """The rate of claims; None where PostgreSQL is not installed."""
    if postgres.programs() is None:
        print("claims: skipped, PostgreSQL is not installed")
        return None
    with postgres.running() as url:
        database = Database(url)
        migrate(database)
        add_series(database, jobs, done=False)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")  # as autovacuum does within a minute
        command = [sys.executable, __file__, "--claim", url, "--seconds", str(seconds)]
        running = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(CLAIMERS)
        ]
        for process in running:
            _line_of(process)  # connected
        for process in running:
            if process.stdin is not None:
                process.stdin.close()
        counts = [int(_line_of(process)) for process in running]
        for process in running:
            process.wait(30)
        with database.read() as session:
            claimed = session.scalar(select(func.count()).where(JobRow.state == JobState.RUNNING))
        database.close()
    if sum(counts) != claimed:
        raise RuntimeError(f"{sum(counts)} claims, but {claimed} jobs are running")
    note = f"{jobs} jobs waiting, clients and server on {cores()} cores; {min(counts)} to {max(counts)} per process"
    return at_least(f"claims, PostgreSQL, {CLAIMERS} processes", [sum(counts) / seconds], 500.0, "claims/s", note)


def _line_of(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise RuntimeError(f"a claimer ended with {process.wait(30)}")
    return line


def claim(url: str, seconds: float) -> None:
    """Claim jobs from the end of standard input on, for so many seconds; print the number of jobs."""
    database = Database(url)
    with database.read() as session:
        model = model_row(session, MODEL, NOON).id
    print("connected", flush=True)
    sys.stdin.read()
    end, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        with database.write() as session:
            if claim_job(session, f"host:{id(database)}", model, later(60), LEASE) is None:
                raise RuntimeError("the queue is empty")
        count += 1
    print(count, flush=True)


# --- rows -------------------------------------------------------------------------------------------------------


def add_series(database: Database, count: int, *, done: bool) -> None:
    """Insert this many series of one instance with a job; `done`: with result, objects and completed deliveries."""
    with database.write() as session:
        model = model_row(session, MODEL, NOON).id
    state = JobState.DONE if done else JobState.PENDING
    for start in range(1, count + 1, 5000):
        numbers = range(start, min(start + 5000, count + 1))
        tables: list[tuple[type, list[dict[str, object]]]] = [
            (SeriesRow, [_series(n, done) for n in numbers]),
            (InstanceRow, [_instance(n) for n in numbers]),
            (JobRow, [{"id": n, "series_id": n, "model_id": model, "input_sha256": "", "last_instance_id": n,
                       "state": state, "not_before": NOON, "created_at": NOON} for n in numbers]),
        ]  # fmt: skip
        if done:
            tables += _answers(numbers, model)
        with database.write() as session:
            for table, rows in tables:
                session.execute(insert(table), rows)


def _series(n: int, done: bool) -> dict[str, object]:
    return {
        "id": n, "series_instance_uid": f"2.25.1{n}", "study_instance_uid": f"2.25.2{n}", "patient_id": f"P{n}",
        "patient_name": f"FAMILY{n}", "accession_number": f"A{n}", "study_date": "20260301", "modality": "MR",
        "series_description": "t1", "state": SeriesState.QUEUED, "created_at": NOON, "last_received_at": NOON,
        "settled_at": NOON, "status": SeriesStatus.CLASSIFIED if done else SeriesStatus.PENDING,
        "label": "glioma" if done else None, "probability": 0.9 if done else None,
        "answered_job_id": n if done else None,
    }  # fmt: skip


def _instance(n: int) -> dict[str, object]:
    return {
        "id": n, "series_id": n, "sop_instance_uid": f"2.25.3{n}", "sop_class_uid": "1.2", "transfer_syntax_uid": "1.2",
        "attributes": {}, "path": f"instances/{n}", "size": 1, "sha256": "", "received_at": NOON,
    }  # fmt: skip


def _answers(numbers: range, model: int) -> list[tuple[type, list[dict[str, object]]]]:
    results: list[dict[str, object]] = [
        {"id": n, "job_id": n, "series_id": n, "model_id": model, "status": "classified", "label": "glioma",
         "probability": 0.9, "probabilities": {}, "created_at": NOON} for n in numbers
    ]  # fmt: skip
    objects: list[dict[str, object]] = [
        {"id": 2 * n + side, "result_id": n, "kind": kind, "sop_class_uid": "1.2", "path": "x", "sha256": "",
         "sop_instance_uid": f"2.25.4{2 * n + side}", "series_instance_uid": f"2.25.5{2 * n + side}"}
        for n in numbers for side, kind in enumerate((ObjectKind.REPORT, ObjectKind.PICTURE))
    ]  # fmt: skip
    deliveries: list[dict[str, object]] = [
        {"object_id": object_["id"], "destination": "pacs", "state": DeliveryState.DELIVERED, "attempts": 1,
         "not_before": NOON, "delivered_at": NOON} for object_ in objects
    ]  # fmt: skip
    return [(ResultRow, results), (ObjectRow, objects), (DeliveryRow, deliveries)]


def rows(folder: Path, many: int, times: int) -> list[Row]:
    seconds = {}
    for count in (10, many):
        database = Database(f"sqlite:///{folder / f'{count}.db'}")
        migrate(database)
        add_series(database, count, done=True)
        seconds[count] = [_process_series(database, f"{count}-{number}") for number in range(times + 1)][1:]
        database.close()
    few = median(seconds[10])
    note = f"{1000 * few:.1f} ms with 10 series, {1000 * median(seconds[many]):.1f} ms with {many:,}"
    return [
        Row(
            f"the database's work for a series, {many:,} series", 1000 * median(seconds[many]), "ms", times, 1000 * few,
            "with 10 series", few / median(seconds[many]), 0.8, note,
        )
    ]  # fmt: skip


def _process_series(database: Database, name: str) -> float:
    """Take a series of three instances from its first row to its delivered report by the functions of the stages.

    Returns the processor time in seconds.
    """
    instances = [new_instance(number, name) for number in (1, 2, 3)]
    begin = time.process_time()
    for instance in instances:
        with database.write() as session:
            add_instance(session, instance, NOON)
    with database.write() as session:
        model = model_row(session, MODEL, NOON).id
        [stored] = stored_instances(session, [instances[0].sop_instance_uid]).values()
        series = lock_open_series(session, stored.series_id, NOON)
        if series is None:
            raise RuntimeError("the series is not open")
        queue_series(session, series, model, NOON)
    with database.write() as session:
        job = claim_job(session, "host:1", model, later(1), LEASE)
        if job is None:
            raise RuntimeError("there is no job")
        ids = {row.sop_instance_uid: row.id for row in instances_of(session, job.series_id, job.last_instance_id)}
    objects = [NewObject(kind, "1.2", derive_uid(kind, name), "x", "0" * 64) for kind in ("report", "picture")]
    with database.write() as session:
        end_job(session, job.id, "host:1", JobState.DONE, NOON)
        add_result(session, job, classified(instances), ids, objects, ["pacs"], NOON)
    with database.write() as session:
        due = claim_deliveries(session, "pacs", "host:2", later(1), LEASE)
    for delivery, _ in due:
        with database.write() as session:
            end_delivery(session, delivery.id, "host:2", {"state": DeliveryState.DELIVERED, "delivered_at": NOON})
    return time.process_time() - begin


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--claim", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.claim:
        claim(chosen.claim, chosen.seconds)
        return 0
    configure_logs("ERROR")
    measured: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        measured += rows(Path(name), 1000 if chosen.quick else 100_000, 5 if chosen.quick else 100)
    claimed = claims(2000 if chosen.quick else 20_000, 1.0 if chosen.quick else 8.0)
    measured += [claimed] if claimed else []
    with tempfile.TemporaryDirectory() as name:
        measured += inference(Path(name), 1 if chosen.quick else 5, 2 if chosen.quick else 6)
    finish("Scale", measured, chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
