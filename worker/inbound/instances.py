"""Validate, write, fsync, commit the row, then answer 0x0000 (architecture, invariant 1).

Handlers of many associations write their files side by side; one of those that wait commits the rows of all in one
transaction, so that the price of a durable commit is shared. The receiving process never decodes pixels.

A file is named by its content. So its name can be given before the database is asked, and the file, its folder and
those of other associations reach the disk by one commit of the file system's journal.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import socket
import threading
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from sqlalchemy.orm import Session

from worker import dicom, routing, store
from worker.errors import RefusedInstance
from worker.header import read_header
from worker.inbound import groups
from worker.logs import fault_fields, get_log
from worker.process import is_running
from worker.tables import InstanceRow

_BATCH = 128
_FOLDERS_AT_ONCE = 8
_KNOWN_FOLDERS = 10_000
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
    "InstanceNumber",
    "SpacingBetweenSlices",
    "SliceThickness",
)
_DISTANCES = {"number": "InstanceNumber", "spacing": "SpacingBetweenSlices", "thickness": "SliceThickness"}
_ROUTE_VALUES, _ROUTE_LENGTH = 16, 256
_TAGS = {one: Tag(one) for one in _HEADER_TAGS}
_PLAIN_VRS = ("UI", "LO", "SH", "CS", "DA", "DS", "IS")
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
    encoded: bytes | bytearray  # preamble, file meta information, dataset as sent
    association_id: int | None


def describe(
    received: Received,
    path_of: Callable[[str, str], str],
    routes: Sequence[routing.RouteSection] = (),
    *,
    hide: bool = False,
) -> store.NewInstance:
    """The row of a request. Raises RefusedInstance when the dataset does not parse or contradicts the command.

    What `routes` ask for is kept with it; with `hide` nothing in clear that may name a patient.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of odd values, which we keep as they are
        return _describe(received, path_of, routes, hide)


def _describe(
    received: Received, path_of: Callable[[str, str], str], routes: Sequence[routing.RouteSection], hide: bool
) -> store.NewInstance:
    ds = _parse_header(received.encoded, routing.keywords(routes))
    uids = {}
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        # As it is, but for its padding: a later reader of the file finds what the row names.
        uid = str(_value(ds, keyword) or "").rstrip(" \0")
        if not dicom.is_uid(uid):
            raise RefusedInstance(dicom.DATASET_MISMATCH, "invalid-uid", f"{keyword} is missing or not a UID")
        uids[keyword] = uid
    same = (uids["SOPClassUID"], uids["SOPInstanceUID"]) == (
        received.affected_sop_class_uid,
        received.affected_sop_instance_uid,
    )
    if not same:
        raise RefusedInstance(dicom.DATASET_MISMATCH, "uid-mismatch", "command and dataset name different instances")
    sha256 = hashlib.sha256(received.encoded).hexdigest()
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
        attributes=_attributes(ds) | _for_routes(ds, routes, hide),
        path=path_of(uids["SeriesInstanceUID"], sha256),
        size=len(received.encoded),
        sha256=sha256,
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


def instance_path(series_instance_uid: str, sha256: str) -> str:
    """Where a file of that content lies below the data folder: named by hashes, so a peer's UID never names a file."""
    series = hashlib.sha256(series_instance_uid.encode()).hexdigest()[:24]
    return f"instances/{series[:2]}/{series}/{sha256[:32]}.dcm"


def conflict_path(new: store.NewInstance) -> str:
    """Where other content under a known UID is kept, below the data folder."""
    instance = hashlib.sha256(new.sop_instance_uid.encode()).hexdigest()[:32]
    return f"conflicts/{instance}/{new.sha256}.dcm"


