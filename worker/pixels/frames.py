"""Frames for a viewer: encapsulated as they were sent, native (decompressed), or rendered."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import generate_frames
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

import worker.dicom.character_sets  # noqa: F401 - text of senders is decoded here
from worker.errors import NotAssessable
from worker.pixels.decode import decoded_samples, open_image, untrusted
from worker.pixels.windowing import Window, grey_levels

_PIXEL_DATA = Tag(0x7FE0, 0x0010)
_UNDEFINED_LENGTH = 0xFFFFFFFF  # PS3.5 7.1.1


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file with pixels. Its methods raise NotAssessable for pixels that cannot be decoded."""

    ds: Dataset
    frames: int

    @property
    def compressed(self) -> bool:
        return bool(self.ds.file_meta.TransferSyntaxUID.is_encapsulated)

    def native_frames(self, numbers: Sequence[int]) -> Iterator[bytes]:
        """Frames, counted from 1, little endian as allocated; compressed colours as RGB, colour by pixel."""
        self._require(numbers)
        for array in decoded_samples(self.ds, [number - 1 for number in numbers], palette=False):
            yield _bytes(self.ds, array)

    def encapsulated_frames(self, numbers: Sequence[int]) -> Iterator[bytes]:
        """The compressed stream of each frame, as stored."""
        self._require(numbers)
        chosen = set(numbers)
        value = self.ds.PixelData
        table = (self.ds.get("ExtendedOffsetTable"), self.ds.get("ExtendedOffsetTableLengths"))
        offsets = table if table[0] and table[1] else None
        try:
            streams = generate_frames(value, number_of_frames=self.frames, extended_offsets=offsets)
            by_number = {number: stream for number, stream in enumerate(streams, 1) if number in chosen}
            for number in numbers:
                yield by_number[number]
        except (ValueError, KeyError):
            raise NotAssessable(
                "pixel-data-truncated", "The compressed frames of an image cannot be separated."
            ) from None

    def render(
        self, number: int, kind: str, window: Window | None = None, longest: int | None = None, quality: int = 90
    ) -> bytes:
        """A frame, counted from 1, as 8-bit "PNG" or "JPEG", its longest side at most `longest` pixels.

        Without a window by the VOI transformation of the image: see `windowing.grey_levels`.
        """
        self._require([number])
        array = next(decoded_samples(self.ds, [number - 1]))
        if array.ndim == 3:
            eight_bits = (array >> 8 * (array.dtype.itemsize - 1)).astype(np.uint8)
        else:
            with untrusted():
                eight_bits = grey_levels(self.ds, number - 1, array, window)
        image = Image.fromarray(eight_bits)
        if longest is not None:
            image.thumbnail((longest, longest))
        buffer = io.BytesIO()
        image.save(buffer, format=kind, **({"quality": quality} if kind == "JPEG" else {}))
        return buffer.getvalue()

    def _require(self, numbers: Sequence[int]) -> None:
        if not 1 <= min(numbers) <= max(numbers) <= self.frames:
            raise NotAssessable("no-such-frame", "The image has fewer frames.")


def open_file(path: Path) -> ImageFile:
    """Open an image. Raises NotAssessable for what is no image or cannot be decoded; OSError when the disk fails."""
    ds = open_image(path)
    return ImageFile(ds, int(ds.get("NumberOfFrames") or 1))


def explicit_little_endian(path: Path) -> Iterator[bytes]:
    """The whole file in Explicit VR Little Endian, decompressed, in pieces. Raises NotAssessable; OSError."""
    with untrusted():
        ds = dcmread(path)
        ds.pop(_PIXEL_DATA, None)  # the encoded pixels are held once, by `image`
    image = open_file(path)
    if image.compressed and image.ds.SamplesPerPixel == 3:
        ds.PhotometricInterpretation, ds.PlanarConfiguration = "RGB", 0
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in ds:
            del ds[keyword]
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    later = Dataset()
    for tag in [element.tag for element in ds if element.tag > _PIXEL_DATA]:
        later[tag] = ds.pop(tag)
    before, after = io.BytesIO(), DicomBytesIO()
    after.is_little_endian, after.is_implicit_VR = True, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # malformed values are copied unchanged
            dcmwrite(before, ds, implicit_vr=False, little_endian=True)
            write_dataset(after, later, ds.original_character_set)
    except Exception:  # a boundary: an element that cannot be encoded again may raise anything, and may be quoted
        raise NotAssessable("not-dicom", "A file cannot be converted to another transfer syntax.") from None
    frames = image.native_frames(range(1, image.frames + 1))
    first = next(frames, b"")
    length = len(first) * image.frames
    if length + 1 >= _UNDEFINED_LENGTH:
        raise NotAssessable("image-too-large", "An image has more pixels than fit in Explicit VR Little Endian.")
    vr = b"OB" if image.ds.BitsAllocated <= 8 else b"OW"
    yield before.getvalue() + struct.pack("<HH2sHI", 0x7FE0, 0x0010, vr, 0, length + length % 2)
    yield first
    for count, frame in enumerate(frames, 2):
        if len(frame) != len(first) or count > image.frames:
            raise NotAssessable("pixel-data-unreadable", "The frames of an image differ in size.")
        yield frame
    yield b"\0" * (length % 2) + after.getvalue()


def _bytes(ds: Dataset, array: npt.NDArray[Any]) -> bytes:
    if ds.BitsAllocated == 1:
        return np.packbits(array.astype(bool).ravel(), bitorder="little").tobytes()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
