"""WADO-RS: frames as sent or decompressed, rendered pictures and thumbnails. PS3.18 10.4.1.1.3 to 10.4.1.1.6."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from pydicom.uid import ExplicitVRLittleEndian

from worker.db.views.archive import Instance
from worker.errors import NotAssessable
from worker.pixels import frames as frame_files
from worker.pixels.frames import ImageFile
from worker.pixels.windowing import VoiFunction, Window
from worker.web.dependencies import Reader
from worker.web.dicomweb import multipart, negotiation
from worker.web.dicomweb.negotiation import FRAME_TYPES, OCTETS, Range
from worker.web.dicomweb.resources import Archive
from worker.web.dicomweb.wado import begun

_STUDY, _SERIES = "/studies/{study}", "/studies/{study}/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"
_FRAMES = _INSTANCE + "/frames/{numbers}"
_PICTURES = {"image/jpeg": "JPEG", "image/png": "PNG"}
_THUMBNAIL, _LARGEST = 200, 4096
_QUALITY = 90
_FUNCTIONS = {  # PS3.18 8.3.5.1.4
    "linear": VoiFunction.LINEAR,
    "linear-exact": VoiFunction.LINEAR_EXACT,
    "sigmoid": VoiFunction.SIGMOID,
}


def frame_routes(archive: Archive, prefix: str) -> APIRouter:
    """/frames, /rendered and /thumbnail."""
    routes = APIRouter(prefix=prefix, include_in_schema=False)
    routes.add_api_route(_FRAMES, _giving(archive), methods=["GET"])
    for place in (_INSTANCE, _FRAMES):
        routes.add_api_route(f"{place}/rendered", _rendering(archive, None), methods=["GET"])
    for place in (_STUDY, _SERIES, _INSTANCE, _FRAMES):
        routes.add_api_route(f"{place}/thumbnail", _rendering(archive, _THUMBNAIL), methods=["GET"])
    return routes


def _giving(archive: Archive) -> Callable[..., Any]:
    def frames(request: Request, numbers: str, caller: Reader) -> Response:
        one = archive.one(request)
        image = _open(archive, one)
        chosen = _numbers(numbers, image)
        form = _form(one, image, negotiation.ranges(request.headers.get("accept")))
        if form is None:
            raise HTTPException(406, "frames are given decompressed, as application/octet-stream, or as they were sent")
        media_type, as_sent = form
        archive.viewed(caller, one)
        content = image.encapsulated_frames(chosen) if as_sent else image.native_frames(chosen)
        syntax = one.transfer_syntax_uid if as_sent else str(ExplicitVRLittleEndian)
        boundary = multipart.new_boundary()
        parts = ((f"{media_type}; transfer-syntax={syntax}", [frame]) for frame in begun(content))
        return StreamingResponse(
            multipart.written(parts, boundary), media_type=multipart.content_type(media_type, boundary)
        )

    return frames


def _form(one: Instance, image: ImageFile, wanted: list[Range]) -> tuple[str, bool] | None:
    """(media type, as sent) of what the client prefers of what there is; None where it takes neither."""
    own = FRAME_TYPES.get(one.transfer_syntax_uid, OCTETS) if image.compressed else OCTETS
    for each in wanted:
        if each.takes(OCTETS) and each.transfer_syntax in (None, ExplicitVRLittleEndian):
            return OCTETS, False
        if each.transfer_syntax not in (None, "*", one.transfer_syntax_uid):
            continue
        if each.takes(own):
            return own, image.compressed
        if each.takes(OCTETS):
            return OCTETS, image.compressed
    return None


def _rendering(archive: Archive, most: int | None) -> Callable[..., Any]:
    def rendered(request: Request, caller: Reader, numbers: str = "1") -> Response:
        ranges = negotiation.ranges(request.headers.get("accept"))
        media_type = next((kind for one in ranges for kind in _PICTURES if one.takes(kind)), None)
        if media_type is None:
            raise HTTPException(406, "pictures are given as image/jpeg or image/png")
        one = _shown(archive, request)
        image = _open(archive, one)
        chosen = _numbers(numbers, image)
        if len(chosen) > 1:
            raise HTTPException(406, "one frame is rendered at a time")
        window, longest, quality = _options(request)
        archive.viewed(caller, one)
        try:
            content = image.render(chosen[0], _PICTURES[media_type], window, most or longest, quality)
        except NotAssessable as fault:
            raise HTTPException(406, fault.detail) from None
        return Response(content, media_type=media_type)

    return rendered


def _shown(archive: Archive, request: Request) -> Instance:
    """The instance itself, or the middle image of a series or study: the ends of a head show little."""
    instances = archive.named(request).instances
    images = [one for one in instances if one.modality not in ("SR", "KO")] or list(instances)
    return images[len(images) // 2]


def _options(request: Request) -> tuple[Window | None, int | None, int]:
    """Window, longest side and quality: PS3.18 8.3.5. Answers 400 for a value that is not valid."""
    window, viewport = request.query_params.get("window"), request.query_params.get("viewport")
    quality = request.query_params.get("quality", str(_QUALITY))
    if not re.fullmatch(r"\d{1,3}", quality, re.ASCII) or not 1 <= int(quality) <= 100:
        raise HTTPException(400, "quality is a number from 1 to 100")
    return _window(window), _longest(viewport), int(quality)


def _window(text: str | None) -> Window | None:
    if text is None:
        return None
    values = text.split(",")
    try:
        center, width, function = float(values[0]), float(values[1]), _FUNCTIONS[",".join(values[2:]) or "linear"]
    except (ValueError, IndexError, KeyError):
        raise HTTPException(400, f"window is center,width,function; function is {', '.join(_FUNCTIONS)}") from None
    if not (math.isfinite(center) and math.isfinite(width) and width > 0):
        raise HTTPException(400, "window is center,width,function with a width above 0")
    return Window(center, width, function)


def _longest(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,4}),(\d{1,4})", text, re.ASCII)
    if match is None or not 0 < min(int(match[1]), int(match[2])) <= _LARGEST:
        raise HTTPException(400, "viewport is width,height")
    return min(int(match[1]), int(match[2]))


def _open(archive: Archive, one: Instance) -> ImageFile:
    try:
        return frame_files.open_file(archive.file(one))
    except NotAssessable as fault:
        status = 404 if fault.reason in ("not-an-image", "no-pixel-data") else 406
        raise HTTPException(status, fault.detail) from None


def _numbers(text: str, image: ImageFile) -> list[int]:
    """Answers 400 for what is no list of numbers, 404 for a frame that there is not."""
    if not re.fullmatch(r"[1-9]\d{0,6}(,[1-9]\d{0,6})*", text, re.ASCII):
        raise HTTPException(400, "frames are numbers from 1, with a comma between them")
    numbers = [int(one) for one in text.split(",")]
    if max(numbers) > image.frames:
        raise HTTPException(404, "the image has fewer frames")
    return numbers
