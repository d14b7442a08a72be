"""The instances that an address of WADO-RS selects, and the audit of who retrieves and views them."""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import HTTPException, Request

from worker.audit import events
from worker.audit.events import Transferred
from worker.db.views.archive import Instance, match_instances
from worker.db.views.archive_matching import Keys
from worker.decoding.answers import Answer
from worker.decoding.pool import FileKilledDecoder
from worker.decoding.tasks import Task
from worker.errors import NotAssessable
from worker.storage.integrity import FaultyFile
from worker.web.dependencies import Site
from worker.web.dicomweb.messages import uids_of
from worker.web.guard import Caller

_VIEW_SECONDS = 600.0  # a viewer requests hundreds of frames of a study: they count as a single view
_VIEWS_REMEMBERED = 1000
_STATUS = {"not-an-image": 404, "no-pixel-data": 404, "no-such-frame": 404, "image-too-large": 422}


@dataclass(frozen=True, slots=True)
class Selection:
    """The instances whose files exist; `is_partial` where others were deleted."""

    instances: tuple[Instance, ...]
    is_partial: bool

    @property
    def status(self) -> int:
        """PS3.18 Table 10.4.3-1: 206 for a part of the resource."""
        return 206 if self.is_partial else 200


class DicomwebResources:
    """Selects instances and records who retrieves and views them."""

    def __init__(self, site: Site) -> None:
        self.database = site.database
        self.data_dir: Path = site.data_dir
        self.decoders = site.decoders
        self._record = site.record
        self._integrity = site.integrity
        self._views: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._lock = threading.Lock()

    def select(self, request: Request) -> Selection:
        """The instances of an address. Answers 404 for what was never received, 410 for what retention deleted."""
        uids = uids_of(request)
        series, instance = uids.get("SeriesInstanceUID"), uids.get("SOPInstanceUID")
        keys = Keys(
            study_instance_uids=(uids["StudyInstanceUID"],),
            series_instance_uids=(series,) if series else (),
            sop_instance_uids=(instance,) if instance else (),
        )
        with self.database.read() as session:
            instances = match_instances(session, keys)
        if not instances:
            raise HTTPException(404, "there is no such study, series or instance here")
        kept = tuple(instance for instance in instances if instance.path is not None)
        if not kept:
            raise HTTPException(410, "the images were deleted by the retention policy ([retention] pixel_days)")
        existing = tuple(instance for instance in kept if (self.data_dir / str(instance.path)).is_file())
        if not existing:
            raise HTTPException(404, "the file is missing from the data folder")
        return Selection(existing, len(existing) < len(instances))

    def instance(self, request: Request) -> Instance:
        """The instance of an address that names a single instance."""
        return self.select(request).instances[0]

    def file(self, instance: Instance) -> Path:
        """The file of an instance, as it was stored. Answers 410 for a file that the disk has damaged."""
        if instance.file is None:
            raise HTTPException(404, "the file is missing from the data folder")
        try:
            return self._integrity.path(instance.file)
        except FaultyFile as fault:
            raise HTTPException(410, fault.detail) from None

    def is_whole(self, instance: Instance) -> bool:
        """Whether the file of an instance is as it was stored."""
        try:
            self.file(instance)
        except HTTPException:
            return False
        return True

    def decoded(self, task: Task, caller: Caller) -> Answer:
        """The answer of a decoder process. Answers 404, 406 or 422 where the file cannot be decoded."""
        with answering_faults():
            return self.decoders.answer(task, caller.name)

    def picture(self, task: Task, caller: Caller) -> bytes:
        """A small answer, from the cache where it is there. Answers as `decoded`."""
        with answering_faults():
            return self.decoders.picture(task, caller.name)

    def record_viewed(self, caller: Caller, instance: Instance) -> None:
        """Record that a caller views a study, once per _VIEW_SECONDS."""
        key, now = (caller.name, caller.address, instance.study_instance_uid), time.monotonic()
        with self._lock:
            if now - self._views.get(key, -_VIEW_SECONDS) < _VIEW_SECONDS:
                return
            self._views[key] = now
            self._views.move_to_end(key)
            if len(self._views) > _VIEWS_REMEMBERED:
                self._views.popitem(last=False)
        self._record(events.viewed(caller.name, caller.address, instance.study_instance_uid))

    def record_retrieved(self, caller: Caller, instances: tuple[Instance, ...]) -> None:
        """Record that a caller retrieves whole instances of a study."""
        classes = Counter(instance.sop_class_uid for instance in instances)
        first = instances[0]
        transferred = Transferred(first.study_instance_uid, first.patient_id, classes)
        self._record(events.retrieved(caller.name, caller.address, transferred))


@contextmanager
def answering_faults() -> Iterator[None]:
    """Around a decoder's answer: what is wrong with the file becomes the status."""
    try:
        yield
    except FileKilledDecoder as fault:
        raise HTTPException(422, fault.detail) from None
    except NotAssessable as fault:
        raise HTTPException(_STATUS.get(fault.reason, 406), fault.detail) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise HTTPException(503, "the disk is full", {"Retry-After": "60"}) from None
        raise HTTPException(404, "the file is missing from the data folder") from None
