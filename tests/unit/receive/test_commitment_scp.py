"""Which instances are committed to; with real peers: tests/integration/test_commitment.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage
from sqlalchemy import select

from tests.testbed.instances import NOON, mr_instance, received
from worker.db.engine import Database
from worker.db.tables import InstanceRow
from worker.dicom import commitment, standard
from worker.errors import Retry
from worker.receive.commitment_scp import examine, send_report
from worker.storage.integrity import Integrity
from worker.storage.keeper import InstanceKeeper


@pytest.fixture
def stored(database: Database, tmp_path: Path) -> Iterator[list[InstanceRow]]:
    """Four instances."""
    keeper = InstanceKeeper(database, tmp_path, lambda: NOON, minimum_free_bytes=0)
    for number in range(1, 5):
        keeper.keep(received(mr_instance(number)))
    keeper.close()
    with database.read() as session:
        yield list(session.scalars(select(InstanceRow).order_by(InstanceRow.id)))


def test_only_what_is_on_disk_and_intact_is_committed_to(
    database: Database, tmp_path: Path, stored: list[InstanceRow]
) -> None:
    intact, damaged, lost, other_class = stored
    (tmp_path / damaged.path).write_bytes(b"damaged")
    (tmp_path / lost.path).unlink()
    requested = [(MRImageStorage, row.sop_instance_uid) for row in (intact, damaged, lost)]
    requested += [(CTImageStorage, other_class.sop_instance_uid), (MRImageStorage, "1.2.3.4")]
    report = commitment.read_report(examine(database, Integrity(database, tmp_path, lambda: NOON), "2.25.1", requested))
    assert report.transaction_uid == "2.25.1"
    assert report.committed == {intact.sop_instance_uid}
    assert report.failed == {
        damaged.sop_instance_uid: standard.PROCESSING_FAILURE,
        lost.sop_instance_uid: standard.PROCESSING_FAILURE,
        other_class.sop_instance_uid: commitment.CLASS_INSTANCE_CONFLICT,
        "1.2.3.4": commitment.NO_SUCH_OBJECT,
    }


def association(answer: Dataset | Exception, sent: list[tuple[Any, ...]]) -> Any:
    """An association over which N-EVENT-REPORT is answered so."""

    def send(*arguments: Any) -> tuple[Dataset, None]:
        sent.append(arguments)
        if isinstance(answer, Exception):
            raise answer
        return answer, None

    return SimpleNamespace(send_n_event_report=send)


def status(code: int) -> Dataset:
    ds = Dataset()
    ds.Status = code
    return ds


@pytest.mark.parametrize(
    ("failed", "event"),
    [([], commitment.ALL_STORED_EVENT), ([(MRImageStorage, "1.2.4", 0x0112)], commitment.SOME_FAILED_EVENT)],
)
def test_the_event_type_tells_whether_all_is_stored(failed: list[tuple[str, str, int]], event: int) -> None:
    sent: list[tuple[Any, ...]] = []
    information = commitment.build_report("2.25.1", [(MRImageStorage, "1.2.3")], failed)
    send_report(association(status(0x0000), sent), information)
    assert sent == [(information, event, commitment.SOP_CLASS, commitment.SOP_INSTANCE)]


@pytest.mark.parametrize("answer", [status(0x0110), Dataset(), RuntimeError("ended"), ValueError("no context")])
def test_a_report_that_the_peer_does_not_accept_is_a_passing_fault(answer: Dataset | Exception) -> None:
    information = commitment.build_report("2.25.1", [(MRImageStorage, "1.2.3")], [])
    with pytest.raises(Retry) as fault:
        send_report(association(answer, []), information)
    assert fault.value.reason == "report-not-taken"
