from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from worker.db.tables import ReadState, SeriesStatus
from worker.db.views.search import ListPosition
from worker.web.filters import PagedFilters


def test_filters_become_a_search_from_a_position() -> None:
    filters = PagedFilters.model_validate(
        {"text": "ID-é", "status": "not-assessed", "since": "2026-03-01", "reading": "unread", "older_than": "17-4"}
    )
    search = filters.search()
    assert (search.text, search.status, search.since) == ("ID-é", SeriesStatus.NOT_ASSESSED, date(2026, 3, 1))
    assert (search.reading, search.older_than, search.newer_than) == (
        ReadState.UNREAD,
        ListPosition.parse("17-4"),
        None,
    )


@pytest.mark.parametrize(
    "given",
    [
        {"unknown": "x"},
        {"text": "a\x00b"},
        {"text": "x" * 513},
        {"accession_number": "x" * 513},
        {"study_instance_uid": "1.2.x"},
        {"minimum_probability": 1.01},
        {"limit": 501},
        {"newer_than": "now"},
    ],
)
def test_an_invalid_filter_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PagedFilters.model_validate(given)