def _parse_header(encoded: bytes | bytearray, more: Sequence[str]) -> Dataset:
    try:
        groups_too = (groups.SHARED, groups.PER_FRAME) if more else ()
        return read_header(BytesIO(encoded), (*_HEADER_TAGS, *more, *groups_too))
    except Exception as error:  # hostile bytes may raise anything in a parser; the answer is the same
        raise RefusedInstance(dicom.CANNOT_UNDERSTAND, "unreadable-dataset", type(error).__name__) from None


def _value(ds: Dataset, keyword: str) -> Any:
    try:
        raw = ds.get_item(_TAGS.get(keyword) or keyword)
        # What is plain ASCII needs none of pydicom's objects, which would take half of the time of a header.
        # Escape sequences are ASCII, and change what follows (PS3.5 6.1.2.5).
        if isinstance(raw, RawDataElement) and raw.VR in _PLAIN_VRS and _is_plain(raw.value):
            parts = [one.strip(" \0") for one in raw.value.decode().split("\\")]
            return parts if len(parts) > 1 else parts[0]
        return ds.get(keyword)
    except Exception:  # a value that its VR forbids: as good as absent, the file keeps it
        return None


def _is_plain(value: Any) -> bool:
    return bool(value) and value.isascii() and b"\x1b" not in value


def _text(ds: Dataset, keyword: str, length: int) -> str:
    value = _value(ds, keyword)
    return "" if value is None else _printable(value)[:length]


def _printable(value: Any) -> str:
    text = str(value)
    return (text if text.isprintable() else "".join(one for one in text if one.isprintable())).strip()


def _words(ds: Dataset, keyword: str) -> list[str]:
    value = _value(ds, keyword)
    if value is None or value == "":
        return []
    many = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [_printable(one).upper()[:64] for one in many[:16]]


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
        **_distances(ds),
    }


def _for_routes(ds: Dataset, routes: Sequence[routing.RouteSection], hide: bool) -> dict[str, Any]:
    """Nothing where there are no rules."""
    if not routes:
        return {}
    values: dict[str, list[str] | None] = {keyword: _texts(ds, keyword) for keyword in routing.keywords(routes)}
    lacking = [keyword for keyword, texts in values.items() if not any(texts or ())]
    kinds: Sequence[dict[str, list[str] | None]] = [{}]
    if lacking and groups.has_groups(ds):
        try:
            kinds = groups.group_values(ds, lacking, _texts)
        except Exception:  # hostile bytes may raise anything in a parser: what they say is not known
            kinds = [dict.fromkeys(lacking)]
    return {routing.KEPT_AS: routing.keep_kinds([values | one for one in kinds], routes, hide)}


def _texts(ds: Dataset, keyword: str) -> list[str]:
    value = _value(ds, keyword)
    if value is None:
        return []
    many = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    cut = many[:_ROUTE_VALUES]
    return [_printable(one)[:_ROUTE_LENGTH] for one in cut]


def _place(ds: Dataset) -> list[float] | None:
    """ImageOrientationPatient and ImagePositionPatient, nine numbers; None where they are not what they should be."""
    try:
        numbers = [float(one) for keyword in _PLACE_TAGS for one in _value(ds, keyword) or ()]
    except (TypeError, ValueError):
        return None
    # No database takes NaN as JSON, and no patient is a kilometre long.
    return numbers if len(numbers) == 9 and all(abs(one) < 1e6 for one in numbers) else None


def _distances(ds: Dataset) -> dict[str, float]:
    """What a header says of its slice's neighbours, in mm, and its number; without what it does not say."""
    found = {}
    for name, keyword in _DISTANCES.items():
        try:
            number = float(str(_value(ds, keyword)))
        except ValueError:
            continue
        if math.isfinite(number) and abs(number) < 1e9:  # no database takes NaN as JSON
            found[name] = number
    return found


@dataclass(slots=True)
class _Waiting:
    """An instance whose bytes are on disk and whose row is not; the thread that commits it sets `outcome` or `fault`.

    `linked` says that the file is in its place already; else it is the one below instances/incoming.
    """

    new: store.NewInstance
    temporary: Path
    linked: bool
    outcome: Outcome | None = None
    fault: Exception | None = None


