"""A result that is due at a destination, and a PACS that can misbehave."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.testbed.instances import MODEL, Clock, classified, encoded, mr_instance, new_instance
from tests.testbed.pacs import Pacs
from worker import store
from worker.migrate import migrate
from worker.outbound.outbox import Outbox
from worker.store import Store
from worker.tables import JobState


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with Pacs() as pacs:
        yield pacs


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Store]:
    """One result with a report and a picture, due at the destination `pacs`."""
    database = Store(f"sqlite:///{tmp_path / 'worker.db'}")
    migrate(database)
    moment = datetime.now(UTC)
    new = new_instance(1)
    source = tmp_path / "source.dcm"
    source.write_bytes(encoded(mr_instance(1)))
    with database.write() as session:
        model = store.model_row(session, MODEL, moment).id
        row = store.add_instance(session, new, moment)
        series = store.lock_open_series(session, row.series_id, moment)
        assert series is not None
        store.queue_series(session, series, model, moment)
        job = store.claim_job(session, "me", model, moment, timedelta(seconds=30))
        assert job is not None
        result = classified([new])
        objects = Outbox(tmp_path).make_objects(result, MODEL, [source], job.input_sha256, None, moment)
        store.end_job(session, job.id, "me", JobState.DONE, moment)
        store.add_result(session, job, result, {new.sop_instance_uid: row.id}, objects, ["pacs"], moment)
    yield database
    database.close()
