"""Read an arriving instance: the values of its row, or the status with which it is refused; pixels are not decoded."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from worker.config import routing
from worker.db.instances import IDENTITY_KEY, NewInstance
from worker.dicom import functional_groups, series_attributes, standard
from worker.dicom.header import Header, parse_header, parse_header_of_file, read_meta
from worker.dicom.odd_values import ignore_value_warnings
from worker.dicom.sources import TooComplex
from worker.dicom.text.names import comparable_name
from worker.dicom.text.printable import printable, stored_text
from worker.errors import RefusedInstance
from worker.storage.spool import Content, FileContent

_HEADER_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SpecificCharacterSet",
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyDate",
    "Modality",
    "SeriesDescription",
    "ImageType",
    "ScanningSequence",
    "BodyPartExamined",
    "NumberOfFrames",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "InstanceNumber",
    "SpacingBetweenSlices",
    "SliceThickness",
    "ManufacturerModelName",
)
STORED_TAGS: tuple[str | int, ...] = (*_HEADER_TAGS, *series_attributes.KEYWORDS, *series_attributes.PRIVATE_TAGS)
_LENGTHS = {"number": "InstanceNumber", "spacing": "SpacingBetweenSlices", "thickness": "SliceThickness"}
SLICE_KEYS = frozenset({"place", *_LENGTHS})
PRODUCED_KEY = "produced"  # among an instance's attributes: a worker of this product made it
_REPORTED = ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate")
_LONGEST_COMPARED = 324  # of a name, PS3.5 6.2
_ROUTE_VALUES, _ROUTE_LENGTH = 16, 256
IDENTIFYING_BYTES = 1 << 16  # the UIDs come before the pixels and what is private
_TAGS = {keyword: Tag(keyword) for keyword in _HEADER_TAGS}
_PLAIN_VRS = ("UI", "LO", "SH", "CS", "DA", "DS", "IS")
_PLANE_TAGS = ("ImageOrientationPatient", "ImagePositionPatient")


@dataclass(slots=True)
class StoreRequest:
    """An instance that a C-STORE or STOW-RS request brings: the identifiers of the command, and the whole DICOM file.

    `encoded` is preamble, file meta information and the dataset as sent, in memory or, if it is large, in a file; above
    the maximum size of a dataset only its beginning is kept, and `is_too_large` is set. `fault` is why it is refused
    whatever its dataset holds, if known already. `association_id` is the row of its association.
    """

    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    transfer_syntax_uid: str
    encoded: Content
    association_id: int | None = None
    is_too_large: bool = False
    fault: RefusedInstance | None = None


def require_storable(request: StoreRequest) -> None:
    """Raise RefusedInstance for an instance that is refused whatever its dataset holds."""
    if request.fault is not None:
        raise request.fault
    # A peer that retrieves may propose other SOP classes, for what it fetches by C-GET.
    if request.affected_sop_class_uid not in standard.RECEIVED_SOP_CLASSES:
        raise RefusedInstance(standard.SOP_CLASS_NOT_SUPPORTED, "sop-class", "this SOP class is not received")
    if request.is_too_large:
        raise too_large()


def too_large() -> RefusedInstance:
    """What an instance is refused with that is larger than is kept."""
    detail = "the dataset exceeds [receive] maximum_dataset_bytes"
    return RefusedInstance(standard.OUT_OF_RESOURCES, "dataset-too-large", detail)


def read_instance(
    request: StoreRequest,
    path_of: Callable[[str, str], str],
    routes: Sequence[routing.RouteSection] = (),
    pseudonym: Callable[[str], str] | None = None,
) -> NewInstance:
    """The row of a request's instance.

    `path_of` gives the path of its file for a Series Instance UID and the SHA-256 of the content. The row records what
    `routes` need of the header; with `pseudonym`, no value that may identify a patient. Raises RefusedInstance when the
    dataset is unreadable or contradicts the command.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of odd values, which are stored as they are
        new = _read_instance(request, path_of, routes, hide=pseudonym is not None)
    return new if pseudonym is None else pseudonymised(new, pseudonym)


