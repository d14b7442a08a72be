"""The instances of a request, stored in a real database and folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.testbed.instances import encoded, later, mr_instance
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import AssociationEnd, AssociationRow, InstanceRow
from worker.storage.refusals import refused_instances
from worker.web.dicomweb.stow_request import CALLING, StowStorage

SYNTAX = b"1.2.840.10008.1.2.1\x00"


@pytest.fixture
def storage(database: Database, tmp_path: Path) -> Iterator[StowStorage]:
    settings = Settings.model_validate({"worker": {"data_dir": tmp_path}, "receive": {"minimum_free_bytes": 0}})
    storage = StowStorage(settings, database, lambda: later(0), lambda _event: None)
    yield storage
    storage.close()


def test_an_instance_is_stored_over_an_association_that_ends_with_the_request(
    storage: StowStorage, database: Database
) -> None:
    request = storage.begin("writer", "127.0.0.1")
    ds = mr_instance(1, "a")
    result = request.store(encoded(ds), str(ds.StudyInstanceUID))
    assert (result.status, result.failed, result.sop_instance_uid) == (0, False, ds.SOPInstanceUID)
    with database.read() as session:
        row = session.scalars(select(AssociationRow)).one()
        assert (row.calling_ae_title, row.closed_at) == (CALLING, None)
    request.end(AssociationEnd.RELEASED)
    with database.read() as session:
        assert session.scalars(select(AssociationRow)).one().closed_at == later(0)
        assert session.scalars(select(InstanceRow.sop_instance_uid)).all() == [ds.SOPInstanceUID]


@pytest.mark.parametrize(
    ("content", "study", "media_type", "status", "reason"),
    [
        (b"\x89PNG", None, "image/png", 0xC000, "not-dicom"),
        (bytes(200), None, "application/dicom", 0xC000, "not-dicom"),
        (None, None, "application/dicom", 0xA700, "dataset-too-large"),
        (bytes(128) + b"DICM" + b"\xff" * 40, None, "application/dicom", 0x0122, "sop-class"),
        (encoded(mr_instance()), "1.2.3", "application/dicom", 0xA900, "other-study"),
        (encoded(mr_instance(SOPClassUID="1.2.840.10008.5.1.4.1.1.2")), None, "application/dicom", 0x0122, "sop-class"),
        (
            encoded(mr_instance()).replace(SYNTAX, b"1.2.840.10008.9.9.9\x00", 1),
            None,
            "application/dicom",
            0xC122,
            "transfer-syntax",
        ),
        (encoded(mr_instance(SeriesInstanceUID=None)), None, "application/dicom", 0xA900, "invalid-uid"),
    ],
)
def test_a_refusal_is_answered_and_counted(
    storage: StowStorage,
    database: Database,
    content: bytes | None,
    study: str | None,
    media_type: str,
    status: int,
    reason: str,
) -> None:
    request = storage.begin("writer", "127.0.0.1")
    result = request.store(content, study, media_type)
    assert (result.status, result.failed) == (status, True)
    request.end(AssociationEnd.RELEASED)
    with database.read() as session:
        assert {key: number for key, number in refused_instances(session).items() if number} == {
            (f"0x{status:04X}", reason): 1
        }
        assert session.scalars(select(InstanceRow.id)).all() == []


def test_a_request_that_stores_nothing_opens_no_association(storage: StowStorage, database: Database) -> None:
    request = storage.begin("writer", "127.0.0.1")
    request.store(b"no file")
    request.end(AssociationEnd.RELEASED)
    with database.read() as session:
        assert session.scalars(select(AssociationRow)).all() == []


def test_a_request_that_breaks_off_is_an_association_that_was_lost(storage: StowStorage, database: Database) -> None:
    request = storage.begin("writer", "127.0.0.1")
    request.store(encoded(mr_instance()))
    request.end(AssociationEnd.LOST)
    with database.read() as session:
        assert session.scalars(select(AssociationRow.ended)).all() == ["lost"]
