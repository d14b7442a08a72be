"""What a peer's statuses and refusals mean. Over real associations: tests/integration/test_send.py."""

from __future__ import annotations

from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import build_context

from tests.testbed.instances import encoded
from worker.errors import Retry
from worker.send.destinations.base import Rejected
from worker.send.storage_scu import as_comprehensive, refused_context, stored_status


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xBFFF, 0x0111])
def test_success_warnings_and_a_duplicate_mean_that_the_peer_has_it(status: int) -> None:
    assert stored_status(status) == status


@pytest.mark.parametrize("status", [0xA700, 0xA7FF])
def test_out_of_resources_is_temporary(status: int) -> None:
    with pytest.raises(Retry, match=f"0x{status:04X}"):
        stored_status(status)


@pytest.mark.parametrize(("status", "meaning"), [(0xA900, "does not match"), (0xC001, "0xC001"), (0x0122, "0x0122")])
def test_every_other_status_is_a_rejection(status: int, meaning: str) -> None:
    with pytest.raises(Rejected, match=meaning) as rejected:
        stored_status(status)
    assert rejected.value.status == status


def _context(result: int) -> Any:
    context = build_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)
    context.result = result
    return context


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ([0x04, 0x04], "transfer-syntax-refused"),
        ([0x03, 0x03], "sop-class-refused"),
        ([0x03, 0x04], "sop-class-refused"),
    ],
)
def test_a_refused_context_is_explained_by_the_results_of_all_of_its_class(results: list[int], reason: str) -> None:
    assoc: Any = SimpleNamespace(rejected_contexts=[_context(result) for result in results])
    rejected = refused_context(assoc, SecondaryCaptureImageStorage, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    assert rejected.reason == reason
    assert rejected.detail.startswith("the peer does not accept Secondary Capture Image Storage")


def test_a_comprehensive_report_is_another_object_and_leaves_the_first_as_it_was() -> None:
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID, report.PatientID = Comprehensive3DSRStorage, "1.2.3", "ID"
    report = dcmread(BytesIO(encoded(report)))
    other = as_comprehensive(report)
    assert other.SOPClassUID == other.file_meta.MediaStorageSOPClassUID == ComprehensiveSRStorage
    assert other.SOPInstanceUID == other.file_meta.MediaStorageSOPInstanceUID != "1.2.3"
    assert as_comprehensive(report).SOPInstanceUID == other.SOPInstanceUID
    assert (other.PatientID, report.SOPClassUID) == ("ID", Comprehensive3DSRStorage)
