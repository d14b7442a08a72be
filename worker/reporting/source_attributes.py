"""The attributes that our objects copy from the source series: malformed values are corrected or left out.

Archives contain ages without a unit, dates with dashes and identifiers that are too long. None of these may make our
object invalid or prevent it; a valid value is copied unchanged. A value that does not fit its VR is left out and never
cut: the first 16 characters of an accession number are another number.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Any, NamedTuple

from highdicom import sr
from pydicom import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue

import worker.dicom.character_sets  # noqa: F401 - text of senders is decoded here
from worker.dicom.standard import PROCESSING_EQUIPMENT, PRODUCT, STORAGE_SOP_CLASSES, derive_uid, is_uid
from worker.results import CodedConcept, ModelIdentity

RESEARCH_USE = "AI, unverified, research use only"

_CAPTURED = tuple(uid for uid, name in STORAGE_SOP_CLASSES.items() if "Secondary Capture" in name)

_PADDING = " \0"

CodeTriple = tuple[str, str, str]  # value, scheme, meaning

# What pydicom raises for a value that does not match its VR, when the value is first read.
_UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    OSError,  # for a malformed sequence; nothing is read from a disk here
    BytesLengthException,
)


class SourceImage(NamedTuple):
    """An image of which an object is made."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str

    @classmethod
    def of(cls, header: Dataset) -> SourceImage:
        keywords = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
        return cls(*(str(header[keyword].value) for keyword in keywords))


@contextmanager
def no_warnings() -> Iterator[None]:
    """Suppress pydicom's warnings, which quote the malformed value (architecture, invariant 6)."""
    with warnings.catch_warnings(action="ignore"):
        yield


@lru_cache(maxsize=1024)
def coded(code: CodedConcept | CodeTriple) -> sr.CodedConcept:
    """A coded concept as highdicom takes it, the same object each time: it is made often and changed by nobody."""
    value, scheme, meaning = (code.value, code.scheme, code.meaning) if isinstance(code, CodedConcept) else code
    return sr.CodedConcept(value=value, scheme_designator=scheme, meaning=meaning)


