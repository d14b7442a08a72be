"""Hostile datasets, each made from its number alone: the same number, the same bytes, on any machine.

A mutant starts as something valid, so that it comes far before it hurts.
"""

from __future__ import annotations

import random
import struct
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from tests.testbed.instances import mr_instance

SIDE = 32
BOMB_BYTES = 256 << 20  # what a deflated dataset of a quarter of a megabyte becomes
ENCAPSULATED = (RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGBaseline8Bit)
SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    *ENCAPSULATED,
)
Dice = random.Random
_ENCODER = threading.Lock()  # pylibjpeg-openjpeg's encoder ends the process that runs it in two threads


@dataclass(frozen=True)
class Mutant:
    """A C-STORE request that should not be: the identifiers of its command and the bytes of its dataset."""

    kind: str
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    encoded: bytes


def valid(number: int, syntax: str = ExplicitVRLittleEndian) -> Dataset:
    """A head in that transfer syntax: ten numbers make a series."""
    ds = mr_instance(number, f"fuzz-{number // 10}")
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    head = ((x**2 + y**2 < 0.6) * 200 + np.random.default_rng(number).integers(0, 40, (SIDE, SIDE))).astype(np.uint16)
    ds.Rows = ds.Columns = SIDE
    ds.PixelData = head.astype(">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()
    if syntax == JPEGBaseline8Bit:
        picture = BytesIO()
        Image.fromarray(head.astype(np.uint8)).save(picture, "JPEG")
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
        ds.PixelData = encapsulate([picture.getvalue()])
        ds["PixelData"].is_undefined_length = True
    elif syntax in ENCAPSULATED:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.BitsStored, ds.HighBit = 16, 15
        with _ENCODER:
            ds.compress(UID(syntax), generate_instance_uid=False)
    return ds


def encode(ds: Dataset, syntax: str) -> bytes:
    """The dataset as it travels in a C-STORE: no preamble, no file meta information."""
    buffer = DicomBytesIO()
    buffer.is_little_endian = syntax != ExplicitVRBigEndian
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    write_dataset(buffer, ds)
    content = buffer.getvalue()
    return _deflate(content) if syntax == DeflatedExplicitVRLittleEndian else content


def as_file(mutant: Mutant) -> bytes:
    """The file that the receiver makes of a request: preamble, meta information, the dataset as sent."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(mutant.transfer_syntax_uid)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = mutant.sop_class_uid, mutant.sop_instance_uid
    buffer = BytesIO()
    buffer.write(bytes(128) + b"DICM")
    write_file_meta_info(buffer, meta)
    return buffer.getvalue() + mutant.encoded


def _deflate(content: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(content) + deflater.flush()


# --- datasets --------------------------------------------------------------------------------------------------


def dataset(number: int, seed: int = 0) -> Mutant:
    """The mutant of that number."""
    dice, kind = _kind(number, seed)
    ds = valid(number)
    uids = str(ds.SOPClassUID), str(ds.SOPInstanceUID)
    syntax, content = _DATASETS[kind](dice, number)
    return Mutant(kind, syntax, *uids, content)


def kind(number: int, seed: int = 0) -> str:
    """The kind of the mutant of that number, which is not made."""
    return _kind(number, seed)[1]


def _kind(number: int, seed: int) -> tuple[Dice, str]:
    dice = Dice(f"dataset {seed} {number}")
    return dice, dice.choices(list(_DATASETS), [_WEIGHTS.get(name, 10) for name in _DATASETS])[0]


def _as_sent(dice: Dice, number: int) -> tuple[str, bytes]:
    syntax = dice.choice(SYNTAXES)
    return syntax, encode(valid(number, syntax), syntax)


def _flips(dice: Dice, number: int) -> tuple[str, bytes]:
    syntax, content = _as_sent(dice, number)
    changed = bytearray(content)
    for _ in range(dice.choice((1, 2, 5, 30, 300))):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return syntax, bytes(changed)


def _header_flips(dice: Dice, number: int) -> tuple[str, bytes]:
    """Only in the elements before the pixels, where the structure is."""
    syntax, content = _as_sent(dice, number)
    changed = bytearray(content)
    for _ in range(dice.choice((1, 2, 4, 8))):
        changed[dice.randrange(min(900, len(changed)))] ^= 1 << dice.randrange(8)
    return syntax, bytes(changed)


def _truncated(dice: Dice, number: int) -> tuple[str, bytes]:
    syntax, content = _as_sent(dice, number)
    return syntax, content[: dice.randrange(len(content))]


def _spliced(dice: Dice, number: int) -> tuple[str, bytes]:
    """A piece of it taken out, doubled or moved."""
    syntax, content = _as_sent(dice, number)
    start, end = sorted(dice.randrange(len(content)) for _ in range(2))
    piece, place = content[start:end], dice.randrange(len(content))
    return syntax, dice.choice((content[:start] + content[end:], content[:place] + piece + content[place:]))


def _length_lie(dice: Dice, number: int) -> tuple[str, bytes]:
    """An element says that it is longer or shorter than it is, or that its length is not defined."""
    syntax = dice.choice((ExplicitVRLittleEndian, ImplicitVRLittleEndian))
    content = bytearray(encode(valid(number), syntax))
    tags = [struct.pack("<HH", element.tag.group, element.tag.element) for element in valid(number)]
    place = content.index(dice.choice(tags)) + 4
    lie = dice.choice((0, 1, 3, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, dice.randrange(1 << 32)))
    if syntax == ImplicitVRLittleEndian or content[place : place + 2] in (b"OW", b"OB", b"SQ", b"UN", b"UT"):
        place += 0 if syntax == ImplicitVRLittleEndian else 4
        content[place : place + 4] = struct.pack("<I", lie)
    else:
        content[place + 2 : place + 4] = struct.pack("<H", lie & 0xFFFF)
    return syntax, bytes(content)


def _nested(dice: Dice, number: int) -> tuple[str, bytes]:
    """A sequence in a sequence in a sequence, up to 20,000 deep, some never closed."""
    depth = dice.choice((5, 50, 500, 5_000, 20_000))
    opening = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    tower = opening * depth + closing * dice.choice((depth, depth // 2, 0))
    content = encode(valid(number), ExplicitVRLittleEndian)
    place = content.index(struct.pack("<HH", 0x0010, 0x0010))
    return ExplicitVRLittleEndian, content[:place] + tower + content[place:]


def _deflate_bomb(dice: Dice, number: int) -> tuple[str, bytes]:
    """A small stream that inflates to a large dataset: zeros as one value, before or after the pixels."""
    ds = valid(number)
    ds.add_new((0x0009, 0x0010), "LO", "bomb")
    content = encode(ds, ExplicitVRLittleEndian)
    size = dice.choice((1 << 20, 16 << 20, BOMB_BYTES))
    element = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, size)
    place = content.index(struct.pack("<HH", 0x0009, 0x0010)) + 8 + 4
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    parts = [deflater.compress(content[:place] + element)]
    parts += [deflater.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    parts += [deflater.compress(content[place:]), deflater.flush()]
    return DeflatedExplicitVRLittleEndian, b"".join(parts)


def _fragment_bomb(dice: Dice, number: int) -> tuple[str, bytes]:
    """Compressed pixel data in very many, empty, overlong or endless fragments, with an offset table that lies."""
    syntax = dice.choice(ENCAPSULATED)
    ds = valid(number, syntax)
    content = encode(ds, syntax)
    place = content.index(struct.pack("<HH", 0x7FE0, 0x0010)) + 12
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
    table = struct.pack(f"<HHI{64}I", 0xFFFE, 0xE000, 256, *(dice.randrange(1 << 32) for _ in range(64)))
    hostile = dice.choice((
        item * dice.choice((1_000, 50_000)) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
        table + content[place + 8 :],
        item + struct.pack("<HHI", 0xFFFE, 0xE000, dice.choice((0xFFFFFFFE, 0x7FFFFFFE, 0xFFFFFFFF))) + bytes(64),
        content[place:-8] * 3,
    ))  # fmt: skip
    return syntax, content[:place] + hostile


def _size_lie(dice: Dice, number: int) -> tuple[str, bytes]:
    """The header claims another picture than the pixels are."""
    syntax = dice.choice(SYNTAXES)
    ds = valid(number, syntax)
    for _ in range(dice.choice((1, 2))):
        keyword = dice.choice(("Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit",
                               "SamplesPerPixel", "PixelRepresentation", "PlanarConfiguration"))  # fmt: skip
        value: int = dice.choice((0, 1, 2, 3, 7, 12, 16, 31, 32, 33, 64, 1024, 65535))
        setattr(ds, keyword, str(value * value) if keyword == "NumberOfFrames" else value)
    if dice.random() < 0.3:
        ds.PhotometricInterpretation = dice.choice(("PALETTE COLOR", "RGB", "YBR_FULL_422", "YBR_ICT", "", "CMYK"))
    return syntax, encode(ds, syntax)


_UIDS = (
    b"../../../etc/passwd",
    b"..",
    b"/",
    b"1.2.3/../../x",
    b"1" * 64,
    b"1." * 40,
    b"1.2.3\x00.4",
    b"",
    b"\xff" * 30,
    b"1.2.3\n4",
    b"1.2.3%s%n",
    b"NUL",
    b"1.2.840'; DROP TABLE series;--",
    b"\\\\host\\share",
    b"1..2",
    b"-1.2",
)


def _hostile_uid(dice: Dice, number: int) -> tuple[str, bytes]:
    ds = valid(number)
    content = encode(ds, ExplicitVRLittleEndian)
    keyword = dice.choice(("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"))
    return ExplicitVRLittleEndian, _replace(content, ds[keyword].tag, b"UI", dice.choice(_UIDS))


_NAMES = (
    b"\x1b$B\x1b(B^\x1b",
    b"\x1b$)C\xfb\xf3",
    b"A" * 5000,
    b"\x00" * 64,
    b"\xff\xfe\xfd",
    b"\x1b" * 500,
    b"=" * 300,
    b"^" * 300,
    "\u202egnirts".encode(),
    b"%s%n%x",
    b"<script>alert(1)</script>",
    b"\r\n\r\nHTTP/1.1 200",
    "\U0001f9e0".encode() * 60,
    b"a\\b" * 2000,
)
_SETS = (
    b"ISO_IR 100",
    b"ISO_IR 192",
    b"GB18030",
    b"ISO 2022 IR 87",
    b"\\ISO 2022 IR 149",
    b"NOSUCH",
    b"\\\\\\",
    b"utf_16",
    b"idna",
    b"unicode_escape",
    b"ISO 2022 IR 6\\" * 50,
    b"\xff\xff",
    b"base64",
    b"ISO_IR 13\\ISO 2022 IR 159",
)


def _hostile_text(dice: Dice, number: int) -> tuple[str, bytes]:
    """Text that is not of its character set, and character sets that are none."""
    ds = valid(number)
    content = encode(ds, ExplicitVRLittleEndian)
    for keyword, vr in dice.sample(
        (
            ("PatientName", b"PN"),
            ("PatientID", b"LO"),
            ("SeriesDescription", b"LO"),
            ("AccessionNumber", b"SH"),
            ("StudyDate", b"DA"),
            ("ImageType", b"CS"),
        ),
        2,
    ):
        content = _replace(content, ds[keyword].tag, vr, dice.choice(_NAMES))
    charset = dice.choice(_SETS)
    element = struct.pack("<HH2sH", 0x0008, 0x0005, b"CS", len(charset) + len(charset) % 2) + _even(charset)
    return ExplicitVRLittleEndian, element + content


def _hostile_numbers(dice: Dice, number: int) -> tuple[str, bytes]:
    ds = valid(number)
    content = encode(ds, ExplicitVRLittleEndian)
    words = (
        b"nan",
        b"inf",
        b"-1e999",
        b"1e308\\1e308",
        b"0\\0",
        b"\\" * 200,
        b"abc",
        b"",
        b"0x10",
        b"9" * 400,
        b"1e-300\\1",
        b"1\\0\\0\\0\\1\\0\\7",
        b"-0",
        b"1_0",
        "\u0664".encode(),
    )
    for keyword, vr in dice.sample(
        (
            ("PixelSpacing", b"DS"),
            ("ImagePositionPatient", b"DS"),
            ("InstanceNumber", b"IS"),
            ("ImageOrientationPatient", b"DS"),
            ("SliceThickness", b"DS"),
        ),
        2,
    ):
        content = _replace(content, ds[keyword].tag, vr, dice.choice(words))
    return ExplicitVRLittleEndian, content


def _noise(dice: Dice, number: int) -> tuple[str, bytes]:
    return dice.choice(SYNTAXES), dice.randbytes(dice.choice((0, 1, 7, 132, 5000)))


def _replace(content: bytes, tag: int, vr: bytes, value: bytes) -> bytes:
    """The dataset with another value of a short element."""
    start = content.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF))
    [length] = struct.unpack("<H", content[start + 6 : start + 8])
    element = content[start : start + 4] + vr + struct.pack("<H", len(_even(value))) + _even(value)
    return content[:start] + element + content[start + 8 + length :]


def _even(value: bytes) -> bytes:
    return value + b" " * (len(value) % 2)


_DATASETS: dict[str, Callable[[Dice, int], tuple[str, bytes]]] = {
    "byte flips": _flips,
    "header flips": _header_flips,
    "truncation": _truncated,
    "splices": _spliced,
    "length lies": _length_lie,
    "nested sequences": _nested,
    "deflate bombs": _deflate_bomb,
    "fragment bombs": _fragment_bomb,
    "size lies": _size_lie,
    "hostile UIDs": _hostile_uid,
    "hostile text": _hostile_text,
    "hostile numbers": _hostile_numbers,
    "noise": _noise,
}
_WEIGHTS = {"byte flips": 20, "header flips": 30, "deflate bombs": 0.3, "nested sequences": 3, "fragment bombs": 6}
