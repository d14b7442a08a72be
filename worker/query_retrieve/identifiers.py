"""Query/Retrieve identifiers (PS3.4 C.4): what a request asks for, which header matches, what an answer holds. Pure."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset, config
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement

from worker.db.views.archive import Keys

# Level → its keys, the unique one first (PS3.4 C.6.1.1, C.6.2.1). An answer may hold those of the levels above too.
LEVELS: dict[str, tuple[str, ...]] = {
    "PATIENT": ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    "STUDY": (
        "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription",
        "ReferringPhysicianName", "ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
    ),
    "SERIES": (
        "SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "SeriesDate", "SeriesTime",
        "BodyPartExamined", "ProtocolName", "NumberOfSeriesRelatedInstances",
    ),
    "IMAGE": (
        "SOPInstanceUID", "SOPClassUID", "InstanceNumber", "ContentDate", "ContentTime", "NumberOfFrames", "Rows",
        "Columns", "ImageType", "CompletionFlag", "VerificationFlag", "ConceptNameCodeSequence",
    ),
}  # fmt: skip
# What the database matches; every other key is compared with the header of a file.
_IN_DATABASE = {
    "StudyInstanceUID": "study_instance_uids",
    "SeriesInstanceUID": "series_instance_uids",
    "SOPInstanceUID": "sop_instance_uids",
    "SOPClassUID": "sop_class_uids",
    "Modality": "modalities",
    "ModalitiesInStudy": "modalities_in_study",
    "PatientID": "patient_id",
    "PatientName": "patient_name",
    "AccessionNumber": "accession_number",
    "StudyDate": "study_date",
}
_LISTS = frozenset({"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"})
_MODALITIES = frozenset({"Modality", "ModalitiesInStudy"})
_NOT_MATCHED = frozenset(
    {"NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances"}
)
_NO_KEYS = frozenset({"QueryRetrieveLevel", "SpecificCharacterSet", "TimezoneOffsetFromUTC"})
_ALWAYS = frozenset({"RetrieveAETitle", "InstanceAvailability"})
_RANGES = frozenset({"DA", "TM", "DT"})


class Mismatch(Exception):
    """The identifier does not match the SOP class: status 0xA900."""


@contextmanager
def quietly() -> Iterator[None]:
    """pydicom's warnings quote the value (architecture, invariant 6), and odd ones are the peer's or the scanner's."""
    with warnings.catch_warnings(action="ignore"):
        yield


@dataclass(frozen=True, slots=True)
class Query:
    """A C-FIND request. `wanted` are the keys to answer; `others` must match the header of a file."""

    level: str
    keys: Keys
    wanted: tuple[str, ...]
    others: Dataset = field(default_factory=Dataset)
    is_understood: bool = True  # every key is supported, else the answers say so: 0xFF01


@quietly()
def read_query(identifier: Dataset, top: str) -> Query:
    """The request of a C-FIND; `top` is the highest level of the information model: PATIENT or STUDY.

    Raises Mismatch where the level is none of the model's, or the unique keys above it are not single values.
    """
    level, levels = _level(identifier, top)
    allowed = {one for name in levels for one in LEVELS[name]} | set(LEVELS["PATIENT"])
    _require_unique(identifier, levels[:-1])
    keys: dict[str, Any] = {}
    wanted: list[str] = []
    others, understood = Dataset(), True
    for element in identifier:
        keyword = keyword_for_tag(element.tag)
        if keyword in _NO_KEYS | _ALWAYS or element.tag.element == 0:
            continue
        if keyword not in allowed:
            understood = False
            continue
        wanted.append(keyword)
        values = texts(element)
        has_value = bool(element.value) if element.VR == "SQ" else any(one.strip("*") for one in values)
        if not has_value:
            continue
        if keyword in _NOT_MATCHED:
            understood = False
        elif keyword in _LISTS or (keyword in _MODALITIES and not _has_wildcard(values)):
            keys[_IN_DATABASE[keyword]] = tuple(values)
        elif keyword in _IN_DATABASE and keyword not in _MODALITIES:
            keys[_IN_DATABASE[keyword]] = "\\".join(values)
        else:
            others.add(element)
    return Query(level, Keys(**keys), tuple(wanted), others, understood)


@quietly()
def read_retrieval(identifier: Dataset, top: str) -> Keys:
    """What a C-MOVE or C-GET asks for. Raises Mismatch: only unique keys, each with its value, and no wildcards."""
    _, levels = _level(identifier, top)
    _require_unique(identifier, levels[:-1])
    unique = [LEVELS[name][0] for name in levels]
    last = _values(identifier, unique[-1])
    if not any(last) or _has_wildcard(last) or (levels[-1] == "PATIENT" and len(last) > 1):
        raise Mismatch("the unique key of the level has no value")
    keys: dict[str, Any] = {}
    for keyword in unique:
        values = _values(identifier, keyword)
        keys[_IN_DATABASE[keyword]] = tuple(values) if keyword in _LISTS else values[0]
    return Keys(**keys)


