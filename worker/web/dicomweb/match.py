"""Does a dataset match a key? PS3.4 C.2.2.2: single value, UID list, wildcard, range and sequence matching."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR

_EXACT = {"UI", "AT"}
_NUMBERS = {"IS", "DS", "US", "SS", "UL", "SL", "FL", "FD", "SV", "UV"}
_RANGES = {"DA", "TM", "DT"}


def matches(ds: Dataset, path: Sequence[int], wanted: str) -> bool:
    """An absent attribute matches nothing but the universal key, which has no characters but `*`."""
    if not wanted.strip("*"):
        return True
    tag, inner = path[0], path[1:]
    if tag not in ds:
        return False
    value = ds[tag].value
    if inner:
        return dictionary_VR(tag) == "SQ" and any(matches(item, inner, wanted) for item in value or ())
    values = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
    return any(_equal(str(ds[tag].VR), one, wanted) for one in values)


def _equal(vr: str, value: Any, wanted: str) -> bool:
    if vr in _EXACT:
        return str(value) in re.split(r"[\\,]", wanted)
    if vr in _NUMBERS:
        try:
            return float(value) == float(wanted)
        except (TypeError, ValueError):
            return False
    text = str(value or "").strip()
    if vr in _RANGES and "-" in wanted:
        return _is_between(vr, text, wanted)
    if vr == "TM":
        return _padded(text, "0") == _padded(wanted, "0")
    groups = [text, *text.split("=")] if vr == "PN" else [text]
    flags = re.IGNORECASE if vr == "PN" else 0
    return any(re.fullmatch(_pattern(wanted), one, flags | re.DOTALL) for one in groups)


def _is_between(vr: str, text: str, wanted: str) -> bool:
    first, _, last = wanted.partition("-")
    if not text:
        return False
    if vr == "DA":
        return first <= text <= (last or "9")
    return _padded(first, "0") <= _padded(text, "0") <= _padded(last, "9")


def _padded(text: str, filler: str) -> str:
    """A time or date and time with every digit that it leaves out: so two compare as text."""
    return text.replace(":", "").replace(".", "").ljust(20, filler)


def _pattern(wanted: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(one) or re.escape(one) for one in wanted)
