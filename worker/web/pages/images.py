"""The images of the pages of series and studies: slices as received, activation maps, and what was sent."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response
from fastapi import Path as PathParameter

from worker.db.tables import FileFault
from worker.db.views.series_detail import LARGEST_SERIES, SeriesDetail, ShownSlice, find_series_detail
from worker.db.views.studies import find_study_documents
from worker.decoding import tasks
from worker.decoding.pool import DecoderPool
from worker.errors import NotAssessable
from worker.storage.integrity import FaultyFile
from worker.web.dependencies import NO_SUCH_SERIES, Reader, SeriesUid, Site, StudyUid
from worker.web.guard import Caller

_WINDOWS_CACHED = 256
Ordinal = Annotated[int, PathParameter(ge=0, lt=LARGEST_SERIES)]
# Fractions of the window of a slice's header, else of the series' own: 0 to 1 is the whole window.
Grey = Annotated[float, Query(ge=-4, le=5, allow_inf_nan=False)]


def series_images(site: Site) -> APIRouter:
    """PNG below /series/{uid}."""
    routes = APIRouter(include_in_schema=False, prefix="/series/{series_instance_uid}")
    data_dir = site.data_dir
    windows = _Windows(site.decoders)

    def detail_of(series_instance_uid: str) -> SeriesDetail:
        with site.database.read() as session:
            detail = find_series_detail(session, series_instance_uid)
        if detail is None:
            raise HTTPException(404, NO_SUCH_SERIES)
        return detail

    def slice_of(series_instance_uid: str, ordinal: int) -> tuple[SeriesDetail, ShownSlice]:
        detail = detail_of(series_instance_uid)
        if ordinal >= len(detail.slices):
            raise HTTPException(404, "the series has fewer slices")
        return detail, detail.slices[ordinal]

    def file_of(shown: ShownSlice) -> Path:
        if shown.file is None:
            raise HTTPException(410, "the images were deleted by the retention policy ([retention] pixel_days)")
        if shown.stored is not None:
            site.integrity.path(shown.stored)
        return data_dir / shown.file

    def window_of(series_instance_uid: str, detail: SeriesDetail, caller: Caller) -> tuple[float, float]:
        files = [data_dir / slice_.file for slice_ in detail.slices if slice_.file]
        return windows.of(series_instance_uid, files, caller.name)

    @routes.get("/slices/{ordinal}.png")
    def slice_png(
        series_instance_uid: SeriesUid, ordinal: Ordinal, caller: Reader, low: Grey = 0.0, high: Grey = 1.0
    ) -> Response:
        if high - low < 0.01:
            raise HTTPException(422, "high must be above low")
        detail, shown = slice_of(series_instance_uid, ordinal)
        with _faults_of_a_file():
            file, window = file_of(shown), window_of(series_instance_uid, detail, caller)
            task = tasks.slice_png(file, shown.frame_number, window, low, high)
            return _png(site.decoders.picture(task, caller.name))

    @routes.get("/slices/{ordinal}.json")
    def slice_facts(series_instance_uid: SeriesUid, ordinal: Ordinal, caller: Reader) -> Response:
        detail, shown = slice_of(series_instance_uid, ordinal)
        with _faults_of_a_file():
            file, window = file_of(shown), window_of(series_instance_uid, detail, caller)
            task = tasks.slice_facts(file, shown.frame_number, window)
            return Response(site.decoders.picture(task, caller.name), media_type="application/json")

    @routes.get("/slices/{ordinal}/activation.png")
    def activation_png(series_instance_uid: SeriesUid, ordinal: Ordinal, caller: Reader) -> Response:
        detail, shown = slice_of(series_instance_uid, ordinal)
        if shown.activation is None or not site.is_lesion(detail.label, detail.model_sha256):
            raise HTTPException(404, "only the key slices of a lesion have an activation map")
        with _faults_of_a_file():
            task = tasks.activation_png(file_of(shown), shown.frame_number, shown.activation)
            return _png(site.decoders.picture(task, caller.name))

    @routes.get("/picture.png")
    def picture_png(series_instance_uid: SeriesUid, caller: Reader) -> Response:
        return _picture(site, detail_of(series_instance_uid).picture, caller.name, "series")

    return routes


def study_images(site: Site) -> APIRouter:
    """PNG below /studies/{uid}."""
    routes = APIRouter(include_in_schema=False, prefix="/studies/{study_instance_uid}")

    @routes.get("/picture.png")
    def picture_png(study_instance_uid: StudyUid, caller: Reader) -> Response:
        with site.database.read() as session:
            documents = find_study_documents(session, study_instance_uid)
        return _picture(site, documents.picture if documents else None, caller.name, "study")

    return routes


def _picture(site: Site, path: str | None, caller: str, of: str) -> Response:
    """A Secondary Capture that was made of a series or a study."""
    if path is None:
        raise HTTPException(404, f"no Secondary Capture was produced for this {of}")
    try:
        return _png(site.decoders.picture(tasks.picture_png(site.data_dir / path), caller))
    except NotAssessable as fault:
        raise HTTPException(422, fault.detail) from None
    except OSError:
        raise HTTPException(404, "the Secondary Capture is missing from the data folder") from None


class _Windows:
    """Caches the grey window of recently viewed series, for slices that have none; computing it reads several files."""

    def __init__(self, decoders: DecoderPool) -> None:
        self._decoders = decoders
        self._windows: OrderedDict[tuple[str, int], tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, series_instance_uid: str, files: list[Path], caller: str) -> tuple[float, float]:
        key = (series_instance_uid, len(files))
        with self._lock:
            if key in self._windows:
                self._windows.move_to_end(key)
                return self._windows[key]
        # A file that ends its decoder must not hide the other slices.
        usable = [file for file in dict.fromkeys(files) if not self._decoders.is_killer(file)]
        low, high = json.loads(self._decoders.answer(tasks.grey_window(usable or files), caller).content())
        window = (float(low), float(high))
        with self._lock:
            self._windows[key] = window
            if len(self._windows) > _WINDOWS_CACHED:
                self._windows.popitem(last=False)
        return window


@contextmanager
def _faults_of_a_file() -> Iterator[None]:
    """Answers 410, 404 or 422 for a file that is damaged, missing or no image."""
    try:
        yield
    except FaultyFile as fault:
        raise HTTPException(410 if fault.fault is FileFault.DAMAGED else 404, fault.detail) from None
    except NotAssessable as fault:
        raise HTTPException(422, fault.detail) from None
    except OSError:
        raise HTTPException(404, "the file of this slice is missing from the data folder") from None


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png")