def _read_instance(
    request: StoreRequest, path_of: Callable[[str, str], str], routes: Sequence[routing.RouteSection], hide: bool
) -> NewInstance:
    groups = (functional_groups.SHARED, functional_groups.PER_FRAME)
    header = parse_header_of_request(request, (*STORED_TAGS, *routing.keywords(routes)), groups)
    ds = header.dataset
    uids = {}
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        uid = uid_of(ds, keyword)
        if not standard.is_uid(uid):
            raise RefusedInstance(standard.DATASET_MISMATCH, "invalid-uid", f"{keyword} is missing or not a UID")
        uids[keyword] = uid
    affected = (request.affected_sop_class_uid, request.affected_sop_instance_uid)
    if affected != (uids["SOPClassUID"], uids["SOPInstanceUID"]):
        raise RefusedInstance(standard.DATASET_MISMATCH, "uid-mismatch", "command and dataset name different instances")
    sha256 = sha256_of(request.encoded)
    attributes = _attributes(ds)
    return NewInstance(
        sop_instance_uid=uids["SOPInstanceUID"],
        sop_class_uid=uids["SOPClassUID"],
        transfer_syntax_uid=request.transfer_syntax_uid,
        series_instance_uid=uids["SeriesInstanceUID"],
        study_instance_uid=uids["StudyInstanceUID"],
        patient_id=_text(ds, "PatientID"),
        patient_name=_text(ds, "PatientName"),
        accession_number=_text(ds, "AccessionNumber"),
        study_date=_text(ds, "StudyDate"),
        modality=attributes["modality"],
        series_description=_text(ds, "SeriesDescription"),
        attributes=attributes
        | ({PRODUCED_KEY: True} if _text(ds, "ManufacturerModelName") == standard.PRODUCT else {})
        | {IDENTITY_KEY: _identity(ds, uids["StudyInstanceUID"])}
        | {series_attributes.TYPE_KEY: series_attributes.read_kinds(header)}
        | _route_attributes(header, routes, hide),
        path=path_of(uids["SeriesInstanceUID"], sha256),
        size=len(request.encoded),
        sha256=sha256,
        association_id=request.association_id,
    )


def sha256_of(content: Content) -> str:
    return content.sha256() if isinstance(content, FileContent) else hashlib.sha256(content).hexdigest()


def uid_of(ds: Dataset, keyword: str) -> str:
    """A UID as it is, without its padding: what the row names is what a later reader of the file finds."""
    return str(_value(ds, keyword) or "").rstrip(" \0")


def request_of_file(content: Content, association_id: int | None = None) -> StoreRequest:
    """The request that brings a DICOM file, as the file describes itself. Raises RefusedInstance."""
    request = StoreRequest("", "", "", content, association_id)
    with refusing_unreadable():
        request.transfer_syntax_uid = str(read_meta(beginning_of(request)).get("TransferSyntaxUID", ""))
    ds = parse_header_of_request(request, ("SOPClassUID", "SOPInstanceUID")).dataset
    with refusing_unreadable():
        request.affected_sop_class_uid = str(ds.get("SOPClassUID", ""))
        request.affected_sop_instance_uid = str(ds.get("SOPInstanceUID", ""))
    return request


def beginning_of(request: StoreRequest) -> bytes | bytearray:
    """What `refusals.identify` reads of a request's file."""
    content = request.encoded
    if not isinstance(content, FileContent):
        return content
    try:
        return content.beginning(IDENTIFYING_BYTES)
    except OSError:
        return b""


def pseudonymised(new: NewInstance, pseudonym: Callable[[str], str]) -> NewInstance:
    """The row without identifiers of the patient; free text is left out, because it may hold anything."""
    identity = new.attributes.get(IDENTITY_KEY, {})
    hidden = {key: pseudonym(value) for key, value in identity.items() if key != "study"}
    return replace(
        new,
        patient_id=pseudonym(new.patient_id),
        accession_number=pseudonym(new.accession_number),
        patient_name="",
        series_description="",
        attributes=new.attributes | {IDENTITY_KEY: identity | hidden},
    )


def instance_path(series_instance_uid: str, sha256: str) -> str:
    """The path of a file of that content, relative to the data directory.

    It is made of hashes, so that no file is named by what a peer sends.
    """
    series = hashlib.sha256(series_instance_uid.encode()).hexdigest()[:24]
    return f"instances/{series[:2]}/{series}/{sha256[:32]}.dcm"


def conflict_path(new: NewInstance) -> str:
    """The path of other content that arrived under a known UID, relative to the data directory."""
    instance = hashlib.sha256(new.sop_instance_uid.encode()).hexdigest()[:32]
    return f"conflicts/{instance}/{new.sha256}.dcm"


def parse_header_of_request(request: StoreRequest, keywords: Sequence[str | int], groups: Sequence[str] = ()) -> Header:
    """`parse_header`, wherever the content of the request is. Raises RefusedInstance."""
    content = request.encoded
    with refusing_unreadable():
        if isinstance(content, FileContent):
            with content.open() as file:
                return parse_header_of_file(file, request.transfer_syntax_uid, keywords, groups)
        return parse_header(content, request.transfer_syntax_uid, keywords, groups)


@contextmanager
def refusing_unreadable() -> Iterator[None]:
    """Around a parser of an arriving file: whatever it raises becomes RefusedInstance."""
    try:
        with ignore_value_warnings():
            yield
    except TooComplex as error:
        raise RefusedInstance(standard.CANNOT_UNDERSTAND, "dataset-too-complex", f"too many {error}") from None
    except Exception as error:  # hostile bytes may raise anything in a parser; the answer is the same
        raise RefusedInstance(standard.CANNOT_UNDERSTAND, "unreadable-dataset", type(error).__name__) from None


def _value(ds: Dataset, keyword: str) -> Any:
    try:
        raw = ds.get_item(_TAGS.get(keyword) or keyword)
        # Plain ASCII needs none of pydicom's objects, which would take half of the time of reading a header.
        # Escape sequences are ASCII, and change what follows (PS3.5 6.1.2.5).
        if isinstance(raw, RawDataElement) and raw.VR in _PLAIN_VRS and _is_plain(raw.value):
            values = [value.strip(" \0") for value in raw.value.decode().split("\\")]
            return values if len(values) > 1 else values[0]
        return ds.get(keyword)
    except Exception:  # a value that its VR forbids counts as absent; the file retains it
        return None


