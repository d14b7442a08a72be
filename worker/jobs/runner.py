"""Claim a job with a lease, conduct its steps, retry it or park it.

A process that dies leaves a job whose lease runs out; the next claim counts one more attempt, and a job that has spent
its attempts is parked with the reason, so that one poisonous file cannot stop the others. Limits of time and memory are
the kernel's: a codec in C may hold the interpreter's lock, and then no thread of ours runs.
"""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from worker.db.engine import Database
from worker.db.instances import instances_of
from worker.db.jobs import claim_job, end_job, extend_job_lease, job_waits
from worker.db.results import NewObject, add_result, add_shadow_result, latest_report
from worker.db.tables import InstanceRow, JobRow, JobState
from worker.errors import NotAssessable, Park, Retry
from worker.inference.illustrated import IllustratedResult, not_assessed
from worker.jobs.model_pool import ServedModel
from worker.logs import fault_fields, get_log
from worker.results import ModelIdentity

_FIRST_RETRY_SECONDS = 2.0


def end_process_after(seconds: float) -> None:
    """SIGALRM ends this process in that time, also inside a C library; 0 takes that back."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def limit_memory(more_bytes: int) -> None:
    """Let this process, its model loaded, allocate so much more and no more; 0 sets no limit.

    What goes beyond raises MemoryError, or fails in the C library that asked for it. Linux counts private writable
    memory (RLIMIT_DATA), so the address space that threads and libraries reserve does not matter.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return  # not Linux: the service manager's limit is all there is
    [used] = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")]
    if more_bytes:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = used + more_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard < 0 else min(wanted, hard), hard))


def lift_memory_limit() -> None:
    """Take `limit_memory` back, to load a model."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


class MakeObjects(Protocol):
    """What outbound gives us: see `outbound.outbox.Outbox.make_objects`."""

    def __call__(
        self,
        result: IllustratedResult,
        model: ModelIdentity,
        sources: Sequence[Path],
        input_sha256: str,
        predecessor: str | None,
        created_at: datetime,
    ) -> list[NewObject]: ...


@dataclass(frozen=True)
class Conductor:
    """One inference process' way through its jobs.

    `models` gives what is loaded now; a job is conducted by the model that it names. A model's `classify` is the pure
    part: files of one series → result; it raises NotAssessable for what the model may not judge. `alarm` ends the
    process when a job outlasts `timeout`.
    """

    database: Database
    data_dir: Path
    models: Callable[[], Sequence[ServedModel]]
    make_objects: MakeObjects
    destinations: Sequence[str]
    owner: str
    clock: Callable[[], datetime]
    lease: timedelta
    timeout: timedelta
    attempts: int
    alarm: Callable[[float], None] = end_process_after

    def work_once(self) -> bool:
        """Conduct one job to its end; False when there was none to claim. What runs in shadow waits for the others."""
        models = {one.id: one for one in self.models()}
        if not models:
            return False
        with self.database.read() as session:
            if not job_waits(session, models, self.clock()):
                return False
        with self.database.write() as session:
            job = claim_job(session, self.owner, models, self.clock(), self.lease)
            if job is None:
                job = claim_job(session, self.owner, models, self.clock(), self.lease, shadow=True)
            if job is None:
                return False
            instances = instances_of(session, job.series_id, job.last_instance_id)
            before = latest_report(session, job.series_id, job.model_id)
        predecessor = before.path if before is not None else None
        with self._kept_alive(job.id):
            self._conduct(job, models[job.model_id], instances, predecessor)
        return True

    def _conduct(
        self, job: JobRow, model: ServedModel, instances: Sequence[InstanceRow], predecessor: str | None
    ) -> None:
        if job.attempts > self.attempts:
            # Each earlier attempt ended with its process; a supervisor that saw how has noted it (note_death).
            self._end(job, JobState.PARKED, job.reason or "process-died", job.detail or "the inference process died")
            return
        try:
            result = replace(self._result(model, instances), missing=job.missing)
            # The job's own time: a second attempt, or a process that lost its lease, writes the same bytes again.
            objects = (
                []
                if job.shadow
                else self.make_objects(
                    result, model.identity, self._files(instances), job.input_sha256, predecessor, job.created_at
                )
            )
        except Park as fault:
            self._end(job, JobState.PARKED, fault.reason, fault.detail)
        except MemoryError:
            self._again(
                job, "memory-limit", "the job needs more memory than [worker] job_memory_bytes or this host has"
            )
        except (Retry, OSError) as fault:
            reason = fault.reason if isinstance(fault, Retry) else type(fault).__name__
            self._again(job, reason, "a passing fault of the machine")
        except Exception as fault:  # a job's boundary: whatever happens to one series, the others go on
            get_log().error("job failed", job_row=job.id, **fault_fields(fault))
            self._again(
                job, "inference-fault", f"{type(fault).__name__} while the series was read, classified or reported"
            )
        else:
            self._finish(job, result, instances, objects)

    def _files(self, instances: Sequence[InstanceRow]) -> list[Path]:
        files = [self.data_dir / one.path for one in instances]
        if not all(file.is_file() for file in files):
            raise Park("file-missing", "a received file is gone from the data folder")
        return files

    def _result(self, model: ServedModel, instances: Sequence[InstanceRow]) -> IllustratedResult:
        try:
            return model.classify(self._files(instances))
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
        with self.database.write() as session:
            ours = end_job(session, job.id, self.owner, JobState.DONE, now)
            if ours and job.shadow:
                add_shadow_result(session, job, result, now)
            elif ours:
                rows = {one.sop_instance_uid: one.id for one in instances}
                add_result(session, job, result, rows, objects, self.destinations, now)
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

    def _again(self, job: JobRow, reason: str, detail: str) -> None:
        if job.attempts >= self.attempts:
            self._end(job, JobState.PARKED, reason, detail)
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

    def _end(self, job: JobRow, state: JobState, reason: str, detail: str) -> None:
        with self.database.write() as session:
            end_job(session, job.id, self.owner, state, self.clock(), reason=reason, detail=detail)
        get_log().warning("job parked", job_row=job.id, series_row=job.series_id, reason=reason)

    @contextmanager
    def _kept_alive(self, job_id: int) -> Iterator[None]:
        """Extend the lease while the block runs; the process ends when the block outlasts the job's time limit."""
        done = threading.Event()
        self.alarm(self.timeout.total_seconds())
        thread = threading.Thread(target=self._heartbeat, args=(job_id, done), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.alarm(0)
            done.set()
            thread.join()

    def _heartbeat(self, job_id: int, done: threading.Event) -> None:
        while not done.wait(self.lease.total_seconds() / 3):
            try:
                with self.database.write() as session:
                    extend_job_lease(session, job_id, self.owner, self.clock() + self.lease)
            except Exception as error:  # a thread's boundary; the next beat tries again
                get_log().warning("lease not extended", job_row=job_id, **fault_fields(error))

    def run(self, stop: threading.Event, poll_seconds: float = 0.1) -> None:
        """Work until `stop`; the job in hand is finished."""
        while not stop.is_set():
            try:
                busy = self.work_once()
            except Exception as error:  # the loop's boundary: the database is away for a moment
                get_log().error("inference loop", **fault_fields(error))
                busy = False
                stop.wait(_FIRST_RETRY_SECONDS)
            if not busy:
                stop.wait(poll_seconds)
