"""The Store Instances Response Module, and the status of a response."""

from __future__ import annotations

import pytest

from worker.web.dicomweb.stow_response import StowResult, http_status, response_dataset

CLASS = "1.2.840.10008.5.1.4.1.1.4"


def result(status: int, instance: str = "1.4", study: str = "1.2") -> StowResult:
    return StowResult(CLASS, instance, study, "1.3", status)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [([0], 200), ([0, 0], 200), ([0, 0xB000], 202), ([0xB000], 202), ([0, 0xA700], 202), ([0xA700, 0xC000], 409)],
)
def test_the_status_says_whether_all_some_or_none_are_stored(statuses: list[int], expected: int) -> None:
    assert http_status([result(status) for status in statuses]) == expected


def test_each_instance_stands_in_the_sequence_of_what_became_of_it() -> None:
    unknown = StowResult("", "", "", "", 0xC000)
    response = response_dataset([result(0), result(0xB000, "1.5"), result(0xA700, "1.6"), unknown], "http://x")
    stored, warned = response.ReferencedSOPSequence
    assert (stored.ReferencedSOPClassUID, stored.ReferencedSOPInstanceUID) == (CLASS, "1.4")
    assert stored.RetrieveURL == "http://x/studies/1.2/series/1.3/instances/1.4"
    assert "WarningReason" not in stored
    assert warned.WarningReason == 0xB000
    [failed] = response.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("1.6", 0xA700)
    assert "RetrieveURL" not in failed
    [other] = response.OtherFailuresSequence
    assert other.FailureReason == 0xC000
    assert "ReferencedSOPInstanceUID" not in other
    assert response.RetrieveURL == "http://x/studies/1.2"


def test_a_response_names_a_study_only_where_there_is_a_single_one() -> None:
    two = response_dataset([result(0), result(0, study="1.9")], "http://x")
    assert "RetrieveURL" not in two
    assert "FailedSOPSequence" not in two
    assert "RetrieveURL" not in response_dataset([result(0xA700)], "http://x")
