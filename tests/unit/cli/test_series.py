"""Refused series are settled again by their UID, its end, or all of them."""

from __future__ import annotations

import pytest

from tests.testbed.command import Run
from tests.testbed.web_site import fill
from worker.db.engine import Database
from worker.db.tables import SeriesStatus
from worker.db.views.search import Search, find_series


@pytest.fixture
def refused(database: Database) -> str:
    """The refused series of the site."""
    fill(database)
    with database.read() as session:
        [series] = find_series(session, Search(status=SeriesStatus.REFUSED))
    return series.series_instance_uid


def _refused(database: Database) -> int:
    with database.read() as session:
        return len(find_series(session, Search(status=SeriesStatus.REFUSED)))


def test_a_refused_series_is_settled_again_once(run: Run, refused: str, database: Database) -> None:
    assert run("series", "reconsider", refused[-8:]) == (0, "1 series will be settled again\n", "")
    assert _refused(database) == 0
    assert run("series", "reconsider", refused) == (1, "", "worker: the series is not refused\n")
    assert run("series", "reconsider", "1.2.3.4.5")[0] == 1


def test_all_refused_series_are_settled_again(run: Run, refused: str, database: Database) -> None:
    assert run("series", "reconsider")[0] == 2
    assert run("series", "reconsider", refused, "--all-refused")[0] == 2
    assert run("series", "reconsider", "--all-refused") == (0, "1 series will be settled again\n", "")
    assert _refused(database) == 0
    assert run("series", "reconsider", "--all-refused") == (0, "0 series will be settled again\n", "")
    assert "worker series reconsider --all-refused: 1 series" in run("audit", "list", "--format", "json")[1]
