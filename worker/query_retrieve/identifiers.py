"""Query/Retrieve identifiers (PS3.4 C.4): the keys of a request, and the identifier of a response. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement

from worker.db.views.archive_matching import KEYS_IN_DATABASE, Keys, split_keys
from worker.dicom import matching
from worker.dicom.matching import texts
from worker.dicom.odd_values import add_value, ignore_value_warnings
from worker.dicom.text.wildcards import has_wildcard

# Level → its keys, the unique key first (PS3.4 C.6.1.1, C.6.2.1). A response may have those of the levels above too.
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
_NOT_MATCHED = frozenset(
    {"NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances"}
)
_LONGEST_VALUE = 1 << 18  # bytes: 4,000 UIDs
_NO_KEYS = frozenset({"QueryRetrieveLevel", "SpecificCharacterSet", "TimezoneOffsetFromUTC"})
_ALWAYS = frozenset({"RetrieveAETitle", "InstanceAvailability"})


class Mismatch(Exception):
    """The identifier does not match the SOP class: status 0xA900."""


@dataclass(frozen=True, slots=True)
class Identifier:
    """A C-FIND request. `attributes`: keywords to return; `header_keys` are compared with the header of a file."""

    level: str
    all_keys: tuple[matching.Key, ...]
    keys: Keys
    header_keys: tuple[matching.Key, ...]
    attributes: tuple[str, ...]
    is_understood: bool = True  # every key is supported; otherwise the status of a response is 0xFF01

    def requested(self) -> set[str]:
        """Keywords of all attributes that are returned or matched in the header."""
        return {*self.attributes, *(keyword_for_tag(key.tag) for key in self.header_keys)}


@ignore_value_warnings()
def read_find_identifier(identifier: Dataset, top: str) -> Identifier:
    """The request of a C-FIND; `top` is the highest level of the information model: PATIENT or STUDY.

    Raises Mismatch where the model has no such level, a unique key above it is not a single value, or a key is too
    large. Elements that are no keys are not decoded.
    """
    level, levels = _level(identifier, top)
    supported = {keyword for name in levels for keyword in LEVELS[name]} | set(LEVELS["PATIENT"])
    _require_unique(identifier, levels[:-1])
    attributes: list[str] = []
    matched, understood = Dataset(), True
    for tag in sorted(identifier.keys()):
        keyword = keyword_for_tag(tag)
        if keyword in _NO_KEYS | _ALWAYS or tag.element == 0:
            continue
        if keyword not in supported:
            understood = False
            continue
        element = _element(identifier, keyword)
        attributes.append(keyword)
        if keyword not in _NOT_MATCHED:
            matched.add(element)
        elif not matching.is_universal(texts(element)):
            understood = False
    try:
        all_keys = matching.keys_of(matched)
    except matching.KeyTooLarge as error:
        raise Mismatch("a key is too large") from error
    keys, header_keys = split_keys(all_keys)
    return Identifier(level, all_keys, keys, header_keys, tuple(attributes), understood)


@ignore_value_warnings()
def read_retrieve_identifier(identifier: Dataset, top: str) -> Keys:
    """The keys of a C-MOVE or C-GET: unique keys only. Raises Mismatch where a value is missing or has wildcards."""
    _, levels = _level(identifier, top)
    _require_unique(identifier, levels[:-1])
    unique = [LEVELS[name][0] for name in levels]
    last = _values(identifier, unique[-1])
    if not any(last) or any(map(has_wildcard, last)) or (levels[-1] == "PATIENT" and len(last) > 1):
        raise Mismatch("the unique key of the level has no value")
    return Keys(**{KEYS_IN_DATABASE[keyword]: tuple(_values(identifier, keyword)) for keyword in unique})


def _level(identifier: Dataset, top: str) -> tuple[str, list[str]]:
    """The level, and all levels of the model down to it."""
    names = list(LEVELS)[list(LEVELS).index(top) :]
    level = (_values(identifier, "QueryRetrieveLevel") or [""])[0]
    if level not in names:
        raise Mismatch("no such level in this information model")
    return level, names[: names.index(level) + 1]


def _require_unique(identifier: Dataset, levels: Sequence[str]) -> None:
    """PS3.4 C.4.1.2.1, hierarchical: each level above is identified by a single value of its unique key."""
    for name in levels:
        values = _values(identifier, LEVELS[name][0])
        if len(values) != 1 or not values[0] or has_wildcard(values[0]):
            raise Mismatch("a unique key above the level is not a single value")


def _values(identifier: Dataset, keyword: str) -> list[str]:
    return texts(_element(identifier, keyword)) if keyword in identifier else []


def _element(identifier: Dataset, keyword: str) -> DataElement:
    """The element, decoded. Raises Mismatch for a value longer than any list of UIDs."""
    value = identifier.get_item(keyword).value
    if isinstance(value, bytes) and len(value) > _LONGEST_VALUE:
        raise Mismatch("a value is too long")
    return identifier[keyword]


# --- responses -------------------------------------------------------------------------------------------------


@ignore_value_warnings()
def response_identifier(request: Identifier, known: Dataset, ae_title: str) -> Dataset:
    """The identifier of a C-FIND response: the requested attributes of what is `known`, empty where it has none.

    Text as UTF-8 where it is not ASCII.
    """
    response = Dataset()
    for keyword in (*request.attributes, "InstanceAvailability"):
        if keyword in known:
            element = known[keyword]
            add_value(response, keyword, element.value if element.VR == "SQ" else _plain(element))
        else:
            add_value(response, keyword, None)
    add_value(response, "QueryRetrieveLevel", request.level)
    add_value(response, "RetrieveAETitle", ae_title)
    if not all(text.isascii() for element in response for text in texts(element)):
        add_value(response, "SpecificCharacterSet", "ISO_IR 192")
    return response


def _plain(element: DataElement) -> Any:
    return element.value if element.VR in ("US", "UL", "SS", "SL") else "\\".join(texts(element))