def _is_plain(value: Any) -> bool:
    return bool(value) and value.isascii() and b"\x1b" not in value


def _values(ds: Dataset, keyword: str) -> list[Any]:
    value = _value(ds, keyword)
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _text(ds: Dataset, keyword: str) -> str:
    return stored_text(_joined(_values(ds, keyword)))


def _joined(values: Sequence[Any]) -> str:
    """Values as they were sent: a backslash lies between them (PS3.5 6.4)."""
    return "\\".join(map(str, values))


def _code_strings(ds: Dataset, keyword: str) -> list[str]:
    values = _values(ds, keyword)
    return [printable(str(value)).upper()[:64] for value in values[:16]] if values != [""] else []


def _attributes(ds: Dataset) -> dict[str, Any]:
    """What `receive.settle` and `receive.completeness` need of an instance."""
    try:
        frames = max(1, int(str(_value(ds, "NumberOfFrames") or 1)))
    except ValueError:
        frames = 1
    return {
        "modality": _text(ds, "Modality").upper(),  # a CS has no small letters: PS3.5 6.2
        "image_type": _code_strings(ds, "ImageType"),
        "scanning_sequence": _code_strings(ds, "ScanningSequence"),
        "body_part": _text(ds, "BodyPartExamined").upper(),
        "frames": min(frames, 1_000_000),
        **slice_attributes(ds),
    }


def slice_attributes(ds: Dataset) -> dict[str, Any]:
    """Which slice of its series it is: plane, number, spacing and thickness, SLICE_KEYS."""
    return {"place": _plane(ds), **_lengths(ds)}


def _identity(ds: Dataset, study_instance_uid: str) -> dict[str, str]:
    """Whose image it is: the row of the series has this of its first instance only.

    The name only where there is no Patient ID; no empty value but that of the ID. `person` is a digest of what else a
    report says of patient and study, to tell whether a correction has reached every image.
    """
    patient, issuer = _compared(ds, "PatientID"), _compared(ds, "IssuerOfPatientID")
    reported = [comparable_name(_compared(ds, "PatientName")), *(_compared(ds, keyword) for keyword in _REPORTED)]
    person = hashlib.sha256("\n".join(reported).encode(errors="replace")).hexdigest()[:16]
    identity = {"patient": patient, "study": study_instance_uid, "person": person}
    if not patient:
        identity["name"] = comparable_name(_compared(ds, "PatientName"))
    elif issuer:
        identity["issuer"] = issuer
    return identity


def _compared(ds: Dataset, keyword: str) -> str:
    """A value as it is compared with that of another instance: without its padding; a hash of an impossible value."""
    text = _joined(_values(ds, keyword)).strip(" \0\t\r\n")
    if len(text) > _LONGEST_COMPARED or not text.isprintable():
        return hashlib.sha256(text.encode(errors="replace")).hexdigest()
    return text


def _route_attributes(header: Header, routes: Sequence[routing.RouteSection], hide: bool) -> dict[str, Any]:
    """What the [[route]] rules need of an instance; nothing where there are no rules."""
    if not routes:
        return {}
    values: dict[str, list[str] | None] = {
        keyword: _texts(header.dataset, keyword) for keyword in routing.keywords(routes)
    }
    lacking = [keyword for keyword, texts in values.items() if not any(texts or ())]
    variants: Sequence[dict[str, list[str] | None]] = [{}]
    if lacking and functional_groups.has_groups(header):
        try:
            variants = functional_groups.frame_variants(header, lacking, _texts)
        except Exception:  # hostile bytes may raise anything in a parser: the values are unknown
            variants = [dict.fromkeys(lacking)]
    return {routing.ATTRIBUTES_KEY: routing.record_variants([values | variant for variant in variants], routes, hide)}


def _texts(ds: Dataset, keyword: str) -> list[str]:
    return [printable(str(value))[:_ROUTE_LENGTH] for value in _values(ds, keyword)[:_ROUTE_VALUES]]


def _plane(ds: Dataset) -> list[float] | None:
    """ImageOrientationPatient and ImagePositionPatient, nine numbers; None where they are not valid."""
    try:
        numbers = [float(number) for keyword in _PLANE_TAGS for number in _value(ds, keyword) or ()]
    except (TypeError, ValueError):
        return None
    # No database stores NaN as JSON, and no patient is a kilometre long.
    return numbers if len(numbers) == 9 and all(abs(number) < 1e6 for number in numbers) else None


def _lengths(ds: Dataset) -> dict[str, float]:
    """Instance number, spacing and thickness of the slice, in mm; without those that the header lacks."""
    lengths = {}
    for name, keyword in _LENGTHS.items():
        try:
            number = float(str(_value(ds, keyword)))
        except ValueError:
            continue
        if math.isfinite(number) and abs(number) < 1e9:  # no database stores NaN as JSON
            lengths[name] = number
    return lengths
