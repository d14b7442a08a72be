"""The job loop of one inference process: claim a job with a lease, run it, retry it or park it.

When a process dies, the lease of its job expires; the next claim counts another attempt, and a job that has used up its
attempts is parked with the reason, so that a single file that crashes the worker cannot stop the other series.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

from worker.audit.events import RecordEvent, attributes_left_out, unrecorded
from worker.db.engine import Database, Rest
from worker.db.instances import file_of, instances_of
from worker.db.jobs import claim_job, end_job, extend_job_lease, job_waits, work_waits
from worker.db.operating.suspensions import is_suspended
from worker.db.results import Lineage, NewObject, add_result, add_shadow_result, has_result, lineage
from worker.db.tables import InstanceRow, JobRow, JobState, Stage
from worker.dicom.header import read_stored_header
from worker.dicom.series_attributes import TYPE_KEY
from worker.dicom.series_type import read_series_type
from worker.errors import NotAssessable, Park, Retry
from worker.inference.illustrated import IllustratedResult, not_assessed
from worker.jobs.bundle_store import ServedModel
from worker.jobs.model_pool import ModelPool
from worker.jobs.studies import StudyRunner
from worker.logs import fault_fields, get_log
from worker.process import Promise, unwatched
from worker.process_limits import end_process_after
from worker.reporting.outbox import Outbox
from worker.reporting.source_attributes import SOURCE_KEYWORDS, left_out
from worker.stage_times import timed
from worker.storage.integrity import Integrity

_FIRST_RETRY_SECONDS = 2.0
_ROUND_SECONDS = 300.0  # a model may be loaded, and the database may be locked


@dataclass(frozen=True)
class JobRunner:
    """Runs jobs, each on the model that it names.

    `outbox` writes the objects of a result, `destinations` are the names of those that they are queued for. The kernel
    ends the process when a job exceeds `timeout`; None sets no limit.
    """

    database: Database
    data_dir: Path
    models: ModelPool
    outbox: Outbox
    destinations: Sequence[str]
    owner: str
    clock: Callable[[], datetime]
    lease: timedelta
    timeout: timedelta | None
    attempts: int
    record: RecordEvent = unrecorded
    promise: Promise = unwatched
    studies: StudyRunner | None = None

    @cached_property
    def integrity(self) -> Integrity:
        return Integrity(self.database, self.data_dir, self.clock, self.record)

    def run_next(self) -> bool:
        """Answer a study, or run a job to its end; False when there is none, or while classification is suspended.

        Shadow jobs wait for all others.
        """
        with self.database.read() as session:
            if is_suspended(session, Stage.CLASSIFICATION):
                return False
        models = self.models.current()
        if not models:
            return False
        if self.studies is not None and self.studies.run_next(models, self._time_limited):
            return True
        return self._run_next_job(models)

    def _run_next_job(self, models: Mapping[int, ServedModel]) -> bool:
        with self.database.read() as session:
            if not job_waits(session, models, self.clock()):
                return False
        with timed("series", "claim"), self.database.write() as session:
            job = claim_job(session, self.owner, models, self.clock(), self.lease)
            if job is None:
                job = claim_job(session, self.owner, models, self.clock(), self.lease, shadow=True)
            if job is None:
                return False
            instances = instances_of(session, job.series_id, job.last_instance_id)
            follows = lineage(session, job.series_id, job.model_id)
        with self._lease_extended(job.id), self._time_limited():
            self._run(job, models[job.model_id], instances, follows)
        return True

    def run(self, stop: threading.Event) -> None:
        """Run jobs until `stop`; the current job is finished."""
        with closing(Rest(self.database, work_waits)) as rest:
            while not stop.is_set():
                self._turn(rest, stop)

    def _turn(self, rest: Rest, stop: threading.Event) -> None:
        self.promise(_ROUND_SECONDS)
        busy = False
        try:
            if rest.is_over():
                busy = self.run_next()
                if not busy:
                    rest.begin()
        except Exception as error:  # the loop's boundary: the database is unreachable for a moment
            get_log().error("inference loop", **fault_fields(error))
            stop.wait(_FIRST_RETRY_SECONDS)
        if not busy:
            stop.wait(rest.poll_seconds)

    def _run(self, job: JobRow, model: ServedModel, instances: Sequence[InstanceRow], follows: Lineage) -> None:
        if job.attempts > self.attempts:
            # Each earlier attempt ended with its process; a supervisor that saw how has recorded it (note_death).
            self._park(job, job.reason or "process-died", job.detail or "the inference process died")
            return
        try:
            series_type = read_series_type([instance.attributes for instance in instances])
            ordered = sorted(instances, key=lambda instance: (instance.received_at, instance.id))  # corrected ones last
            files = [self.data_dir / instance.path for instance in ordered]
            answer = self._classify(model, ordered, files)
            result = replace(answer, missing=job.missing, series_type=series_type.in_words)
            # The job's own time: a second attempt, or a process that lost its lease, writes the same bytes again.
            objects = (
                []
                if job.shadow
                else self.outbox.make_objects(result, model.identity, files, job.input_sha256, follows, job.created_at)
            )
        except Park as fault:
            self._park(job, fault.reason, fault.detail)
        except MemoryError:
            self._retry(
                job, "memory-limit", "the job needs more memory than [worker] job_memory_bytes or this host has"
            )
        except (Retry, OSError) as fault:
            reason = fault.reason if isinstance(fault, Retry) else type(fault).__name__
            self._retry(job, reason, "a passing fault of the machine")
        except Exception as fault:  # a job's boundary: whatever happens to one series, the others go on
            get_log().error("job failed", job_row=job.id, **fault_fields(fault))
            self._retry(
                job, "inference-fault", f"{type(fault).__name__} while the series was read, classified or reported"
            )
        else:
            self._finish(job, result, instances, objects)

    def _classify(
        self, model: ServedModel, instances: Sequence[InstanceRow], files: Sequence[Path]
    ) -> IllustratedResult:
        # The files are in memory afterwards, so that the decoder does not read them from the disk again.
        with timed("series", "verify"):
            self.integrity.require([file_of(instance) for instance in instances])
        try:
            # The row of an instance that an early version received lacks them: then the model reads the files.
            known = all(TYPE_KEY in instance.attributes for instance in instances)
            return model.classify(files, [instance.attributes[TYPE_KEY] for instance in instances] if known else None)
        except NotAssessable as refusal:
            return not_assessed(refusal)

    def _finish(
        self,
        job: JobRow,
        result: IllustratedResult,
        instances: Sequence[InstanceRow],
        objects: Sequence[NewObject],
    ) -> None:
        now = self.clock()
        with timed("series", "commit"), self.database.write() as session:
            ours = end_job(session, job.id, self.owner, JobState.DONE, now)
            is_first_report = bool(ours and objects) and not has_result(session, job.series_id)
            if ours and job.shadow:
                add_shadow_result(session, job, result, now)
            elif ours:
                row_ids = {instance.sop_instance_uid: instance.id for instance in instances}
                add_result(session, job, result, row_ids, objects, self.destinations, now)
        get_log().info(
            "job done" if ours else "job was taken over by another process; its result is dropped",
            job_row=job.id,
            series_row=job.series_id,
            instances=len(instances),
            model_row=job.model_id,
            shadow=job.shadow,
            status=result.status,
            reason=result.reason,
            attempts=job.attempts,
        )
        if is_first_report:
            self._note_left_out(job, instances[0])

    def _note_left_out(self, job: JobRow, instance: InstanceRow) -> None:
        """Warn of the attributes that the series' objects lack, as they do not fit their value representations."""
        header = read_stored_header(self.data_dir / instance.path, SOURCE_KEYWORDS)
        if keywords := left_out(header):
            get_log().warning(
                "attributes do not fit; left out of the report",
                series_row=job.series_id,
                attributes=", ".join(keywords),
            )
            self.record(attributes_left_out(self.owner, str(header.get("StudyInstanceUID", "")), keywords))

    def _retry(self, job: JobRow, reason: str, detail: str) -> None:
        """Let the job wait and be claimed again, or park it after its last attempt."""
        if job.attempts >= self.attempts:
            self._park(job, reason, detail)
            return
        wait = timedelta(seconds=_FIRST_RETRY_SECONDS * 2.0 ** (job.attempts - 1))
        with self.database.write() as session:
            end_job(
                session,
                job.id,
                self.owner,
                JobState.PENDING,
                self.clock(),
                reason=reason,
                detail=detail,
                not_before=self.clock() + wait,
            )

    def _park(self, job: JobRow, reason: str, detail: str) -> None:
        with self.database.write() as session:
            end_job(session, job.id, self.owner, JobState.PARKED, self.clock(), reason=reason, detail=detail)
        get_log().warning("job parked", job_row=job.id, series_row=job.series_id, reason=reason)

    @contextmanager
    def _time_limited(self) -> Iterator[None]:
        """End the process when the block exceeds the time limit of a job."""
        if self.timeout is None:
            self.promise(math.inf)
            yield
            return
        end_process_after(self.timeout.total_seconds())
        self.promise(self.timeout.total_seconds() + _ROUND_SECONDS)  # the kernel ends it before
        try:
            yield
        finally:
            end_process_after(0)

    @contextmanager
    def _lease_extended(self, job_id: int) -> Iterator[None]:
        """Extend the lease again and again while the block runs."""
        done = threading.Event()
        thread = threading.Thread(target=self._extend_lease, args=(job_id, done), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _extend_lease(self, job_id: int, done: threading.Event) -> None:
        while not done.wait(self.lease.total_seconds() / 3):
            try:
                with self.database.write() as session:
                    extend_job_lease(session, job_id, self.owner, self.clock() + self.lease)
            except Exception as error:  # a thread's boundary; the next beat tries again
                get_log().warning("lease not extended", job_row=job_id, **fault_fields(error))