class InstanceKeeper:
    """Keeps instances durably: `keep` returns when the bytes and the row are on disk."""

    def __init__(
        self,
        database: store.Store,
        data_dir: Path,
        clock: Callable[[], datetime],
        minimum_free_bytes: int,
        routes: Sequence[routing.RouteSection] = (),
    ) -> None:
        self._database = database
        self._data_dir = data_dir
        self._clock = clock
        self._minimum_free_bytes = minimum_free_bytes
        self._routes = routes
        self._incoming = data_dir / "instances" / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._waiting: deque[_Waiting] = deque()
        self._commit_lock = threading.Lock()
        self._folders = _started_pool(_FOLDERS_AT_ONCE, "folders")
        self._known: set[Path] = set()  # folders of series whose own names are durable

    def keep(self, received: Received) -> Outcome:
        """Raises RefusedInstance with the status to answer; then nothing was kept."""
        new = describe(received, instance_path, self._routes, hide=self._database.pseudonym is not None)
        if self._database.pseudonym is not None:
            new = _pseudonymised(new, self._database.pseudonym)
        temporary = self._incoming / f"{os.getpid()}-{uuid.uuid4().hex}-{socket.gethostname()}"
        try:
            self._check_space(len(received.encoded))
            waiting = _Waiting(new, temporary, self._write_durably(temporary, new.path, received.encoded))
            return self._commit_with_others(waiting)
        except OSError as error:
            raise _refusal(error) from None
        finally:
            temporary.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is kept any more."""
        self._folders.shutdown()

    def _check_space(self, size: int) -> None:
        if shutil.disk_usage(self._incoming).free - size < self._minimum_free_bytes:
            raise OSError(errno.ENOSPC, "below [receive] minimum_free_bytes")

    def _write_durably(self, temporary: Path, path: str, content: bytes | bytearray) -> bool:
        """The file and its name are on disk; False where the name is taken and only the file is."""
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            final = self._data_dir / path
            linked = self._link(temporary, final)
            folders = [self._folders.submit(_fsync_folder, one) for one in self._to_sync(final)] if linked else []
            try:
                # Both at once: one commit of the file system's journal serves file and folder, where one after the
                # other takes two, the longest part of receiving (docs/performance.md).
                os.fsync(descriptor)
                for one in folders:
                    one.result()
            except OSError:
                if linked:
                    self._unlink(final, descriptor)
                raise
        finally:
            os.close(descriptor)
        if linked:
            self._known.add(final.parent)
        return linked

    def _link(self, temporary: Path, final: Path) -> bool:
        """Give the file its place; False where one of the same content has it, which is never replaced unasked."""
        try:
            os.link(temporary, final)
        except FileExistsError:
            return False
        except FileNotFoundError:
            self._known.discard(final.parent)
            final.parent.mkdir(parents=True, exist_ok=True)
            os.link(temporary, final)
        temporary.unlink()  # before the fsync: after it, the change would wait for the journal's next commit
        return True

    def _to_sync(self, final: Path) -> list[Path]:
        """The folders that must be on disk for the name to be."""
        if len(self._known) > _KNOWN_FOLDERS:
            self._known.clear()
        series = final.parent
        return [series] if series in self._known else [series, series.parent, series.parent.parent]

    def _unlink(self, final: Path, descriptor: int) -> None:
        """Take the place back, unless a file of the same content has come there since."""
        with self._commit_lock:
            if final.exists() and os.path.samestat(final.stat(), os.fstat(descriptor)):
                final.unlink()

    def _commit_with_others(self, waiting: _Waiting) -> Outcome:
        """Commit what waits, this one with it, unless another thread has meanwhile done so."""
        self._waiting.append(waiting)
        with self._commit_lock:
            while waiting.outcome is None and waiting.fault is None:
                self._commit_batch(self._next_batch())
        if waiting.fault is not None:
            raise waiting.fault
        return waiting.outcome or Outcome.STORED

    def _next_batch(self) -> list[_Waiting]:
        """What waits longest; an instance that came twice goes into two batches."""
        batch: dict[str, _Waiting] = {}
        while self._waiting and len(batch) < _BATCH and self._waiting[0].new.sop_instance_uid not in batch:
            one = self._waiting.popleft()
            batch[one.new.sop_instance_uid] = one
        return list(batch.values())

    def _commit_batch(self, batch: Sequence[_Waiting]) -> None:
        """All in one transaction; when that fails, each in its own, so that one fault harms one instance."""
        try:
            outcomes = self._commit(batch)
        except Exception as error:  # every handler that waits must get an answer
            if len(batch) == 1:
                get_log().error("instance not stored", **fault_fields(error))
                batch[0].fault = error
                return
            for one in batch:
                self._commit_batch([one])
            return
        for one, outcome in zip(batch, outcomes, strict=True):
            one.outcome = outcome

    def _commit(self, batch: Sequence[_Waiting]) -> list[Outcome]:
        folders: set[Path] = set()
        with self._database.write() as session:
            stored = store.stored_instances(session, [one.new.sop_instance_uid for one in batch])
            outcomes = []
            for one in batch:
                row = stored.get(one.new.sop_instance_uid)
                outcomes.append(self._first(one, folders) if row is None else self._again(session, one, row, folders))
            fresh = [one.new for one in batch if one.new.sop_instance_uid not in stored]
            if fresh:
                store.add_instances(session, fresh, self._clock())
            for folder in folders:
                _fsync_folder(folder)
        return outcomes

    def _first(self, waiting: _Waiting, folders: set[Path]) -> Outcome:
        if not waiting.linked:  # a crash between name and row left a file there
            self._name(waiting.temporary, waiting.new.path, folders)
        return Outcome.STORED

    def _again(self, session: Session, waiting: _Waiting, stored: InstanceRow, folders: set[Path]) -> Outcome:
        """An instance of that UID has a row."""
        file = self._data_dir / waiting.new.path if waiting.linked else waiting.temporary
        if stored.sha256 == waiting.new.sha256:
            outcome = Outcome.REPEATED
            if stored.removed_at is not None:
                self._name(file, stored.path, folders)
                store.restore_instance(session, stored, self._clock())
                outcome = Outcome.STORED
        else:
            aside = conflict_path(waiting.new)
            self._name(file, aside, folders)
            store.add_conflict(session, stored, waiting.new, aside, self._clock())
            get_log().warning("instance came again with other content, which is kept aside", instance_row=stored.id)
            outcome = Outcome.CONFLICTING
        if waiting.linked and stored.path != waiting.new.path:
            (self._data_dir / waiting.new.path).unlink(missing_ok=True)
        return outcome

    def _name(self, file: Path, path: str, folders: set[Path]) -> None:
        """Give a written file another place, and note the folders to fsync before the commit."""
        final = self._data_dir / path
        if not final.parent.is_dir():
            final.parent.mkdir(parents=True, exist_ok=True)
            folders.update((final.parent.parent, final.parent.parent.parent))
        # Named before the row exists: a crash in between leaves a file without a row, and the peer, which got no
        # answer, sends again.
        if file.exists():  # else an attempt whose transaction failed has named it already
            os.replace(file, final)
        elif not final.exists():
            raise FileNotFoundError(errno.ENOENT, "a received file is gone before its row was committed")
        folders.add(final.parent)


def _started_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """All of its threads run from the start: a receiver's threads are then its associations' and no more."""
    pool, together = ThreadPoolExecutor(threads, name), threading.Barrier(threads)
    list(pool.map(lambda _: together.wait(), range(threads)))
    return pool


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


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
