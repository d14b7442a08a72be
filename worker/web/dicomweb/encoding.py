"""What the archive tells of a study, a series or an instance, as a dataset and as DICOM JSON (PS3.18 F).

Where the database keeps pseudonyms ([privacy] pseudonymise), files tell only what cannot name the patient: nothing
that the database must not hold leaves here, nor can it be searched for.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.tag import Tag

from worker.db.views.archive import Instance, Series, Study
from worker.dicom import header
from worker.logs import fault_fields, get_log

_BULK_BYTES = 1024  # longer binary values are fetched by themselves: PS3.18 F.2.6
_BULK = {"OB", "OD", "OF", "OL", "OV", "OW", "UN"}
# Of received files: how the picture lies and how it was made, in values that are no free text.
_HARMLESS_GROUPS = {0x0018, 0x0020, 0x0028, 0x5200}
_HARMLESS_VRS = {"AT", "CS", "DS", "FD", "FL", "IS", "OB", "OW", "SL", "SQ", "SS", "UI", "UL", "US"}
_HARMLESS_TAGS = {
    0x00080005, 0x00080008, 0x00080016, 0x00080018, 0x00080060, 0x00080201, 0x0040A043, 0x0040A504,
    0x00081140, 0x00082112, 0x00081150, 0x00081155, 0x00081115, 0x00081199, 0x00200011, 0x00200013,
}  # fmt: skip
# Of what we produce: the content of the report, which names no patient.
_REPORT_TAGS = {
    0x0008103E, 0x00080023, 0x00080033, 0x0040A040, 0x0040A050, 0x0040A491, 0x0040A493, 0x0040A496, 0x0040A375,
    0x0040A730, 0x00280301,
}  # fmt: skip


class Describer:
    """Reads what files tell. `pseudonymised`: only what cannot name the patient."""

    def __init__(self, data_dir: Path, pseudonymised: bool) -> None:
        self._data_dir = data_dir
        self._pseudonymised = pseudonymised

    def study(self, one: Study, tags: Collection[int] | None, address: str) -> Dataset:
        ds = self.header(one.path, tags, produced=False)
        _set_study(ds, one)
        _set(ds, "ModalitiesInStudy", list(one.modalities))
        _set(ds, "NumberOfStudyRelatedSeries", one.series)
        _set(ds, "NumberOfStudyRelatedInstances", one.instances)
        _set(ds, "InstanceAvailability", _availability(one.path))
        _set(ds, "RetrieveURL", f"{address}/studies/{one.study_instance_uid}")
        return ds

    def series(self, one: Series, tags: Collection[int] | None, address: str) -> Dataset:
        ds = self.header(one.path, tags, produced=one.kind is not None)
        ds.update(self.study(one.study, (), address))
        _set(ds, "SeriesInstanceUID", one.series_instance_uid)
        _set(ds, "Modality", one.modality)
        if one.description:
            _set(ds, "SeriesDescription", one.description)
        _set(ds, "NumberOfSeriesRelatedInstances", one.instances)
        _set(ds, "RetrieveURL", f"{address}/studies/{one.study.study_instance_uid}/series/{one.series_instance_uid}")
        return ds

    def instance(self, one: Instance, tags: Collection[int] | None, address: str) -> Dataset:
        ds = self.header(one.path, tags, produced=one.kind is not None)
        _set_study(ds, one)
        _set(ds, "SeriesInstanceUID", one.series_instance_uid)
        _set(ds, "Modality", one.modality)
        _set(ds, "SOPInstanceUID", one.sop_instance_uid)
        _set(ds, "SOPClassUID", one.sop_class_uid)
        _set(ds, "InstanceAvailability", _availability(one.path))
        _set(ds, "AvailableTransferSyntaxUID", one.transfer_syntax_uid)
        _set(ds, "RetrieveURL", instance_address(one, address))
        return ds

    def header(self, path: str | None, tags: Collection[int] | None, produced: bool) -> Dataset:
        """What a file says before its pixels, of these tags where any are named; nothing where it cannot be read."""
        if path is None or (tags is not None and not tags):
            return Dataset()
        keywords = None if tags is None else [keyword_for_tag(tag) for tag in tags]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # odd values are the sender's
                with (self._data_dir / path).open("rb") as file:
                    ds = header.read_header(file, keywords)
        except FileNotFoundError:
            return Dataset()
        except Exception as error:  # a boundary: what is wrong in a stored file may raise anything in the parser
            get_log().warning("header not read", **fault_fields(error))
            return Dataset()
        return _without_names(ds, produced) if self._pseudonymised else ds


def instance_address(one: Instance, address: str) -> str:
    place = f"studies/{one.study_instance_uid}/series/{one.series_instance_uid}/instances/{one.sop_instance_uid}"
    return f"{address}/{place}"


def _set_study(ds: Dataset, one: Study | Instance) -> None:
    """As the database has it: that is what was searched."""
    _set(ds, "StudyInstanceUID", one.study_instance_uid)
    _set(ds, "StudyDate", one.study_date)
    _set(ds, "PatientID", one.patient_id)
    _set(ds, "PatientName", one.patient_name)
    _set(ds, "AccessionNumber", one.accession_number)


def _set(ds: Dataset, keyword: str, value: Any) -> None:
    """Whatever the value is: a sender's odd date is passed on as it was stored."""
    tag = Tag(keyword)
    ds[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=IGNORE)


