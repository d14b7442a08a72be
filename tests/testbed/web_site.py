"""The web application over a database with one series of every outcome, on a free port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx

from tests.testbed.filled import served
from tests.testbed.instances import MODEL, classified, later, new_instance
from tests.testbed.waiting import patience
from worker.audit.events import RecordEvent, unrecorded
from worker.config.pseudonyms import pseudonym_of
from worker.config.settings import Settings
from worker.db import tokens
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import claim_job, end_job
from worker.db.models import model_row
from worker.db.results import NewObject, add_result
from worker.db.series import lock_open_series, queue_series, refuse_series
from worker.db.tables import JobState, ObjectKind, TokenRole
from worker.dicom.standard import derive_uid
from worker.results import ModelIdentity
from worker.send.destinations.c_store import CStoreDestination
from worker.web.app import create_app

API = "/api/v1"


def fill(database: Database, identity: ModelIdentity = MODEL) -> None:
    """Series a: classified, b: refused, c: parked, d: pending; a minute apart."""
    with database.write() as session:
        model = model_row(session, identity, later(0)).id
        for minute, name in enumerate("abcd"):
            new = new_instance(1, name)
            row = add_instance(session, new, later(60 * minute))
            series = lock_open_series(session, row.series_id, later(60 * minute))
            assert series is not None
            if name == "b":
                refuse_series(series, "modality", "modality CT", later(60))
            if name in "ac":
                queue_series(session, series, model, later(60 * minute), missing="2 of the 3 images came")
                job = claim_job(session, "me", model, later(60 * minute), timedelta(seconds=30))
                assert job is not None
                if name == "c":
                    end_job(session, job.id, "me", JobState.PARKED, later(130), reason="process-died")
                    continue
                end_job(session, job.id, "me", JobState.DONE, later(5))
                objects = [NewObject(ObjectKind.REPORT, "1.2", derive_uid("report", name), "objects/x", "00" * 32)]
                rows = {new.sop_instance_uid: row.id}
                add_result(session, job, classified([new]), rows, objects, ["pacs"], later(5))


def settings_of(folder: Path, bundle: Path, require_token: bool = False) -> Settings:
    """A data folder with worker.db, a configured bundle, and one destination, which is unreachable."""
    return Settings.model_validate(
        {
            "worker": {"data_dir": folder, "bundle": bundle},
            "database": {"url": f"sqlite:///{folder / 'worker.db'}"},
            "web": {"require_token": require_token},
            "destination": [CStoreDestination(name="pacs", ae_title="PACS", host="127.0.0.1", port=9)],
        }
    )


@contextmanager
def serving(settings: Settings, record: RecordEvent = unrecorded) -> Iterator[tuple[httpx.Client, Database]]:
    """The application, ten minutes after the first series came."""
    database = Database(settings.database.url, pseudonym_of(settings.privacy))
    app = create_app(settings, database, record, clock=lambda: later(600))
    with served(app) as address, httpx.Client(base_url=address, timeout=patience(60)) as client:
        yield client, database
    database.close()


def bearer(database: Database, role: TokenRole, name: str) -> dict[str, str]:
    """The header of a new token."""
    with database.write() as session:
        _, token = tokens.add_token(session, name, role, later(0), None)
    return {"Authorization": f"Bearer {token}"}


@contextmanager
def signed_in(client: httpx.Client, database: Database, role: TokenRole, name: str) -> Iterator[httpx.Client]:
    """A browser that has signed in at the same address."""
    with database.write() as session:
        _, token = tokens.add_token(session, name, role, later(0), None)
    with httpx.Client(base_url=client.base_url, timeout=patience(60)) as browser:
        browser.post("/sign-in", data={"token": token})
        yield browser
