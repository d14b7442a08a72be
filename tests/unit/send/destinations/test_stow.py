"""A DICOMweb server as a destination."""

from __future__ import annotations

import pytest

from worker.send.destinations.stow import StowDestination

ARCHIVE = StowDestination(name="archive", url="https://pacs/dicom-web/")


def test_it_is_described_by_its_url() -> None:
    description = ARCHIVE.describe()
    assert (description.protocol, description.ae_title) == ("DICOMweb", None)
    assert description.address == description.host == "https://pacs/dicom-web"
    assert description.answer == "https://pacs/dicom-web answers as a DICOMweb server"


def test_it_accepts_every_object_and_commits_to_none() -> None:
    assert ARCHIVE.is_dicom
    assert ARCHIVE.application_entity is None
    assert not ARCHIVE.wants_key_objects
    assert ARCHIVE.model_copy(update={"key_objects": True}).wants_key_objects
    assert ARCHIVE.commitment_timeout is None
    with pytest.raises(NotImplementedError):
        ARCHIVE.request_commitment("AI_WORKER", "1.2.3", [], lambda _report: 0)
