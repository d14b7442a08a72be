"""The operations of a decoder process: each yields the parts of its answer. They raise NotAssessable and OSError."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worker.decoding.tasks import Task
from worker.errors import NotAssessable
from worker.inference import display
from worker.pixels import frames
from worker.pixels.decode import decoded_samples
from worker.pixels.windowing import VoiFunction, Window
from worker.results import Activation

Opening = Callable[[Path], object]


def run(task: Task, opening: Opening) -> Iterator[bytes]:
    """The parts of a task's answer; `opening` is called with each file before it is decoded."""
    return OPERATIONS[task.operation](task.files, opening, **task.arguments)


def _native_frames(files: tuple[Path, ...], opening: Opening, numbers: list[int] | None) -> Iterator[bytes]:
    opening(files[0])
    image = frames.open_file(files[0])
    yield from image.native_frames(range(1, image.frames + 1) if numbers is None else numbers)


def _encapsulated_frames(files: tuple[Path, ...], opening: Opening, numbers: list[int]) -> Iterator[bytes]:
    opening(files[0])
    yield from frames.open_file(files[0]).encapsulated_frames(numbers)


def _explicit_little_endian(files: tuple[Path, ...], opening: Opening) -> Iterator[bytes]:
    opening(files[0])
    yield from frames.explicit_little_endian(files[0])


def _rendered(
    files: tuple[Path, ...],
    opening: Opening,
    number: int | None,
    kind: str,
    window: tuple[float, float, str] | None,
    longest: int | None,
    quality: int,
) -> Iterator[bytes]:
    opening(files[0])
    chosen = None if window is None else Window(window[0], window[1], VoiFunction(window[2]))
    image = frames.open_file(files[0])
    yield image.render(image.frames // 2 + 1 if number is None else number, kind, chosen, longest, quality)


def _grey_window(files: tuple[Path, ...], opening: Opening) -> Iterator[bytes]:
    yield json.dumps(display.grey_window(files, opening)).encode()


def _slice_png(
    files: tuple[Path, ...],
    opening: Opening,
    frame_number: int | None,
    window: tuple[float, float],
    black: float,
    white: float,
) -> Iterator[bytes]:
    opening(files[0])
    yield display.slice_png(files[0], frame_number, (window[0], window[1]), black, white)


def _activation_png(
    files: tuple[Path, ...], opening: Opening, frame_number: int | None, activation: dict[str, Any]
) -> Iterator[bytes]:
    opening(files[0])
    yield display.activation_png(files[0], frame_number, Activation(**activation))


def _slice_facts(
    files: tuple[Path, ...], opening: Opening, frame_number: int | None, window: tuple[float, float]
) -> Iterator[bytes]:
    opening(files[0])
    yield json.dumps(display.slice_facts(files[0], frame_number, (window[0], window[1]))).encode()


def _picture_png(files: tuple[Path, ...], opening: Opening) -> Iterator[bytes]:
    opening(files[0])
    image = frames.open_file(files[0])
    pixels = next(decoded_samples(image.ds, [0]))
    if pixels.dtype != np.uint8:
        raise NotAssessable("pixel-data-unreadable", "The Secondary Capture is not an 8-bit picture.")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    yield buffer.getvalue()


OPERATIONS: dict[str, Callable[..., Iterator[bytes]]] = {
    "native_frames": _native_frames,
    "encapsulated_frames": _encapsulated_frames,
    "explicit_little_endian": _explicit_little_endian,
    "rendered": _rendered,
    "grey_window": _grey_window,
    "slice_png": _slice_png,
    "activation_png": _activation_png,
    "slice_facts": _slice_facts,
    "picture_png": _picture_png,
}


def clear_caches() -> None:
    """Release what was kept of the last file: the memory is needed."""
    display.forget_opened()


def arguments_of(values: dict[str, Any]) -> Task:
    """A task as it came from the web process."""
    return Task(values["operation"], tuple(Path(file) for file in values["files"]), values["arguments"])
