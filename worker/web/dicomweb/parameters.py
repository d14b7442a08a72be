"""The parameters of a search (PS3.18 8.3.4): its keys, the attributes to return, paging."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from worker.audit.events import KEYS_SHOWN
from worker.db.views.archive_matching import Keys, split_keys
from worker.dicom import matching
from worker.dicom.standard import is_uid

_LARGEST = 1 << 31
_MOST_DIGITS = 32  # Python makes no number of more than 4,300
_TRUE, _FALSE = ("true", "1"), ("false", "0")


class Level(IntEnum):
    """The level of a search: studies, series or instances are returned."""

    STUDY = 1
    SERIES = 2
    INSTANCE = 3


# PS3.18 Tables 10.6.3-3 to 10.6.3-5: the attributes that a result of each level has by default.
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

# Other attributes that are the same in every file of a study, or of a series: they can be requested and matched.
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

_OF_ANSWERS = {"accept", "charset"}  # PS3.18 8.3.3; answers are UTF-8
_OPTIONS = {"limit": "", "offset": "0", "fuzzymatching": "false"}  # with their defaults
# The values that are recorded in the audit trail.
_SHOWN = KEYS_SHOWN | set(_OPTIONS) | {"includefield"}
_DEEPEST = 8  # levels of nested sequences


class InvalidQuery(Exception):
    """A search that is not valid; the message repeats no value."""


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A search. `header_keys` are compared with the headers of files.

    `fields`: tags to return beyond the default; None for all. `audited`: the query for the audit trail.
    `has_unsupported`: it had parameters that are not supported, which are as if absent (PS3.18 8.3).
    """

    level: Level
    keys: Keys
    header_keys: tuple[matching.Key, ...]
    fields: frozenset[int] | None
    limit: int | None
    offset: int
    fuzzy: bool
    audited: dict[str, str]
    has_unsupported: bool


def default_tags(level: Level, within: Level | None) -> set[int]:
    """The tags of a result: those of its level, and of the levels above that the address does not fix."""
    first = Level.STUDY if within is None else Level(within + 1)
    levels = [returned for returned in Level if first <= returned <= level]
    uids = ["StudyInstanceUID", "SeriesInstanceUID"][: level - 1]
    return {_tag(keyword) for returned in levels for keyword in DEFAULT[returned]} | {_tag(keyword) for keyword in uids}


def parse(parameters: Iterable[tuple[str, str]], level: Level, fixed: dict[str, str]) -> SearchQuery:
    """Parse the parameters; `fixed`: UIDs by keyword that the address names. Raises InvalidQuery."""
    matched: dict[tuple[int, ...], str] = {}
    fields: set[int] = set()
    supported = tags_of_level(level)
    everything, has_unsupported, options, audited = False, False, dict(_OPTIONS), {}
    for name, value in parameters:
        path = _path(name)
        if name in _OPTIONS:
            if name in audited:
                raise InvalidQuery(f"{name} is given more than once")
            options[name] = audited[name] = value
        elif name == "includefield":
            audited[name] = ",".join(filter(None, (audited.get(name), value)))
            names = [attribute for attribute in value.split(",") if attribute]
            everything = everything or "all" in names
            fields |= {wanted[0] for attribute in names if (wanted := _path(attribute)) is not None}
        elif path is not None and (supported is None or path[0] in supported):
            keyword = _keyword(path[-1])
            if path in matched:  # PS3.18 8.3.4.1
                raise InvalidQuery(f"{keyword or name} is given more than once")
            audited[keyword or name] = value if keyword in _SHOWN else "***"
            fields.add(path[0])
            matched[path] = value
        else:
            has_unsupported = has_unsupported or name not in _OF_ANSWERS
    matched |= {(_tag(keyword),): uid for keyword, uid in fixed.items()}
    keys, header_keys = _split(matched)
    if supported is not None:
        fields &= supported  # PS3.18 8.3.4.3: attributes that are not supported are left out
    return SearchQuery(
        level=level,
        keys=keys,
        header_keys=header_keys,
        fields=None if everything else frozenset(fields),
        limit=_number(options["limit"], "limit") if options["limit"] else None,
        offset=_number(options["offset"], "offset"),
        fuzzy=_flag(options["fuzzymatching"]),
        audited=audited | fixed,
        has_unsupported=has_unsupported,
    )


def _split(matched: dict[tuple[int, ...], str]) -> tuple[Keys, tuple[matching.Key, ...]]:
    """The keys for the database, and those for headers: StudyDate for both where its time is a key.

    The two may be a single range (PS3.4 C.2.2.2.5.4); the database selects by the date all that both select.
    """
    try:
        all_keys = matching.keys_of_parameters(matched.items())
    except matching.KeyTooLarge:
        limits = f"{matching.MOST_VALUES} values, {matching.MOST_CHARACTERS} characters or three groups of a name"
        raise InvalidQuery(f"a key has more than {limits}") from None
    for key in all_keys:
        if key.vr == "UI" and not all(is_uid(value) for value in key.values):
            raise InvalidQuery(f"{_keyword(key.tag)} must be a UID, or several separated by commas")
    keys, header_keys = split_keys(all_keys)
    tags = {_keyword(key.tag): key for key in all_keys}
    if "StudyDate" in tags and "StudyTime" in tags:
        header_keys = (tags["StudyDate"], *header_keys)
    return keys, header_keys


def tags_of_level(level: Level) -> set[int] | None:
    """Every tag that a result of a level may have; None where there is no limit."""
    if level == Level.INSTANCE:
        return None
    return {_tag(keyword) for above in Level if above <= level for keyword in (*DEFAULT[above], *_MORE[above])}


def _path(name: str) -> tuple[int, ...] | None:
    """Tags, from keywords or eight hexadecimal digits; a full stop leads from a sequence into its items.

    None for what is no attribute of the data dictionary (PS3.6), and within too many sequences.
    """
    names = name.split(".")
    tags = [_find_tag(attribute) for attribute in names] if len(names) <= _DEEPEST else []
    path = tuple(tag for tag in tags if tag is not None)
    return path if len(path) == len(names) else None


def _tag(keyword: str) -> int:
    tag = _find_tag(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


def _find_tag(name: str) -> int | None:
    tag = tag_for_keyword(name) if name else None  # some retired attributes have no keyword
    if tag is None and len(name) == 8:
        try:
            tag = int(name, 16)
            dictionary_VR(tag)
        except (ValueError, KeyError):
            tag = None
    return None if tag is None else int(tag)


def _keyword(tag: int) -> str:
    return str(keyword_for_tag(tag))


def _number(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS or int(text) >= _LARGEST:
        raise InvalidQuery(f"{name} must be a number from 0 to {_LARGEST - 1}")
    return int(text)


def _flag(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise InvalidQuery("fuzzymatching must be true or false")
    return text.lower() in _TRUE
