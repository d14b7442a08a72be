"""What an address of WADO-RS names, and whether it can be had."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from fastapi import HTTPException, Request

from worker.audit import events
from worker.audit.events import Transferred
from worker.db.views.archive import Instance, match_instances
from worker.db.views.archive_matching import Keys
from worker.web.dependencies import Site
from worker.web.dicomweb.qido import uids_of
from worker.web.guard import Caller

_SEEN_SECONDS = 600.0  # a viewer asks for hundreds of frames of a study: that is one look at it
_SEEN_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Named:
    """The instances whose files are there; `some_are_gone` where others were deleted."""

    instances: tuple[Instance, ...]
    some_are_gone: bool

    @property
    def status(self) -> int:
        """PS3.18 Table 10.4.3-1: 206 says that this is not all of it."""
        return 206 if self.some_are_gone else 200


class Archive:
    """Finds instances and records who looked."""

    def __init__(self, site: Site) -> None:
        self.database = site.database
        self.data_dir: Path = site.data_dir
        self._record = site.record
        self._seen: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._lock = threading.Lock()

    def named(self, request: Request) -> Named:
        """Answers 404 for what was never here, 410 for what retention deleted."""
        uids = uids_of(request)
        series, instance = uids.get("SeriesInstanceUID"), uids.get("SOPInstanceUID")
        keys = Keys(
            study_instance_uids=(uids["StudyInstanceUID"],),
            series_instance_uids=(series,) if series else (),
            sop_instance_uids=(instance,) if instance else (),
        )
        with self.database.read() as session:
            found = match_instances(session, keys)
        if not found:
            raise HTTPException(404, "there is no such study, series or instance here")
        kept = tuple(one for one in found if one.path is not None)
        if not kept:
            raise HTTPException(410, "the images were deleted when their time had come ([retention] pixel_days)")
        there = tuple(one for one in kept if (self.data_dir / str(one.path)).is_file())
        if not there:
            raise HTTPException(404, "the file is not in the data folder")
        return Named(there, len(there) < len(found))

    def one(self, request: Request) -> Instance:
        """The instance of an address that names one."""
        return self.named(request).instances[0]

    def file(self, one: Instance) -> Path:
        return self.data_dir / str(one.path)

    def viewed(self, caller: Caller, one: Instance) -> None:
        """Record that somebody looked at a study, once for a while."""
        key, now = (caller.name, caller.address, one.study_instance_uid), time.monotonic()
        with self._lock:
            if now - self._seen.get(key, -_SEEN_SECONDS) < _SEEN_SECONDS:
                return
            self._seen[key] = now
            self._seen.move_to_end(key)
            if len(self._seen) > _SEEN_REMEMBERED:
                self._seen.popitem(last=False)
        self._record(events.viewed(caller.name, caller.address, one.study_instance_uid))

    def retrieved(self, caller: Caller, instances: tuple[Instance, ...]) -> None:
        """Record that whole instances were handed out."""
        classes: dict[str, int] = {}
        for one in instances:
            classes[one.sop_class_uid] = classes.get(one.sop_class_uid, 0) + 1
        first = instances[0]
        transferred = Transferred(first.study_instance_uid, first.patient_id, classes)
        self._record(events.retrieved(caller.name, caller.address, transferred))
