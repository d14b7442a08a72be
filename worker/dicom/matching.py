"""Attribute matching (PS3.4 C.2.2.2), the same for C-FIND and QIDO-RS: which dataset matches which keys.

What the standard leaves to the implementation is decided here and stated in docs/conformance.md:

- A person name matches literally, case ignored (C.2.2.2.1.1, C.2.2.2.4), as a whole or by any of its component groups
  (PS3.5 6.2.1): see text.names.
- Dates, times and date-times match by their meaning (C.2.2.2.1.3). The incomplete end of a range includes all that it
  can stand for: `10-12` includes 125959.
- A key of several values, which the standard defines for UIDs only (C.2.2.2.2), is matched by any of them; there may be
  MOST_VALUES of what is no UID, of MOST_CHARACTERS each. Of an attribute the first MOST_COMPARED values are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.tag import Tag

import worker.dicom.character_sets  # noqa: F401 - values of senders are decoded here
from worker.dicom.odd_values import ignore_value_warnings
from worker.dicom.text.names import matches_name
from worker.dicom.text.wildcards import matches_wildcards

_WILDCARD_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})  # C.2.2.2.4
_NUMBER_VRS = frozenset({"IS", "DS", "US", "SS", "UL", "SL", "FL", "FD", "SV", "UV"})
_SINGLE_VALUED_VRS = frozenset({"LT", "ST", "UR", "UT"})  # PS3.5 6.4: a backslash is a character of their value
MOST_VALUES = 50
MOST_VALUES_OF_ALL = 200  # keys together, UIDs apart: each is compared with each value of an attribute
MOST_COMPARED = 64  # values of an attribute: the first; image types have a dozen
MOST_CHARACTERS = 1024  # of a value: an ST has no more; a key is compared with every name of a database
_NAME_GROUPS = 3  # PS3.5 6.2.1.2
_MOMENT = re.compile(r"(\d{4,14})(?:\.(\d{1,6}))?([+-]\d{4})?", re.ASCII)  # PS3.5 6.2, VR DT
_MOST_HYPHENS = 3  # of a range of date-times: its own, and those of two offsets


class KeyTooLarge(ValueError):
    """A key that is no list of UIDs has more than MOST_VALUES values or items, or all keys have more than
    MOST_VALUES_OF_ALL, or a value is too long for any."""


@dataclass(frozen=True, slots=True)
class Key:
    """A matching key. For a sequence, `item` are the keys that a single item must match (C.2.2.2.6).

    A key that matches everything (C.2.2.2.3) is no Key: it is left out.
    """

    tag: int
    vr: str
    values: tuple[str, ...] = ()
    item: tuple[Key, ...] = ()


def keys_of(identifier: Iterable[DataElement]) -> tuple[Key, ...]:
    """The keys of the identifier of a C-FIND request. Raises KeyTooLarge."""
    return _limited(tuple(key for element in identifier for key in _keys_of_element(element)))


def _limited(keys: tuple[Key, ...]) -> tuple[Key, ...]:
    if _count_values(keys) > MOST_VALUES_OF_ALL:
        raise KeyTooLarge
    return keys


def _count_values(keys: Iterable[Key]) -> int:
    return sum(_count_values(key.item) + (len(key.values) if key.vr != "UI" else 0) for key in keys)


def _keys_of_element(element: DataElement) -> Iterator[Key]:
    if element.VR == "SQ":
        if len(element.value or ()) > MOST_VALUES:
            raise KeyTooLarge
        items = [keys_of(item) for item in element.value or ()]
        yield from (Key(int(element.tag), "SQ", item=item) for item in items if item)
    else:
        yield from _key(int(element.tag), element.VR, texts(element))


def _key(tag: int, vr: str, values: Iterable[str]) -> Iterator[Key]:
    given = tuple(filter(None, values))
    if (vr != "UI" and len(given) > MOST_VALUES) or any(len(value) > MOST_CHARACTERS for value in given):
        raise KeyTooLarge
    if vr == "PN" and any(value.count("=") >= _NAME_GROUPS for value in given):
        raise KeyTooLarge
    if not is_universal(given):
        yield Key(tag, vr, given)


def is_universal(values: Iterable[str]) -> bool:
    """True for no value, and where a value consists of `*` alone (C.2.2.2.3, C.2.2.2.4 note 1)."""
    given = list(filter(None, values))
    return not given or any(not value.strip("*") for value in given)


def keys_of_parameters(parameters: Iterable[tuple[Sequence[int], str]]) -> tuple[Key, ...]:
    """The keys of a search's parameters (PS3.18 8.3.4.1): each the tags from the outside in, and a value.

    Parameters within the same sequence are the keys of the same item. Raises KeyTooLarge.
    """
    within: dict[int, list[tuple[Sequence[int], str]]] = {}
    keys: list[Key] = []
    for path, value in parameters:
        if len(path) > 1:
            within.setdefault(path[0], []).append((path[1:], value))
            continue
        vr = dictionary_VR(path[0])
        keys += _key(path[0], vr, (text.strip() for text in _split(vr, value)))
    items = [(tag, keys_of_parameters(inner)) for tag, inner in within.items()]
    return _limited((*keys, *(Key(tag, "SQ", item=item) for tag, item in items if item)))


def _split(vr: str, value: str) -> list[str]:
    if vr in _SINGLE_VALUED_VRS:
        return [value]
    # PS3.18 8.3.4.1: a list of UIDs has commas. No code string has any (PS3.5 6.2), so lists of modalities may too.
    return value.replace(",", "\\").split("\\") if vr in ("UI", "CS") else value.split("\\")


def texts(element: DataElement) -> list[str]:
    """The values of an element as text; none of a sequence and of binary data. Raises what pydicom raises."""
    value = element.value
    if element.VR == "SQ" or value is None or isinstance(value, bytes):
        return []
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [str(item).strip() for item in values]


def matches(keys: Iterable[Key], ds: Dataset, combined_date_time: bool = False) -> bool:
    """True where every key is matched; an absent or unreadable attribute matches none.

    `combined_date_time`: a range of dates and a range of times that belong together are a single range (C.2.2.2.5.4).
    PS3.18 8.3.4.1.1 requires that of QIDO-RS; C-FIND must negotiate it.
    """
    with ignore_value_warnings():
        return _match_all(tuple(keys), ds, combined_date_time)


def _match_all(keys: Sequence[Key], ds: Dataset, combined_date_time: bool) -> bool:
    pairs = _pairs(keys) if combined_date_time else []
    paired = {key for pair in pairs for key in pair}
    return all(_matches_pair(date, time, ds) for date, time in pairs) and all(
        _matches_key(key, ds, combined_date_time) for key in keys if key not in paired
    )


def _matches_key(key: Key, ds: Dataset, combined_date_time: bool) -> bool:
    element = _element(ds, key.tag)
    if element is None:
        return False
    if key.vr == "SQ":
        items = element.value or () if key.item and element.VR == "SQ" else ()
        return any(_match_all(key.item, item, combined_date_time) for item in items)
    vr = element.VR if " " in key.vr else key.vr  # "US or SS": the dictionary leaves it to the file
    return any(matches_value(vr, wanted, value) for value in _texts(element) for wanted in key.values)


def _element(ds: Dataset, tag: int) -> DataElement | None:
    try:
        return ds.get(Tag(tag))
    except Exception:  # hostile bytes may raise anything in a parser; such an element is as good as absent
        return None


def _texts(element: DataElement) -> list[str]:
    try:
        return texts(element)[:MOST_COMPARED]
    except Exception:  # as above: a name is decoded only when it is read
        return []


def matches_value(vr: str, key: str, value: str) -> bool:
    """True where a value of this representation, as text, matches the text of a key that is not universal."""
    if vr == "PN":
        return matches_name(key, value)
    if vr in _WILDCARD_VRS:
        return matches_wildcards(key, value)
    if vr in _NUMBER_VRS:
        return _is_same_number(key, value)
    if vr == "DA":
        return _is_in_date_range(key, value) if "-" in key else key == value
    if vr == "TM":
        return _is_in_time_range(key, value) if "-" in key else _time(key) == _time(value)
    if vr == "DT":
        return _matches_moment(key, value)
    if vr == "AT":
        return _hexadecimal(key) == _hexadecimal(value)
    return key == value


def _hexadecimal(tag: str) -> str:
    return tag.strip("()").replace(",", "").replace(" ", "").upper()


def _is_same_number(key: str, value: str) -> bool:
    try:
        return Decimal(key) == Decimal(value)
    except InvalidOperation:
        return False


# --- dates and times: C.2.2.2.1.3, C.2.2.2.5 -------------------------------------------------------------------


def date_range(key: str) -> tuple[str, str]:
    """The first and the last date of a range, with all eight digits; 0 and 9 stand for what a key leaves open."""
    first, _, last = key.partition("-")
    return first.strip().ljust(8, "0"), last.strip().ljust(8, "9")


def _is_in_date_range(key: str, value: str) -> bool:
    first, last = date_range(key)
    return value != "" and first <= value <= last


def _is_in_time_range(key: str, value: str) -> bool:
    first, _, last = key.partition("-")
    return value != "" and _time(first) <= _time(value) <= _time(last, "9")


def _time(text: str, digit: str = "0") -> str:
    """All digits of a time (HHMMSSFFFFFF), with `digit` for those that it leaves out; ACR-NEMA's colons are none."""
    return text.strip().replace(":", "").replace(".", "").ljust(12, digit)


