"""The parameters of a search (PS3.18 8.3.4) → what the database is asked, and what is looked for in the files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from worker.db.views.archive import Keys
from worker.dicom.standard import is_uid

_LARGEST = 1 << 31
_TRUE, _FALSE = ("true", "1"), ("false", "0")


class Level(IntEnum):
    """What is listed."""

    STUDY = 1
    SERIES = 2
    INSTANCE = 3


# PS3.18 Tables 10.6.3-3 to 10.6.3-5: what an answer of each level has without being asked.
DEFAULT = {
    Level.STUDY: (
        "StudyDate", "StudyTime", "AccessionNumber", "InstanceAvailability", "ModalitiesInStudy",
        "ReferringPhysicianName", "TimezoneOffsetFromUTC", "RetrieveURL", "PatientName", "PatientID",
        "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
    ),
    Level.SERIES: (
        "Modality", "TimezoneOffsetFromUTC", "SeriesDescription", "RetrieveURL", "SeriesInstanceUID", "SeriesNumber",
        "NumberOfSeriesRelatedInstances", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime",
        "RequestAttributesSequence",
    ),
    Level.INSTANCE: (
        "SOPClassUID", "SOPInstanceUID", "InstanceAvailability", "TimezoneOffsetFromUTC", "RetrieveURL",
        "InstanceNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames", "ConceptNameCodeSequence",
        "ContentTemplateSequence",  # IHE RAD AIR, RAD-137: which report is this?
    ),
}  # fmt: skip

# What else is the same in every file of a study, or of a series: it can be asked for and searched by.
_MORE = {
    Level.STUDY: (
        "StudyDescription", "PatientAge", "PatientSize", "PatientWeight", "IssuerOfPatientID",
        "NameOfPhysiciansReadingStudy",
    ),
    Level.SERIES: (
        "SeriesDate", "SeriesTime", "BodyPartExamined", "Laterality", "ProtocolName", "Manufacturer",
        "ManufacturerModelName", "InstitutionName", "StationName", "OperatorsName", "FrameOfReferenceUID",
    ),
}  # fmt: skip

# What the database answers; the keyword of a list of values is marked by True.
_COLUMNS: dict[str, tuple[str, bool, Level]] = {
    "StudyInstanceUID": ("study_instance_uids", True, Level.STUDY),
    "PatientID": ("patient_id", False, Level.STUDY),
    "PatientName": ("patient_name", False, Level.STUDY),
    "AccessionNumber": ("accession_number", False, Level.STUDY),
    "StudyDate": ("study_date", False, Level.STUDY),
    "ModalitiesInStudy": ("modalities_in_study", True, Level.STUDY),
    "SeriesInstanceUID": ("series_instance_uids", True, Level.SERIES),
    "Modality": ("modalities", True, Level.SERIES),
    "SOPInstanceUID": ("sop_instance_uids", True, Level.INSTANCE),
    "SOPClassUID": ("sop_class_uids", True, Level.INSTANCE),
}
# Their values may be named in the audit trail.
_HARMLESS = {
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "StudyDate", "Modality",
    "ModalitiesInStudy", "limit", "offset", "includefield", "fuzzymatching",
}  # fmt: skip


class InvalidQuery(Exception):
    """A sentence about what is wrong; it repeats no value."""


@dataclass(frozen=True, slots=True)
class Query:
    """`others`: (tags from the outside in, value) to look for in the files; `fields`: tags to answer, beyond the
    default; None asks for all. `asked` is the query for the audit trail.
    """

    level: Level
    keys: Keys
    others: tuple[tuple[tuple[int, ...], str], ...]
    fields: frozenset[int] | None
    limit: int | None
    offset: int
    fuzzy: bool
    asked: dict[str, str]


def defaults(level: Level, within: Level | None) -> set[int]:
    """Tags of an answer: those of its level, and of the levels above that the address does not fix."""
    first = Level.STUDY if within is None else Level(within + 1)
    levels = [one for one in Level if first <= one <= level]
    uids = ["StudyInstanceUID", "SeriesInstanceUID"][: level - 1]
    return {_tag(keyword) for one in levels for keyword in DEFAULT[one]} | {_tag(keyword) for keyword in uids}


def parse(parameters: Iterable[tuple[str, str]], level: Level, fixed: dict[str, str]) -> Query:
    """`fixed`: UIDs by keyword that the address names. Raises InvalidQuery."""
    columns: dict[str, Any] = {}
    others: list[tuple[tuple[int, ...], str]] = []
    fields: set[int] = set()
    everything, options, asked = False, {"limit": "", "offset": "0", "fuzzymatching": "false"}, {}
    for name, value in [*parameters, *fixed.items()]:
        known = name if name in options or name == "includefield" else _keyword(_path(name)[-1])
        asked[known or name] = value if known in _HARMLESS else "***"
        if name in options:
            options[name] = value
        elif name == "includefield":
            everything = everything or value == "all"
            fields |= {_path(one)[0] for one in value.split(",") if one not in ("all", "")}
        else:
            path = _path(name)
            fields.add(path[0])
            _require_level(path[0], level)
            column = _COLUMNS.get(_keyword(path[0])) if len(path) == 1 else None
            if column is not None and value.strip("*"):
                columns[column[0]] = _listed(value, _keyword(path[0])) if column[1] else value
            elif column is None and value.strip("*"):
                others.append((path, value))
    known_here = of_level(level)
    if known_here is not None:
        fields &= known_here  # PS3.18 8.3.4.3: what is not supported is left out
    return Query(
        level=level,
        keys=Keys(**columns),
        others=tuple(others),
        fields=None if everything else frozenset(fields),
        limit=_number(options["limit"], "limit") if options["limit"] else None,
        offset=_number(options["offset"], "offset"),
        fuzzy=_flag(options["fuzzymatching"]),
        asked=asked,
    )


def of_level(level: Level) -> set[int] | None:
    """Every tag that an answer of a level may have; None where there is no limit."""
    if level == Level.INSTANCE:
        return None
    return {_tag(keyword) for one in Level if one <= level for keyword in (*DEFAULT[one], *_MORE[one])}


def _require_level(tag: int, level: Level) -> None:
    known = of_level(level)
    if known is not None and tag not in known:
        raise InvalidQuery(f"{_keyword(tag)} is no attribute that a search for {level.name.lower()} resources knows")


def _path(name: str) -> tuple[int, ...]:
    """Tags by keyword or as eight hexadecimal digits, with a full stop between a sequence and its item."""
    return tuple(_tag(one) for one in name.split("."))


def _tag(name: str) -> int:
    tag = tag_for_keyword(name) if name else None  # some retired attributes have no keyword
    if tag is None and len(name) == 8:
        try:
            tag = int(name, 16)
            dictionary_VR(tag)
        except (ValueError, KeyError):
            tag = None
    if tag is None:
        raise InvalidQuery("an attribute is named that the data dictionary (PS3.6) does not have")
    return int(tag)


def _keyword(tag: int) -> str:
    return str(keyword_for_tag(tag))


def _listed(value: str, keyword: str) -> tuple[str, ...]:
    values = tuple(one.strip() for one in value.replace("\\", ",").split(",") if one.strip())
    if keyword.endswith("UID") and not all(is_uid(one) for one in values):
        raise InvalidQuery(f"{keyword} is a UID, or several with a comma between them")
    if any("*" in one or "?" in one for one in values):
        raise InvalidQuery(f"{keyword} takes no wildcard")
    return values


def _number(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= _LARGEST:
        raise InvalidQuery(f"{name} is a number from 0")
    return int(text)


def _flag(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise InvalidQuery("fuzzymatching is true or false")
    return text.lower() in _TRUE
