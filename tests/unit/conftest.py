"""A migrated database for each test (SQLite always, PostgreSQL where it is installed), and a tiny bundle."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.testbed import postgres
from tests.testbed.databases import empty_tables, make_tables
from worker.db.engine import Database

if TYPE_CHECKING:  # most tests run without the libraries of inference
    from worker.inference.bundle import Bundle


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    if postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres.running(durable=False) as url:
        yield url


@pytest.fixture(scope="session")
def shared_postgres(postgres_url: str) -> Iterator[Database]:
    """A connection for all tests, to empty the database that they share."""
    database = Database(postgres_url)
    yield database
    database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
        make_tables(database)
    else:
        empty_tables(request.getfixturevalue("shared_postgres"))
        database = Database(request.getfixturevalue("postgres_url"))
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
