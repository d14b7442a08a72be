"""A Storage SCP as a destination."""

from __future__ import annotations

from datetime import timedelta

from worker.send.destinations.c_store import CStoreDestination

PACS = CStoreDestination(name="pacs", ae_title="PACS", host="10.0.0.1", port=104)


def test_it_is_described_by_ae_title_and_address() -> None:
    description = PACS.describe()
    assert (description.protocol, description.ae_title, description.address) == ("DICOM", "PACS", "10.0.0.1:104")
    assert description.host == "10.0.0.1"
    assert description.answer == "PACS at 10.0.0.1:104 answers C-ECHO"


def test_it_is_an_application_entity_that_accepts_every_object() -> None:
    assert PACS.application_entity is PACS
    assert PACS.is_dicom
    assert not PACS.wants_key_objects
    assert PACS.model_copy(update={"key_objects": True}).wants_key_objects


def test_commitment_is_requested_where_it_is_configured() -> None:
    assert PACS.commitment_timeout is None
    with_commitment = PACS.model_copy(update={"storage_commitment": True, "commitment_timeout_seconds": 60.0})
    assert with_commitment.commitment_timeout == timedelta(minutes=1)
