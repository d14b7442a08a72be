"""The pictures of the series page: slices as received, activation maps, and the picture that was sent."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Annotated

import numpy as np
from fastapi import APIRouter, HTTPException, Query, Response
from fastapi import Path as PathParameter
from PIL import Image
from pydicom import dcmread

from worker.db.views.series_detail import LARGEST_SERIES, SeriesDetail, ShownSlice, find_series_detail
from worker.errors import NotAssessable
from worker.inference import display
from worker.reporting.draw_picture import ACTIVATION_THRESHOLD, colours
from worker.results import Activation
from worker.web.dependencies import Reader, SeriesUid, Site

_WINDOWS_KEPT = 256
_MAP_SIZE = 256
Ordinal = Annotated[int, PathParameter(ge=0, lt=LARGEST_SERIES)]
# Parts of the series' own grey window: 0 to 1 is all of it.
Grey = Annotated[float, Query(ge=-4, le=5, allow_inf_nan=False)]


def series_images(site: Site) -> APIRouter:
    """PNG below /series/{uid}."""
    routes = APIRouter(include_in_schema=False, prefix="/series/{series_instance_uid}")
    data_dir = site.data_dir
    windows = _Windows()

    def detail_of(series_instance_uid: str) -> SeriesDetail:
        with site.database.read() as session:
            found = find_series_detail(session, series_instance_uid)
        if found is None:
            raise HTTPException(404, "no such series was received")
        return found

    def slice_of(series_instance_uid: str, ordinal: int) -> tuple[SeriesDetail, ShownSlice]:
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
            return _png(display.slice_png(data_dir / one.file, one.frame_number, chosen))
        except NotAssessable as fault:
            raise HTTPException(422, fault.detail) from None
        except OSError:
            raise HTTPException(404, "the file of this slice is not in the data folder") from None

    @routes.get("/slices/{ordinal}/activation.png")
    def activation_png(series_instance_uid: SeriesUid, ordinal: Ordinal, caller: Reader) -> Response:
        _, one = slice_of(series_instance_uid, ordinal)
        if one.activation is None:
            raise HTTPException(404, "only slices that decided a class have an activation map")
        return _png(_activation_png(one.activation))

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

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int], tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, series_instance_uid: str, files: list[Path]) -> tuple[float, float]:
        key = (series_instance_uid, len(files))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        window = display.grey_window(list(dict.fromkeys(files)))
        with self._lock:
            self._kept[key] = window
            if len(self._kept) > _WINDOWS_KEPT:
                self._kept.popitem(last=False)
        return window


def _activation_png(activation: Activation) -> bytes:
    """The map over the whole slice, stretched to a square; clear below the threshold, as in the sent picture."""
    map_ = Image.fromarray(np.array(activation.rows, np.float32))
    side = (max(1, round(activation.width * _MAP_SIZE)), max(1, round(activation.height * _MAP_SIZE)))
    canvas = Image.new("F", (_MAP_SIZE, _MAP_SIZE), 0.0)
    resized = map_.resize(side, Image.Resampling.BICUBIC)
    canvas.paste(resized, (round(activation.left * _MAP_SIZE), round(activation.top * _MAP_SIZE)))
    strength = np.clip(np.asarray(canvas, np.float32) / 255, 0, 1)
    above = np.clip((strength - ACTIVATION_THRESHOLD) / (1 - ACTIVATION_THRESHOLD), 0, 1).astype(np.float32)
    alpha = np.where(strength >= ACTIVATION_THRESHOLD, 0.42 + 0.58 * above, 0.0)
    painted = np.concatenate([colours(above), alpha[..., None] * 255], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(np.rint(painted).astype(np.uint8), "RGBA").save(buffer, format="PNG")
    return buffer.getvalue()


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png")
