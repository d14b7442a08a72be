"""The datasets of storage commitment: what is built is what is read."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import Dataset

from worker.dicom import commitment

MR = "1.2.840.10008.5.1.4.1.1.4"


def test_a_request_is_read_as_it_was_built() -> None:
    instances = [(MR, "1.2.3"), (MR, "1.2.4")]
    information = commitment.build_request("2.25.1", instances)
    assert commitment.read_request(information) == ("2.25.1", instances)
    assert "FailedSOPSequence" not in information


def test_a_report_is_read_as_it_was_built() -> None:
    information = commitment.build_report("2.25.1", [(MR, "1.2.3")], [(MR, "1.2.4", commitment.NO_SUCH_OBJECT)])
    report = commitment.read_report(information)
    assert report.transaction_uid == "2.25.1"
    assert report.committed == {"1.2.3"}
    assert report.failed == {"1.2.4": commitment.NO_SUCH_OBJECT}


@pytest.mark.parametrize(
    ("committed", "failed", "sequences"),
    [
        ([(MR, "1.2.3")], [], {"ReferencedSOPSequence"}),
        ([], [(MR, "1.2.3", 0x0110)], {"FailedSOPSequence"}),
    ],
)
def test_a_report_has_no_empty_sequence(
    committed: list[tuple[str, str]], failed: list[tuple[str, str, int]], sequences: set[str]
) -> None:
    """PS3.4 Table J.3-3: each is required only if it has an item."""
    assert set(commitment.build_report("2.25.1", committed, failed).dir("Sequence")) == sequences


def test_a_failure_without_a_reason_is_a_processing_failure() -> None:
    information = commitment.build_report("2.25.1", [], [(MR, "1.2.3", 0x0112)])
    del information.FailedSOPSequence[0].FailureReason
    assert commitment.read_report(information).failed == {"1.2.3": 0x0110}


def test_identifiers_that_are_missing_are_malformed() -> None:
    item = Dataset()
    item.ReferencedSOPClassUID = MR
    without_instance = Dataset()
    without_instance.TransactionUID = "2.25.1"
    without_instance.ReferencedSOPSequence = [item]
    for information in (Dataset(), without_instance):
        with pytest.raises(commitment.MalformedCommitment) as fault:
            commitment.read_request(information)
        assert fault.value.reason == "malformed-request"
        with pytest.raises(commitment.MalformedCommitment) as fault:
            commitment.read_report(information)
        assert fault.value.reason == "malformed-report"


def test_a_repeated_reference_is_one() -> None:
    repeated = [("1.2.840.10008.5.1.4.1.1.4", "1.2.3")] * 2000 + [("1.2.840.10008.5.1.4.1.1.4", "1.2.4")]
    assert commitment.read_request(commitment.build_request("2.25.1", repeated)) == (
        "2.25.1",
        [repeated[0], repeated[-1]],
    )


def test_items_are_counted_undecoded() -> None:
    assert commitment.count_items(BytesIO(b"\xfe\xff\x00\xe0\0\0\0\0" * 3)) == 3
    assert commitment.count_items(None) == 0
