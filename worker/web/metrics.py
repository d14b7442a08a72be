"""GET /metrics: totals and gauges in Prometheus' text format.

The roles are processes on any number of hosts, so each scrape reads the database and the disk; nothing is counted in
the memory of this process, which a restart would lose, but the deaths of its own decoder processes. Labels are words of
the code and of the configuration, never an identifier of a patient, a study or an instance (architecture, invariant 6).
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from worker import __version__
from worker.audit.recorder import audit_faults
from worker.config.settings import Settings
from worker.db.engine import Database, DatabaseError, Session
from worker.db.instances import file_fault_counts
from worker.db.operating.suspensions import list_suspensions
from worker.db.processes import ProcessStatus, list_processes, stage_times
from worker.db.tables import Stage
from worker.db.versions.corrections import PARTLY_CORRECTED
from worker.db.views.activity import ModelUsage, used_models
from worker.db.views.conflicts import count_conflicts, count_corrections
from worker.db.views.totals import RunningTotals, Totals
from worker.logs import fault_fields, get_log
from worker.process import ProcessRole
from worker.stage_times import BOUNDS, LONGER, STAGES, StageCount, StageKey
from worker.storage.refusals import refused_associations, refused_instances
from worker.web.dependencies import BEARER, Reader
from worker.web.errors import DOCUMENTED

_PREFIX = "mri_worker_"
_MOST_LABELS = 100  # per family; the rest counts under "other"
_CAUSES = ("signal 6", "signal 11", "signal 14", "time")  # of death; 0 before it happens, as for refusals


def metrics_routes(
    settings: Settings, database: Database, clock: Callable[[], datetime], deaths: Mapping[str, int]
) -> APIRouter:
    """The route; it needs a token that reads. `deaths`: of this process's decoders, by cause."""
    routes = APIRouter(dependencies=BEARER)
    totals = RunningTotals()

    @routes.get("/metrics", response_class=PlainTextResponse, responses=DOCUMENTED)
    def metrics(request: Request, caller: Reader) -> Response:
        """Counts, ages and faults for Prometheus."""
        registry = CollectorRegistry()
        registry.register(_Collector(settings, database, clock(), totals, deaths))
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type)

    return routes


@dataclass(frozen=True, slots=True, eq=False)
class _Collector:
    """The metrics of a scrape. While the database is unreachable: that, and those of the disk."""

    settings: Settings
    database: Database
    now: datetime
    totals: RunningTotals
    deaths: Mapping[str, int]

    def describe(self) -> Iterable[Metric]:
        return []  # registering then runs no query

    def collect(self) -> Iterator[Metric]:
        yield _info("build", "The version of the web role.", ("version",), [(__version__,)])
        yield from _disk(self.settings)
        yield _deaths(self.deaths)
        try:
            with self.database.read() as session:
                totals = self.totals.read(session)
                living = list_processes(session, self.now, timedelta(seconds=self.settings.worker.lease_seconds))
                broken, models = len(audit_faults(session)), used_models(session)
                refused = [*_refusals(session)]
                faults = file_fault_counts(session)
                conflicts, corrections = count_conflicts(session), count_corrections(session)
                times = stage_times(session)
                suspended = {suspension.stage for suspension in list_suspensions(session)}
        except DatabaseError as error:
            get_log().error("the scrape's queries failed", **fault_fields(error))
            yield _gauge("database_up", "1 while the database is reachable.", 0)
            return
        yield _gauge("database_up", "1 while the database is reachable.", 1)
        yield _gauge("audit_faults", "Hosts whose audit trail is broken or cannot be written.", broken)
        yield from _series(totals, self.now)
        yield from refused
        yield _by(
            "files_faulty",
            "Stored files found damaged or missing, by fault.",
            "fault",
            {fault.value: number for fault, number in faults.items()},
        )
        yield _gauge("conflicts", "Contents with other pixels that wait for a decision.", conflicts)
        yield _counter("instances_corrected", "Instances whose attributes were corrected.", corrections)
        stages = {stage.value: int(stage in suspended) for stage in Stage}
        yield _by("suspended", "1 while an operator has suspended the stage.", "stage", stages)
        yield from _work(totals, self.now)
        yield from _deliveries(totals, self.now)
        yield from _processes(living)
        yield from _models(models)
        yield _stage_seconds(times)


