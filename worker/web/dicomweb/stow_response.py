"""The response of STOW-RS: the Store Instances Response Module (PS3.18 Annex I)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import Dataset

from worker.dicom import standard


@dataclass(frozen=True, slots=True)
class StowResult:
    """What became of an instance; `status` as a C-STORE would be answered. UIDs that are not known are ""."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    status: int

    @property
    def failed(self) -> bool:
        return self.status != 0 and self.status >> 12 != 0xB  # PS3.7 Annex C: 0xBxxx is a warning

    @property
    def is_identified(self) -> bool:
        return bool(self.sop_class_uid and self.sop_instance_uid)


def http_status(results: Sequence[StowResult]) -> int:
    """PS3.18 Table 10.5.3-1: 200 all stored, 202 some failed or gave warnings, 409 all failed."""
    if all(result.failed for result in results):
        return 409
    return 200 if all(result.status == standard.SUCCESS for result in results) else 202


def response_dataset(results: Sequence[StowResult], address: str) -> Dataset:
    """The module. What fails without known UIDs stands in a sequence of its own. `address`: of this service."""
    response = Dataset()
    studies = {result.study_instance_uid for result in results if not result.failed}
    if len(studies) == 1:
        response.RetrieveURL = f"{address}/studies/{studies.pop()}"
    sequences = {
        "ReferencedSOPSequence": [result for result in results if not result.failed],
        "FailedSOPSequence": [result for result in results if result.failed and result.is_identified],
        "OtherFailuresSequence": [result for result in results if result.failed and not result.is_identified],
    }
    for keyword, members in sequences.items():
        if members:
            setattr(response, keyword, [_item(result, address) for result in members])
    return response


def _item(result: StowResult, address: str) -> Dataset:
    item = Dataset()
    if result.is_identified:
        item.ReferencedSOPClassUID = result.sop_class_uid
        item.ReferencedSOPInstanceUID = result.sop_instance_uid
    if result.failed:
        item.FailureReason = result.status
        return item
    if result.status:
        item.WarningReason = result.status
    series = f"{address}/studies/{result.study_instance_uid}/series/{result.series_instance_uid}"
    item.RetrieveURL = f"{series}/instances/{result.sop_instance_uid}"
    return item
