"""Storage commitment (PS3.4 Annex J) on our port: as SCP for what peers sent us, and the reports of our destinations.

A request is answered from what is really on disk, with each file's hash verified.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from pydicom import Dataset
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association

from worker.audit import events
from worker.config.sections import ApplicationEntity
from worker.config.settings import Settings
from worker.db.deliveries import record_commitment_report
from worker.db.engine import Database
from worker.db.instances import file_of, stored_instances
from worker.dicom import commitment, standard
from worker.errors import Retry
from worker.logs import fault_fields, get_log
from worker.network.associate import associate
from worker.storage.integrity import Integrity


class CommitmentScp:
    """Handles N-ACTION (a peer requests commitment) and N-EVENT-REPORT (a destination reports what it committed to)."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        clock: Callable[[], datetime],
        record: events.RecordEvent = events.unrecorded,
    ) -> None:
        self._integrity = Integrity(database, settings.worker.data_dir, clock, record)
        self._settings = settings
        self._database = database
        self._clock = clock

    def handlers(self) -> list[tuple[Any, Callable[..., Any]]]:
        """The handlers, by pynetdicom's events."""
        return [(evt.EVT_N_ACTION, self._on_request), (evt.EVT_N_EVENT_REPORT, self._on_report)]

    def _on_request(self, event: evt.Event) -> tuple[int, None]:
        """Accept a request; the report follows from a thread of its own."""
        try:
            transaction_uid, instances = commitment.read_request(event.action_information)
        except commitment.MalformedCommitment:
            return standard.PROCESSING_FAILURE, None
        calling = str(event.assoc.requestor.ae_title)
        threading.Thread(
            target=self._report, args=(event.assoc, calling, transaction_uid, instances), daemon=True
        ).start()
        return standard.SUCCESS, None

    def _report(
        self, assoc: Association, calling: str, transaction_uid: str, instances: Sequence[tuple[str, str]]
    ) -> None:
        try:
            information = examine(self._database, self._integrity, transaction_uid, instances)
            known = [entity for entity in self._settings.application_entities if entity.ae_title == calling]
            if known:  # its address is configured: a new association, as most peers expect
                assoc = associate_as_scp(known[0], self._settings.worker.ae_title)
            try:
                send_report(assoc, information)
            finally:
                if known and assoc.is_established:
                    assoc.release()
        except Retry as fault:  # the peer requests it again (PS3.4 J.3.2.1.2 leaves that to it)
            get_log().warning("storage commitment report not delivered", reason=fault.reason)
        except Exception as error:  # a thread's boundary
            get_log().error("storage commitment failed", **fault_fields(error))

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        """Record what a destination commits to, on an association of its own."""
        try:
            return record_commitment_report(self._database, event.event_information, self._clock()), None
        except Exception as error:  # a handler's boundary: record and answer
            get_log().error("storage commitment report not recorded", **fault_fields(error))
            return standard.PROCESSING_FAILURE, None


def examine(
    database: Database, integrity: Integrity, transaction_uid: str, instances: Sequence[tuple[str, str]]
) -> Dataset:
    """The Event Information for a request: the instances that are stored intact, and the others with the reason."""
    with database.read() as session:
        rows = stored_instances(session, [uid for _, uid in instances])
    named = {uid: rows[uid] for _, uid in instances if uid in rows}
    faults = integrity.check([file_of(row) for row in named.values() if row.removed_at is None])
    committed: list[tuple[str, str]] = []
    failed: list[tuple[str, str, int]] = []
    for sop_class_uid, uid in instances:
        row = rows.get(uid)
        if row is None:
            failed.append((sop_class_uid, uid, commitment.NO_SUCH_OBJECT))
        elif row.sop_class_uid != sop_class_uid:
            failed.append((sop_class_uid, uid, commitment.CLASS_INSTANCE_CONFLICT))
        elif row.removed_at is not None or row.path in faults:
            failed.append((sop_class_uid, uid, standard.PROCESSING_FAILURE))
        else:
            committed.append((sop_class_uid, uid))
    return commitment.build_report(transaction_uid, committed, failed)


def send_report(assoc: Association, information: Dataset) -> None:
    """N-EVENT-REPORT over an association. Raises Retry when the peer does not accept it."""
    event = commitment.SOME_FAILED_EVENT if "FailedSOPSequence" in information else commitment.ALL_STORED_EVENT
    try:
        answer, _ = assoc.send_n_event_report(information, event, commitment.SOP_CLASS, commitment.SOP_INSTANCE)
    except (RuntimeError, ValueError):
        raise Retry("report-not-taken", "the peer ended the association or does not support reports") from None
    if "Status" not in answer or answer.Status != standard.SUCCESS:
        raise Retry("report-not-taken", "the peer did not accept the storage commitment report")


def associate_as_scp(peer: ApplicationEntity, ae_title: str) -> Association:
    """A new association in which we are the SCP of storage commitment. Raises Retry when the peer is unreachable."""
    role = build_role(commitment.SOP_CLASS, scp_role=True)
    contexts = [build_context(commitment.SOP_CLASS)]
    return associate(peer, ae_title, contexts, service="storage commitment reports", roles=[role])