def _deaths(deaths: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(
        _PREFIX + "decoder_deaths", "Decoder processes that a stored file ended, since the start.", labels=("cause",)
    )
    for cause, number in (dict.fromkeys(_CAUSES, 0) | dict(deaths)).items():
        family.add_metric((cause,), number)
    return family


def _series(totals: Totals, now: datetime) -> Iterator[Metric]:
    yield _counter("instances_received", "Instances acknowledged.", totals.instances_received)
    yield _counter("series_received", "Series of which an instance was acknowledged.", totals.series_received)
    yield _by("series", "Series by status; answered: classified or not assessed.", "status", totals.series)
    yield _by("series_refused", "Series that are refused now, by reason.", "reason", totals.refused)
    halves = totals.refused.get(PARTLY_CORRECTED, 0)
    yield _gauge("series_partly_corrected", "Series of which a correction has reached only some images.", halves)
    yield _gauge(
        "series_oldest_pending_seconds",
        "Age of the oldest series without an answer.",
        _age(totals.oldest_series, now),
    )


def _refusals(session: Session) -> Iterator[Metric]:
    instances = CounterMetricFamily(
        _PREFIX + "instances_refused",
        "Instances of C-STORE and STOW-RS answered with a failure.",
        labels=("status", "reason"),
    )
    for (status, reason), number in refused_instances(session).items():
        instances.add_metric((status, reason), number)
    associations = CounterMetricFamily(
        _PREFIX + "associations_refused", "Associations and connections refused.", labels=("reason",)
    )
    for reason, number in refused_associations(session).items():
        associations.add_metric((reason,), number)
    yield from (instances, associations)


def _work(totals: Totals, now: datetime) -> Iterator[Metric]:
    yield _by("jobs", "Jobs by state; parked jobs need a person.", "state", totals.jobs)
    yield _gauge("jobs_oldest_pending_seconds", "Age of the oldest pending job.", _age(totals.oldest_job, now))
    urgent = _age(totals.oldest_urgent_job, now)
    yield _gauge("jobs_urgent_oldest_pending_seconds", "Age of the oldest pending job that is urgent.", urgent)
    yield from _studies(totals, now)
    results = CounterMetricFamily(_PREFIX + "results", "Results by model and class.", labels=("model", "class"))
    for (model, label), number in _bounded(totals.results, ("other", "other")).items():
        results.add_metric((model, label), number)
    yield results
    not_assessed = CounterMetricFamily(
        _PREFIX + "not_assessed", "Results without a class, by reason.", labels=("reason",)
    )
    for reason, number in _bounded(totals.not_assessed, "other").items():
        not_assessed.add_metric((reason,), number)
    yield not_assessed


def _studies(totals: Totals, now: datetime) -> Iterator[Metric]:
    yield _by("studies", "Studies by state; open: no answer for all of it yet, parked: needs a person.", "state",
              totals.studies)  # fmt: skip
    yield _gauge(
        "studies_oldest_open_seconds",
        "Time since the last image of the open study that waits longest.",
        _age(totals.oldest_study, now),
    )
    answers = CounterMetricFamily(
        _PREFIX + "study_results",
        "Answers for studies, revised ones too, by model and class.",
        labels=("model", "class"),
    )
    for (model, label), number in _bounded(totals.study_results, ("other", "other")).items():
        answers.add_metric((model, label), number)
    without = CounterMetricFamily(
        _PREFIX + "studies_not_assessed", "Answers for studies without a class, by reason.", labels=("reason",)
    )
    for reason, number in _bounded(totals.studies_without, "other").items():
        without.add_metric((reason,), number)
    yield from (answers, without)
    yield _counter(
        "studies_contradicted",
        "Answers for studies that name series which contradict each other.",
        totals.contradictions,
    )


def _deliveries(totals: Totals, now: datetime) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        _PREFIX + "deliveries", "Objects to be delivered, by destination and state.", labels=("destination", "state")
    )
    oldest = GaugeMetricFamily(
        _PREFIX + "delivery_oldest_seconds",
        "Age of the oldest result that is not delivered.",
        labels=("destination",),
    )
    commitments = GaugeMetricFamily(
        _PREFIX + "commitments_open",
        "Delivered objects without a storage commitment.",
        labels=("destination", "state"),
    )
    for destination, waiting in totals.deliveries.items():
        for state, number in waiting.states.items():
            states.add_metric((destination, state), number)
        oldest.add_metric((destination,), _age(waiting.oldest, now))
        for state, number in waiting.commitments.items():
            commitments.add_metric((destination, state), number)
    yield from (states, oldest, commitments)


