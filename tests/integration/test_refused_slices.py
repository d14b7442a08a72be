"""Slices that we refused are part of what a series lacks, until they come again: C-STORE on real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from sqlalchemy import select

from tests.testbed.databases import make_tables
from tests.testbed.dcmtk import free_port
from tests.testbed.instances import MODEL, NOON, encoded, mr_instance
from tests.testbed.waiting import wait_until
from worker.config.sections import EligibilitySection, ReceiveSection, WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.models import model_row
from worker.db.settling import refused_instances_of
from worker.db.tables import AssociationRow, JobRow, SeriesRow, SeriesState
from worker.dicom.standard import derive_uid
from worker.errors import RefusedInstance
from worker.receive.settle import settle_series
from worker.receive.storage_scp import Receiver

QUIET, INCOMPLETE = 1, 5


@dataclass
class Site:
    settings: Settings
    database: Database
    receiver: Receiver

    def associate(self) -> Association:
        ae = AE(ae_title="PACS")
        ae.add_requested_context(mr_instance().SOPClassUID, ExplicitVRLittleEndian)
        assoc = ae.associate("127.0.0.1", self.settings.receive.port, ae_title="AI_WORKER")
        assert assoc.is_established
        return assoc

    def settles(self, seconds: float) -> str | None:
        """Settle so long after the last association's end; what is missing by the last job, "open" while it waits."""

        def ends() -> list[datetime | None]:
            with self.database.read() as session:
                return list(session.scalars(select(AssociationRow.closed_at)))

        wait_until(lambda: None not in ends(), "the associations' ends", 10, every=0.02)
        self.receiver.refusals.write_instances()
        settle_series(self.database, self.settings, max(filter(None, ends())) + timedelta(seconds=seconds))
        with self.database.read() as session:
            if session.scalars(select(SeriesRow)).one().state == SeriesState.OPEN:
                return "open"
            return session.scalars(select(JobRow).order_by(JobRow.id.desc())).first().missing  # type: ignore[union-attr]

    def refused(self) -> dict[tuple[str, str], int]:
        with self.database.read() as session:
            return refused_instances_of(session, derive_uid("series", "a"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    settings = Settings(
        worker=WorkerSection(data_dir=tmp_path / "data"),
        receive=ReceiveSection(
            host="127.0.0.1",
            port=free_port(),
            minimum_free_bytes=0,
            quiet_seconds=QUIET,
            incomplete_seconds=INCOMPLETE,
            maximum_dataset_bytes=1 << 17,
        ),
    )
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    with database.write() as session:
        model_row(session, MODEL, NOON)
    receiver = Receiver(settings, database, lambda: datetime.now(UTC))
    receiver.start()
    yield Site(settings, database, receiver)
    receiver.stop(1)
    database.close()


def _store(assoc: Association, ds: Dataset, content: bytes | None = None, uid: str | None = None) -> int:
    """C-STORE of a dataset, or of other bytes, or under another UID in the command; the status."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = ds.SOPClassUID, uid or ds.SOPInstanceUID
    request.DataSet = BytesIO(encode(ds, False, True) if content is None else content)
    assoc._reactor_checkpoint.clear()
    try:
        assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
        _, answer = assoc.dimse.get_msg(block=True)
    finally:
        assoc._reactor_checkpoint.set()
    assert answer is not None
    return int(answer.Status)


def _good(assoc: Association, numbers: range) -> None:
    for number in numbers:
        assert assoc.send_c_store(dcmread(BytesIO(encoded(mr_instance(number))))).Status == 0


def _refuse_by_command(_site: Site, assoc: Association, number: int) -> int:
    return _store(assoc, mr_instance(number), uid=f"1.2.3.{number}")


def _refuse_by_same_command(_site: Site, assoc: Association, number: int) -> int:
    return _store(assoc, mr_instance(number), uid="1.2.3")


def _refuse_by_dataset(_site: Site, assoc: Association, number: int) -> int:
    return _store(assoc, mr_instance(number, SOPInstanceUID="1.2.3"), uid=str(mr_instance(number).SOPInstanceUID))


def _refuse_unreadable(_site: Site, assoc: Association, number: int) -> int:
    return _store(assoc, mr_instance(number), content=b"\xff" * 64)


def _refuse_too_large(_site: Site, assoc: Association, number: int) -> int:
    return _store(assoc, mr_instance(number, PixelData=bytes(1 << 18)))


def _refuse_full_disk(site: Site, assoc: Association, number: int) -> int:
    def full(size: int) -> None:
        raise RefusedInstance(0xA700, "no-space", "full")

    site.receiver._keeper._check_space = full  # type: ignore[method-assign]
    try:
        return _store(assoc, mr_instance(number))
    finally:
        del site.receiver._keeper._check_space


@pytest.mark.parametrize(
    ("refuse", "status", "reason"),
    [
        (_refuse_by_command, 0xA900, "uid-mismatch"),
        (_refuse_by_same_command, 0xA900, "uid-mismatch"),
        (_refuse_by_dataset, 0xA900, "uid-mismatch"),
        (_refuse_too_large, 0xA700, "dataset-too-large"),
        (_refuse_full_disk, 0xA700, "no-space"),
        (_refuse_unreadable, 0xC000, None),
    ],
)
def test_five_of_eight_slices_that_were_refused_are_missing_until_they_come_again(
    site: Site, refuse: object, status: int, reason: str | None
) -> None:
    assoc = site.associate()
    _good(assoc, range(1, 4))
    statuses = [refuse(site, assoc, number) for number in range(4, 9)]  # type: ignore[operator]
    assert statuses == [status] * 5 or reason is None
    assoc.release()
    assert site.settles(QUIET + INCOMPLETE - 0.5) == "open"
    [((shown, word), number)] = site.refused().items()
    assert number == 5
    assert reason in (None, word)
    assert site.settles(QUIET + INCOMPLETE + 0.1) == f"5 images were refused ({shown} {word})"
    again = site.associate()
    _good(again, range(4, 9))
    again.release()
    assert site.settles(QUIET) is None
    assert site.refused() == {}


def test_the_same_images_open_a_series_again_that_other_rules_refused(site: Site) -> None:
    def send() -> None:
        assoc = site.associate()
        _good(assoc, range(1, 4))
        assoc.release()

    site.settings = site.settings.model_copy(update={"eligibility": EligibilitySection(body_parts=("KNEE",))})
    for _ in range(2):
        send()
        with pytest.raises(AttributeError):  # there is no job
            site.settles(QUIET)
    site.settings = site.settings.model_copy(update={"eligibility": EligibilitySection()})
    send()
    assert site.settles(QUIET) is None
