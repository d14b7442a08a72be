"""Constants of the DICOM standard: SOP classes, transfer syntaxes, status codes, UIDs. Each table cites its source.

UIDs are written out, because pydicom takes a third of a second to import, and most commands need nothing else of it.
"""

from __future__ import annotations

import re
import uuid

# PS3.4 B.5: the storage SOP classes a series of MR images can arrive in.
STORAGE_SOP_CLASSES: dict[str, str] = {
    "1.2.840.10008.5.1.4.1.1.4": "MR Image Storage",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR Image Storage",
    "1.2.840.10008.5.1.4.1.1.4.3": "Enhanced MR Color Image Storage",
    "1.2.840.10008.5.1.4.1.1.4.4": "Legacy Converted Enhanced MR Image Storage",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image Storage",
    "1.2.840.10008.5.1.4.1.1.7.1": "Multi-frame Single Bit Secondary Capture",
    "1.2.840.10008.5.1.4.1.1.7.2": "Multi-frame Grayscale Byte Secondary Capture",
    "1.2.840.10008.5.1.4.1.1.7.3": "Multi-frame Grayscale Word Secondary Capture",
    "1.2.840.10008.5.1.4.1.1.7.4": "Multi-frame True Color Secondary Capture",
}

# PS3.6 Table A-1: every transfer syntax in which MR pixels are exchanged. Stored as sent, decoded only by inference.
TRANSFER_SYNTAXES: dict[str, str] = {
    "1.2.840.10008.1.2.1": "Explicit VR Little Endian",
    "1.2.840.10008.1.2": "Implicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR Little Endian",
    "1.2.840.10008.1.2.5": "RLE Lossless",
    "1.2.840.10008.1.2.4.50": "JPEG Baseline (8 bit)",
    "1.2.840.10008.1.2.4.51": "JPEG Extended (12 bit)",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless (Process 14)",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless (Process 14, Selection Value 1)",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Near-lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "HTJ2K Lossless",
    "1.2.840.10008.1.2.4.202": "HTJ2K Lossless RPCL",
    "1.2.840.10008.1.2.4.203": "HTJ2K",
}
DOCUMENT_TRANSFER_SYNTAXES = tuple(TRANSFER_SYNTAXES)[:4]  # a document has no pixels to compress

COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.88.33"

# The objects that we produce.
PRODUCED_SOP_CLASSES: dict[str, str] = {
    "1.2.840.10008.5.1.4.1.1.88.34": "Comprehensive 3D SR Storage",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image Storage",
    "1.2.840.10008.5.1.4.1.1.88.59": "Key Object Selection Document Storage",
}
PRODUCT = "Brain MRI AI worker"  # Manufacturer's Model Name (0008,1090) of what we produce

# What is received: images, and what we produce, which a PACS sends back with the rest of its study.
RECEIVED_SOP_CLASSES: dict[str, str] = (
    STORAGE_SOP_CLASSES | PRODUCED_SOP_CLASSES | {COMPREHENSIVE_SR: "Comprehensive SR Storage"}
)

# PS3.4 C.6: the information models of Query/Retrieve, each with its highest level.
QUERY_RETRIEVE: dict[str, str] = {
    "1.2.840.10008.5.1.4.1.2.1.1": "PATIENT",  # Patient Root - FIND, MOVE, GET
    "1.2.840.10008.5.1.4.1.2.1.2": "PATIENT",
    "1.2.840.10008.5.1.4.1.2.1.3": "PATIENT",
    "1.2.840.10008.5.1.4.1.2.2.1": "STUDY",  # Study Root - FIND, MOVE, GET
    "1.2.840.10008.5.1.4.1.2.2.2": "STUDY",
    "1.2.840.10008.5.1.4.1.2.2.3": "STUDY",
}

# PS3.4 Table B.2-1 and PS3.7 Annex C.
SUCCESS = 0x0000
COERCED = 0xB000  # a warning: coercion of data elements
PROCESSING_FAILURE = 0x0110
NO_SUCH_SOP_INSTANCE = 0x0112
NO_SUCH_EVENT_TYPE = 0x0113
NO_SUCH_ACTION = 0x0123
INVALID_INSTANCE = 0x0117  # PS3.7 C.5.7
MISSING_ATTRIBUTE = 0x0120  # PS3.7 C.5.14
UNRECOGNIZED_OPERATION = 0x0211
RESOURCE_LIMITATION = 0x0213  # PS3.7 C.5.26
DUPLICATE_SOP_INSTANCE = 0x0111
SOP_CLASS_NOT_SUPPORTED = 0x0122
OUT_OF_RESOURCES = 0xA700
DATASET_MISMATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122
# PS3.4 Tables C.4-1 to C.4-3.
PENDING = 0xFF00
PENDING_WITH_WARNING = 0xFF01  # a key is not supported
CANCEL = 0xFE00
OUT_OF_RESOURCES_FOR_MATCHES = 0xA701
UNABLE_TO_PERFORM_SUB_OPERATIONS = 0xA702
MOVE_DESTINATION_UNKNOWN = 0xA801
SUB_OPERATIONS_WITH_FAILURES = 0xB000

