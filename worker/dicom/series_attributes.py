"""What an instance's header says about the type of its series, as the receiver stores it: short texts by keyword.

Of free text, which may hold anything, only the names of known terms and body parts are kept. An attribute of an
enhanced image comes from its functional groups, so an instance has one set of attributes a kind of its frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag, Tag

from worker.dicom.body_parts import part_of_code, parts_in_text, parts_of_coil
from worker.dicom.functional_groups import frame_variants, has_groups
from worker.dicom.header import Header
from worker.dicom.series_terms import find_terms

Attributes = Mapping[str, Sequence[str]]
Kinds = Sequence[Attributes]  # of an instance, one set for each kind of its frames
TYPE_KEY = "type"  # the key of an instance's stored attributes
MAXIMUM_VALUES, MAXIMUM_LENGTH, MAXIMUM_TEXT = 16, 32, 256

_VALUES = (
    "ImageType", "FrameType", "ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "AngioFlag",
    "AcquisitionContrast", "ComplexImageComponent", "EchoPlanarPulseSequence", "EchoPulseSequence",
    "TimeOfFlightContrast", "PhaseContrast", "InversionRecovery", "PixelPresentation",
    "VolumeBasedCalculationTechnique",
    "ContrastBolusAgentAdministered", "BodyPartExamined",
)  # fmt: skip
_NUMBERS = (
    "EchoTime", "EffectiveEchoTime", "RepetitionTime", "InversionTime", "InversionTimes", "FlipAngle",
    "EchoTrainLength",
    "DiffusionBValue", "SamplesPerPixel",
)  # fmt: skip
_NAMES = ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName")
_PLACES = ("SeriesDescription", "ProtocolName", "StudyDescription", "PerformedProcedureStepDescription",
           "RequestedProcedureDescription")  # fmt: skip
_AGENT, _AGENTS, _REGION, _COIL = (
    "ContrastBolusAgent", "ContrastBolusAgentSequence", "AnatomicRegionSequence", "ReceiveCoilName",
)  # fmt: skip
# Private attributes that the vendors' conformance statements publish: name, tag, private creator and its element.
_PRIVATE = (
    ("SiemensBValue", 0x0019100C, "SIEMENS MR HEADER", 0x00190010),
    ("GEBValue", 0x00431039, "GEMS_PARM_01", 0x00430010),
    ("GEPulseSequence", 0x0019109C, "GEMS_ACQU_01", 0x00190010),
    ("PhilipsBValue", 0x20011003, "Philips Imaging DD 001", 0x20010010),
    ("PhilipsEPIFactor", 0x20011013, "Philips Imaging DD 001", 0x20010010),
    ("PhilipsTechnique", 0x20011020, "Philips Imaging DD 001", 0x20010010),
)
_PRIVATE_NAMES = ("GEPulseSequence", "PhilipsTechnique")
_NO_AGENT = {
    "",
    "NO",
    "NONE",
    "N",
    "0",
    "NIL",
    "NULL",
    "NON",
    "NEIN",
    "KEIN",
    "KEINS",
    "OHNE",
    "UNKNOWN",
    "N/A",
    "-",
    "--",
}

KEYWORDS: tuple[str, ...] = tuple(
    dict.fromkeys((*_VALUES, *_NUMBERS, *_NAMES, *_PLACES, _AGENT, _AGENTS, _REGION, _COIL))
)
PRIVATE_TAGS: tuple[int, ...] = tuple(
    dict.fromkeys(tag for _, *tags in _PRIVATE for tag in tags if isinstance(tag, int))
)
# Of an enhanced image these lie in functional groups.
GROUP_KEYWORDS: tuple[str, ...] = (
    "FrameType", "ComplexImageComponent", "AcquisitionContrast", "PixelPresentation", "VolumeBasedCalculationTechnique",
    "EffectiveEchoTime", "RepetitionTime", "FlipAngle", "EchoTrainLength", "InversionRecovery", "InversionTimes",
    "DiffusionBValue", "ContrastBolusAgentAdministered", _REGION, _COIL, "ImageOrientationPatient",
)  # fmt: skip
_TAGS = {int(Tag(keyword)): keyword for keyword in KEYWORDS}
_PRIVATE_TAGS = {tag: (name, creator, int(Tag(element))) for name, tag, creator, element in _PRIVATE}
_TEXT_VRS = ("CS", "LO", "SH", "DS", "IS")


def read_attributes(ds: Dataset) -> dict[str, list[str]]:
    """The attributes of the dataset's top level that tell the type, without those that are absent or unreadable."""
    found: dict[str, list[str]] = {}
    for tag, element in ds.items():
        keyword = _TAGS.get(tag)
        if keyword is not None:
            raw = element.value if isinstance(element, RawDataElement) and element.VR in _TEXT_VRS else None
            if raw is not None and len(raw) <= MAXIMUM_TEXT and raw.isascii() and b"\x1b" not in raw:
                found.update(_kept_of(keyword, bytes(raw)))
            else:
                _add(found, keyword, _texts(ds, tag, element))
        elif tag in _PRIVATE_TAGS:
            name, creator, block = _PRIVATE_TAGS[tag]
            if _texts(ds, BaseTag(block), ds.get_item(block)) == [creator]:
                _add(found, name, _texts(ds, tag, element))
    return found