def _matches_moment(key: str, value: str) -> bool:
    moment = _MOMENT.fullmatch(value)
    if moment is None:
        return key == value
    if "-" not in key:
        wanted = _MOMENT.fullmatch(key)
        return wanted is not None and _compared(wanted, moment, "0") == 0
    if key.count("-") > _MOST_HYPHENS:
        return False
    for first, last in _splits(key):
        starts, ends = _MOMENT.fullmatch(first), _MOMENT.fullmatch(last)
        if (starts or not first) and (ends or not last):
            return (starts is None or _compared(starts, moment, "0") <= 0) and (
                ends is None or _compared(ends, moment, "9") >= 0
            )
    return False


def _splits(key: str) -> Iterator[tuple[str, str]]:
    """What is left and right of each hyphen: that of an offset from UTC separates no range."""
    for place in [index for index, character in enumerate(key) if character == "-"]:
        yield key[:place].strip(), key[place + 1 :].strip()


def _compared(wanted: re.Match[str], moment: re.Match[str], digit: str) -> int:
    """-1, 0 or 1 as `wanted` is before, at or after a moment. A moment without offset is in the zone of the other."""
    zoned = wanted[3] is not None and moment[3] is not None
    first, second = _moment_digits(wanted, digit, zoned), _moment_digits(moment, "0", zoned)
    return (first > second) - (first < second)