def code_item(code: CodeTriple) -> Dataset:
    """An item of a code sequence (PS3.3 Section 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def reference_item(source: Dataset) -> Dataset:
    """An item that names an image (PS3.3 Table 10-11)."""
    item = Dataset()
    item.ReferencedSOPClassUID = str(source.SOPClassUID)
    item.ReferencedSOPInstanceUID = str(source.SOPInstanceUID)
    return item


def patient_and_study(source: Dataset) -> Dataset:
    """The Patient and Study attributes of the source, all valid, text as UTF-8 (ISO_IR 192).

    Type 2 attributes are always present, empty where the source has no valid value.
    """
    clean = Dataset()
    clean.SpecificCharacterSet = "ISO_IR 192"
    clean.StudyInstanceUID = str(source.StudyInstanceUID)
    for keyword, correct in _REQUIRED.items():
        setattr(clean, keyword, correct(text_of(source, keyword)))
    for keyword, correct in _OPTIONAL.items():
        if value := correct(text_of(source, keyword)):
            setattr(clean, keyword, value)
    return clean


def take_patient_and_study(header: Dataset, newest: Dataset) -> None:
    """Give a header the patient and study attributes of the newest image, of the same patient and study."""
    for keyword in (*_REQUIRED, *_OPTIONAL):
        text = text_of(newest, keyword)
        if text == text_of(header, keyword):
            continue
        if keyword in header:
            delattr(header, keyword)
        if text:
            with no_warnings():
                setattr(header, keyword, text.split("\\"))


def left_out(source: Dataset) -> tuple[str, ...]:
    """The keywords of the attributes that the source has and our objects have not, as they do not fit their VR."""
    return tuple(
        keyword
        for keyword, correct in (_REQUIRED | _OPTIONAL | _OTHERS).items()
        if (text := text_of(source, keyword).strip(_PADDING + "^=")) and not correct(text)
    )


def evidence(images: Sequence[SourceImage]) -> list[Dataset]:
    """The attributes of each image that highdicom needs to list it; the patient attributes of the first are empty.

    highdicom would copy them uncorrected and warn with the patient's name in the text; `stamp` writes them.
    """
    stubs = []
    for image in images:
        stub = Dataset()
        stub.SOPClassUID, stub.SOPInstanceUID, stub.StudyInstanceUID, stub.SeriesInstanceUID = image
        stubs.append(stub)
    for stub in stubs[:1]:
        for keyword in _REQUIRED:
            setattr(stub, keyword, "")
    return stubs


def stamp(
    ds: Dataset, source: Dataset, model: ModelIdentity, created_at: datetime, worker_version: str, title: str
) -> None:
    """Write the patient and study, the equipment and the time into an object of ours (General Equipment, SOP Common).

    TimezoneOffsetFromUTC is the source's, since it also applies to the source's Study Time (PS3.3 C.12.1.1.8); without
    it, what held in the zone of `created_at`, the hospital's, when the study was made: in summer, say. Raises
    ValueError when `created_at` is naive.
    """
    if created_at.utcoffset() is None:
        raise ValueError("created_at must be an aware datetime")
    created_at = created_at.astimezone(_offset_of(source, created_at))
    ds.update(patient_and_study(source))
    date, time = created_at.strftime("%Y%m%d"), created_at.strftime("%H%M%S.%f")
    ds.TimezoneOffsetFromUTC = created_at.strftime("%z")[:5]
    ds.InstanceCreationDate = ds.ContentDate = date
    ds.InstanceCreationTime = ds.ContentTime = time
    ds.SeriesDescription = title
    ds.Manufacturer = long_string(model.manufacturer) or "unknown"
    ds.ManufacturerModelName = PRODUCT
    ds.SoftwareVersions = long_string(worker_version) or "unknown"
    ds.DeviceSerialNumber = model.sha256
    equipment = [_model_equipment(model), *ds.get("ContributingEquipmentSequence", [])]
    for item in equipment:
        item.ContributionDateTime = date + time  # highdicom's own item has the time of the clock
    ds.ContributingEquipmentSequence = equipment


def frame_of_reference(sources: Sequence[Dataset]) -> str | None:
    """The Frame of Reference UID, where all images share a valid UID."""
    uids = {text_of(source, "FrameOfReferenceUID") for source in sources}
    uid = uids.pop() if len(uids) == 1 else ""
    return uid if is_uid(uid) else None


def modality(source: Dataset) -> str:
    """The Modality of the source, in capitals; empty where it has none."""
    return text_of(source, "Modality").upper()


def burned_in_annotation(source: Dataset) -> str:
    """YES or NO; of an MR image that does not tell NO, empty for a captured image, which may show anything."""
    told = text_of(source, "BurnedInAnnotation").strip().upper()
    return told if told in ("YES", "NO") else "" if source.SOPClassUID in _CAPTURED else "NO"


def device_observer(model: ModelIdentity) -> sr.ObserverContext:
    """TID 1004: the model is the only observer."""
    return sr.ObserverContext(
        observer_type=coded(("121007", "DCM", "Device")),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=derive_uid("device", model.sha256),
            name=model.name,
            manufacturer_name=model.manufacturer,
            model_name=model.family,
            serial_number=model.sha256,
        ),
    )


def text_of(source: Dataset, keyword: str) -> str:
    """The value of an attribute as text; several with the backslash; empty where it is absent or cannot be read."""
    with no_warnings():
        try:
            value: Any = source.get(keyword)
            if isinstance(value, MultiValue | list):
                return "\\".join(map(str, value))
            return "" if value is None else str(value)
        except _UNREADABLE:
            return ""


def integer_of(source: Dataset, keyword: str) -> int | None:
    """The value of an attribute as a whole number; None where it is none."""
    try:
        return int(text_of(source, keyword).strip(_PADDING))
    except ValueError:
        return None


def long_string(text: str) -> str:
    """Text of ours as a valid LO: a single line, no backslash, cut at 64 characters (PS3.5 6.2)."""
    return _line(text)[:64].strip()


class HostZone(tzinfo):
    """The time zone of this host, with its changes between winter and summer time."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return moment.replace(tzinfo=None).astimezone().utcoffset() if moment is not None else None

    def dst(self, _moment: datetime | None) -> None:
        return None

    def tzname(self, _moment: datetime | None) -> str:
        return "local time"

    def fromutc(self, moment: datetime) -> datetime:
        local = moment.replace(tzinfo=UTC).astimezone()
        first = local.replace(tzinfo=self)
        return first if first.utcoffset() == local.utcoffset() else first.replace(fold=1)


