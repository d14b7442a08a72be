"""GET /metrics: how things stand, in the text format that Prometheus reads.

The roles are processes of their own on any number of hosts, so all of it is read from the database and the disk when
it is asked for; nothing is counted in the memory of this one, which a restart would forget. Labels are words of ours
and of the configuration, never an identifier of a patient, a study or an instance (architecture, invariant 6).
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from worker import __version__
from worker.audit.recorder import audit_faults
from worker.config.settings import Settings
from worker.db.engine import Database, DatabaseError, Session
from worker.db.processes import ProcessStatus, list_processes
from worker.db.views.activity import ModelUsage, used_models
from worker.db.views.totals import RunningTotals, Totals
from worker.logs import fault_fields, get_log
from worker.process import ProcessRole
from worker.storage.refusals import refused_associations, refused_instances
from worker.web.dependencies import BEARER, Reader
from worker.web.errors import DOCUMENTED

_PREFIX = "mri_worker_"
_MOST_LABELS = 100  # of one family; what is beyond them counts under "other"


def metrics_routes(settings: Settings, database: Database, clock: Callable[[], datetime]) -> APIRouter:
    """The route; it needs a token that reads."""
    routes = APIRouter(dependencies=BEARER)
    totals = RunningTotals()

    @routes.get("/metrics", response_class=PlainTextResponse, responses=DOCUMENTED)
    def metrics(request: Request, caller: Reader) -> Response:
        """Counts, ages and faults for Prometheus."""
        registry = CollectorRegistry()
        registry.register(_Collector(settings, database, clock(), totals))
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type)

    return routes


@dataclass(frozen=True, slots=True)
class _Collector:
    """What one scrape finds. While the database does not answer, it says so and tells what the disk knows."""

    settings: Settings
    database: Database
    now: datetime
    totals: RunningTotals

    def describe(self) -> Iterable[Metric]:
        return []  # so that registering asks nothing

    def collect(self) -> Iterator[Metric]:
        yield _info("build", "The version of the web role.", ("version",), [(__version__,)])
        yield from _disk(self.settings)
        try:
            with self.database.read() as session:
                totals = self.totals.read(session)
                living = list_processes(session, self.now, timedelta(seconds=self.settings.worker.lease_seconds))
                broken, models = len(audit_faults(session)), used_models(session)
                refused = [*_refusals(session)]
        except DatabaseError as error:
            get_log().error("the scrape's queries failed", **fault_fields(error))
            yield _gauge("database_up", "1 while the database answers.", 0)
            return
        yield _gauge("database_up", "1 while the database answers.", 1)
        yield _gauge("audit_faults", "Hosts whose audit trail is broken or cannot be written.", broken)
        yield from _series(totals, self.now)
        yield from refused
        yield from _work(totals, self.now)
        yield from _deliveries(totals, self.now)
        yield from _processes(living)
        yield from _models(models)


def _series(totals: Totals, now: datetime) -> Iterator[Metric]:
    yield _counter("instances_received", "Instances acknowledged.", totals.instances_received)
    yield _counter("series_received", "Series of which an instance was acknowledged.", totals.series_received)
    yield _by("series", "Series by what became of them; answered: classified or not assessed.", "status", totals.series)
    yield _by("series_refused", "Series that are refused now, by reason.", "reason", totals.refused)
    yield _gauge(
        "series_oldest_pending_seconds",
        "Since the oldest unanswered series began to come.",
        _age(totals.oldest_series, now),
    )


def _refusals(session: Session) -> Iterator[Metric]:
    instances = CounterMetricFamily(
        _PREFIX + "instances_refused", "C-STORE requests answered with a failure.", labels=("status", "reason")
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
    yield _by("jobs", "Jobs by state; parked ones wait for a person.", "state", totals.jobs)
    yield _gauge(
        "jobs_oldest_pending_seconds", "Since the oldest pending job was queued.", _age(totals.oldest_job, now)
    )
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


def _deliveries(totals: Totals, now: datetime) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        _PREFIX + "deliveries", "Objects on their way, by destination and state.", labels=("destination", "state")
    )
    oldest = GaugeMetricFamily(
        _PREFIX + "delivery_oldest_seconds",
        "Since the oldest result that a destination has not taken yet.",
        labels=("destination",),
    )
    commitments = GaugeMetricFamily(
        _PREFIX + "commitments_open",
        "Delivered objects that the destination has not committed to yet.",
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
    alive, lost = (Counter(one.role for one in living if one.lost is lost) for lost in (False, True))
    roles = [role.value for role in ProcessRole]
    yield _by("processes", "Processes that tell of themselves, by role.", "role", {one: alive[one] for one in roles})
    yield _by(
        "processes_lost", "Processes that went silent within a day, by role.", "role", {one: lost[one] for one in roles}
    )


def _models(models: Iterable[ModelUsage]) -> Iterator[Metric]:
    labels = [(one.name, one.version, one.sha256) for one in models]
    yield _info("model", "Models that have been in use.", ("name", "version", "sha256"), labels)


def _disk(settings: Settings) -> Iterator[Metric]:
    try:
        usage = shutil.disk_usage(settings.worker.data_dir)
    except OSError:
        return  # no number is better than a wrong one; absent() finds it
    yield _gauge("disk_free_bytes", "Free where the data folder is.", usage.free)
    yield _gauge("disk_size_bytes", "The size of the file system that holds the data folder.", usage.total)
    yield _gauge(
        "disk_minimum_free_bytes", "Below it a C-STORE is answered 0xA700.", settings.receive.minimum_free_bytes
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
    for one in values:
        family.add_metric(one, 1)
    return family


Key = TypeVar("Key")


def _bounded(numbers: Mapping[Key, int], other: Key) -> dict[Key, int]:
    """The largest numbers, and the sum of the rest."""
    counted = Counter(numbers)
    kept = dict(counted.most_common(_MOST_LABELS))
    rest = counted.total() - sum(kept.values())
    return kept | ({other: rest} if rest else {})


def _age(since: datetime | None, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds()) if since is not None else 0.0
