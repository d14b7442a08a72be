"""Validate, write, fsync, commit the row, then answer 0x0000 (architecture, invariant 1).

Handlers of many associations write their files side by side; one thread commits the rows of all that wait in one
transaction, so that the price of a durable commit is shared. The receiving process never decodes pixels.
"""

from __future__ import annotations

import errno
import hashlib
import os
import queue
import shutil
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from sqlalchemy.orm import Session

from worker import dicom, store
from worker.errors import RefusedInstance
from worker.header import read_header
from worker.logs import fault_fields, get_log
from worker.process import is_running

_BATCH = 128
_OTHERS_LEFTOVER_SECONDS = 86400.0
_HEADER_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SpecificCharacterSet",
    "PatientID",
    "PatientName",
    "AccessionNumber",
    "StudyDate",
    "Modality",
    "SeriesDescription",
    "ImageType",
    "ScanningSequence",
    "BodyPartExamined",
    "NumberOfFrames",
    "ImageOrientationPatient",
    "ImagePositionPatient",
)
_PLACE_TAGS = ("ImageOrientationPatient", "ImagePositionPatient")


class Outcome(StrEnum):
    """What became of an instance that is answered 0x0000."""

    STORED = "stored"
    REPEATED = "repeated"
    CONFLICTING = "conflicting"  # the same UID with other content: the first stays, this one is kept aside


@dataclass(frozen=True, slots=True)
class Received:
    """A C-STORE request: the identifiers of the command and the complete DICOM file that its dataset makes."""

    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    transfer_syntax_uid: str
    encoded: bytes  # preamble, file meta information, dataset as sent
    association_id: int | None


def describe(received: Received, path_of: Callable[[str, str], str]) -> store.NewInstance:
    """The row of a request. Raises RefusedInstance when the dataset does not parse or contradicts the command."""
    ds = _parse_header(received.encoded)
    uids = {}
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        uid = _text(ds, keyword, 80)
        if not dicom.is_uid(uid):
            raise RefusedInstance(dicom.DATASET_MISMATCH, "invalid-uid", f"{keyword} is missing or not a UID")
        uids[keyword] = uid
    same = (uids["SOPClassUID"], uids["SOPInstanceUID"]) == (
        received.affected_sop_class_uid,
        received.affected_sop_instance_uid,
    )
    if not same:
        raise RefusedInstance(dicom.DATASET_MISMATCH, "uid-mismatch", "command and dataset name different instances")
    return store.NewInstance(
        sop_instance_uid=uids["SOPInstanceUID"],
        sop_class_uid=uids["SOPClassUID"],
        transfer_syntax_uid=received.transfer_syntax_uid,
        series_instance_uid=uids["SeriesInstanceUID"],
        study_instance_uid=uids["StudyInstanceUID"],
        patient_id=_text(ds, "PatientID", 64),
        patient_name=_text(ds, "PatientName", 324),
        accession_number=_text(ds, "AccessionNumber", 16),
        study_date=_text(ds, "StudyDate", 8),
        modality=_text(ds, "Modality", 16),
        series_description=_text(ds, "SeriesDescription", 64),
        attributes=_attributes(ds),
        path=path_of(uids["SeriesInstanceUID"], uids["SOPInstanceUID"]),
        size=len(received.encoded),
        sha256=hashlib.sha256(received.encoded).hexdigest(),
        association_id=received.association_id,
    )


def _pseudonymised(new: store.NewInstance, pseudonym: Callable[[str], str]) -> store.NewInstance:
    """Without what names the patient: free text is left out, for it may hold anything."""
    return replace(
        new,
        patient_id=pseudonym(new.patient_id),
        accession_number=pseudonym(new.accession_number),
        patient_name="",
        series_description="",
    )


def instance_path(series_instance_uid: str, sop_instance_uid: str) -> str:
    """Where an instance lies below the data folder: named by hashes, so a peer's UID never names a file."""
    series = hashlib.sha256(series_instance_uid.encode()).hexdigest()[:24]
    instance = hashlib.sha256(sop_instance_uid.encode()).hexdigest()[:32]
    return f"instances/{series[:2]}/{series}/{instance}.dcm"


