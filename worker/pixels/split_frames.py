"""Split a multi-frame image into single-frame files; their pixel data stays as received, nothing is decoded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from io import BytesIO

from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate, get_frame

import worker.dicom.character_sets  # noqa: F401 - text of senders is decoded here
from worker.dicom.standard import derive_uid

_OFFSETS = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")


class NotDivisible(Exception):
    """The frames share bytes of the file, or are not where its header says."""


def split_frames(content: bytes, numbers: Mapping[int, int]) -> Iterator[tuple[int, bytes]]:
    """Split frames off a DICOM file, each as a DICOM file of the same class.

    `numbers`: frame (from 1) → the Instance Number of its file. The functional groups of a file are those of its frame;
    its SOP Instance UID is derived from the original UID and the frame number. Raises NotDivisible.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # malformed values are copied unchanged
            ds = dcmread(BytesIO(content))
            whole, groups = str(ds.SOPInstanceUID), list(ds.get("PerFrameFunctionalGroupsSequence") or ())
            frames = {number: _pixel_data(ds, number) for number in numbers}
            for keyword in _OFFSETS:
                if keyword in ds:
                    delattr(ds, keyword)
            ds.NumberOfFrames = 1
            for number, pixels in frames.items():
                ds.InstanceNumber = numbers[number]  # without geometry, the order of the slices
                ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = derive_uid("frame", whole, str(number))
                if groups:
                    ds.PerFrameFunctionalGroupsSequence = [groups[number - 1]]
                ds.PixelData = pixels
                buffer = BytesIO()
                dcmwrite(buffer, ds, enforce_file_format=True)
                yield number, buffer.getvalue()
    except NotDivisible:
        raise
    except Exception as error:  # the boundary to pydicom, which may raise anything for what it cannot read or write
        raise NotDivisible(type(error).__name__) from None


def _pixel_data(ds: Dataset, number: int) -> bytes:
    frames = int(ds.NumberOfFrames)
    if not 1 <= number <= frames:
        raise NotDivisible("no-such-frame")
    if ds.file_meta.TransferSyntaxUID.is_encapsulated:
        offsets = (ds[_OFFSETS[0]].value, ds[_OFFSETS[1]].value) if _OFFSETS[0] in ds else None
        frame = get_frame(ds.PixelData, number - 1, number_of_frames=frames, extended_offsets=offsets)
        return bytes(encapsulate([frame]))
    bits = ds.Rows * ds.Columns * ds.SamplesPerPixel * ds.BitsAllocated
    if bits % 8 or len(ds.PixelData) < frames * bits // 8:
        raise NotDivisible("frames-not-apart")
    content = bytes(ds.PixelData[(number - 1) * bits // 8 : number * bits // 8])
    return content + b"\0" * (len(content) % 2)  # PS3.5 8.1.1
