"""An application over a database with one series of every outcome, asked on a free port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from tests.testbed.filled import served
from tests.testbed.instances import MODEL, classified, later, new_instance
from tests.testbed.shown_bundle import make_shown_bundle
from tests.testbed.waiting import patience
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.jobs import claim_job, end_job
from worker.db.migrate import migrate
from worker.db.models import model_row
from worker.db.results import NewObject, add_result
from worker.db.series import lock_open_series, queue_series, refuse_series
from worker.db.tables import JobState, ObjectKind
from worker.dicom.standard import derive_uid
from worker.inference.bundle import verified_identity
from worker.results import ModelIdentity
from worker.send.destinations.c_store import CStoreDestination
from worker.web.app import create_app


def fill(database: Database, identity: ModelIdentity = MODEL) -> None:
    """Series a: classified, b: refused, c: parked, d: pending; a minute apart."""
    with database.write() as session:
        model = model_row(session, identity, later(0)).id
        for place, name in enumerate("abcd"):
            new = new_instance(1, name)
            row = add_instance(session, new, later(60 * place))
            series = lock_open_series(session, row.series_id, later(60 * place))
            assert series is not None
            if name == "b":
                refuse_series(series, "modality", "modality CT", later(60))
            if name in "ac":
                queue_series(session, series, model, later(60 * place), missing="2 of the 3 images came")
                job = claim_job(session, "me", model, later(60 * place), timedelta(seconds=30))
                assert job is not None
                if name == "c":
                    end_job(session, job.id, "me", JobState.PARKED, later(130), reason="process-died")
                    continue
                end_job(session, job.id, "me", JobState.DONE, later(5))
                objects = [NewObject(ObjectKind.REPORT, "1.2", derive_uid("report", name), "objects/x", "00" * 32)]
                rows = {new.sop_instance_uid: row.id}
                add_result(session, job, classified([new]), rows, objects, ["pacs"], later(5))


@pytest.fixture(scope="session")
def shown_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configured bundle: that of the model which answered series a."""
    return make_shown_bundle(tmp_path_factory.mktemp("bundle"), MODEL)


@pytest.fixture(scope="session")
def model(shown_bundle: Path) -> ModelIdentity:
    return verified_identity(shown_bundle)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, shown_bundle: Path) -> Iterator[httpx.Client]:
    """No token is needed."""
    with _serving(tmp_path_factory.mktemp("open"), shown_bundle, require_token=False) as (client, _):
        yield client


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, shown_bundle: Path) -> Iterator[tuple[httpx.Client, Database]]:
    """As installed: every page needs a token; and the database, to make one."""
    with _serving(tmp_path_factory.mktemp("guarded"), shown_bundle, require_token=True) as (client, database):
        yield client, database


@contextmanager
def _serving(folder: Path, bundle: Path, require_token: bool) -> Iterator[tuple[httpx.Client, Database]]:
    """The one destination does not answer."""
    database = Database(f"sqlite:///{folder / 'worker.db'}")
    migrate(database)
    fill(database, verified_identity(bundle))
    settings = Settings.model_validate(
        {
            "worker": {"data_dir": folder, "bundle": bundle},
            "web": {"require_token": require_token},
            "destination": [CStoreDestination(name="pacs", ae_title="PACS", host="127.0.0.1", port=9)],
        }
    )

    app = create_app(settings, database, clock=lambda: later(600))
    with served(app) as address, httpx.Client(base_url=address, timeout=patience(60)) as client:
        yield client, database
    database.close()