def _level(identifier: Dataset, top: str) -> tuple[str, list[str]]:
    """The level, and all levels of the model down to it."""
    names = list(LEVELS)[list(LEVELS).index(top) :]
    level = (_values(identifier, "QueryRetrieveLevel") or [""])[0]
    if level not in names:
        raise Mismatch("no such level in this information model")
    return level, names[: names.index(level) + 1]


def _require_unique(identifier: Dataset, levels: Sequence[str]) -> None:
    """PS3.4 C.4.1.2.1: hierarchical; each level above is named by one value of its unique key."""
    for name in levels:
        values = _values(identifier, LEVELS[name][0])
        if len(values) != 1 or not values[0] or _has_wildcard(values):
            raise Mismatch("a unique key above the level is not one value")


def _values(identifier: Dataset, keyword: str) -> list[str]:
    return texts(identifier[keyword]) if keyword in identifier else []


def _has_wildcard(values: Sequence[str]) -> bool:
    return any("*" in one or "?" in one for one in values)


def texts(element: DataElement) -> list[str]:
    """The values of an element as text; none of a sequence or of what cannot be read."""
    if element.VR == "SQ" or element.value is None:
        return []
    values = element.value if isinstance(element.value, Sequence) and not isinstance(element.value, str) else None
    return [str(one).strip() for one in (values if values is not None else [element.value])]


# --- matching: PS3.4 C.2.2.2 -----------------------------------------------------------------------------------


@quietly()
def matches(wanted: Dataset, header: Dataset) -> bool:
    """True where the header has for every element of `wanted` a value that matches."""
    return all(_matches_element(element, header) for element in wanted)


def _matches_element(wanted: DataElement, header: Dataset) -> bool:
    found = header.get(wanted.tag)
    if wanted.VR == "SQ":  # C.2.2.2.6: one item must match
        items = found.value if found is not None else []
        keys = [Dataset({one.tag: one for one in item if any(texts(one)) or one.VR == "SQ"}) for item in wanted.value]
        return all(any(matches(key, item) for item in items) for key in keys)
    values = texts(found) if found is not None else []
    return any(_matches_text(wanted.VR, key, value) for key in texts(wanted) for value in values)


def _matches_text(vr: str, key: str, value: str) -> bool:
    if vr in _RANGES and "-" in key:
        first, _, last = key.partition("-")
        return value != "" and _padded(first) <= _padded(value) <= _padded(last or "99999999", "9")
    if vr == "PN":
        key, value = key.lower(), value.lower()
    if "*" in key or "?" in key:
        pattern = "".join({"*": ".*", "?": "."}.get(one, re.escape(one)) for one in key)
        return re.fullmatch(pattern, value, re.DOTALL) is not None
    if vr == "IS":
        return key.lstrip("+0") == value.lstrip("+0")
    if vr in _RANGES:
        return _padded(key) == _padded(value)
    return key == value


def _padded(text: str, with_digit: str = "0") -> str:
    """A date or time to the last digit that it can have: 10 is 100000.000000, as the end of a range 105959.999999."""
    digits = text.replace(":", "").replace(".", "")
    return digits.ljust(14, with_digit)


@quietly()
def readable(header: Dataset) -> Dataset:
    """Without the elements whose values cannot be read: one bad number of a scanner makes no query fail."""
    for tag in list(header.keys()):
        try:
            header[tag]
        except Exception:  # hostile bytes may raise anything in a parser; such an element is as good as absent
            del header[tag]
    return header


# --- answering -------------------------------------------------------------------------------------------------


@quietly()
def answer(query: Query, known: Dataset, ae_title: str, availability: str) -> Dataset:
    """The identifier of a C-FIND response: the wanted keys of what is `known`, empty where it has none.

    Text as UTF-8 where it is not ASCII.
    """
    found = Dataset()
    for keyword in query.wanted:
        if keyword in known:
            element = known[keyword]
            add_value(found, keyword, element.value if element.VR == "SQ" else _plain(element))
        else:
            add_value(found, keyword, None)
    add_value(found, "QueryRetrieveLevel", query.level)
    add_value(found, "RetrieveAETitle", ae_title)
    add_value(found, "InstanceAvailability", availability)
    if not all(text.isascii() for element in found for text in texts(element)):
        add_value(found, "SpecificCharacterSet", "ISO_IR 192")
    return found


def _plain(element: DataElement) -> Any:
    return element.value if element.VR in ("US", "UL", "SS", "SL") else "\\".join(texts(element))


@quietly()
def add_value(ds: Dataset, keyword: str, value: Any) -> None:
    """Add an element as it is: what a scanner wrote is answered though its VR forbids it, if it can be encoded."""
    try:
        ds.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE))
    except (ValueError, TypeError):
        ds.add(DataElement(keyword, dictionary_VR(keyword), None))