# PS3.3 C.14.1.1 and PS3.4 Table B.2-1; the ranges by their first byte or first digit.
_FAILURES = {
    PROCESSING_FAILURE: "processing failure",
    DUPLICATE_SOP_INSTANCE: "duplicate SOP instance",
    0x0112: "no such object instance",
    INVALID_INSTANCE: "invalid object instance",
    0x0119: "class-instance conflict",
    SOP_CLASS_NOT_SUPPORTED: "SOP class not supported",
    0x0124: "not authorised",
    TRANSFER_SYNTAX_NOT_SUPPORTED: "transfer syntax not supported",
    0xA7: "out of resources",
    0xA9: "data set does not match the SOP class",
    0xC: "cannot understand",
}


def is_stored(status: int) -> bool:
    """Whether a C-STORE status means that the object is stored: success, or a warning (PS3.4 B.2.3)."""
    return status == SUCCESS or status >> 12 == 0xB


def failure_meaning(status: int) -> str:
    """The meaning of a C-STORE status or a Failure Reason (0008,1197)."""
    return next((_FAILURES[key] for key in (status, status >> 8, status >> 12) if key in _FAILURES), "failure")


MAXIMUM_UID_LENGTH = 64  # PS3.5 9.1
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def is_uid(text: str) -> bool:
    """True for a UID that PS3.5 9.1 allows; leading zeros are tolerated, because scanners send them."""
    return 0 < len(text) <= MAXIMUM_UID_LENGTH and _UID.fullmatch(text) is not None


DERIVED_PREFIX = "2.25."  # of every UID of ours
# The namespace of every UID this product derives. Never change it: the PACS would see new objects.
_NAMESPACE = uuid.UUID("6f1c0d5e-6d3b-5b7a-9d0e-0c2f4c1a8f77")


def derive_uid(*parts: str) -> str:
    """The UID of these parts, the same on any machine, forever (PS3.5 B.2, UUIDv5 under `2.25.`).

    So an object that is built or sent twice is the same object to the PACS (architecture, invariant 3).
    """
    return f"{DERIVED_PREFIX}{uuid.uuid5(_NAMESPACE, chr(31).join(parts)).int}"


def comprehensive_uid(sop_instance_uid: str) -> str:
    """The UID of a report as Comprehensive SR, for a peer that does not take Comprehensive 3D SR."""
    return derive_uid("comprehensive", sop_instance_uid)


def produced_series_uid(kind: str, series_instance_uid: str, bundle_sha256: str, other_study: str | None = None) -> str:
    """The series of the objects of a kind ("report") produced from a series with a model, the same at each revision.

    `other_study`: that of a series whose study was corrected. A series belongs to one study (PS3.3 7.3.1.3).
    """
    return derive_uid(f"{kind}-series", series_instance_uid, bundle_sha256, *([other_study] if other_study else []))


# Coded concepts of the report (PS3.16): value, scheme, meaning. What a model finds is coded in its bundle instead.
NEOPLASM = ("108369006", "SCT", "Neoplasm")
LESION = ("52988006", "SCT", "Lesion")
PRESENT = ("52101004", "SCT", "Present")  # CID 240
ABSENT = ("272519000", "SCT", "Absent")
UNDETERMINED = ("373068000", "SCT", "Undetermined")
FINDING = ("121071", "DCM", "Finding")
PROBABILITY = ("122157", "DCM", "Probability")
COMMENT = ("121106", "DCM", "Comment")
SOURCE = ("260753009", "SCT", "Source")
# Of our reports of studies: the tracking identifier of the study's group, and what those of its series begin with.
STUDY_GROUP, SERIES_GROUPS = "AI study classification", "series "
ACQUISITION_PLANE = ("113764", "DCM", "Acquisition Plane")
ACQUISITION_PROTOCOL = ("125203", "DCM", "Acquisition Protocol")
CONTRAST_AGENT = ("7140000", "SCT", "Contrast agent")
# CID 100 has no MRI of the brain, and a template validator refuses codes outside it.
MRI_PROCEDURE = ("25056-3", "LN", "MRI unspecified body region")
PROCESSING_EQUIPMENT = ("109102", "DCM", "Processing Equipment")  # CID 7005
CLASS_ACTIVATION = ("130402", "DCM", "Class activation")  # CID 217
SOURCE_IMAGE = ("121322", "DCM", "Source image for image processing operation")  # CID 7202
OF_INTEREST = ("113000", "DCM", "Of Interest")  # CID 7010
# CID 29: the modalities that can hold a head MRI; anything else is OT.
MODALITIES: dict[str, tuple[str, str, str]] = {
    "MR": ("MR", "DCM", "Magnetic Resonance"),
    "OT": ("OT", "DCM", "Other"),
}
