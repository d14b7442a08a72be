"""The images of the series page: slices as received, activation maps, and the Secondary Capture that was sent."""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Annotated

import numpy as np
from fastapi import APIRouter, HTTPException, Query, Response
from fastapi import Path as PathParameter
from PIL import Image

from worker.db.tables import FileFault
from worker.db.views.series_detail import LARGEST_SERIES, SeriesDetail, ShownSlice, find_series_detail
from worker.decoding import tasks
from worker.decoding.pool import DecoderPool
from worker.errors import NotAssessable
from worker.reporting.draw_picture import ACTIVATION_THRESHOLD, colours
from worker.results import Activation
from worker.storage.integrity import FaultyFile
from worker.web.dependencies import NO_SUCH_SERIES, Reader, SeriesUid, Site

_WINDOWS_CACHED = 256
_MAP_SIZE = 256
Ordinal = Annotated[int, PathParameter(ge=0, lt=LARGEST_SERIES)]
# Fractions of the series' own grey window: 0 to 1 is the whole window.
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

    @routes.get("/slices/{ordinal}.png")
    def slice_png(
        series_instance_uid: SeriesUid, ordinal: Ordinal, caller: Reader, low: Grey = 0.0, high: Grey = 1.0
    ) -> Response:
        if high - low < 0.01:
            raise HTTPException(422, "high must be above low")
        detail, shown = slice_of(series_instance_uid, ordinal)
        if shown.file is None:
            raise HTTPException(410, "the images were deleted by the retention policy ([retention] pixel_days)")
        try:
            if shown.stored is not None:
                site.integrity.path(shown.stored)
            files = [data_dir / slice_.file for slice_ in detail.slices if slice_.file]
            black, white = windows.of(series_instance_uid, files, caller.name)
            window = (black + low * (white - black), black + high * (white - black))
            task = tasks.slice_png(data_dir / shown.file, shown.frame_number, window)
            return _png(site.decoders.picture(task, caller.name))
        except FaultyFile as fault:
            raise HTTPException(410 if fault.fault is FileFault.DAMAGED else 404, fault.detail) from None
        except NotAssessable as fault:
            raise HTTPException(422, fault.detail) from None
        except OSError:
            raise HTTPException(404, "the file of this slice is missing from the data folder") from None

    @routes.get("/slices/{ordinal}/activation.png")
    def activation_png(series_instance_uid: SeriesUid, ordinal: Ordinal, caller: Reader) -> Response:
        _, shown = slice_of(series_instance_uid, ordinal)
        if shown.activation is None:
            raise HTTPException(404, "only key slices have an activation map")
        return _png(_activation_png(shown.activation))

    @routes.get("/picture.png")
    def picture_png(series_instance_uid: SeriesUid, caller: Reader) -> Response:
        path = detail_of(series_instance_uid).picture
        if path is None:
            raise HTTPException(404, "no Secondary Capture was produced for this series")
        try:
            return _png(site.decoders.picture(tasks.picture_png(data_dir / path), caller.name))
        except NotAssessable as fault:
            raise HTTPException(422, fault.detail) from None
        except OSError:
            raise HTTPException(404, "the Secondary Capture is missing from the data folder") from None

    return routes


class _Windows:
    """Caches the grey window of recently viewed series; computing it reads several files."""

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


def _activation_png(activation: Activation) -> bytes:
    """The map over the whole slice, stretched to a square; transparent below the threshold, as in what was sent."""
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