def _availability(path: str | None) -> str:
    return "ONLINE" if path else "UNAVAILABLE"  # PS3.3 C.4.23.1.1


def _without_names(ds: Dataset, produced: bool) -> Dataset:
    kept = Dataset()
    for element in ds:
        tag = int(element.tag)
        if produced and tag in _REPORT_TAGS:
            kept.add(element)
        elif tag in _HARMLESS_TAGS or (tag >> 16 in _HARMLESS_GROUPS and element.VR in _HARMLESS_VRS):
            if element.VR == "SQ":
                element = DataElement(tag, "SQ", [_without_names(item, produced) for item in element.value or ()])
            kept.add(element)
    return kept


# --- DICOM JSON ------------------------------------------------------------------------------------------------


def as_json(ds: Dataset, tags: Collection[int] | None = None, bulk: str | None = None) -> dict[str, Any]:
    """The DICOM JSON Model of a dataset, of these tags where any are named; values that are no values are left out.

    `bulk`: the address below which long binary values are found; without it they are left out.
    """
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag in sorted(ds.keys()):
            if (tags is not None and int(tag) not in tags) or tag.element == 0:
                continue
            name = f"{int(tag):08X}"
            if name == "00080005":
                found[name] = {"vr": "CS", "Value": ["ISO_IR 192"]}  # JSON is UTF-8, whatever the file was
                continue
            try:
                item = _item(ds[tag], f"{bulk}/{name}" if bulk else None)
            except Exception:  # a boundary: a value that its VR forbids may raise anything, and is as good as absent
                continue
            if item is not None:
                found[name] = item
    return found


def _item(element: DataElement, bulk: str | None) -> dict[str, Any] | None:
    if element.VR == "SQ":
        items = [as_json(one, None, f"{bulk}/{place}" if bulk else None) for place, one in enumerate(element.value)]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    if element.VR in _BULK and element.value and len(element.value) > _BULK_BYTES:
        return {"vr": element.VR, "BulkDataURI": bulk} if bulk else None
    item: dict[str, Any] = element.to_json_dict(None, 1 << 30)
    if any(isinstance(one, float) and not math.isfinite(one) for one in item.get("Value", ())):
        return None  # JSON has no NaN
    return item


def bulk_value(ds: Dataset, path: Sequence[str]) -> bytes | None:
    """The binary value at tags and item numbers, from the outside in; None where there is none."""
    try:
        for tag, place in zip(path[:-1:2], path[1::2], strict=True):
            ds = ds[int(tag, 16)].value[int(place)]
        element = ds[int(path[-1], 16)]
    except (KeyError, ValueError, IndexError, TypeError):
        return None
    return bytes(element.value) if element.VR in _BULK and element.value else None