def read_kinds(header: Header) -> list[dict[str, list[str]]]:
    """The attributes of an instance that tell the type of its series; of an enhanced image, for each kind of frames."""
    top = read_attributes(header.dataset)
    if not has_groups(header):
        return [top]
    try:
        return [top | read_frame_attributes(kind) for kind in frame_variants(header, GROUP_KEYWORDS, group_texts)]
    except Exception:  # hostile bytes may raise anything in a parser: the frames tell nothing
        return [top]


def read_frame_attributes(read: Mapping[str, Sequence[str] | None]) -> dict[str, list[str]]:
    """The attributes of a kind of frames, of the texts that `group_texts` gave."""
    found: dict[str, list[str]] = {}
    for keyword, texts in read.items():
        _add(found, keyword, list(texts or ()))
    return found


def group_texts(ds: Dataset, keyword: str) -> list[str]:
    """The texts of an attribute of an item of a functional group."""
    tag = Tag(keyword)
    return _texts(ds, tag, ds.get_item(tag)) if tag in ds else []


@lru_cache(maxsize=8192)
def _kept_of(keyword: str, raw: bytes) -> dict[str, list[str]]:
    """What is kept of a value of plain ASCII; the slices of a series have nearly all values in common."""
    found: dict[str, list[str]] = {}
    _add(found, keyword, [_printable(text) for text in raw.decode().split("\\")[:MAXIMUM_VALUES]] if raw else [])
    return found


def _add(found: dict[str, list[str]], keyword: str, texts: list[str]) -> None:
    """Add what is kept of an attribute: values in capitals, names of terms, body parts."""
    if not any(texts):
        return
    if keyword in _PLACES:
        parts = dict.fromkeys(part for text in texts for part in parts_in_text(text))
        if parts:
            found[f"{keyword}.part"] = list(parts)
    if keyword in _NAMES or keyword in _PRIVATE_NAMES:
        names = dict.fromkeys(name for text in texts for name in find_terms(text))
        if names:
            found[keyword] = list(names)
    elif keyword == _COIL:
        parts = dict.fromkeys(part for text in texts for part in parts_of_coil(text))
        if parts:
            found[keyword] = list(parts)
    elif keyword in (_AGENT, _AGENTS):
        if any(text.strip().upper() not in _NO_AGENT for text in texts):
            found[keyword] = ["YES"]
    elif keyword not in _PLACES:
        found[keyword] = [text.strip().upper()[:MAXIMUM_LENGTH] for text in texts]


def _texts(ds: Dataset, tag: BaseTag, element: Any) -> list[str]:
    try:
        if isinstance(element, RawDataElement):
            raw = element.value
            # Plain ASCII needs none of pydicom's objects; escape sequences change what follows (PS3.5 6.1.2.5).
            if element.VR in _TEXT_VRS and raw and raw.isascii() and b"\x1b" not in raw:
                return [_printable(text) for text in raw[:1024].decode().split("\\")[:MAXIMUM_VALUES]]
            if not raw:
                return []
        return _from_value(ds[tag].value)
    except Exception:  # hostile bytes may raise anything in a parser; such a value counts as absent
        return []


def _from_value(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bytes):
        return [_printable(text) for text in value[:1024].decode("latin-1").split("\\")[:MAXIMUM_VALUES]]
    many = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [_code(item) if isinstance(item, Dataset) else _printable(str(item)) for item in many[:MAXIMUM_VALUES]]


def _code(item: Dataset) -> str:
    """The region of a code sequence's item; of another code its meaning too."""
    return part_of_code(str(item.get("CodeValue", "")), str(item.get("CodeMeaning", ""))[:MAXIMUM_TEXT])


def _printable(text: str) -> str:
    text = text[:MAXIMUM_TEXT]
    return (text if text.isprintable() else "".join(filter(str.isprintable, text))).strip()


def first_number(kind: Attributes, *keywords: str) -> float | None:
    numbers = (number(text) for keyword in keywords for text in kind.get(keyword, ()))
    return next((value for value in numbers if value is not None), None)


def number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
