"""A series that was received, classified and reported on: rows and files, without a network or a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from tests.testbed.instances import MODEL, classified, mr_instance, new_instance, received
from worker.db.engine import Database
from worker.db.instances import instances_of
from worker.db.jobs import claim_job, end_job
from worker.db.models import model_row
from worker.db.results import Lineage, NewObject, add_result
from worker.db.series import lock_open_series, queue_series
from worker.db.tables import JobState, SeriesRow
from worker.reporting.outbox import Outbox
from worker.results import Activation, ModelIdentity
from worker.storage.keeper import InstanceKeeper


def answer(
    database: Database,
    data_dir: Path,
    series: str = "a",
    count: int = 1,
    destinations: Sequence[str] = ("pacs",),
    key_objects_to: tuple[str, ...] = (),
    model: ModelIdentity = MODEL,
    label: str = "glioma",
    probabilities: Sequence[float] = (0.9, 0.1),
    activation: Activation | None = None,
    **changes: Any,
) -> list[NewObject]:
    """Keep `count` images, and write the result with its objects and their deliveries, due at once.

    The result and every slice have these probabilities; every slice decides and has the map `activation`. `changes` are
    those of `mr_instance`.
    """
    moment = datetime.now(UTC)
    keeper = InstanceKeeper(database, data_dir, lambda: moment, 0)
    for number in range(1, count + 1):
        keeper.keep(received(mr_instance(number, series, **changes)))
    keeper.close()
    uid = str(mr_instance(1, series, **changes).SeriesInstanceUID)
    with database.write() as session:
        model_id = model_row(session, model, moment).id
        row = session.scalar(select(SeriesRow).where(SeriesRow.series_instance_uid == uid))
        series_row = lock_open_series(session, row.id, moment) if row is not None else None
        if series_row is None:
            raise ValueError("the series is not open")
        queue_series(session, series_row, model_id, moment)
        job = claim_job(session, "me", model_id, moment, timedelta(seconds=30))
        if job is None:
            raise ValueError("no job to claim")
        instances = instances_of(session, series_row.id)
        images = [new_instance(sop_instance_uid=one.sop_instance_uid) for one in instances]
        slices = [
            replace(item, activation=activation, probabilities=tuple(probabilities))
            for item in classified(images).slices
        ]
        result = replace(
            classified(images, model.probability_of(model.class_named(label), probabilities)),
            label=label,
            probabilities=dict(zip([item.name for item in model.classes], probabilities, strict=True)),
            slices=tuple(slices),
        )
        files = [data_dir / one.path for one in instances]

        def make() -> list[NewObject]:
            outbox = Outbox(data_dir, key_objects_to)
            return outbox.make_objects(result, model, files, job.input_sha256, Lineage(), moment)

        case = repr((job.input_sha256, model, label, probabilities, key_objects_to, sorted(changes.items())))
        objects = _made_once(case, data_dir, make) if activation is None else make()
        end_job(session, job.id, "me", JobState.DONE, moment)
        ids = {one.sop_instance_uid: one.id for one in instances}
        add_result(session, job, result, ids, objects, destinations, moment)
    return objects


_MADE: dict[str, list[tuple[NewObject, bytes]]] = {}


def _made_once(case: str, data_dir: Path, make: Callable[[], list[NewObject]]) -> list[NewObject]:
    """What `make` returns, and its files: made once in this process, because a report costs most of an answer."""
    if case not in _MADE:
        objects = make()
        _MADE[case] = [(new, (data_dir / new.path).read_bytes()) for new in objects]
        return objects
    for new, content in _MADE[case]:
        path = data_dir / new.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return [new for new, _ in _MADE[case]]