def _moment_digits(moment: re.Match[str], digit: str, zoned: bool) -> str:
    """All digits of a date-time (YYYYMMDDHHMMSSFFFFFF), in UTC where `zoned`."""
    digits = (moment[1].ljust(14, digit) if moment[2] is None else moment[1]) + (moment[2] or "")
    if zoned and len(moment[1]) == 14:
        offset = timedelta(hours=int(moment[3][:3]), minutes=int(moment[3][0] + moment[3][3:]))
        with suppress(ValueError, OverflowError):  # no such day or hour: it is compared as it is written
            digits = f"{datetime.strptime(moment[1], '%Y%m%d%H%M%S') - offset:%Y%m%d%H%M%S}".zfill(14) + (
                moment[2] or ""
            )
    return digits.ljust(20, digit)


def _pairs(keys: Sequence[Key]) -> list[tuple[Key, Key]]:
    """The date and the time of a range each, of the same form (C.2.2.2.5.4): StudyDate and StudyTime, and so on."""
    ranges = {keyword_for_tag(key.tag): key for key in keys if key.vr in ("DA", "TM") and _form(key)}
    pairs = []
    for keyword, date in ranges.items():
        time = ranges.get(keyword.removesuffix("Date") + "Time")
        if date.vr == "DA" and time is not None and time.vr == "TM" and _form(date) == _form(time):
            pairs.append((date, time))
    return pairs


def _form(key: Key) -> tuple[bool, bool] | None:
    """Which ends a range has; None for what is no range."""
    if len(key.values) != 1 or "-" not in key.values[0]:
        return None
    first, _, last = key.values[0].partition("-")
    return bool(first.strip()), bool(last.strip())


def _matches_pair(date: Key, time: Key, ds: Dataset) -> bool:
    elements = _element(ds, date.tag), _element(ds, time.tag)
    days, times = ((_texts(element) if element is not None else []) for element in elements)
    if not days or not days[0]:
        return False
    moment = days[0].ljust(8, "0") + _time(times[0] if times else "")
    (first_day, last_day), (first, _, last) = date_range(date.values[0]), time.values[0].partition("-")
    return first_day + _time(first) <= moment <= last_day + _time(last, "9")
