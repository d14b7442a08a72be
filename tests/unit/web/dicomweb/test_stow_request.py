"""The instances of a request, stored in a real database and folder."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.testbed.instances import encoded, later, mr_instance
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import AssociationEnd, AssociationRow, InstanceRow
from worker.storage import spool as spools
from worker.storage.acceptance import StoreRequest
from worker.storage.refusals import refused_instances
from worker.web.dicomweb.stow_request import CALLING, StowStorage

SYNTAX = b"1.2.840.10008.1.2.1\x00"
INCOMING = "instances/incoming"


def part(content: bytes) -> StoreRequest:
    return StoreRequest("", "", "", content)


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
    result = request.store(part(encoded(ds)), str(ds.StudyInstanceUID))
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
        (bytes(128) + b"DICM" + b"\xff" * 40, None, "application/dicom", 0xC000, "unreadable-dataset"),
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
    content: bytes,
    study: str | None,
    media_type: str,
    status: int,
    reason: str,
) -> None:
    request = storage.begin("writer", "127.0.0.1")
    result = request.store(part(content), study, media_type)
    assert (result.status, result.failed) == (status, True)
    request.end(AssociationEnd.RELEASED)
    with database.read() as session:
        assert {key: number for key, number in refused_instances(session).items() if number} == {
            (f"0x{status:04X}", reason): 1
        }
        assert session.scalars(select(InstanceRow.id)).all() == []


def arrive(storage: StowStorage, content: bytes, store: bool = True) -> tuple[int, int]:
    """Its status, and how many files were in instances/incoming before it was stored; without `store` it breaks off."""

    async def arriving() -> tuple[int, int]:
        stow_part = storage.begin("writer", "127.0.0.1").new_part()
        try:
            for start in range(0, len(content), 1000):
                await stow_part.append(content[start : start + 1000])
            files = len(list(storage.spool._folder.iterdir()))
            return (await stow_part.store(None, "application/dicom")).status if store else -1, files
        finally:
            stow_part.close()

    return asyncio.run(arriving())


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_a_large_instance_arrives_in_a_file_and_is_stored_from_it(
    storage: StowStorage, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_bytes: int
) -> None:
    monkeypatch.setattr(spools, "SPOOL_BYTES", 5000)
    storage.spool._memory_bytes = memory_bytes
    content = encoded(mr_instance(1, "a", PixelData=bytes(512), PatientComments="x" * 9000))
    assert arrive(storage, content) == (0, 1)
    with database.read() as session:
        [path] = session.scalars(select(InstanceRow.path))
    assert (tmp_path / path).read_bytes() == content
    assert (storage.spool.held_bytes, list((tmp_path / INCOMING).iterdir())) == (0, [])


def test_an_instance_in_a_file_that_is_refused_or_breaks_off_leaves_nothing(
    storage: StowStorage, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "SPOOL_BYTES", 5000)
    content = encoded(mr_instance(1, "a", SOPClassUID="1.2.840.10008.5.1.4.1.1.2", PatientComments="x" * 9000))
    assert arrive(storage, content) == (0x0122, 1)
    assert arrive(storage, content, store=False) == (-1, 1)
    storage.maximum_bytes = 8000
    assert arrive(storage, content) == (0xA700, 0)
    storage.spool._minimum_free_bytes = 1 << 60
    storage.maximum_bytes = 1 << 20
    assert arrive(storage, content) == (0xA700, 0)
    with database.read() as session:
        counted = {key: number for key, number in refused_instances(session).items() if number}
    assert counted == {}  # they are written at the end of the requests
    storage.write_refusals()
    with database.read() as session:
        counted = {key: number for key, number in refused_instances(session).items() if number}
    assert counted == {
        ("0x0122", "sop-class"): 1, ("0xA700", "dataset-too-large"): 1, ("0xA700", "no-space"): 1
    }  # fmt: skip
    assert (storage.spool.held_bytes, list((tmp_path / INCOMING).iterdir())) == (0, [])


def test_a_request_that_stores_nothing_opens_no_association(storage: StowStorage, database: Database) -> None:
    request = storage.begin("writer", "127.0.0.1")
    request.store(part(b"no file"))
    request.end(AssociationEnd.RELEASED)
    with database.read() as session:
        assert session.scalars(select(AssociationRow)).all() == []


def test_a_request_that_breaks_off_is_an_association_that_was_lost(storage: StowStorage, database: Database) -> None:
    request = storage.begin("writer", "127.0.0.1")
    request.store(part(encoded(mr_instance())))
    request.end(AssociationEnd.LOST)
    with database.read() as session:
        assert session.scalars(select(AssociationRow.ended)).all() == ["lost"]
