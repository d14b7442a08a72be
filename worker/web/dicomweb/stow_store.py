"""What STOW-RS brings, kept as what C-STORE brings: durably, and before anybody is told so."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO

from pydicom.filereader import read_dataset

from worker.audit import events
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.dicom import standard
from worker.dicom.header import read_header
from worker.errors import RefusedInstance
from worker.logs import fault_fields, get_log
from worker.storage.acceptance import StoreRequest
from worker.storage.associations import Associations
from worker.storage.keeper import InstanceKeeper, StoreOutcome

CALLING = "STOW-RS"  # in place of an AE title, in the association's row
_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_OTHER_CONTENT = 0xB000  # PS3.4 Table B.2-1: a warning


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of an instance that came over the web; `status` as a C-STORE would be answered. UIDs may be ""."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    status: int

    @property
    def failed(self) -> bool:
        return self.status != 0 and self.status >> 12 != 0xB  # PS3.7 Annex C: 0xBxxx is a warning


class StowStore:
    """Keeps the instances of requests. A request is an association to all others: series wait for its end."""

    def __init__(
        self, settings: Settings, database: Database, clock: Callable[[], datetime], record: events.RecordEvent
    ) -> None:
        receive = settings.receive
        self.keeper = InstanceKeeper(
            database, settings.worker.data_dir, clock, receive.minimum_free_bytes, settings.route
        )
        self.associations = Associations(database, settings.worker.ae_title, clock, record)

    def begin(self, name: str, address: str) -> StowRequest:
        """Start one request."""
        return StowRequest(self, name, address)

    def close(self) -> None:
        """Stop storing instances."""
        self.keeper.close()


class StowRequest:
    """`keep` for each instance, then `end`."""

    def __init__(self, store: StowStore, name: str, address: str) -> None:
        self._store = store
        self._name = name
        self._address = address
        self._row: int | None = None

    def keep(self, encoded: bytes, study_instance_uid: str | None) -> Kept:
        """What became of a DICOM file; it is durable when its status is no failure.

        `study_instance_uid`: the only study that is allowed, where the address names one.
        """
        uids = dict.fromkeys(_UIDS, "")
        try:
            received = self._read(encoded, uids)
            if study_instance_uid not in (None, uids["StudyInstanceUID"]):
                raise RefusedInstance(standard.DATASET_MISMATCH, "other-study", "the address names another study")
            outcome = self._store.keeper.keep(received)
        except RefusedInstance as refused:
            get_log().warning("instance refused", status=f"0x{refused.status:04X}", reason=refused.reason)
            return _kept(uids, refused.status)
        except Exception as error:  # a handler's boundary: record and answer
            get_log().error("instance not stored", **fault_fields(error))
            return _kept(uids, standard.PROCESSING_FAILURE)
        return _kept(uids, _OTHER_CONTENT if outcome is StoreOutcome.CONFLICTING else standard.SUCCESS)

    def end(self) -> None:
        """Record that nothing more will arrive: series may settle."""
        if self._row is not None:
            self._store.associations.close(self._row, sender=self._name)

    def _read(self, encoded: bytes, uids: dict[str, str]) -> StoreRequest:
        """The same that a C-STORE request brings; `uids` are filled in. Raises RefusedInstance."""
        try:
            if encoded[128:132] != b"DICM":
                raise ValueError("no DICOM file")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                meta = read_dataset(
                    BytesIO(encoded[132:]), False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2
                )
                ds = read_header(BytesIO(encoded), _UIDS)
                found = {name: str(ds.get(name, "")) for name in _UIDS}
                syntax = str(meta.get("TransferSyntaxUID", ""))
        except Exception as error:  # hostile bytes may raise anything in a parser; the answer is the same
            raise RefusedInstance(standard.CANNOT_UNDERSTAND, "unreadable-dataset", type(error).__name__) from None
        uids |= {name: uid if standard.is_uid(uid) else "" for name, uid in found.items()}
        if uids["SOPClassUID"] not in standard.STORAGE_SOP_CLASSES:
            raise RefusedInstance(standard.SOP_CLASS_NOT_SUPPORTED, "sop-class", "this SOP class is not taken")
        if syntax not in standard.TRANSFER_SYNTAXES:
            raise RefusedInstance(standard.TRANSFER_SYNTAX_NOT_SUPPORTED, "transfer-syntax", "not taken")
        return StoreRequest(
            affected_sop_class_uid=str(meta.get("MediaStorageSOPClassUID", uids["SOPClassUID"])),
            affected_sop_instance_uid=str(meta.get("MediaStorageSOPInstanceUID", uids["SOPInstanceUID"])),
            transfer_syntax_uid=syntax,
            encoded=encoded,
            association_id=self._association_row(),
        )

    def _association_row(self) -> int:
        if self._row is None:
            self._row = self._store.associations.open(CALLING, self._address)
        return self._row


def _kept(uids: dict[str, str], status: int) -> Kept:
    sop_class, sop_instance, study, series = (uids[name] for name in _UIDS)
    return Kept(sop_class, sop_instance, study, series, status)
