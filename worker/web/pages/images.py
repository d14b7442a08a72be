"""The pictures of the series page: slices as received, activation maps, and the picture that was sent."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response
from fastapi import Path as PathParameter
from PIL import Image
from pydicom import dcmread

from worker.db.engine import Database
from worker.db.views.series_detail import LARGEST_SERIES, Detail, ShownSlice, find_detail
from worker.errors import NotAssessable
from worker.web.api.results import Reader, SeriesUid
from worker.web.parts import Parts

_WINDOWS_KEPT = 256
Ordinal = Annotated[int, PathParameter(ge=0, lt=LARGEST_SERIES)]
# Parts of the series' own grey window: 0 to 1 is all of it.
Grey = Annotated[float, Query(ge=-4, le=5, allow_inf_nan=False)]


def image_routes(database: Database, parts: Parts) -> APIRouter:
    """PNG below /series/{uid}."""
    routes = APIRouter(include_in_schema=False, prefix="/series/{series_instance_uid}")
    data_dir = parts.settings.worker.data_dir
    windows = _Windows(parts)

    def detail_of(series_instance_uid: str) -> Detail:
        with database.read() as session:
            found = find_detail(session, series_instance_uid)
        if found is None:
            raise HTTPException(404, "no such series was received")
        return found

    def slice_of(series_instance_uid: str, ordinal: int) -> tuple[Detail, ShownSlice]:
        detail = detail_of(series_instance_uid)
        if ordinal >= len(detail.slices):
            raise HTTPException(404, "the series has fewer slices")
        return detail, detail.slices[ordinal]

    @routes.get("/slices/{ordinal}.png")
    def slice_png(
        series_instance_uid: SeriesUid, ordinal: Ordinal, caller: Reader, low: Grey = 0.0, high: Grey = 1.0
    ) -> Response:
        if high - low < 0.01:
            raise HTTPException(422, "high must be above low")
        detail, one = slice_of(series_instance_uid, ordinal)
        if one.file is None:
            raise HTTPException(410, "the images were deleted when their time had come ([retention] pixel_days)")
        try:
            black, white = windows.of(
                series_instance_uid, [data_dir / each.file for each in detail.slices if each.file]
            )
            chosen = (black + low * (white - black), black + high * (white - black))
            return _png(parts.pictures.slice_png(data_dir / one.file, one.frame_number, chosen))
        except NotAssessable as fault:
            raise HTTPException(422, fault.detail) from None
        except OSError:
            raise HTTPException(404, "the file of this slice is not in the data folder") from None

    @routes.get("/slices/{ordinal}/activation.png")
    def activation_png(series_instance_uid: SeriesUid, ordinal: Ordinal, caller: Reader) -> Response:
        _, one = slice_of(series_instance_uid, ordinal)
        if one.activation is None:
            raise HTTPException(404, "only slices that decided a class have an activation map")
        return _png(parts.pictures.activation_png(one.activation))

    @routes.get("/picture.png")
    def picture_png(series_instance_uid: SeriesUid, caller: Reader) -> Response:
        path = detail_of(series_instance_uid).picture
        if path is None:
            raise HTTPException(404, "no picture was produced for this series")
        try:
            pixels = dcmread(data_dir / path).pixel_array  # our own Secondary Capture: 8-bit RGB, not compressed
        except OSError:
            raise HTTPException(404, "the picture is not in the data folder") from None
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        return _png(buffer.getvalue())

    return routes


class _Windows:
    """The grey window of each series that was looked at lately: it is read from several files."""

    def __init__(self, parts: Parts) -> None:
        self._pictures = parts.pictures
        self._kept: OrderedDict[tuple[str, int], tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, series_instance_uid: str, files: list[Path]) -> tuple[float, float]:
        key = (series_instance_uid, len(files))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        window = self._pictures.window(list(dict.fromkeys(files)))
        with self._lock:
            self._kept[key] = window
            if len(self._kept) > _WINDOWS_KEPT:
                self._kept.popitem(last=False)
        return window


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png")