def conflict_path(new: store.NewInstance) -> str:
    """Where other content under a known UID is kept, below the data folder."""
    instance = hashlib.sha256(new.sop_instance_uid.encode()).hexdigest()[:32]
    return f"conflicts/{instance}/{new.sha256}.dcm"


def _parse_header(encoded: bytes) -> Dataset:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of odd values, which we keep as they are
            return read_header(BytesIO(encoded), _HEADER_TAGS)
    except Exception as error:  # hostile bytes may raise anything in a parser; the answer is the same
        raise RefusedInstance(dicom.CANNOT_UNDERSTAND, "unreadable-dataset", type(error).__name__) from None


def _value(ds: Dataset, keyword: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ds.get(keyword)
    except Exception:  # a value that its VR forbids: as good as absent, the file keeps it
        return None


def _text(ds: Dataset, keyword: str, length: int) -> str:
    value = _value(ds, keyword)
    if value is None:
        return ""
    return "".join(one for one in str(value) if one.isprintable()).strip()[:length]


def _words(ds: Dataset, keyword: str) -> list[str]:
    value = _value(ds, keyword)
    if value is None or value == "":
        return []
    many = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return ["".join(c for c in str(one) if c.isprintable()).strip().upper()[:64] for one in many][:16]


def _attributes(ds: Dataset) -> dict[str, Any]:
    """What `inbound.series` asks of an instance."""
    try:
        frames = max(1, int(str(_value(ds, "NumberOfFrames") or 1)))
    except ValueError:
        frames = 1
    return {
        "modality": _text(ds, "Modality", 16).upper(),
        "image_type": _words(ds, "ImageType"),
        "scanning_sequence": _words(ds, "ScanningSequence"),
        "body_part": _text(ds, "BodyPartExamined", 16).upper(),
        "frames": min(frames, 1_000_000),
        "place": _place(ds),
    }


def _place(ds: Dataset) -> list[float] | None:
    """ImageOrientationPatient and ImagePositionPatient, nine numbers; None where they are not what they should be."""
    try:
        numbers = [float(one) for keyword in _PLACE_TAGS for one in _value(ds, keyword) or ()]
    except (TypeError, ValueError):
        return None
    # No database takes NaN as JSON, and no patient is a kilometre long.
    return numbers if len(numbers) == 9 and all(abs(one) < 1e6 for one in numbers) else None


@dataclass(frozen=True, slots=True)
class _Waiting:
    new: store.NewInstance
    temporary: Path
    done: Future[Outcome]


class InstanceKeeper:
    """Keeps instances durably: `keep` returns when the bytes and the row are on disk."""

    def __init__(
        self, database: store.Store, data_dir: Path, clock: Callable[[], datetime], minimum_free_bytes: int
    ) -> None:
        self._database = database
        self._data_dir = data_dir
        self._clock = clock
        self._minimum_free_bytes = minimum_free_bytes
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._incoming = data_dir / "instances" / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._commit_loop, name="commit", daemon=True)
        self._thread.start()

    def keep(self, received: Received) -> Outcome:
        """Raises RefusedInstance with the status to answer; then nothing was kept."""
        new = describe(received, instance_path)
        if self._database.pseudonym is not None:
            new = _pseudonymised(new, self._database.pseudonym)
        try:
            self._check_space(len(received.encoded))
            temporary = self._incoming / f"{os.getpid()}-{uuid.uuid4().hex}-{socket.gethostname()}"
            _write_durably(temporary, received.encoded)
        except OSError as error:
            raise _refusal(error) from None
        waiting = _Waiting(new, temporary, Future())
        self._queue.put(waiting)
        try:
            return waiting.done.result()
        except OSError as error:
            raise _refusal(error) from None
        finally:
            temporary.unlink(missing_ok=True)

    def close(self) -> None:
        """Commit what waits, then stop."""
        self._queue.put(None)
        self._thread.join()

    def _check_space(self, size: int) -> None:
        if shutil.disk_usage(self._incoming).free - size < self._minimum_free_bytes:
            raise OSError(errno.ENOSPC, "below [receive] minimum_free_bytes")

    def _commit_loop(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            batch, stop = [first], False
            while len(batch) < _BATCH and not self._queue.empty():
                one = self._queue.get()
                if one is None:
                    stop = True
                    break
                batch.append(one)
            self._commit_batch(batch)
            if stop:
                return

    def _commit_batch(self, batch: list[_Waiting]) -> None:
        """All in one transaction; when that fails, each in its own, so that one fault harms one instance."""
        try:
            outcomes = self._commit(batch)
        except Exception as error:  # a thread's boundary: every waiting handler must get an answer
            if len(batch) == 1:
                get_log().error("instance not stored", **fault_fields(error))
                batch[0].done.set_exception(error)
                return
            for one in batch:
                self._commit_batch([one])
            return
        for one, outcome in zip(batch, outcomes, strict=True):
            one.done.set_result(outcome)

    def _commit(self, batch: list[_Waiting]) -> list[Outcome]:
        with self._database.write() as session:
            folders: set[Path] = set()
            outcomes = [self._place(session, one, folders) for one in batch]
            for folder in folders:
                _fsync_folder(folder)
        return outcomes

    def _place(self, session: Session, waiting: _Waiting, folders: set[Path]) -> Outcome:
        stored = store.stored_instance(session, waiting.new.sop_instance_uid)
        if stored is None:
            self._name(waiting.temporary, waiting.new.path, folders)
            store.add_instance(session, waiting.new, self._clock())
            return Outcome.STORED
        if stored.sha256 == waiting.new.sha256:
            if stored.removed_at is None:
                return Outcome.REPEATED
            self._name(waiting.temporary, stored.path, folders)
            store.restore_instance(session, stored, self._clock())
            return Outcome.STORED
        aside = conflict_path(waiting.new)
        self._name(waiting.temporary, aside, folders)
        store.add_conflict(session, stored, waiting.new, aside, self._clock())
        get_log().warning("instance came again with other content, which is kept aside", instance_row=stored.id)
        return Outcome.CONFLICTING

    def _name(self, temporary: Path, path: str, folders: set[Path]) -> None:
        """Give a written file its place, and note the folders to fsync before the commit."""
        final = self._data_dir / path
        if not final.parent.is_dir():
            final.parent.mkdir(parents=True, exist_ok=True)
            folders.update((final.parent.parent, final.parent.parent.parent))
        # Named before the row exists: a crash in between leaves a file without a row, and the peer, which got no
        # answer, sends again.
        if temporary.exists():  # else an attempt whose transaction failed has named it already
            os.replace(temporary, final)
        elif not final.exists():
            raise FileNotFoundError(errno.ENOENT, "a received file is gone before its row was committed")
        folders.add(final.parent)


def remove_leftovers(data_dir: Path) -> int:
    """Delete what a receiver that was killed had not finished; it was never acknowledged. Call before listening.

    Receivers of several hosts may share the folder: of another host's files only those of an earlier day are removed.
    """
    leftovers = [path for path in (data_dir / "instances" / "incoming").glob("*-*") if _is_leftover(path)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


def _is_leftover(path: Path) -> bool:
    pid, _, rest = path.name.partition("-")
    host = rest.partition("-")[2]
    if host != socket.gethostname():
        try:
            return time.time() - path.stat().st_mtime > _OTHERS_LEFTOVER_SECONDS
        except FileNotFoundError:
            return False
    return not pid.isdigit() or int(pid) == os.getpid() or not is_running(int(pid))


def _refusal(error: OSError) -> RefusedInstance:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return RefusedInstance(dicom.OUT_OF_RESOURCES, "no-space", "the data folder has no room for the instance")
    return RefusedInstance(dicom.PROCESSING_FAILURE, "storage-fault", f"the file could not be kept ({error.errno})")


def _write_durably(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    try:
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
