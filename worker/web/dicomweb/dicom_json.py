"""The DICOM JSON Model of a dataset (PS3.18 F)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from pydicom import DataElement, Dataset

from worker.dicom.odd_values import ignore_value_warnings

_BULK_BYTES = 1024  # longer binary values are retrieved separately: PS3.18 F.2.6
_BULK_VRS = {"OB", "OD", "OF", "OL", "OV", "OW", "UN"}


@ignore_value_warnings()
def as_json(ds: Dataset, tags: Collection[int] | None = None, bulk: str | None = None) -> dict[str, Any]:
    """The DICOM JSON Model of a dataset, of these tags only, if given; values that are not valid are left out.

    `bulk`: the address below which long binary values are retrieved; without it they are left out.
    """
    members: dict[str, Any] = {}
    for tag in sorted(ds.keys()):
        if (tags is not None and int(tag) not in tags) or tag.element == 0:
            continue
        name = f"{int(tag):08X}"
        if name == "00080005":
            members[name] = {"vr": "CS", "Value": ["ISO_IR 192"]}  # JSON is UTF-8, whatever the file was
            continue
        try:
            member = _member(ds[tag], f"{bulk}/{name}" if bulk else None)
        except Exception:  # a boundary: a value that its VR forbids may raise anything, and is as good as absent
            continue
        if member is not None:
            members[name] = member
    return members


def _member(element: DataElement, bulk: str | None) -> dict[str, Any] | None:
    if element.VR == "SQ":
        items = [as_json(item, None, f"{bulk}/{index}" if bulk else None) for index, item in enumerate(element.value)]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    if element.VR in _BULK_VRS and element.value and len(element.value) > _BULK_BYTES:
        return {"vr": element.VR, "BulkDataURI": bulk} if bulk else None
    member: dict[str, Any] = element.to_json_dict(None, 1 << 30)
    if any(isinstance(value, float) and not math.isfinite(value) for value in member.get("Value", ())):
        return None  # JSON has no NaN
    return member


def bulk_value(ds: Dataset, path: Sequence[str]) -> bytes | None:
    """The binary value at tags and item numbers, from the outside in; None where there is none."""
    try:
        for tag, index in zip(path[:-1:2], path[1::2], strict=True):
            ds = ds[int(tag, 16)].value[int(index)]
        element = ds[int(path[-1], 16)]
    except (KeyError, ValueError, IndexError, TypeError):
        return None
    return bytes(element.value) if element.VR in _BULK_VRS and element.value else None