def _offset_of(source: Dataset, created_at: datetime) -> timezone:
    """The offset from UTC of the dates and times that an object has of its source."""
    stated = _timezone(text_of(source, "TimezoneOffsetFromUTC"))
    if stated:
        sign = -1 if stated[0] == "-" else 1
        return timezone(sign * timedelta(hours=int(stated[1:3]), minutes=int(stated[3:5])))
    date, time = _date(text_of(source, "StudyDate")), _time(text_of(source, "StudyTime"))
    moment = created_at
    if "1970" <= date < "2100":
        moment = datetime.strptime(date + time[:4].ljust(4, "0"), "%Y%m%d%H%M").replace(tzinfo=created_at.tzinfo)
    return timezone(moment.utcoffset() or timedelta())


def _model_equipment(model: ModelIdentity) -> Dataset:
    """The model as a piece of equipment (IHE AI Results); TID 4019 has no manufacturer and no family."""
    item = Dataset()
    item.Manufacturer = long_string(model.manufacturer) or "unknown"
    item.ManufacturerModelName = long_string(model.name)
    item.DeviceSerialNumber = model.sha256
    item.SoftwareVersions = long_string(model.version)
    item.DeviceUID = derive_uid("device", model.sha256)
    item.ContributionDescription = f"Classification by {long_string(model.family)}. {RESEARCH_USE}."
    item.PurposeOfReferenceCodeSequence = [code_item(PROCESSING_EQUIPMENT)]
    return item


def _line(text: str) -> str:
    return "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cs") and c != "\\").strip()


def _at_most(length: int) -> Callable[[str], str]:
    """A single value of a single line, of so many characters; empty for another."""

    def fitting(text: str) -> str:
        line = _line(text)
        return line if len(line) <= length and "\\" not in text.strip(_PADDING) else ""

    return fitting


def _person_name(text: str) -> str:
    """A single name of at most three groups of five components, a group at most 64 characters (PS3.5 6.2.1)."""
    groups = [group.split("^", 4) for group in _line(text).rstrip("=").split("=")]
    written = ["^".join([*group[:4], *(last.replace("^", " ") for last in group[4:])]) for group in groups]
    is_fitting = len(written) <= 3 and all(len(group) <= 64 for group in written) and "\\" not in text
    return "=".join(written) if is_fitting else ""


def _date(text: str) -> str:
    """YYYYMMDD; dots and dashes between year, month and day are removed."""
    digits = re.sub(r"(?<=\d)[.-](?=\d)", "", text.strip())
    try:
        datetime.strptime(digits, "%Y%m%d")
    except ValueError:
        return ""
    return digits if len(digits) == 8 else ""


def _time(text: str) -> str:
    """HHMMSS.FFFFFF or its first components; colons are removed."""
    digits = text.strip().replace(":", "")
    return digits if re.fullmatch(r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?", digits) else ""


def _sex(text: str) -> str:
    return text.strip().upper() if text.strip().upper() in ("M", "F", "O") else ""


def _age(text: str) -> str:
    """nnnD, nnnW, nnnM or nnnY; a number without a unit is omitted, as it could be any of them."""
    match = re.fullmatch(r"(\d{1,3})([DWMY])", text.strip().upper())
    return f"{int(match[1]):03d}{match[2]}" if match else ""


def _uid(text: str) -> str:
    return text.strip(_PADDING) if is_uid(text.strip(_PADDING)) else ""


def _timezone(text: str) -> str:
    return text.strip() if re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", text.strip()) else ""


_REQUIRED: dict[str, Callable[[str], str]] = {  # type 2 of the Patient and General Study modules
    "PatientName": _person_name,
    "PatientID": _at_most(64),
    "PatientBirthDate": _date,
    "PatientSex": _sex,
    "AccessionNumber": _at_most(16),
    "StudyID": _at_most(16),
    "StudyDate": _date,
    "StudyTime": _time,
    "ReferringPhysicianName": _person_name,
}
_OPTIONAL: dict[str, Callable[[str], str]] = {
    "IssuerOfPatientID": _at_most(64),
    "PatientAge": _age,
    "StudyDescription": _at_most(64),
}
_OTHERS: dict[str, Callable[[str], str]] = {"TimezoneOffsetFromUTC": _timezone, "FrameOfReferenceUID": _uid}

# Every attribute of a source that this package reads, and those by which highdicom takes it for an image.
SOURCE_KEYWORDS = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality",
    "SeriesNumber", "SeriesDescription", "FrameOfReferenceUID", "BurnedInAnnotation", "TimezoneOffsetFromUTC", "Rows",
    "Columns", "NumberOfFrames",
    *_REQUIRED, *_OPTIONAL,
)  # fmt: skip
