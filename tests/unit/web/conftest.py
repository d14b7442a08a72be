"""An application over a database with one series of every outcome; see tests/testbed/web_site.py."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.testbed.databases import make_tables
from tests.testbed.guarded_app import GuardedApp
from tests.testbed.instances import MODEL, later
from tests.testbed.shown_bundle import make_shown_bundle
from tests.testbed.web_site import fill, serving, settings_of
from worker.audit.messages import AuditEvent
from worker.db.engine import Database
from worker.inference.bundle import verified_identity
from worker.results import ModelIdentity
from worker.web.dependencies import Site


@pytest.fixture(scope="session")
def shown_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configured bundle: that of the model which answered series a."""
    return make_shown_bundle(tmp_path_factory.mktemp("bundle"), MODEL)


@pytest.fixture(scope="session")
def model(shown_bundle: Path) -> ModelIdentity:
    return verified_identity(shown_bundle)


@pytest.fixture(scope="session")
def filled_file(tmp_path_factory: pytest.TempPathFactory, model: ModelIdentity) -> Path:
    """A database file to copy."""
    file = tmp_path_factory.mktemp("filled") / "worker.db"
    database = Database(f"sqlite:///{file}")
    make_tables(database)
    fill(database, model)
    database.close()
    return file


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, shown_bundle: Path, filled_file: Path) -> Iterator[httpx.Client]:
    """No token is needed."""
    folder = tmp_path_factory.mktemp("open")
    shutil.copy(filled_file, folder)
    with serving(settings_of(folder, shown_bundle)) as (client, _):
        yield client


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, shown_bundle: Path, filled_file: Path
) -> Iterator[tuple[httpx.Client, Database]]:
    """As installed: every page needs a token; and the database, to make one."""
    folder = tmp_path_factory.mktemp("guarded")
    shutil.copy(filled_file, folder)
    with serving(settings_of(folder, shown_bundle, require_token=True)) as (client, database):
        yield client, database


@pytest.fixture
def audited() -> list[AuditEvent]:
    """The audit events of `site`."""
    return []


@pytest.fixture
def site(tmp_path: Path, shown_bundle: Path, filled_file: Path, audited: list[AuditEvent]) -> Iterator[Site]:
    """What pages and resources share, without an application."""
    shutil.copy(filled_file, tmp_path)
    settings = settings_of(tmp_path, shown_bundle)
    database = Database(settings.database.url)
    yield Site(settings, database, audited.append, lambda: later(600))
    database.close()


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database file to copy."""
    file = tmp_path_factory.mktemp("empty") / "worker.db"
    database = Database(f"sqlite:///{file}")
    make_tables(database)
    database.close()
    return file


@pytest.fixture
def token_database(tmp_path: Path, empty_file: Path) -> Iterator[Database]:
    """A database without tokens."""
    shutil.copy(empty_file, tmp_path)
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    yield database
    database.close()


@pytest.fixture
def app(token_database: Database) -> GuardedApp:
    return GuardedApp(token_database)
