"""Settle complete series: queue a job for each model in use, or record why the series is refused.

C-STORE announces no end of series (PS3.4 B), so silence is our signal, together with the end of the associations and,
for a sender that may be queried, its own image count (`worker.receive.peer_count`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from worker.audit.events import RecordEvent, attributes_changed, unrecorded
from worker.config import routing
from worker.config.fingerprint import rules_fingerprint
from worker.config.settings import Settings
from worker.db import settling
from worker.db.engine import Database, Session
from worker.db.instances import IDENTITY_KEY, instances_of
from worker.db.jobs import hurry_study
from worker.db.models import models_in_use
from worker.db.processes import list_processes
from worker.db.series import INCOMPLETE, MOVED, lock_open_series, queue_series, record_series_type, refuse_series
from worker.db.studies.identity import record_other_studies
from worker.db.tables import DETAIL_LENGTH, InstanceRow, ModelRow, SeriesRow
from worker.db.versions.corrections import PARTLY_CORRECTED, corrected_at, identities_before
from worker.dicom.series_type import read_series_type
from worker.dicom.text.names import comparable_name
from worker.logs import get_log
from worker.process import process_name
from worker.receive.completeness import describe_missing
from worker.receive.demographics import take_newest
from worker.receive.eligibility import SeriesRefusal, check_eligibility
from worker.wording import counted

MIXED_PATIENTS, MIXED_STUDIES = "mixed-patients", "mixed-studies"
_PARTS_SHOWN = 8


def check_identity(identities: Sequence[Mapping[str, str]]) -> SeriesRefusal | None:
    """Why a series may not be reported as one series: its images are of several patients or of several studies.

    `identities` are those of the instances, as `storage.acceptance.read_instance` makes them. Patient IDs are the same
    or not, in case too; an ID that is given is another than none. Without IDs the names are compared. An issuer that is
    not given contradicts none.
    """
    patients = Counter((identity["patient"], identity.get("name", "")) for identity in identities)
    issuers = Counter(identity["issuer"] for identity in identities if identity.get("issuer"))
    if len(patients) > 1:
        return SeriesRefusal(MIXED_PATIENTS, f"{_parts(patients, 'patient')} have one Series Instance UID")
    if len(issuers) > 1:
        detail = f"{_parts(issuers, 'issuer')} of the same Patient ID have one Series Instance UID"
        return SeriesRefusal(MIXED_PATIENTS, detail)
    studies = Counter(identity["study"] for identity in identities)
    if len(studies) > 1:
        return SeriesRefusal(MIXED_STUDIES, f"{_parts(studies, 'study')} have one Series Instance UID")
    return None


def _patience(settings: Settings) -> timedelta:
    """How long a series waits for the rest of a correction."""
    return timedelta(seconds=settings.receive.quiet_seconds + settings.receive.incomplete_seconds)


def check_corrected(
    identities: Mapping[int, Mapping[str, str]], before: Mapping[int, Sequence[Mapping[str, str]]]
) -> SeriesRefusal | None:
    """Why a series may not be reported yet: a correction has changed the patient or the study of some images only.

    `identities` are those of the instances now, `before` those of the corrected ones in their earlier versions, by row.
    Images that never agreed are no half of a correction, and what an earlier worker did not record is not compared.
    """
    now: dict[str, Counter[str]] = {}  # of images that had the same once: how many have which now
    for instance_id, identity in identities.items():
        was = {_person(version) for version in (identity, *before.get(instance_id, ()))} - {""}
        for person in was:
            now.setdefault(person, Counter())[_person(identity)] += 1
    parts = max((counts for counts in now.values() if len(counts) > 1), key=len, default=None)
    if parts is None or not before:
        return None
    numbers = ", ".join(str(number) for _, number in parts.most_common(_PARTS_SHOWN))
    detail = (
        "a correction changed the patient's or the study's attributes of some images only "
        f"(images that agree: {numbers}); send all of the series in the same version"
    )
    return SeriesRefusal(PARTLY_CORRECTED, detail)


def _person(identity: Mapping[str, str]) -> str:
    return identity.get("person", "")


def _parts(counts: Counter[Any], what: str) -> str:
    """How many, and how many images of each, without naming any."""
    shown = [str(number) for number in counts.values()][:_PARTS_SHOWN]
    numbers = ", ".join(shown) + (", …" if len(counts) > _PARTS_SHOWN else "")
    return f"{counted(len(counts), what)} (images in order of arrival: {numbers})"


def settle_series(database: Database, settings: Settings, now: datetime, record: RecordEvent = unrecorded) -> int:
    """Queue every complete series for the models in use, or refuse it; the number of series."""
    quiet = timedelta(seconds=settings.receive.quiet_seconds)
    idle = timedelta(seconds=settings.receive.idle_seconds)
    count_policy = settling.CountPolicy(
        peers=tuple(peer.ae_title for peer in settings.peer if peer.query),
        settle_on_count=settings.receive.settle_on_count,
        extra_quiet=timedelta(seconds=settings.receive.incomplete_seconds),
    )
    with database.read() as session:
        if not settling.may_settle(session, now, quiet, count_policy):
            return 0
        waits_for = routing.reasons_to_wait(settings.route, _active(models_in_use(session)[0]))
        living = _living(session, now, settings)
        waiting = settling.series_to_settle(session, now, quiet, idle, count_policy, waits_for, living)
    for series_id, last_received_at in waiting:
        changed = _settle(database, settings, series_id, now, last_received_at, living)
        if changed is not None:
            record(attributes_changed(process_name(), *changed))
    return len(waiting)


def _living(session: Session, now: datetime, settings: Settings) -> list[str]:
    """The processes that can still end their associations, this process among them."""
    lease = timedelta(seconds=settings.worker.lease_seconds)
    return [process_name(), *(process.name for process in list_processes(session, now, lease) if not process.lost)]


def _settle(
    database: Database,
    settings: Settings,
    series_id: int,
    now: datetime,
    not_after: datetime,
    living: Sequence[str],
) -> tuple[str, str] | None:
    """(Study Instance UID, Patient ID) where the newest images name other attributes of these than those before."""
    changed: tuple[str, str] | None = None
    with database.write() as session:
        # A slice that arrives between the query above and this lock has moved last_received_at: not complete then.
        series = lock_open_series(session, series_id, not_after)
        if series is None:
            return None
        instances = instances_of(session, series_id)
        if not instances:
            refuse_series(series, MOVED, "all of its images were corrected to other series", now)
            record_other_studies(session, series, ())
            return None
        attributes = [instance.attributes for instance in instances]
        identities = {instance.id: _identity(instance, series) for instance in instances}
        refusal = check_identity(list(identities.values()))
        if series.corrections:
            refusal = refusal or check_corrected(identities, identities_before(session, series_id))
            corrected = corrected_at(session, series_id)
            if refusal is not None and corrected is not None and corrected > now - _patience(settings):
                return None  # the rest of the correction may come
        if refusal is None and take_newest(
            session, series, instances, settings.worker.data_dir, now, database.pseudonym
        ):
            changed = series.study_instance_uid, series.patient_id
        studies = {identity["study"] for identity in identities.values()}
        record_other_studies(session, series, studies if refusal and refusal.reason == MIXED_STUDIES else ())
        series_type = read_series_type(attributes)
        record_series_type(series, series_type)
        refusal = refusal or check_eligibility(attributes, settings.eligibility, series_type)
        if refusal is None and any(instance.removed_at is not None for instance in instances):
            refusal = SeriesRefusal(
                "pixels-removed", "earlier slices were deleted by retention; send the whole series again"
            )
        missing = describe_missing(
            attributes,
            settling.expected_now(series),
            settling.broken_transfers(session, series_id, living),
            settling.refused_instances_of(session, series.series_instance_uid),
        )
        if refusal is None and missing is not None and settings.eligibility.refuse_incomplete:
            refusal = SeriesRefusal(INCOMPLETE, missing)
        senders = settling.senders_of(session, series_id) if settings.route else []
        route = routing.decide(settings.route, attributes, series_type, senders)
        if refusal is None and route is not None and route.refuse is not None:
            refusal = SeriesRefusal("route", f"rule '{route.name}': {route.refuse}")
        active, in_shadow = models_in_use(session)
        models, waits_for = routing.choose_models(route, _active(active))
        if refusal is not None:
            refuse_series(series, refusal.reason, refusal.detail, now, rules_fingerprint(settings))
        elif waits_for is not None:
            series.reason, series.detail = routing.MODEL_NOT_ACTIVE, waits_for[:DETAIL_LENGTH]
        else:
            urgent = any(rule.urgent for rule in settings.route) and hurry_study(
                session,
                series.study_instance_uid,
                routing.is_urgent(settings.route, attributes, series_type, senders),
            )
            for model_id in models:
                queue_series(session, series, model_id, now, missing, urgent=urgent)
            for model in in_shadow:
                queue_series(session, series, model.id, now, missing, shadow=True)
    get_log().info(
        "series settled",
        series_row=series_id,
        instances=len(instances),
        outcome="refused" if refusal else "waits" if waits_for else "queued",
        reason=refusal.reason if refusal else routing.MODEL_NOT_ACTIVE if waits_for else None,
        route=route.name if route else None,
        missing=missing,
    )
    return changed


def _identity(instance: InstanceRow, series: SeriesRow) -> Mapping[str, str]:
    """The identity of an instance; that of its series where an earlier worker did not record it."""
    recorded: Mapping[str, str] | None = instance.attributes.get(IDENTITY_KEY)
    if recorded is not None:
        return recorded
    names = {} if series.patient_id else {"name": comparable_name(series.patient_name)}
    return {"patient": series.patient_id, "study": series.study_instance_uid, **names}


def _active(models: Sequence[ModelRow]) -> list[routing.ActiveModel]:
    return [routing.ActiveModel(model.id, model.name, model.version) for model in models]
