"""What a decoder process can be asked for: files of the data folder, an operation, and its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from worker.pixels.windowing import Window
from worker.results import Activation


@dataclass(frozen=True)
class Task:
    """`arguments` are values of JSON: a decoder process may have been taken over, so nothing is pickled."""

    operation: str
    files: tuple[Path, ...]
    arguments: dict[str, Any] = field(default_factory=dict)


def native_frames(file: Path, numbers: Sequence[int] | None = None) -> Task:
    """Frames, counted from 1 (None: all), decompressed, little endian: a part each."""
    return Task("native_frames", (file,), {"numbers": None if numbers is None else list(numbers)})


def encapsulated_frames(file: Path, numbers: Sequence[int]) -> Task:
    """The compressed stream of each frame, as stored: a part each."""
    return Task("encapsulated_frames", (file,), {"numbers": list(numbers)})


def explicit_little_endian(file: Path) -> Task:
    """The whole file in Explicit VR Little Endian, its pixels decompressed."""
    return Task("explicit_little_endian", (file,))


def rendered(
    file: Path,
    number: int | None,
    kind: str,
    window: Window | None = None,
    longest: int | None = None,
    quality: int = 90,
) -> Task:
    """A frame, counted from 1, as 8-bit "PNG" or "JPEG": see `ImageFile.render`.

    None: the middle frame; the ends of a head show little.
    """
    values = None if window is None else [window.center, window.width, str(window.function)]
    arguments = {"number": number, "kind": kind, "window": values, "longest": longest, "quality": quality}
    return Task("rendered", (file,), arguments)


def grey_window(files: Sequence[Path]) -> Task:
    """The grey window that the slices of a series share, as JSON [black, white]: see `inference.display`."""
    return Task("grey_window", tuple(files))


def slice_png(
    file: Path, frame_number: int | None, window: tuple[float, float], black: float = 0.0, white: float = 1.0
) -> Task:
    """A slice as the series page shows it: see `inference.display`."""
    arguments = {"frame_number": frame_number, "window": list(window), "black": black, "white": white}
    return Task("slice_png", (file,), arguments)


def activation_png(file: Path, frame_number: int | None, activation: Activation) -> Task:
    """A map over a slice, as PNG: see `inference.display`."""
    return Task("activation_png", (file,), {"frame_number": frame_number, "activation": asdict(activation)})


def slice_facts(file: Path, frame_number: int | None, window: tuple[float, float]) -> Task:
    """What is written at a slice, as JSON: see `inference.display`."""
    return Task("slice_facts", (file,), {"frame_number": frame_number, "window": list(window)})


def picture_png(file: Path) -> Task:
    """A Secondary Capture in RGB as PNG."""
    return Task("picture_png", (file,))