def _processes(living: list[ProcessStatus]) -> Iterator[Metric]:
    alive, lost = (Counter(process.role for process in living if process.lost is lost) for lost in (False, True))
    roles = [role.value for role in ProcessRole]
    yield _by("processes", "Processes with a heartbeat, by role.", "role", {role: alive[role] for role in roles})
    yield _by(
        "processes_lost",
        "Processes whose heartbeat stopped within a day, by role.",
        "role",
        {role: lost[role] for role in roles},
    )


def _models(models: Iterable[ModelUsage]) -> Iterator[Metric]:
    labels = [(model.name, model.version, model.sha256) for model in models]
    yield _info("model", "Models that have been in use.", ("name", "version", "sha256"), labels)


def _stage_seconds(times: Mapping[StageKey, StageCount]) -> Metric:
    family = HistogramMetricFamily(
        _PREFIX + "stage_seconds", "How long each stage of the work took, by kind of work.", labels=("work", "stage")
    )
    bounds = [*(str(bound / 1000) for bound in BOUNDS), "+Inf"]
    for work, stages in STAGES.items():
        for stage in stages:
            counts = [times.get(StageKey(work, stage, bound), StageCount()) for bound in (*BOUNDS, LONGER)]
            numbers = accumulate(count.number for count in counts)
            seconds = sum(count.seconds for count in counts)
            family.add_metric((work, stage), list(zip(bounds, numbers, strict=True)), seconds)
    return family


def _disk(settings: Settings) -> Iterator[Metric]:
    try:
        usage = shutil.disk_usage(settings.worker.data_dir)
    except OSError:
        return  # no number rather than a wrong number; absent() detects it
    yield _gauge("disk_free_bytes", "Free bytes of the file system that holds the data folder.", usage.free)
    yield _gauge("disk_size_bytes", "Size of the file system that holds the data folder.", usage.total)
    yield _gauge(
        "disk_minimum_free_bytes", "Instances are refused with 0xA700 below this.", settings.receive.minimum_free_bytes
    )


# --- families --------------------------------------------------------------------------------------------------


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, meaning, value)


def _counter(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(_PREFIX + name, meaning, value)


def _by(name: str, meaning: str, label: str, numbers: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, meaning, labels=(label,))
    for value, number in _bounded(numbers, "other").items():
        family.add_metric((value,), number)
    return family


def _info(name: str, meaning: str, labels: tuple[str, ...], values: Iterable[tuple[str, ...]]) -> Metric:
    family = GaugeMetricFamily(f"{_PREFIX}{name}_info", meaning, labels=labels)
    for labelled in values:
        family.add_metric(labelled, 1)
    return family


Key = TypeVar("Key")


def _bounded(numbers: Mapping[Key, int], other: Key) -> dict[Key, int]:
    """The largest numbers, and the sum of the rest."""
    counted = Counter(numbers)
    largest = dict(counted.most_common(_MOST_LABELS))
    rest = counted.total() - sum(largest.values())
    return largest | ({other: rest} if rest else {})


def _age(since: datetime | None, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds()) if since is not None else 0.0
