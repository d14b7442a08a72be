"""Read a DICOM file up to its pixel data, with bounded time and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pydicom import DataElement, Dataset
from pydicom.charset import convert_encodings, default_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement, empty_value_for_VR
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from pydicom.values import convert_string

import worker.dicom.character_sets  # noqa: F401 - whatever reads a header decodes its text
from worker.dicom.odd_values import ignore_value_warnings, remove_unreadable
from worker.dicom.sources import DeflatedSource, EndOfBytes, FileSource, Source, TooComplex
from worker.dicom.walk import UNDEFINED, Budget, Element, elements, walk_items
from worker.logs import fault_fields, get_log

_CHARACTER_SET = 0x00080005
# Cut before a value is split or decoded: more than any row or page takes of it, and 4 bytes a character.
_LONGEST_VALUE = 4096
_LONGEST_TEXT = 1 << 16
_LONG_TEXT_VRS = {"LT", "ST", "UC", "UR", "UT", "OB", "OW", "OD", "OF", "OL", "OV", "UN"}
# pydicom makes an object of a kilobyte of each item that is asked for, and of a third of that of each element.
_BUILT_ELEMENTS, _BUILT_ELEMENTS_OF_SOME, _ITEM_WEIGHT = 1 << 18, 1 << 14, 8
_REPEATS = 64  # of elements that are there already: PS3.5 7.1 allows none
# Of a header or a message that is read whole: pydicom makes a text, a number or a name of half a kilobyte of each.
_VALUES = 1 << 16  # enhanced MR has ten a frame
_BYTES = 32 << 20  # of values, all together
_EXTENDED_BYTES = 1 << 20  # of values with escape sequences, which are decoded run by run
_NUMBERS_AND_BYTES = {"FD", "FL", "OB", "OD", "OF", "OL", "OV", "OW", "SL", "SS", "SV", "UL", "US", "UV"}
_NEVER_SPLIT = {"LT", "ST", "UR", "UT"}
_BYTES_A_BACKSLASH = 128  # of binary data, in which every 256th byte looks like a backslash
_FEW_ELEMENTS = 1 << 12  # within sequences, of a header that `encoded_elements` reads
_USUAL_META_BYTES, _META_BYTES, _META_ELEMENTS = 1 << 11, 1 << 16, 256


@dataclass(frozen=True, slots=True)
class Header:
    """Elements of a dataset, and those of its sequences that were to stay encoded, by keyword."""

    dataset: Dataset
    sequences: Mapping[str, Element]
    little: bool
    encoding: str | list[str]


def read_stored_header(path: Path, tags: Sequence[str | int] | None = None) -> Dataset:
    """As `read_header`, of a stored file, without elements that cannot be read; empty for a file gone or damaged."""
    try:
        with ignore_value_warnings(), path.open("rb") as file:
            ds = read_header(file, tags)
            remove_unreadable(ds)
    except FileNotFoundError:
        return Dataset()  # retention may have deleted it since the row was read
    except Exception as error:  # a boundary: what is wrong in a stored file may raise anything in the parser
        get_log().warning("header not read", **fault_fields(error))
        return Dataset()
    return ds


def read_header(file: BinaryIO, keywords: Sequence[str | int] | None = None) -> Dataset:
    """The elements before the pixel data, with the file meta information; only these keywords or
    tags, if given.

    With `keywords`, a value is cut at some kilobytes. Raises TooComplex for a dataset beyond the budgets of
    `worker.dicom.walk`, or with too many values or bytes where all are read; whatever pydicom and zlib raise on damage;
    OSError.
    """
    beginning = file.read(132)
    start = 132 if beginning[128:] == b"DICM" else 0
    file.seek(start)
    meta, length = _read_meta(file.read(_META_BYTES))
    file.seek(start + length)
    syntax = str(meta.get("TransferSyntaxUID", ImplicitVRLittleEndian))
    source = DeflatedSource(file) if syntax == DeflatedExplicitVRLittleEndian else FileSource(file)
    ds = _parse(source, syntax, keywords, ()).dataset
    ds.file_meta = meta
    return ds


class EncodedElement(NamedTuple):
    """An element as it is encoded; its value is cut as `read_header` cuts it, and that of a sequence whole."""

    tag: int
    vr: str | None
    length: int
    value: bytes
    implicit: bool

    def raw(self, little: bool) -> RawDataElement:
        """The element as `read_header` gives it, if its length is not undefined."""
        end = len(self.value)
        return _raw(Element(self.tag, self.vr, self.length, self.value, 0, end, False, self.implicit), little)


def parse_header(
    encoded: bytes | bytearray, transfer_syntax_uid: str, keywords: Sequence[str | int], sequences: Sequence[str] = ()
) -> Header:
    """As `read_header`, of a file that is in memory, without a copy. `sequences`: keywords of those not to build."""
    start = 132 + _meta_of(encoded)[1]
    source = Source(encoded, start)
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        source = DeflatedSource(BytesIO(encoded[start:]))
    return _parse(source, transfer_syntax_uid, keywords, sequences)


def encoded_elements(
    encoded: bytes | bytearray, transfer_syntax_uid: str, keywords: Sequence[str | int], longest: int
) -> list[EncodedElement] | None:
    """The elements that `parse_header` would read of a usual header, without reading their values.

    None for a header that is deflated or malformed or repeats an element, or whose elements are many or have more than
    `longest` bytes in all.
    """
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        return None
    implicit, little = _encoding_of(transfer_syntax_uid)
    found: dict[int, EncodedElement] = {}
    try:
        source = Source(encoded, 132 + _meta_of(encoded)[1])
        for element in elements(source, implicit, little, Budget(_FEW_ELEMENTS, 0), wanted_tags(tuple(keywords))):
            longest -= element.end - element.start
            if longest < 0 or element.tag in found:
                return None
            value = bytes(element.data[element.start : element.end])
            found[element.tag] = EncodedElement(element.tag, element.vr, element.length, value, element.implicit)
    except (TooComplex, EndOfBytes, EOFError, ValueError):
        return None
    return list(found.values())


class ElementPlace(NamedTuple):
    """Where the value of an element lies in a file; before it, in `width` bytes, its length."""

    tag: int
    width: int
    length: int
    start: int
    end: int


def element_places(encoded: bytes | bytearray, transfer_syntax_uid: str) -> list[ElementPlace]:
    """All elements before the pixel data, those of the file meta information too; none where there are no pixel data.

    They follow one another without a gap. The header is one that `encoded_elements` reads.
    """
    implicit, little = _encoding_of(transfer_syntax_uid)
    meta, length = _meta_of(encoded)
    source = Source(encoded, 132 + length)
    dataset = elements(source, implicit, little, Budget(_FEW_ELEMENTS, 0), None)
    places: list[ElementPlace] = []
    end = 132
    for origin, element in [*((132, element) for element in meta), *((0, element) for element in dataset)]:
        start = origin + element.start
        if start - end not in (8, 12):
            return []
        width = 2 if start - end == 8 and element.vr is not None else 4
        end = origin + element.end
        places.append(ElementPlace(element.tag, width, element.length, start, end))
    return places if source.pixels is not None and source.pixels[0] == end else []


def parse_header_of_file(
    file: BinaryIO, transfer_syntax_uid: str, keywords: Sequence[str | int], sequences: Sequence[str] = ()
) -> Header:
    """As `parse_header`, of a file that is not in memory."""
    file.seek(start_of_dataset(file))
    is_deflated = transfer_syntax_uid == DeflatedExplicitVRLittleEndian
    source = DeflatedSource(file) if is_deflated else FileSource(file)
    return _parse(source, transfer_syntax_uid, keywords, sequences)


def start_of_dataset(file: BinaryIO) -> int:
    """Where the dataset of a DICOM file begins, behind its file meta information."""
    file.seek(132)
    return 132 + _read_meta(file.read(_META_BYTES))[1]


def parse_message(content: BinaryIO, implicit: bool, little: bool, deflated: bool = False) -> Dataset:
    """The dataset of a DIMSE message other than C-STORE, within the same budgets. Raises TooComplex."""
    content.seek(0)
    source = DeflatedSource(content) if deflated else FileSource(content)
    return _parse_elements(source, implicit, little, None, ()).dataset


def read_item(header: Header, item: Element, keywords: Sequence[str]) -> Dataset:
    """Those elements of an item of a sequence that stayed encoded."""
    source = Source(item.data[item.start : item.end])
    wanted = wanted_tags(tuple(keywords))
    return _parse_elements(source, item.implicit, header.little, wanted, (), header.encoding).dataset


def read_meta(encoded: bytes | bytearray) -> FileMetaDataset:
    """The file meta information of a file that is in memory."""
    return _meta_dataset(_meta_of(encoded)[0])


def _meta_of(encoded: bytes | bytearray) -> tuple[list[Element], int]:
    """As `_meta_elements`; the usual kilobyte is read without a copy of the longest that is allowed."""
    meta, length = _meta_elements(bytes(encoded[132 : 132 + _USUAL_META_BYTES]))
    if length + 12 > _USUAL_META_BYTES:  # the next element's tag, VR and length may be cut
        return _meta_elements(bytes(encoded[132 : 132 + _META_BYTES]))
    return meta, length


def _read_meta(beginning: bytes) -> tuple[FileMetaDataset, int]:
    """The file meta information, and the number of its bytes."""
    meta, length = _meta_elements(beginning)
    return _meta_dataset(meta), length


def _meta_dataset(meta: Sequence[Element]) -> FileMetaDataset:
    return FileMetaDataset({BaseTag(element.tag): _raw(element, True) for element in meta})


def _meta_elements(beginning: bytes) -> tuple[list[Element], int]:
    """The elements of the file meta information (PS3.10 7.1), and the number of its bytes."""
    found: list[Element] = []
    end = 0
    for element in elements(Source(beginning), False, True, Budget(_META_ELEMENTS, 0), None):
        if element.tag >> 16 != 2:
            break
        if element.length == UNDEFINED:
            raise ValueError("file meta information of undefined length")
        end = element.start + element.length
        if end > len(beginning):
            if len(beginning) >= _META_BYTES:
                raise TooComplex("file meta information")
            break  # a file that was cut short: what it still says is taken
        found.append(element)
    return found, end


def _encoding_of(syntax: str) -> tuple[bool, bool]:
    """Whether a transfer syntax is implicit, and whether it is little-endian."""
    return syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian


def _parse(source: Source, syntax: str, keywords: Sequence[str | int] | None, sequences: Sequence[str]) -> Header:
    implicit, little = _encoding_of(syntax)
    wanted = wanted_tags((*keywords, *sequences)) if keywords is not None else None
    return _parse_elements(source, implicit, little, wanted, sequences)


def _parse_elements(
    source: Source,
    implicit: bool,
    little: bool,
    wanted: Mapping[int, int] | None,
    sequences: Sequence[str],
    encoding: str | list[str] | None = None,
) -> Header:
    built = Budget(_BUILT_ELEMENTS if wanted is None else _BUILT_ELEMENTS_OF_SOME, 0, _ITEM_WEIGHT)
    unbuilt = {int(Tag(keyword)): keyword for keyword in sequences}
    nested = encoding is not None
    parent_encoding = encoding = encoding or default_encoding
    found: dict[BaseTag, RawDataElement | DataElement] = {}
    kept: dict[str, Element] = {}
    whole = _Whole() if wanted is None else None
    for count, element in enumerate(elements(source, implicit, little, Budget(), wanted, nested=nested)):
        if count > len(found) + len(kept) + _REPEATS:
            raise TooComplex("repeated elements")
        if whole is not None:
            whole.add(element)
        tag = BaseTag(element.tag)
        if element.is_sequence and tag in unbuilt:
            kept[unbuilt[tag]] = element
            continue
        if element.is_sequence:
            _require_buildable(element, little, built)
        if element.is_sequence and element.length == UNDEFINED:
            items = BytesIO(element.data[element.start : element.end])
            value = read_sequence(items, element.implicit, little, UNDEFINED, encoding)
            found[tag] = DataElement(tag, "SQ", value, element.start, is_undefined_length=True)
            continue
        found[tag] = raw = _raw(element, little)
        implicit = raw.is_implicit_VR
        if tag == _CHARACTER_SET:
            encoding = convert_encodings(convert_string(raw.value or b"", little))
    ds = Dataset(found, parent_encoding=parent_encoding)
    ds.set_original_encoding(implicit, little, encoding)
    return Header(ds, kept, little, encoding)


@dataclass(slots=True)
class _Whole:
    """Counts what a header takes that is read whole."""

    values: int = 0
    size: int = 0
    extended: int = 0

    def add(self, element: Element) -> None:
        """Raises TooComplex."""
        size = element.end - element.start
        self.size += size
        if self.size > _BYTES:
            raise TooComplex("bytes")
        vr = element.vr or _vr(element.tag)
        if vr in _NUMBERS_AND_BYTES:
            return
        if vr not in _NEVER_SPLIT:
            self.values += _values_beside_the_first(element, vr)
        if self.values > _VALUES:
            raise TooComplex("values")
        is_binary = element.is_sequence or (vr == "UN" and element.tag >> 16 & 1)
        if not is_binary and element.data.find(b"\x1b", element.start, element.end) >= 0:
            self.extended += size
        if self.extended > _EXTENDED_BYTES:
            raise TooComplex("escape sequences")


def _values_beside_the_first(element: Element, vr: str) -> int:
    """How many values reading the element makes, at most, beside its first."""
    size = element.end - element.start
    if vr == "AT":
        return size // 4
    return max(0, element.data.count(b"\\", element.start, element.end) - size // _BYTES_A_BACKSLASH)


def _require_buildable(element: Element, little: bool, built: Budget) -> None:
    """Raises TooComplex for a sequence of which pydicom would make too much."""
    if element.length != UNDEFINED and element.end > len(element.data):
        raise EOFError("the dataset ends within a sequence")
    end = element.end + (element.length == UNDEFINED)  # else its delimiter would come after the end
    try:
        walk_items(element.data, element.start, end, element.implicit, little, built, inside=True)
    except EndOfBytes:
        raise EOFError("the dataset ends within a sequence") from None


def _raw(element: Element, little: bool) -> RawDataElement:
    end = element.end - 8 if element.length == UNDEFINED else element.end  # without its delimiter
    value = bytes(element.data[element.start : end]) if element.length else empty_value_for_VR(element.vr, raw=True)
    return RawDataElement(
        BaseTag(element.tag), element.vr, element.length, value, element.start, element.implicit, little
    )


@lru_cache
def wanted_tags(keywords: tuple[str | int, ...]) -> dict[int, int]:
    """How many bytes of a value are asked for, by tag."""
    tags = [int(Tag(keyword)) for keyword in keywords]
    longest = {tag: _LONGEST_TEXT if _vr(tag) in _LONG_TEXT_VRS else _LONGEST_VALUE for tag in tags}
    return {_CHARACTER_SET: _LONGEST_VALUE} | longest


def _vr(tag: int) -> str:
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return "UN"
