"""A migrated database for each test (SQLite always, PostgreSQL where it is installed), and a tiny bundle."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from tests.testbed import postgres
from worker.db.engine import Database
from worker.db.migrate import migrate
from worker.db.tables import Base

if TYPE_CHECKING:  # most tests run without the libraries of inference
    from worker.inference.bundle import Bundle


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    if postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres.running() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
        migrate(database)
    else:
        database = Database(request.getfixturevalue("postgres_url"))
        migrate(database)
        with database.engine.begin() as connection:
            names = ", ".join(f'"{table.name}"' for table in Base.metadata.sorted_tables)
            connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY"))
    yield database
    database.close()


@pytest.fixture(scope="session")
def dcmcjpeg() -> None:
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("dcmcjpeg (DCMTK) is not installed")


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle; copy it before you change it."""
    from tests.testbed.tiny_bundle import make_tiny_bundle

    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def bundle_two_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle of format 2; copy it before you change it."""
    from tests.testbed.tiny_bundle import make_tiny_bundle

    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "two", format=2)


@pytest.fixture
def bundle_two(bundle_two_folder: Path) -> Bundle:
    from worker.inference.bundle import load_bundle

    return load_bundle(bundle_two_folder)


@pytest.fixture
def bundle(bundle_folder: Path) -> Bundle:
    from worker.inference.bundle import load_bundle

    return load_bundle(bundle_folder)
