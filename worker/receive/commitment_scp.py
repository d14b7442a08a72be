"""Storage commitment as SCP (PS3.4 J): answer from what is really on disk, hash checked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydicom import Dataset
from pynetdicom import build_context, build_role
from pynetdicom.association import Association

from worker.config.settings import ApplicationEntity
from worker.db.engine import Database
from worker.db.instances import stored_instances
from worker.dicom import commitment, standard
from worker.errors import Retry
from worker.network.associate import associate

_CHUNK = 1 << 20


def examine(database: Database, data_dir: Path, transaction_uid: str, wanted: Sequence[tuple[str, str]]) -> Dataset:
    """The Event Information for a request: which instances are kept whole, which are not and why."""
    with database.read() as session:
        rows = stored_instances(session, [uid for _, uid in wanted])
    kept: list[tuple[str, str]] = []
    lost: list[tuple[str, str, int]] = []
    for sop_class_uid, uid in wanted:
        row = rows.get(uid)
        if row is None:
            lost.append((sop_class_uid, uid, commitment.NO_SUCH_OBJECT))
        elif row.sop_class_uid != sop_class_uid:
            lost.append((sop_class_uid, uid, commitment.CLASS_INSTANCE_CONFLICT))
        elif not _is_whole(data_dir / row.path, row.sha256):
            lost.append((sop_class_uid, uid, standard.PROCESSING_FAILURE))
        else:
            kept.append((sop_class_uid, uid))
    return commitment.report(transaction_uid, kept, lost)


def _is_whole(path: Path, sha256: str) -> bool:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return False
    return digest.hexdigest() == sha256


def tell(assoc: Association, information: Dataset) -> None:
    """N-EVENT-REPORT over an association. Raises Retry when the peer does not take it."""
    event = commitment.SOME_FAILED_EVENT if "FailedSOPSequence" in information else commitment.ALL_STORED_EVENT
    try:
        answer, _ = assoc.send_n_event_report(information, event, commitment.SOP_CLASS, commitment.SOP_INSTANCE)
    except (RuntimeError, ValueError):
        raise Retry("report-not-taken", "the peer has ended the association or does not take the report") from None
    if "Status" not in answer or answer.Status != standard.SUCCESS:
        raise Retry("report-not-taken", "the peer did not take the storage commitment report")


def associate_as_scp(peer: ApplicationEntity, ae_title: str) -> Association:
    """A new association in which we are the SCP of storage commitment. Raises Retry when the peer is unreachable."""
    role = build_role(commitment.SOP_CLASS, scp_role=True)
    contexts = [build_context(commitment.SOP_CLASS)]
    return associate(peer, ae_title, contexts, service="storage commitment reports", roles=[role])
