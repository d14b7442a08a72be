"""A result that is due at a destination, and a PACS that can misbehave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.answered import answer
from tests.testbed.databases import make_tables
from tests.testbed.instances import Clock
from tests.testbed.pacs import Pacs
from worker.db.engine import Database


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with Pacs() as pacs:
        yield pacs


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """One result with a report and a picture, due at the destination `pacs`."""
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    answer(database, tmp_path)
    yield database
    database.close()
