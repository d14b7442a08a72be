"""Series descriptions and numbers of our objects: what tells them apart in a viewer's list of series.

Objects of a study: "AI brain MRI summary". Of a series: "AI brain MRI: 5 AX T1 POST", with its number and description.
"""

from __future__ import annotations

import hashlib

from pydicom import Dataset

from worker.db.tables import ObjectKind
from worker.reporting.source_attributes import integer_of, long_string, text_of

STUDY_TITLE = "AI brain MRI summary"
_SUFFIXES = {ObjectKind.REPORT: "", ObjectKind.PICTURE: ", picture", ObjectKind.KEY_OBJECTS: ", key images"}
_LONGEST = 64  # of LO, PS3.5 6.2
# Series numbers, below the 2^31 that some systems take at most: a billion, 100,000 for each number of a source series,
# 10 for each of 9,999 series that share that number, and the kind.
_FIRST, _OF_NUMBER, _SERIES, _KINDS = 1_000_000_000, 100_000, 9_999, 10


def series_title(source: Dataset) -> str:
    """The title of the objects of a series: its Series Number and Series Description."""
    number, description = integer_of(source, "SeriesNumber"), text_of(source, "SeriesDescription")
    parts = ["" if number is None else str(number), long_string(description)]
    return f"AI brain MRI: {' '.join(part for part in parts if part) or 'a series without a number'}"


def object_title(title: str, kind: ObjectKind) -> str:
    """The Series Description of an object: an LO, cut where the title is too long, never the kind."""
    suffix = _SUFFIXES[kind]
    return long_string(title)[: _LONGEST - len(suffix)].rstrip() + suffix


def study_series_number(kind: ObjectKind) -> int:
    """The Series Number of an object of a study: a billion and the kind."""
    return _FIRST + _kind(kind)


def series_number(source: Dataset, kind: ObjectKind) -> int:
    """The Series Number of an object of a series, in the order of the sources' numbers.

    No scanner gives such numbers. Series that share a number differ by a hash of their UID.
    """
    number = min(max(integer_of(source, "SeriesNumber") or 0, 0), 9_999)
    digest = hashlib.sha256(str(source.SeriesInstanceUID).encode()).digest()
    place = 1 + int.from_bytes(digest[:8]) % _SERIES
    return _FIRST + number * _OF_NUMBER + place * _KINDS + _kind(kind)


def _kind(kind: ObjectKind) -> int:
    return 1 + list(ObjectKind).index(kind)
