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
from worker import store
from worker.config import Settings
from worker.dicom import derive_uid
from worker.errors import Retry, StartError
from worker.migrate import migrate
from worker.query.api import create_app
from worker.query.parts import Model, Parts
from worker.store import NewObject, Store
from worker.tables import JobState, ObjectKind
from worker.viewer import Viewer


def fill(database: Store) -> None:
    """Series a: classified, b: refused, c: parked, d: pending; a minute apart."""
    with database.write() as session:
        model = store.model_row(session, MODEL, later(0)).id
        for place, name in enumerate("abcd"):
            new = new_instance(1, name)
            row = store.add_instance(session, new, later(60 * place))
            series = store.lock_open_series(session, row.series_id, later(60 * place))
            assert series is not None
            if name == "b":
                store.refuse_series(series, "modality", "modality CT", later(60))
            if name in "ac":
                store.queue_series(session, series, model, later(60 * place), missing="2 of the 3 images came")
                job = store.claim_job(session, "me", model, later(60 * place), timedelta(seconds=30))
                assert job is not None
                if name == "c":
                    store.end_job(session, job.id, "me", JobState.PARKED, later(130), reason="process-died")
                    continue
                store.end_job(session, job.id, "me", JobState.DONE, later(5))
                objects = [NewObject(ObjectKind.REPORT, "1.2", derive_uid("report", name), "objects/x", "00" * 32)]
                rows = {new.sop_instance_uid: row.id}
                store.add_result(session, job, classified([new]), rows, objects, ["pacs"], later(5))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """No token is needed."""
    with _serving(tmp_path_factory.mktemp("open"), require_token=False) as (client, _):
        yield client


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Store]]:
    """As installed: every page needs a token; and the database, to make one."""
    with _serving(tmp_path_factory.mktemp("guarded"), require_token=True) as (client, database):
        yield client, database


@contextmanager
def _serving(folder: Path, require_token: bool) -> Iterator[tuple[httpx.Client, Store]]:
    """The one destination does not answer."""
    database = Store(f"sqlite:///{folder / 'worker.db'}")
    migrate(database)
    fill(database)
    settings = Settings.model_validate(
        {
            "worker": {"data_dir": folder},
            "web": {"require_token": require_token},
            "destination": [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 9}],
        }
    )

    def echo(name: str) -> None:
        raise Retry("peer-unavailable", f"{name} does not answer")

    model = Model(MODEL.sha256, "test", "ResNet", "a test", "none", {"glioma": "Glioma", "notumor": "No tumour"}, "# C")

    def verify(sha256: str) -> None:
        if sha256 != MODEL.sha256:
            raise StartError("bundle-missing", "this host has no such bundle")

    parts = Parts(settings=settings, echo=echo, pictures=Viewer(), models=lambda: [model], verify_model=verify)
    app = create_app(settings, database, clock=lambda: later(600), parts=parts)
    with served(app) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client, database
    database.close()
