"""Numbers of series by status, of all and of those that a search finds."""

from __future__ import annotations

from datetime import date

import pytest

from tests.testbed.rows import add_series
from worker.db.engine import Database
from worker.db.tables import SeriesStatus
from worker.db.views import search as views_search
from worker.db.views import tallies
from worker.db.views.search import ListPosition, Search
from worker.db.views.tallies import Tally, count_by_status

DAY = 86400


@pytest.fixture
def filled(database: Database) -> Database:
    add_series(database, "a", SeriesStatus.CLASSIFIED, 0, 0.95)
    add_series(database, "b", SeriesStatus.CLASSIFIED, DAY, 0.6)
    add_series(database, "c", SeriesStatus.REFUSED, 2 * DAY)
    add_series(database, "d", SeriesStatus.FAILED, 3 * DAY)
    return database


def test_each_status_is_counted_up_to_a_number(filled: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "MANY", 1)
    with filled.read() as session:
        counted = count_by_status(session, Search())
        of_a_search = count_by_status(session, Search(text="family"))
    assert counted[SeriesStatus.CLASSIFIED] == Tally(1, more=True)
    assert counted[SeriesStatus.REFUSED] == Tally(1, more=False)
    assert counted[SeriesStatus.NOT_ASSESSED] == Tally(0, more=False)
    assert all(tally.more for tally in of_a_search.values()), "which of them were counted is not known"


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        (Search(), (2, 1, 1)),
        (Search(text="family"), (2, 1, 1)),
        (Search(text="b family"), (1, 0, 0)),
        (Search(text="cc-c"), (0, 1, 0)),
        (Search(text="nobody"), (0, 0, 0)),
        (Search(patient_id="ID-d"), (0, 0, 1)),
        (Search(label="glioma"), (2, 0, 0)),
        (Search(minimum_probability=0.9), (1, 0, 0)),
        (Search(since=date(2026, 3, 2), until=date(2026, 3, 3)), (1, 1, 0)),
        # The counters lead to each status and to the first page.
        (Search(text="b", status=SeriesStatus.REFUSED), (1, 0, 0)),
        (Search(older_than=ListPosition.parse("0-1"), limit=1), (2, 1, 1)),
    ],
)
def test_the_numbers_are_those_of_the_search(filled: Database, search: Search, expected: tuple[int, int, int]) -> None:
    with filled.read() as session:
        counted = count_by_status(session, search)
    shown = (SeriesStatus.CLASSIFIED, SeriesStatus.REFUSED, SeriesStatus.FAILED)
    assert tuple(counted[status].number for status in shown) == expected
    assert not any(tally.more for tally in counted.values())


def test_matches_of_common_words_beyond_the_limit_are_said_to_be_more(
    filled: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of the entries of two common words are looked at is not known, so what is counted is the least."""
    monkeypatch.setattr(tallies, "MANY", 1)
    monkeypatch.setattr(tallies, "FEW", 0)
    monkeypatch.setattr(views_search, "FEW", 0)
    with filled.read() as session:
        counted = count_by_status(session, Search(text="family id"))
    assert sum(tally.number for tally in counted.values()) <= 2
    assert all(tally.more for tally in counted.values())
