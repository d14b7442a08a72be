"""The numbers above the worklist, on both databases."""

from __future__ import annotations

from datetime import date

import pytest

from tests.testbed.rows import add_series
from worker.db.engine import Database
from worker.db.tables import ReadState, SeriesStatus
from worker.db.views import tallies
from worker.db.views.search import Search
from worker.db.views.tallies import Tally
from worker.db.views.worklist.numbers import count_studies


def numbers(database: Database, search: Search) -> dict[str, int]:
    with database.read() as session:
        return {status: tally.number for status, tally in count_studies(session, search).items() if tally.number}


def test_studies_are_counted_by_status_as_they_are_searched(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate("abc"):
        add_series(database, name, SeriesStatus.REFUSED if name == "b" else SeriesStatus.CLASSIFIED, 60 * number)
    assert numbers(database, Search()) == {"pending": 2, "refused": 1}
    assert numbers(database, Search(status=SeriesStatus.FAILED)) == {"pending": 2, "refused": 1}
    assert numbers(database, Search(text="id-b")) == {"refused": 1}
    assert numbers(database, Search(reading=ReadState.UNREAD)) == {"pending": 2, "refused": 1}
    assert numbers(database, Search(since=date(2027, 1, 1))) == {}
    assert numbers(database, Search(sequence="T1")) == {}
    monkeypatch.setattr(tallies, "MANY", 1)
    with database.read() as session:
        assert count_studies(session, Search())["pending"] == Tally(1, True)
        assert count_studies(session, Search(text="family"))["pending"].more
