"""The instances of a STOW-RS request, stored as those of C-STORE are: durably, before the response names them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from worker.audit import events
from worker.config.fingerprint import rules_fingerprint
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import AssociationEnd
from worker.dicom import standard
from worker.dicom.header import parse_header, read_meta
from worker.errors import RefusedInstance
from worker.logs import fault_fields, get_log
from worker.storage.acceptance import StoreRequest, refusing_unreadable
from worker.storage.associations import Associations
from worker.storage.keeper import InstanceKeeper, StoreOutcome
from worker.storage.refusals import Refusals, RefusedRequest
from worker.web.dicomweb.negotiation import DICOM
from worker.web.dicomweb.stow_response import StowResult

CALLING = "STOW-RS"  # in place of an AE title, in the association's row
_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_OTHER_CONTENT = 0xB000  # PS3.4 Table B.2-1: a warning


class StowStorage:
    """What the requests of this process share. A request is an association to all others: series wait for its end."""

    def __init__(
        self, settings: Settings, database: Database, clock: Callable[[], datetime], record: events.RecordEvent
    ) -> None:
        receive = settings.receive
        self.keeper = InstanceKeeper(
            database,
            settings.worker.data_dir,
            clock,
            receive.minimum_free_bytes,
            settings.route,
            record,
            rules_fingerprint(settings),
        )
        self.associations = Associations(database, settings.worker.ae_title, clock, record)
        self.refusals = Refusals(database, clock)

    def begin(self, name: str, address: str) -> StowRequest:
        """Start a request of a caller."""
        return StowRequest(self, name, address)

    def write_refusals(self) -> None:
        """Add the refusals to the counts of the database; they are kept for the next time if that fails."""
        try:
            self.refusals.write()
        except Exception as error:  # a handler's boundary: what was stored is stored
            get_log().warning("refusals not counted", **fault_fields(error))

    def close(self) -> None:
        """Stop storing instances."""
        self.write_refusals()
        self.keeper.close()


class StowRequest:
    """A request: `store` for each instance, then `end`."""

    def __init__(self, storage: StowStorage, name: str, address: str) -> None:
        self._storage = storage
        self._name = name
        self._address = address
        self._row: int | None = None

    def store(
        self, content: bytes | None, study_instance_uid: str | None = None, media_type: str = DICOM
    ) -> StowResult:
        """Store the content of a part, a DICOM file; it is durable when the status is no failure.

        `content` is None where it exceeds [receive] maximum_dataset_bytes. `study_instance_uid`: the only study that is
        allowed, where the address names a study.
        """
        uids = dict.fromkeys(_UIDS, "")
        try:
            request = self._read(content, media_type, uids)
            if study_instance_uid not in (None, uids["StudyInstanceUID"]):
                raise RefusedInstance(standard.DATASET_MISMATCH, "other-study", "the address names another study")
            request.association_id = self._association_row()
            outcome = self._storage.keeper.keep(request)
        except Exception as fault:  # a handler's boundary: record and answer
            refused = RefusedRequest(content or b"", uids["SOPInstanceUID"], self._row, self._address)
            return _result(uids, self._storage.refusals.refuse(fault, refused if media_type == DICOM else None))
        return _result(uids, _OTHER_CONTENT if outcome is StoreOutcome.CONFLICTING else standard.SUCCESS)

    def end(self, end: AssociationEnd) -> None:
        """Record that nothing more will arrive: series may settle. A request that was read to its end is released."""
        self._storage.write_refusals()
        if self._row is not None:
            self._storage.associations.close(self._row, end, sender=self._name)

    def _read(self, content: bytes | None, media_type: str, uids: dict[str, str]) -> StoreRequest:
        """The same that a C-STORE request brings; `uids` are filled in. Raises RefusedInstance."""
        if media_type != DICOM:
            raise RefusedInstance(standard.CANNOT_UNDERSTAND, "not-dicom", "the part is not application/dicom")
        if content is None:
            raise RefusedInstance(
                standard.OUT_OF_RESOURCES, "dataset-too-large", "the dataset exceeds [receive] maximum_dataset_bytes"
            )
        if content[128:132] != b"DICM":
            raise RefusedInstance(standard.CANNOT_UNDERSTAND, "not-dicom", "the part is not a DICOM file")
        with refusing_unreadable():
            meta = read_meta(content)
            transfer_syntax_uid = str(meta.get("TransferSyntaxUID", ""))
            ds = parse_header(content, transfer_syntax_uid, _UIDS).dataset
            values = {keyword: str(ds.get(keyword, "")) for keyword in _UIDS}
        uids |= {keyword: uid if standard.is_uid(uid) else "" for keyword, uid in values.items()}
        if uids["SOPClassUID"] not in standard.RECEIVED_SOP_CLASSES:
            raise RefusedInstance(standard.SOP_CLASS_NOT_SUPPORTED, "sop-class", "this SOP class is not received")
        if transfer_syntax_uid not in standard.TRANSFER_SYNTAXES:
            raise RefusedInstance(
                standard.TRANSFER_SYNTAX_NOT_SUPPORTED, "transfer-syntax", "this transfer syntax is not received"
            )
        return StoreRequest(
            affected_sop_class_uid=str(meta.get("MediaStorageSOPClassUID", uids["SOPClassUID"])),
            affected_sop_instance_uid=str(meta.get("MediaStorageSOPInstanceUID", uids["SOPInstanceUID"])),
            transfer_syntax_uid=transfer_syntax_uid,
            encoded=content,
        )

    def _association_row(self) -> int:
        if self._row is None:
            self._row = self._storage.associations.open(CALLING, self._address)
        return self._row


def _result(uids: dict[str, str], status: int) -> StowResult:
    sop_class, sop_instance, study, series = (uids[keyword] for keyword in _UIDS)
    return StowResult(sop_class, sop_instance, study, series, status)
