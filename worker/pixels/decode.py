"""Decode a DICOM file: its frames as one-channel arrays, with the geometry that places them in space.

The file is not trusted: sizes are checked against limits and against the bytes that are present before anything is
allocated, and every fault becomes NotAssessable with a stable reason and a sentence without identifiers:

not-dicom, not-an-image, no-pixel-data, image-too-large, pixel-data-truncated, pixel-data-unreadable,
unsupported-transfer-syntax
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import generate_fragments
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.tag import Tag
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from worker.dicom.standard import STORAGE_SOP_CLASSES, TRANSFER_SYNTAXES
from worker.errors import NotAssessable
from worker.pixels.arrays import PixelArray
from worker.pixels.attributes import Sources, first_numbers, frame_sources, integer
from worker.pixels.stored_values import padding_of, stored_values, without_padding
from worker.process_limits import limited_decoder

MAXIMUM_FRAME_PIXELS = 1 << 24  # rows x columns: 4096 x 4096, four times the largest MR matrix in use
MAXIMUM_FILE_SAMPLES = 1 << 28  # rows x columns x frames x samples: 1,024 frames of 512 x 512
MAXIMUM_DATASET_BYTES = 1 << 30  # of a deflated data set, inflated
MAXIMUM_ANISOTROPY = 8.0  # beyond it the header is wrong
_SMALL_FILE_BYTES = 1 << 22  # at most: read at once
_DEFLATED = DeflatedExplicitVRLittleEndian.encode()  # what is not in a file is not its transfer syntax
_USABLE_SLOPE = (1e-6, 1e6)  # outside, the header is wrong, and float32 would lose the image

# GDCM aborts the process where header and codestream disagree: it decodes only what nothing else here can.
_WITHOUT_GDCM = (RLELossless, JPEGBaseline8Bit, JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000)
for _syntax in _WITHOUT_GDCM:
    if "gdcm" in get_decoder(_syntax).available_plugins:
        get_decoder(_syntax).remove_plugin("gdcm")

_TAGS = [Tag(keyword) for keyword in (
    "SOPClassUID", "SOPInstanceUID", "Modality", "InstanceNumber", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "PixelSpacing", "PixelAspectRatio",
    "ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableData", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "PixelData",
)]  # fmt: skip


@dataclass(frozen=True)
class DecodedFrame:
    """A frame as stored, [rows, columns], and its geometry; None where the file has none.

    A real value is `pixels * slope + intercept`, larger is brighter (MONOCHROME1 has a negative slope here).
    `spacing` is (row, column) in mm, or in arbitrary units where only an aspect ratio is known.
    `orientation` and `position` are Image Orientation and Image Position (Patient): PS3.3 C.7.6.2.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    modality: str
    instance_number: int
    frame_number: int | None
    pixels: PixelArray
    slope: float
    intercept: float
    spacing: tuple[float, float]
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None


def decode(path: Path) -> list[DecodedFrame]:
    """Decode every frame of a DICOM Part 10 file, in file order. Raises NotAssessable; OSError when the disk fails."""
    with untrusted(), limited_decoder():
        ds = _read(path)
        _check_claims(ds)
        return _frames(path, ds, range(integer(ds, "NumberOfFrames", 1)), _stored_frames(ds))


def decode_series(paths: Sequence[Path]) -> list[DecodedFrame]:
    """Every frame of the files of a series. Raises NotAssessable: as `decode`, no-images, image-too-large."""
    if not paths:
        raise NotAssessable("no-images", "The series has no images.")
    decoded: list[DecodedFrame] = []
    samples = 0
    for path in paths:
        frames = decode(path)
        samples += sum(frame.pixels.size for frame in frames)
        if samples > MAXIMUM_FILE_SAMPLES:
            raise NotAssessable("image-too-large", "The series holds more pixels than this worker accepts.")
        decoded.extend(frames)
    return decoded


def decode_frames(path: Path, ds: pydicom.Dataset, indices: Sequence[int]) -> list[DecodedFrame]:
    """Decode frames, counted from 0, of an image that `open_image` opened. Raises as `decode`."""
    with untrusted():
        return _frames(path, ds, indices, _stored_frames(ds, indices))


def open_image(path: Path) -> pydicom.Dataset:
    """Read the attributes that decoding needs and check them, the pixel data still encoded. Raises as `decode`."""
    with untrusted():
        ds = _read(path)
        _check_claims(ds)
        return ds


