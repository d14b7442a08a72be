"""Which instances an address selects, and what is audited of who views them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import HTTPException, Request
from sqlalchemy import update

from tests.testbed.instances import later, mr_instance, received
from worker.audit.messages import AuditEvent
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import InstanceRow, TokenRole
from worker.dicom.standard import derive_uid
from worker.storage.keeper import InstanceKeeper
from worker.web.dependencies import Site
from worker.web.dicomweb.resources import DicomwebResources
from worker.web.guard import Caller

STUDY = derive_uid("study", "a")
READER, OTHER = (Caller(name, TokenRole.READ, "127.0.0.1") for name in ("reader", "other"))


@pytest.fixture
def events() -> list[AuditEvent]:
    return []


@pytest.fixture
def resources(database: Database, tmp_path: Path, events: list[AuditEvent]) -> DicomwebResources:
    """Of two images in a series."""
    keeper = InstanceKeeper(database, tmp_path, lambda: later(0), 0)
    for number in (1, 2):
        keeper.keep(received(mr_instance(number, "a")))
    keeper.close()
    settings = Settings.model_validate({"worker": {"data_dir": tmp_path}})
    return DicomwebResources(Site(settings, database, events.append, lambda: later(0)))


def address(**path: str) -> Request:
    return Request({"type": "http", "path_params": path, "headers": []})


def status(select: Callable[[], object]) -> int:
    with pytest.raises(HTTPException) as refused:
        select()
    return refused.value.status_code


def test_an_address_selects_the_instances_below_it(resources: DicomwebResources) -> None:
    assert len(resources.select(address(study=STUDY)).instances) == 2
    first = derive_uid("instance", "a", "1")
    selected = resources.instance(address(study=STUDY, series=derive_uid("series", "a"), instance=first))
    assert selected.sop_instance_uid == first
    assert resources.file(selected).is_file()
    assert status(lambda: resources.select(address(study="1.2.3"))) == 404
    assert status(lambda: resources.select(address(study=STUDY, series="1.2.3"))) == 404


def test_what_retention_deleted_makes_a_part_and_then_nothing(resources: DicomwebResources, database: Database) -> None:
    assert resources.select(address(study=STUDY)).status == 200
    for number, expected in ((1, 206), (2, 410)):
        uid = derive_uid("instance", "a", str(number))
        with database.write() as session:
            session.execute(update(InstanceRow).where(InstanceRow.sop_instance_uid == uid).values(removed_at=later(0)))
        if expected == 206:
            assert resources.select(address(study=STUDY)).status == 206
        else:
            assert status(lambda: resources.select(address(study=STUDY))) == 410


def test_a_file_that_is_missing_is_not_found(resources: DicomwebResources) -> None:
    for instance in resources.select(address(study=STUDY)).instances:
        resources.file(instance).unlink()
    assert status(lambda: resources.select(address(study=STUDY))) == 404


def test_a_view_of_a_study_is_audited_once_for_each_caller(
    resources: DicomwebResources, events: list[AuditEvent]
) -> None:
    [first, _] = resources.select(address(study=STUDY)).instances
    for caller in (READER, READER, OTHER, READER):
        resources.record_viewed(caller, first)
    assert [event.participants[0].user_id for event in events] == ["reader", "other"]
    resources.record_retrieved(READER, (first, first))
    assert len(events) == 3
