"""Recording a reading, without a request; api/test_readings.py and pages/test_reading_form.py have what callers see."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import HTTPException

from worker.audit.messages import AuditEvent
from worker.db.readings import ReadMeanwhile, readings_of, series_to_read
from worker.db.tables import ReadState, TokenRole
from worker.dicom.standard import derive_uid
from worker.web.dependencies import Site
from worker.web.guard import Caller
from worker.web.readings import ReadingEntry, possible_labels, record_reading

SERIES = derive_uid("series", "a")
READER = Caller("dr-a", TokenRole.ANNOTATE, "10.0.0.7")


def test_a_reading_is_stored_with_its_reader_and_audited(site: Site, audited: list[AuditEvent]) -> None:
    entry = ReadingEntry(label="notumor", after=0, result=1, slices=[0, 0], comment="  artefact ")
    answer = record_reading(site, SERIES, entry, READER)
    assert (answer.number, answer.state, answer.reader, answer.slices) == (1, ReadState.CORRECTED, "dr-a", (0,))
    assert (answer.comment, answer.read_at, answer.answer) == ("artefact", site.clock(), "glioma")
    with site.database.read() as session:
        series = series_to_read(session, SERIES)
        assert series is not None
        assert len(readings_of(session, series.series_id)) == 1
    [event] = audited
    assert event.participants[0].user_id == "dr-a"


@pytest.mark.parametrize(("change", "status"), [({"label": "cyst"}, 422), ({"result": 9}, 422), ({"slices": [1]}, 422)])
def test_a_finding_that_the_series_cannot_have_is_refused(
    site: Site, audited: list[AuditEvent], change: dict[str, Any], status: int
) -> None:
    values: dict[str, Any] = {"label": "glioma", "after": 0, "result": 1} | change
    with pytest.raises(HTTPException) as fault:
        record_reading(site, SERIES, ReadingEntry(**values), READER)
    assert fault.value.status_code == status
    assert audited == []


def test_nothing_is_stored_where_a_result_or_a_reading_came_meanwhile(site: Site) -> None:
    with pytest.raises(ReadMeanwhile, match="was answered since"):
        record_reading(site, SERIES, ReadingEntry(label="glioma", after=0), READER)
    record_reading(site, SERIES, ReadingEntry(label="glioma", after=0, result=1), READER)
    with pytest.raises(ReadMeanwhile, match="dr-a has read this series"):
        record_reading(site, SERIES, ReadingEntry(label="glioma", after=0, result=1), READER)


def test_the_labels_are_the_classes_of_models_and_answer_and_the_fixed_others(site: Site) -> None:
    with site.database.read() as session:
        series = series_to_read(session, SERIES)
    assert series is not None
    labels = possible_labels(series, {"glioma": "Glioma", "cyst": "Cyst"})
    assert labels["glioma"] == "Glioma"
    assert labels["notumor"] == "notumor"  # of the answer; no model of this host has a title for it
    assert list(labels)[-3:] == ["tumor", "other", "not-assessable"]
    assert labels["other"].startswith("Something else")
    of_lesions = possible_labels(series, {"other": "Other lesion", "glioma": "Glioma", "tumor": "Tumour, kind open"})
    assert list(of_lesions)[-3:] == ["tumor", "other", "not-assessable"]
    assert (of_lesions["other"], of_lesions["tumor"]) == ("Other lesion", "Tumour, kind open")
