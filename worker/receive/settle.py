"""Settled? Eligible? → a job row, or a recorded refusal.

C-STORE announces no end of series (PS3.4 B), so silence is our signal, together with the end of the associations and,
for a sender that may be asked, its own count (`inbound.count`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from worker.config import routing
from worker.config.settings import EligibilitySection, Settings
from worker.db import settling
from worker.db.engine import Database
from worker.db.instances import instances_of
from worker.db.models import models_in_use
from worker.db.series import lock_open_series, queue_series, refuse_series
from worker.db.tables import DETAIL_LENGTH, ModelRow
from worker.logs import get_log
from worker.receive.completeness import missing_part


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no model is asked about a series: a stable word and a sentence."""

    reason: str
    detail: str


def refusal(attributes: Sequence[Mapping[str, Any]], rules: EligibilitySection) -> Refusal | None:
    """None for an eligible series; `attributes` as `inbound.describe.describe` makes them, one an instance."""
    modalities = {str(one["modality"]) for one in attributes}
    if wrong := modalities - set(rules.modalities):
        shown = ", ".join(sorted(one or "none" for one in wrong))
        return Refusal("modality", f"modality {shown}; accepted: {', '.join(rules.modalities)}")
    refused_types = {one.upper() for one in rules.refuse_image_types}
    if wrong := {word for one in attributes for word in one["image_type"]} & refused_types:
        return Refusal("image-type", f"image type {', '.join(sorted(wrong))} is not a structural series")
    refused_sequences = {one.upper() for one in rules.refuse_scanning_sequences}
    if wrong := {word for one in attributes for word in one["scanning_sequence"]} & refused_sequences:
        return Refusal("scanning-sequence", f"scanning sequence {', '.join(sorted(wrong))} is not one the model knows")
    parts = {str(one["body_part"]) for one in attributes} - {""}
    if rules.body_parts and (wrong := parts - {one.upper() for one in rules.body_parts}):
        return Refusal("body-part", f"body part {', '.join(sorted(wrong))}; accepted: {', '.join(rules.body_parts)}")
    slices = sum(int(one["frames"]) for one in attributes)
    if slices < rules.minimum_slices:
        return Refusal("too-few-slices", f"{slices} of at least {rules.minimum_slices} slices")
    if slices > rules.maximum_slices:
        return Refusal("too-many-slices", f"{slices} slices; at most {rules.maximum_slices} are accepted")
    return None


def settle_series(database: Database, settings: Settings, now: datetime) -> int:
    """Queue for the models that are in use, or refuse, every series that is complete; the number of them."""
    quiet = timedelta(seconds=settings.receive.quiet_seconds)
    idle = timedelta(seconds=settings.receive.idle_seconds)
    count_policy = settling.CountPolicy(
        peers=tuple(one.ae_title for one in settings.peer if one.query),
        settle_on_count=settings.receive.settle_on_count,
        extra_quiet=timedelta(seconds=settings.receive.incomplete_seconds),
    )
    with database.read() as session:
        awaited = routing.awaited(settings.route, _targets(models_in_use(session)[0]))
        waiting = settling.series_to_settle(session, now, quiet, idle, count_policy, awaited)
    for series_id, last_received_at in waiting:
        _settle(database, settings, series_id, now, last_received_at)
    return len(waiting)


def _settle(
    database: Database,
    settings: Settings,
    series_id: int,
    now: datetime,
    not_after: datetime,
) -> None:
    with database.write() as session:
        # A slice that lands between the look above and this lock has moved last_received_at: then we leave it.
        series = lock_open_series(session, series_id, not_after)
        if series is None:
            return
        instances = instances_of(session, series_id)
        attributes = [one.attributes for one in instances]
        refused = refusal(attributes, settings.eligibility)
        if refused is None and any(one.removed_at is not None for one in instances):
            refused = Refusal("pixels-removed", "earlier slices were deleted by retention; send the whole series again")
        missing = missing_part(attributes, settling.expected_now(series))
        if refused is None and missing is not None and settings.eligibility.refuse_incomplete:
            refused = Refusal("incomplete", missing)
        route = routing.decide(settings.route, attributes)
        if refused is None and route is not None and route.refuse is not None:
            refused = Refusal("route", f"rule '{route.name}': {route.refuse}")
        active, in_shadow = models_in_use(session)
        models, awaited = routing.chosen(route, _targets(active))
        if refused is not None:
            refuse_series(series, refused.reason, refused.detail, now)
        elif awaited is not None:
            series.reason, series.detail = routing.MODEL_NOT_ACTIVE, awaited[:DETAIL_LENGTH]
        else:
            for model_id in models:
                queue_series(session, series, model_id, now, missing)
            for model in in_shadow:
                queue_series(session, series, model.id, now, missing, shadow=True)
    get_log().info(
        "series settled",
        series_row=series_id,
        instances=len(instances),
        outcome="refused" if refused else "waits" if awaited else "queued",
        reason=refused.reason if refused else routing.MODEL_NOT_ACTIVE if awaited else None,
        route=route.name if route else None,
        missing=missing,
    )


def _targets(active: Sequence[ModelRow]) -> list[routing.Target]:
    return [routing.Target(one.id, one.name, one.version) for one in active]
