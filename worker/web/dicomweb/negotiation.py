"""What a client accepts (PS3.18 8.7): media types, in parts or alone, and transfer syntaxes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

DICOM, DICOM_JSON, DICOM_XML, OCTETS, MULTIPART = (
    "application/dicom", "application/dicom+json", "application/dicom+xml", "application/octet-stream",
    "multipart/related",
)  # fmt: skip

# PS3.18 Table 8.7.3-5: the media type of a compressed frame.
FRAME_TYPES = {
    JPEGBaseline8Bit: "image/jpeg", JPEGExtended12Bit: "image/jpeg", JPEGLossless: "image/jpeg",
    JPEGLosslessSV1: "image/jpeg", RLELossless: "image/dicom-rle", JPEGLSLossless: "image/jls",
    JPEGLSNearLossless: "image/jls", JPEG2000Lossless: "image/jp2", JPEG2000: "image/jp2",
    HTJ2KLossless: "image/jphc", HTJ2KLosslessRPCL: "image/jphc", HTJ2K: "image/jphc",
}  # fmt: skip

_PARAMETER = re.compile(r'\s*;\s*([\w-]+)\s*=\s*("[^"]*"|[^;,\s]*)')
_RANGE = re.compile(rf"\s*([\w*.+-]+/[\w*.+-]+|\*)((?:{_PARAMETER.pattern})*)\s*")


@dataclass(frozen=True, slots=True)
class Range:
    """One media range; `in_parts` for multipart/related, whose `type` is that of the parts.

    `transfer_syntax` is a UID, "*" for any, or None where the client leaves it to the default.
    """

    type: str
    in_parts: bool
    transfer_syntax: str | None
    quality: float

    def takes(self, media_type: str) -> bool:
        major = media_type.partition("/")[0]
        return self.type in (media_type, "*/*", f"{major}/*")


def ranges(header: str | None) -> list[Range]:
    """The ranges of an Accept header, the preferred ones first; without a header anything is accepted."""
    found = list(_read(header or "*/*"))
    return sorted((one for one in found if one.quality > 0), key=lambda one: -one.quality)


def _read(header: str) -> Iterator[Range]:
    place = 0
    while match := _RANGE.match(header, place):
        parameters = {name.lower(): value.strip('"') for name, value in _PARAMETER.findall(match[2])}
        kind = match[1].lower()
        in_parts = kind in (MULTIPART, "multipart/*")
        yield Range(
            type="*/*" if kind == "*" else parameters.get("type", "*/*").lower() if in_parts else kind,
            in_parts=in_parts,
            transfer_syntax=parameters.get("transfer-syntax") or None,
            quality=_quality(parameters.get("q", "1")),
        )
        place = match.end() + 1  # behind the comma


def _quality(text: str) -> float:
    return float(text) if re.fullmatch(r"[01](\.\d{0,3})?", text) else 1.0
