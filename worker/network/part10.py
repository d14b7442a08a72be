"""The beginning of the DICOM file (PS3.10) as which the dataset of a C-STORE request is stored."""

from __future__ import annotations

import struct

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION


def file_beginning(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Preamble, prefix and file meta information (PS3.10 7.1); the dataset follows."""
    elements = (
        (0x0002, b"UI", even_uid(sop_class_uid)),
        (0x0003, b"UI", even_uid(sop_instance_uid)),
        (0x0010, b"UI", even_uid(transfer_syntax_uid)),
        (0x0012, b"UI", even_uid(PYNETDICOM_IMPLEMENTATION_UID)),
        (0x0013, b"SH", PYNETDICOM_IMPLEMENTATION_VERSION.ljust(16).encode()),
    )
    version = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1"
    body = version + b"".join(struct.pack("<HH2sH", 2, tag, vr, len(value)) + value for tag, vr, value in elements)
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(body)) + body


def even_uid(uid: str) -> bytes:
    """A UID of even length (PS3.5 9.1)."""
    return uid.encode() + b"\0" * (len(uid) % 2)
