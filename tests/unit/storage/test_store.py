"""What a process other than the receiver stores. Over HTTP and by C-GET: tests/integration."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from tests.testbed.instances import later, mr_instance, received
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import AssociationRow
from worker.dicom import standard
from worker.storage.refusals import refused_instances
from worker.storage.store import InstanceStore, Transfer


def test_a_transfer_is_an_association_from_its_first_instance_on(database: Database, tmp_path: Path) -> None:
    settings = Settings.model_validate({"worker": {"data_dir": tmp_path}, "receive": {"minimum_free_bytes": 0}})
    store = InstanceStore(settings, database, lambda: later(0), lambda _event: None)
    refused = Transfer(store, "PACS", "10.0.0.1")
    ct = received(mr_instance(1))
    ct.affected_sop_class_uid = "1.2.840.10008.5.1.4.1.1.2"
    assert refused.answer(ct) == standard.SOP_CLASS_NOT_SUPPORTED
    refused.end(None)  # type: ignore[arg-type]
    with database.read() as session:
        assert session.scalars(select(AssociationRow)).all() == []
        assert refused_instances(session)["0x0122", "sop-class"] == 1
    transfer = Transfer(store, "PACS", "10.0.0.1")
    assert transfer.answer(received(mr_instance(1))) == standard.SUCCESS
    assert transfer.answer(received(mr_instance(2))) == standard.SUCCESS
    with database.read() as session:
        [row] = session.scalars(select(AssociationRow)).all()
        assert (row.calling_ae_title, row.peer, row.ended) == ("PACS", "10.0.0.1", None)
    store.close()
