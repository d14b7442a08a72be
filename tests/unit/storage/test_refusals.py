"""How often the receiver said no, from its memory to GET /metrics."""

from __future__ import annotations

import re
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import MRImageStorage
from pynetdicom import AE
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from tests.testbed.instances import NOON, encoded, later, mr_instance
from tests.testbed.raw_store import raw_store
from tests.testbed.receiver import receiving
from tests.testbed.waiting import wait_until
from worker.config.sections import WorkerSection
from worker.config.settings import Settings
from worker.db import settling
from worker.db.engine import Database
from worker.db.migrate import migrate
from worker.db.tables import RefusedInstanceRow
from worker.dicom import standard
from worker.errors import RefusedInstance
from worker.service.receive_ticks import start_receive_ticks
from worker.service.schedule import tick_now
from worker.storage import refusals as module
from worker.storage.refusals import (
    INSTANCE_REFUSALS,
    Refusals,
    RefusedRequest,
    refused_associations,
    refused_instances,
)

PACKAGE = Path(__file__).parents[3] / "worker"


def told(database: Database) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
    """Without what has not happened."""
    with database.read() as session:
        instances, associations = refused_instances(session), refused_associations(session)
    return {key: n for key, n in instances.items() if n}, {key: n for key, n in associations.items() if n}


def test_counts_of_all_receivers_are_one_sum(database: Database) -> None:
    here, elsewhere = Refusals(database), Refusals(database)
    for _ in range(3):
        assert here.refuse(RefusedInstance(standard.OUT_OF_RESOURCES, "no-space")) == standard.OUT_OF_RESOURCES
    here.write()
    here.write()  # nothing has come since
    here.refuse(RefusedInstance(standard.OUT_OF_RESOURCES, "no-space"))
    here.association(3, 2)
    elsewhere.refuse(RefusedInstance(standard.OUT_OF_RESOURCES, "no-space"))
    elsewhere.connection("network")
    elsewhere.association(2, 9)  # what no standard knows
    here.write()
    elsewhere.write()
    assert told(database) == (
        {("0xA700", "no-space"): 5},
        {"too-many-associations": 1, "network": 1, "other": 1},
    )


def test_what_cannot_be_written_now_is_written_later(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    refusals = Refusals(database)
    refusals.connection("tls")
    with pytest.raises(OperationalError):
        refusals.write()  # there are no tables yet
    migrate(database)
    refusals.connection("tls")
    ticks = start_receive_ticks(
        Settings(worker=WorkerSection(data_dir=tmp_path)), database, lambda: later(0), refusals=refusals
    )
    try:
        tick_now(ticks)
        wait_until(lambda: told(database) == ({}, {"tls": 2}), "the counts to be written")
    finally:
        ticks.shutdown(wait=True)
        database.close()


def test_a_fault_of_ours_is_counted_and_answered_as_a_processing_failure(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    refusals = Refusals(database)
    assert refusals.refuse(OSError("CANARY^NAME")) == standard.PROCESSING_FAILURE
    refusals.write()
    assert told(database) == ({("0x0110", "not-stored"): 1}, {})
    log = "".join(capsys.readouterr())
    assert "instance not stored" in log
    assert "CANARY" not in log


def test_every_reason_of_c_store_and_stow_is_a_metric_before_it_happens() -> None:
    raised = {
        (getattr(standard, status), reason)
        for package in ("receive", "storage", "web/dicomweb")
        for file in (PACKAGE / package).glob("*.py")
        for status, reason in re.findall(r'RefusedInstance\(\s*standard\.(\w+), "([a-z-]+)"', file.read_text())
    }
    assert raised | {(standard.PROCESSING_FAILURE, "not-stored")} == set(INSTANCE_REFUSALS)
    assert len(raised) >= 9


def test_a_receiver_counts_what_it_turns_away(tmp_path: Path) -> None:
    with receiving(tmp_path, allowed_peers=("PACS", "RAW"), minimum_free_bytes=1 << 60) as (port, database):
        assert raw_store(port, MRImageStorage, "1.2.3.4", b"not dicom at all") in (
            standard.CANNOT_UNDERSTAND, standard.DATASET_MISMATCH,
        )  # fmt: skip
        for calling in ("PACS", "STRANGER"):
            ae = AE(ae_title=calling)
            ds = dcmread(BytesIO(encoded(mr_instance())))
            ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
            assoc = ae.associate("127.0.0.1", port, ae_title="AI_WORKER")
            assert assoc.is_established == (calling == "PACS")
            if assoc.is_established:
                assert assoc.send_c_store(ds).Status == standard.OUT_OF_RESOURCES
                assoc.release()
    instances, associations = told(database)  # written at the receiver's end
    assert instances.pop(("0xA700", "no-space")) == 1
    assert list(instances.values()) == [1]  # the bytes that are no DICOM
    assert associations == {"calling-ae-title": 1}
    database.close()


def test_refused_instances_are_limited_by_peer_in_all_and_by_age(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "REFUSALS_OF_A_PEER", 3)
    monkeypatch.setattr(settling, "ALL_REFUSALS", 4)
    now = [NOON]
    refusals = Refusals(database, lambda: now[0])
    fault = RefusedInstance(standard.OUT_OF_RESOURCES, "no-space")

    def refuse(numbers: range, peer: str) -> int:
        for number in numbers:
            ds = mr_instance(number)
            refusals.refuse(fault, RefusedRequest(encoded(ds), str(ds.SOPInstanceUID), None, peer))
        refusals.write_instances()
        with database.read() as session:
            return session.scalar(select(func.count()).select_from(RefusedInstanceRow)) or 0

    assert [refuse(range(1, 10), "10.0.0.1"), refuse(range(1, 10), "10.0.0.1")] == [3, 3]
    assert refuse(range(10, 20), "10.0.0.2") == 4
    now[0] += settling.REFUSALS_KEPT + timedelta(seconds=1)
    assert refuse(range(30, 31), "10.0.0.3") == 1


def test_no_more_than_a_number_of_refused_instances_is_held_in_memory(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_NOTED", 2)
    refusals = Refusals(database)
    for number in range(5):
        refusals.refuse(OSError(), RefusedRequest(encoded(mr_instance(number)), "", None, "10.0.0.1"))
    assert len(refusals._instances) == 2
    refusals.write_instances()
    assert refusals._instances == {}
