"""What a C-STORE request says of its instance: the row that it will have. Pixels are never decoded."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from worker.config import routing
from worker.db.instances import NewInstance
from worker.dicom import functional_groups, standard
from worker.dicom.header import read_header
from worker.errors import RefusedInstance

_HEADER_TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SpecificCharacterSet",
    "PatientID",
    "PatientName",
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
)
_DISTANCES = {"number": "InstanceNumber", "spacing": "SpacingBetweenSlices", "thickness": "SliceThickness"}
_ROUTE_VALUES, _ROUTE_LENGTH = 16, 256
_TAGS = {one: Tag(one) for one in _HEADER_TAGS}
_PLAIN_VRS = ("UI", "LO", "SH", "CS", "DA", "DS", "IS")
_PLACE_TAGS = ("ImageOrientationPatient", "ImagePositionPatient")


@dataclass(slots=True)
class StoreRequest:
    """An instance that a C-STORE or STOW-RS request brings: the identifiers of the command, and the whole DICOM file.

    `encoded` is preamble, file meta information and the dataset as sent. While the request arrives it grows; above the
    maximum size of a dataset it is empty and `is_too_large` is set. `association_id` is the row of its association.
    """

    affected_sop_class_uid: str
    affected_sop_instance_uid: str
    transfer_syntax_uid: str
    encoded: bytes | bytearray
    association_id: int | None = None
    is_too_large: bool = False


def require_storable(request: StoreRequest) -> None:
    """Raise RefusedInstance for an instance that is refused whatever its dataset holds."""
    # A peer that retrieves may propose other SOP classes, for what it fetches by C-GET.
    if request.affected_sop_class_uid not in standard.STORAGE_SOP_CLASSES:
        raise RefusedInstance(standard.SOP_CLASS_NOT_SUPPORTED, "sop-class", "this SOP class is not received")
    if request.is_too_large:
        raise RefusedInstance(
            standard.OUT_OF_RESOURCES, "dataset-too-large", "the dataset exceeds [receive] maximum_dataset_bytes"
        )


def describe(
    request: StoreRequest,
    path_of: Callable[[str, str], str],
    routes: Sequence[routing.RouteSection] = (),
    *,
    hide: bool = False,
) -> NewInstance:
    """The row of a request. Raises RefusedInstance when the dataset does not parse or contradicts the command.

    What `routes` ask for is kept with it; with `hide` nothing in clear that may name a patient.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of odd values, which we keep as they are
        return _describe(request, path_of, routes, hide)


def _describe(
    request: StoreRequest, path_of: Callable[[str, str], str], routes: Sequence[routing.RouteSection], hide: bool
) -> NewInstance:
    ds = _parse_header(request.encoded, routing.keywords(routes))
    uids = {}
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        # As it is, but for its padding: a later reader of the file finds what the row names.
        uid = str(_value(ds, keyword) or "").rstrip(" \0")
        if not standard.is_uid(uid):
            raise RefusedInstance(standard.DATASET_MISMATCH, "invalid-uid", f"{keyword} is missing or not a UID")
        uids[keyword] = uid
    same = (uids["SOPClassUID"], uids["SOPInstanceUID"]) == (
        request.affected_sop_class_uid,
        request.affected_sop_instance_uid,
    )
    if not same:
        raise RefusedInstance(standard.DATASET_MISMATCH, "uid-mismatch", "command and dataset name different instances")
    sha256 = hashlib.sha256(request.encoded).hexdigest()
    return NewInstance(
        sop_instance_uid=uids["SOPInstanceUID"],
        sop_class_uid=uids["SOPClassUID"],
        transfer_syntax_uid=request.transfer_syntax_uid,
        series_instance_uid=uids["SeriesInstanceUID"],
        study_instance_uid=uids["StudyInstanceUID"],
        patient_id=_text(ds, "PatientID", 64),
        patient_name=_text(ds, "PatientName", 324),
        accession_number=_text(ds, "AccessionNumber", 16),
        study_date=_text(ds, "StudyDate", 8),
        modality=_text(ds, "Modality", 16),
        series_description=_text(ds, "SeriesDescription", 64),
        attributes=_attributes(ds) | _for_routes(ds, routes, hide),
        path=path_of(uids["SeriesInstanceUID"], sha256),
        size=len(request.encoded),
        sha256=sha256,
        association_id=request.association_id,
    )


def pseudonymised(new: NewInstance, pseudonym: Callable[[str], str]) -> NewInstance:
    """Without what names the patient: free text is left out, for it may hold anything."""
    return replace(
        new,
        patient_id=pseudonym(new.patient_id),
        accession_number=pseudonym(new.accession_number),
        patient_name="",
        series_description="",
    )


def instance_path(series_instance_uid: str, sha256: str) -> str:
    """Where a file of that content lies below the data folder: named by hashes, so a peer's UID never names a file."""
    series = hashlib.sha256(series_instance_uid.encode()).hexdigest()[:24]
    return f"instances/{series[:2]}/{series}/{sha256[:32]}.dcm"