@contextmanager
def untrusted() -> Iterator[None]:
    """Around a parser of untrusted bytes: whatever it raises becomes NotAssessable."""
    try:
        with warnings.catch_warnings():
            # pydicom warns about malformed values and quotes them: they may identify the patient.
            warnings.simplefilter("ignore")
            yield
    except (NotAssessable, MemoryError):
        raise
    except InvalidDicomError:
        raise NotAssessable("not-dicom", "A file of the series is not a DICOM file.") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a fault of the disk, not of the file; for bad sequences pydicom raises OSError without a number
        # Whatever pydicom raises means the same, and may quote the file.
        raise NotAssessable("not-dicom", "A file of the series is damaged and cannot be parsed.") from None


def _frames(
    path: Path, ds: pydicom.Dataset, indices: Sequence[int], stored: Iterator[PixelArray]
) -> list[DecodedFrame]:
    several = integer(ds, "NumberOfFrames", 1) > 1
    frames = []
    for index in indices:
        pixels = next(stored, None)
        if pixels is None:
            raise NotAssessable("pixel-data-truncated", "An image has fewer frames than it declares.")
        frames.append(_frame(path, ds, pixels, frame_sources(ds, index), index + 1 if several else None))
    return frames


def _read(path: Path) -> pydicom.Dataset:
    """The attributes of _TAGS, the pixel data still encoded."""
    content = path.read_bytes() if path.stat().st_size <= _SMALL_FILE_BYTES else None
    if content is not None and _DEFLATED not in content:
        ds = pydicom.dcmread(io.BytesIO(content), specific_tags=_TAGS)
    elif (meta := read_file_meta_info(path)).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        ds = _read_deflated(path, meta)
    else:
        ds = pydicom.dcmread(path, specific_tags=_TAGS)
    if "SOPClassUID" not in ds:
        # The file ends inside an element of undefined length, where pydicom drops the whole data set.
        raise NotAssessable("pixel-data-truncated", "A file of the series is damaged or ends too early.")
    return ds


def _read_deflated(path: Path, meta: pydicom.Dataset) -> pydicom.Dataset:
    """Like `dcmread`, but limited: a few kilobytes may inflate until the memory is full (PS3.5 A.5)."""
    raw = path.read_bytes()
    # Preamble, prefix and the first element of group 0002 (12 bytes), the length of the rest of the group.
    start = 128 + 4 + 12 + int(struct.unpack("<I", raw[140:144])[0])
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    dataset = inflate.decompress(raw[start:], MAXIMUM_DATASET_BYTES)
    if inflate.unconsumed_tail:
        raise NotAssessable("image-too-large", "An image inflates to more than this worker accepts.")
    ds = read_dataset(io.BytesIO(dataset), False, True, specific_tags=_TAGS)
    ds.file_meta = meta
    ds.set_original_encoding(False, True)
    return ds


def _check_claims(ds: pydicom.Dataset) -> None:
    """Refuse by its header what cannot be decoded. Raises NotAssessable."""
    if str(ds.get("SOPClassUID", "")) not in STORAGE_SOP_CLASSES:
        raise NotAssessable("not-an-image", "The series holds an object that is not an MR or captured image.")
    if str(ds.file_meta.get("TransferSyntaxUID", "")) not in TRANSFER_SYNTAXES:
        raise NotAssessable("unsupported-transfer-syntax", "The pixels are encoded in a way this worker cannot read.")
    if "PixelData" not in ds:
        raise NotAssessable("no-pixel-data", "An image of the series has no pixel data, or ends before them.")
    rows, columns = integer(ds, "Rows", 0), integer(ds, "Columns", 0)
    frames, samples = integer(ds, "NumberOfFrames", 1), integer(ds, "SamplesPerPixel", 1)
    bits = integer(ds, "BitsAllocated", 0)
    if rows < 1 or columns < 1 or frames < 1 or samples not in (1, 3) or bits not in (1, 8, 16, 32):
        raise NotAssessable("pixel-data-unreadable", "The image header gives no usable size or pixel format.")
    if rows * columns > MAXIMUM_FRAME_PIXELS or rows * columns * frames * samples > MAXIMUM_FILE_SAMPLES:
        raise NotAssessable("image-too-large", "An image claims more pixels than this worker accepts.")
    _check_bytes(ds, (rows, columns, samples), math.ceil(rows * columns * frames * samples * bits / 8))


