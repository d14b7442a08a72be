"""WADO-RS: frames as stored or decompressed, rendered images and thumbnails. PS3.18 10.4.1.1.3 to 10.4.1.1.6."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from pydicom.uid import UID, ExplicitVRLittleEndian

from worker.db.views.archive import Instance
from worker.decoding import tasks
from worker.pixels.windowing import VoiFunction, Window
from worker.web.dependencies import DICOMWEB_PREFIX, Reader
from worker.web.dicomweb import negotiation
from worker.web.dicomweb.messages import multipart_response
from worker.web.dicomweb.negotiation import FRAME_TYPES, OCTETS, MediaRange
from worker.web.dicomweb.resources import DicomwebResources

_STUDY, _SERIES = "/studies/{study}", "/studies/{study}/series/{series}"
_INSTANCE = _SERIES + "/instances/{instance}"
_FRAMES = _INSTANCE + "/frames/{numbers}"
_RENDERED_TYPES = {"image/jpeg": "JPEG", "image/png": "PNG"}
_THUMBNAIL, _LARGEST = 200, 4096  # pixels
_OPTIONS: dict[str, str | None] = {"window": None, "viewport": None, "quality": "90"}  # with their defaults
_FUNCTIONS = {  # PS3.18 8.3.5.1.4
    "linear": VoiFunction.LINEAR,
    "linear-exact": VoiFunction.LINEAR_EXACT,
    "sigmoid": VoiFunction.SIGMOID,
}


def frame_routes(resources: DicomwebResources) -> APIRouter:
    """/frames, /rendered and /thumbnail."""
    routes = APIRouter(prefix=DICOMWEB_PREFIX, include_in_schema=False)
    routes.add_api_route(_FRAMES, _retrieve_frames(resources), methods=["GET"])
    for path in (_INSTANCE, _FRAMES):
        routes.add_api_route(f"{path}/rendered", _retrieve_rendered(resources, None), methods=["GET"])
    for path in (_STUDY, _SERIES, _INSTANCE, _FRAMES):
        routes.add_api_route(f"{path}/thumbnail", _retrieve_rendered(resources, _THUMBNAIL), methods=["GET"])
    return routes


def _retrieve_frames(resources: DicomwebResources) -> Callable[..., Any]:
    def frames(request: Request, numbers: str, caller: Reader) -> Response:
        instance = resources.instance(request)
        chosen = _frame_numbers(numbers)
        ranges = negotiation.accepted_by(request)
        form = _form(instance, ranges if len(chosen) == 1 else [each for each in ranges if not _is_single(each)])
        if form is None:
            raise HTTPException(
                406,
                "frames are available decompressed, as application/octet-stream, or as they are stored; "
                "several as multipart/related only",
            )
        media_type, as_stored, single = form
        file = resources.file(instance)
        task = tasks.encapsulated_frames(file, chosen) if as_stored else tasks.native_frames(file, chosen)
        answer = resources.decoded(task, caller)
        resources.record_viewed(caller, instance)
        syntax = instance.transfer_syntax_uid if as_stored else str(ExplicitVRLittleEndian)
        content_type = f"{media_type}; transfer-syntax={syntax}"
        if single:
            return StreamingResponse(answer.whole(), media_type=content_type if as_stored else media_type)
        return multipart_response(((content_type, frame) for frame in answer.parts()), media_type)

    return frames


def _is_single(media_range: MediaRange) -> bool:
    """Whether the client asks for the frame itself, not for a part of a message."""
    return not media_range.is_multipart and media_range.type != "*/*"


def _form(instance: Instance, ranges: list[MediaRange]) -> tuple[str, bool, bool] | None:
    """(media type, as stored, by itself) of the form that the client prefers; None where it accepts none of ours."""
    compressed = UID(instance.transfer_syntax_uid).is_encapsulated
    own = FRAME_TYPES.get(instance.transfer_syntax_uid, OCTETS) if compressed else OCTETS
    for media_range in ranges:
        if media_range.includes(OCTETS) and media_range.transfer_syntax in (None, ExplicitVRLittleEndian):
            return OCTETS, False, _is_single(media_range)
        if media_range.transfer_syntax not in (None, "*", instance.transfer_syntax_uid):
            continue
        if media_range.includes(own):
            return own, compressed, _is_single(media_range)
        if media_range.includes(OCTETS):
            return OCTETS, compressed, _is_single(media_range)
    return None


def _retrieve_rendered(resources: DicomwebResources, largest_side: int | None) -> Callable[..., Any]:
    def rendered(request: Request, caller: Reader, numbers: str | None = None) -> Response:
        ranges = negotiation.accepted_by(request)
        media_type = next(
            (available for accepted in ranges for available in _RENDERED_TYPES if accepted.includes(available)), None
        )
        if media_type is None:
            raise HTTPException(406, "rendered images are available as image/jpeg or image/png")
        instance = _representative(resources, request)
        chosen: list[int] = _frame_numbers(numbers) if numbers is not None else [] if largest_side else [1]
        if len(chosen) > 1:
            raise HTTPException(406, "only a single frame can be rendered")
        window, viewport, quality = _options(request)
        file, kind = resources.file(instance), _RENDERED_TYPES[media_type]
        task = tasks.rendered(file, chosen[0] if chosen else None, kind, window, largest_side or viewport, quality)
        content = resources.picture(task, caller)
        resources.record_viewed(caller, instance)
        return Response(content, media_type=media_type)

    return rendered


def _representative(resources: DicomwebResources, request: Request) -> Instance:
    """The instance itself, or the middle image of a series or study: the ends of a head show little."""
    instances = resources.select(request).instances
    images = [instance for instance in instances if instance.modality not in ("SR", "KO")] or list(instances)
    return images[len(images) // 2]


def _options(request: Request) -> tuple[Window | None, int | None, int]:
    """Window, largest side and quality: PS3.18 8.3.5. Answers 400 for a value that is not valid."""
    for name in _OPTIONS:
        if len(request.query_params.getlist(name)) > 1:
            raise HTTPException(400, f"{name} is given more than once")
    window, viewport, quality = (request.query_params.get(name, default) for name, default in _OPTIONS.items())
    if quality is None or not re.fullmatch(r"\d{1,3}", quality, re.ASCII) or not 1 <= int(quality) <= 100:
        raise HTTPException(400, "quality must be a number from 1 to 100")
    return _window(window), _largest_side(viewport), int(quality)


def _window(text: str | None) -> Window | None:
    if text is None:
        return None
    values = text.split(",")
    try:
        center, width, function = float(values[0]), float(values[1]), _FUNCTIONS[",".join(values[2:]) or "linear"]
    except (ValueError, IndexError, KeyError):
        raise HTTPException(400, f"window must be center,width,function; functions: {', '.join(_FUNCTIONS)}") from None
    if not (math.isfinite(center) and math.isfinite(width) and width > 0):
        raise HTTPException(400, "window must be center,width,function with a width above 0")
    return Window(center, width, function)


def _largest_side(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,4}),(\d{1,4})", text, re.ASCII)
    if match is None or not 0 < min(int(match[1]), int(match[2])) <= _LARGEST:
        raise HTTPException(400, f"viewport must be width,height, at most {_LARGEST} pixels")
    return min(int(match[1]), int(match[2]))


def _frame_numbers(text: str) -> list[int]:
    """The numbers in an address. Answers 400 for what is not a list of numbers."""
    if not re.fullmatch(r"[1-9]\d{0,6}(,[1-9]\d{0,6})*", text, re.ASCII):
        raise HTTPException(400, "frames must be numbers from 1, separated by commas")
    return [int(number) for number in text.split(",")]