def conflict_path(new: NewInstance) -> str:
    """Where other content under a known UID is kept, below the data folder."""
    instance = hashlib.sha256(new.sop_instance_uid.encode()).hexdigest()[:32]
    return f"conflicts/{instance}/{new.sha256}.dcm"


def _parse_header(encoded: bytes | bytearray, more: Sequence[str]) -> Dataset:
    try:
        groups_too = (functional_groups.SHARED, functional_groups.PER_FRAME) if more else ()
        return read_header(BytesIO(encoded), (*_HEADER_TAGS, *more, *groups_too))
    except Exception as error:  # hostile bytes may raise anything in a parser; the answer is the same
        raise RefusedInstance(standard.CANNOT_UNDERSTAND, "unreadable-dataset", type(error).__name__) from None


def _value(ds: Dataset, keyword: str) -> Any:
    try:
        raw = ds.get_item(_TAGS.get(keyword) or keyword)
        # What is plain ASCII needs none of pydicom's objects, which would take half of the time of a header.
        # Escape sequences are ASCII, and change what follows (PS3.5 6.1.2.5).
        if isinstance(raw, RawDataElement) and raw.VR in _PLAIN_VRS and _is_plain(raw.value):
            parts = [one.strip(" \0") for one in raw.value.decode().split("\\")]
            return parts if len(parts) > 1 else parts[0]
        return ds.get(keyword)
    except Exception:  # a value that its VR forbids: as good as absent, the file keeps it
        return None


def _is_plain(value: Any) -> bool:
    return bool(value) and value.isascii() and b"\x1b" not in value


def _text(ds: Dataset, keyword: str, length: int) -> str:
    value = _value(ds, keyword)
    return "" if value is None else _printable(value)[:length]


def _printable(value: Any) -> str:
    text = str(value)
    return (text if text.isprintable() else "".join(one for one in text if one.isprintable())).strip()


def _words(ds: Dataset, keyword: str) -> list[str]:
    value = _value(ds, keyword)
    if value is None or value == "":
        return []
    many = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [_printable(one).upper()[:64] for one in many[:16]]


def _attributes(ds: Dataset) -> dict[str, Any]:
    """What `inbound.series` asks of an instance."""
    try:
        frames = max(1, int(str(_value(ds, "NumberOfFrames") or 1)))
    except ValueError:
        frames = 1
    return {
        "modality": _text(ds, "Modality", 16).upper(),
        "image_type": _words(ds, "ImageType"),
        "scanning_sequence": _words(ds, "ScanningSequence"),
        "body_part": _text(ds, "BodyPartExamined", 16).upper(),
        "frames": min(frames, 1_000_000),
        "place": _place(ds),
        **_distances(ds),
    }


def _for_routes(ds: Dataset, routes: Sequence[routing.RouteSection], hide: bool) -> dict[str, Any]:
    """Nothing where there are no rules."""
    if not routes:
        return {}
    values: dict[str, list[str] | None] = {keyword: _texts(ds, keyword) for keyword in routing.keywords(routes)}
    lacking = [keyword for keyword, texts in values.items() if not any(texts or ())]
    kinds: Sequence[dict[str, list[str] | None]] = [{}]
    if lacking and functional_groups.has_groups(ds):
        try:
            kinds = functional_groups.group_values(ds, lacking, _texts)
        except Exception:  # hostile bytes may raise anything in a parser: what they say is not known
            kinds = [dict.fromkeys(lacking)]
    return {routing.KEPT_AS: routing.keep_kinds([values | one for one in kinds], routes, hide)}


def _texts(ds: Dataset, keyword: str) -> list[str]:
    value = _value(ds, keyword)
    if value is None:
        return []
    many = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    cut = many[:_ROUTE_VALUES]
    return [_printable(one)[:_ROUTE_LENGTH] for one in cut]


def _place(ds: Dataset) -> list[float] | None:
    """ImageOrientationPatient and ImagePositionPatient, nine numbers; None where they are not what they should be."""
    try:
        numbers = [float(one) for keyword in _PLACE_TAGS for one in _value(ds, keyword) or ()]
    except (TypeError, ValueError):
        return None
    # No database takes NaN as JSON, and no patient is a kilometre long.
    return numbers if len(numbers) == 9 and all(abs(one) < 1e6 for one in numbers) else None


def _distances(ds: Dataset) -> dict[str, float]:
    """What a header says of its slice's neighbours, in mm, and its number; without what it does not say."""
    found = {}
    for name, keyword in _DISTANCES.items():
        try:
            number = float(str(_value(ds, keyword)))
        except ValueError:
            continue
        if math.isfinite(number) and abs(number) < 1e9:  # no database takes NaN as JSON
            found[name] = number
    return found