def _check_bytes(ds: pydicom.Dataset, shape: tuple[int, int, int], expected: int) -> None:
    """Compare the claimed size with the bytes that are present, before a decoder allocates memory for it."""
    element = ds.get_item("PixelData")
    value = element.value if element is not None else None
    if not value:
        raise NotAssessable("no-pixel-data", "An image of the series has empty pixel data.")
    if not ds.file_meta.TransferSyntaxUID.is_encapsulated:
        subsampled = str(ds.get("PhotometricInterpretation", "")) == "YBR_FULL_422"
        if len(value) < (expected * 2 // 3 if subsampled else expected):
            raise NotAssessable("pixel-data-truncated", "The pixel data of an image are shorter than its size.")
        return
    try:
        shapes = {_codestream_shape(fragment) for fragment in generate_fragments(_after_offset_table(value))}
    except (ValueError, struct.error):
        shapes = set()
    if not shapes:
        raise NotAssessable("pixel-data-truncated", "The compressed pixel data of an image are cut short.")
    if not shapes <= {None, shape}:
        raise NotAssessable("pixel-data-unreadable", "The size of the compressed image differs from its header.")


def _after_offset_table(value: bytes) -> bytes:
    """The fragments, without the Basic Offset Table item: PS3.5 A.4."""
    return value[8 + struct.unpack("<I", value[4:8])[0] :]


def _codestream_shape(stream: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, samples) that a JPEG, JPEG-LS or JPEG 2000 codestream declares; None where it declares none.

    Sources: ISO/IEC 10918-1 B.2.2 (SOFn), 14495-1 C.2.2 (SOF55), 15444-1 A.5.1 (SIZ).
    """
    siz = stream.find(b"\xff\x4f\xff\x51", 0, 512) + 8  # not at 0 where a JP2 header precedes it
    if siz >= 8 and len(stream) >= siz + 34:
        right, bottom, left, top, samples = struct.unpack(">4I16xH", stream[siz : siz + 34])
        return bottom - top, right - left, samples
    position = 2 if stream[:2] == b"\xff\xd8" else len(stream)
    while position + 10 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns, samples = struct.unpack(">HHB", stream[position + 5 : position + 10])
            return rows, columns, samples
        position += 2 + int(struct.unpack(">H", stream[position + 2 : position + 4])[0])
    return None


def _stored_frames(ds: pydicom.Dataset, indices: Sequence[int] | None = None) -> Iterator[PixelArray]:
    """Each frame decompressed, single-channel, native integers. Raises NotAssessable."""
    for array in decoded_samples(ds, indices):
        yield stored_values(ds, _one_channel(array))


def decoded_samples(
    ds: pydicom.Dataset, indices: Sequence[int] | None = None, *, palette: bool = True
) -> Iterator[npt.NDArray[Any]]:
    """Frames decompressed, [rows, columns] or [rows, columns, 3]: all, or those at `indices`. Raises NotAssessable.

    `palette`: replace palette indices by their colours.
    """
    try:
        syntax = ds.file_meta.TransferSyntaxUID
        if syntax == JPEGExtended12Bit and ds.BitsAllocated == 16 and ds.SamplesPerPixel == 1:
            from worker.pixels.jpeg12 import jpeg12_frames  # GDCM takes long to load and is rarely needed

            signed = np.dtype(np.int16 if integer(ds, "PixelRepresentation", 0) else np.uint16)
            frames = (frame.view(signed) for frame in jpeg12_frames(ds))
            yield from frames if indices is None else map(list(frames).__getitem__, indices)
            return
        if (frame := _plain_frame(ds)) is not None:
            yield from [frame] if indices is None else map([frame].__getitem__, indices)
            return
        decoder = get_decoder(syntax)
        # Bits Stored is often wrong; masking by it would wrap bright values to dark ones. See stored_values.
        options: dict[str, Any] = {"allow_excess_frames": False, "correct_unused_bits": False}
        for array, meta in decoder.iter_array(ds, indices=indices, raw=False, **options):
            if palette and str(meta.get("photometric_interpretation")) == "PALETTE COLOR":
                array = apply_color_lut(array, ds)
            yield array
    except MemoryError:
        raise
    except Exception:
        # Boundary to the codecs, which raise anything on damaged data, even OSError (Pillow).
        raise NotAssessable("pixel-data-unreadable", "The pixel data of an image cannot be decoded.") from None
    except BaseException as panic:
        if type(panic).__name__ != "PanicException":
            raise
        # A codec in Rust (pylibjpeg-rle) that indexed beyond its input: pyo3's exception is not an Exception by design.
        raise NotAssessable("pixel-data-unreadable", "The pixel data of an image cannot be decoded.") from None


def _plain_frame(ds: pydicom.Dataset) -> npt.NDArray[Any] | None:
    """The frame of an uncompressed, single-frame grey image, as most are; None for other images and unusual headers.

    pydicom's decoder would take a third of a millisecond more.
    """
    if ds.file_meta.TransferSyntaxUID not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        return None
    allocated, stored, sign, samples, frames, rows, columns = (
        integer(ds, keyword, default)
        for keyword, default in (
            ("BitsAllocated", 0), ("BitsStored", 0), ("PixelRepresentation", -1), ("SamplesPerPixel", 0),
            ("NumberOfFrames", 1), ("Rows", 0), ("Columns", 0),
        )
    )  # fmt: skip
    is_plain = allocated in (8, 16) and 0 < stored <= allocated and sign in (0, 1) and (samples, frames) == (1, 1)
    element = ds.get_item("PixelData")
    if not is_plain or ds.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2") or element is None:
        return None
    size = rows * columns * allocated // 8
    if not isinstance(element.value, bytes) or len(element.value) not in (size, size + size % 2):
        return None
    values = np.frombuffer(element.value, f"<{'ui'[sign]}{allocated // 8}", rows * columns)
    return values.reshape(rows, columns).copy()


def _one_channel(array: npt.NDArray[Any]) -> PixelArray:
    """Luma (ITU-R BT.601), exact: a grey image stored as RGB keeps its values."""
    if array.ndim == 2:
        return np.asarray(array)
    red, green, blue = (array[..., channel].astype(np.uint32) for channel in range(3))
    grey = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    return np.asarray(grey, dtype=array.dtype)


def _frame(path: Path, ds: pydicom.Dataset, pixels: PixelArray, sources: Sources, number: int | None) -> DecodedFrame:
    photometric = str(ds.get("PhotometricInterpretation", ""))
    padded = padding_of(ds, pixels)
    if padded is not None:
        pixels = without_padding(pixels, padded, photometric)
    slope = _first_number(sources, "RescaleSlope", 1.0)
    intercept = _first_number(sources, "RescaleIntercept", 0.0)
    if not _USABLE_SLOPE[0] <= abs(slope) <= _USABLE_SLOPE[1] or abs(intercept) > _USABLE_SLOPE[1] * abs(slope):
        slope, intercept = 1.0, 0.0
    if photometric == "MONOCHROME1":
        slope, intercept = -slope, -intercept
    return DecodedFrame(
        path=path,
        sop_class_uid=str(ds.get("SOPClassUID", "")),
        sop_instance_uid=str(ds.get("SOPInstanceUID", "")),
        modality=str(ds.get("Modality", "") or "").strip(" \0").upper(),
        instance_number=integer(ds, "InstanceNumber", 0),
        frame_number=number,
        pixels=pixels,
        slope=slope,
        intercept=intercept,
        spacing=_spacing(sources),
        orientation=_orientation(first_numbers(sources, "PlaneOrientationSequence", "ImageOrientationPatient", 6)),
        position=first_numbers(sources, "PlanePositionSequence", "ImagePositionPatient", 3),
    )


def _spacing(sources: Sources) -> tuple[float, float]:
    """(row, column) spacing; (1, 1) where it is missing or implausible: a distorted image is better than none."""
    for numbers in (
        first_numbers(sources, "PixelMeasuresSequence", "PixelSpacing", 2),
        first_numbers(sources, "PixelMeasuresSequence", "PixelAspectRatio", 2),
    ):
        if numbers is not None and min(numbers) > 0 and max(numbers) / min(numbers) <= MAXIMUM_ANISOTROPY:
            return numbers[0], numbers[1]
    return 1.0, 1.0


def _orientation(numbers: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """The six direction cosines, None unless they are two perpendicular unit vectors."""
    if numbers is None:
        return None
    row, column = np.array(numbers[:3]), np.array(numbers[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(length - 1) for length in lengths) > 0.1 or abs(float(row @ column)) > 0.1:
        return None
    return numbers


def _first_number(sources: Sources, keyword: str, default: float) -> float:
    """A number of the Pixel Value Transformation."""
    numbers = first_numbers(sources, "PixelValueTransformationSequence", keyword, 1)
    return numbers[0] if numbers else default
