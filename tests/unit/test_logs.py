from __future__ import annotations

import pytest

from worker.logs import fault_fields, refuse_identifiers


@pytest.mark.parametrize("field", ["patient_id", "PatientName", "accession_number", "series_instance_uid"])
def test_a_field_that_names_an_identifier_is_refused(field: str) -> None:
    assert refuse_identifiers(None, "info", {field: "secret"})[field] == "***"


@pytest.mark.parametrize("text", ["CANARY^NAME", "file 1.2.840.10008.5.1.4.1.1.4 is bad"])
def test_a_value_in_the_form_of_an_identifier_is_refused(text: str) -> None:
    shown = refuse_identifiers(None, "info", {"event": text})["event"]
    assert "CANARY" not in shown
    assert "1.2.840" not in shown


def test_facts_pass() -> None:
    event = {"event": "series settled", "series_row": 3, "version": "0.1.0", "host": "127.0.0.1"}
    assert refuse_identifiers(None, "info", dict(event)) == event


def test_a_fault_is_logged_without_its_text() -> None:
    try:
        raise ValueError("CANARY^NAME")
    except ValueError as error:
        fields = fault_fields(error)
    assert fields["fault"] == "ValueError"
    assert "test_logs.py" in fields["at"]
    assert "CANARY" not in str(fields)
