"""The media types and transfer syntaxes that a client accepts (PS3.18 8.7)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import Request
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

_UNENCODED_PLUS = re.compile(r"(?<=dicom) (?=json|xml)")  # of application/dicom+json, which a query reads as a space
_PARAMETER = re.compile(r';\s*([\w-]+)\s*=\s*("[^"]*"|[^;,\s]*)')
_RANGE = re.compile(rf"\s*([\w*.+-]+/[\w*.+-]+|\*)((?:\s*{_PARAMETER.pattern})*)\s*")


@dataclass(frozen=True, slots=True)
class MediaRange:
    """A media range of an Accept header; `is_multipart` for multipart/related, whose `type` is that of the parts.

    `transfer_syntax` is a UID, "*" for any, or None where the client leaves it to the default.
    """

    type: str
    is_multipart: bool
    transfer_syntax: str | None
    quality: float

    def includes(self, media_type: str) -> bool:
        major = media_type.partition("/")[0]
        return self.type in (media_type, "*/*", f"{major}/*")


def accepted(header: str | None) -> list[MediaRange]:
    """The ranges of an Accept header, the preferred first; without a header anything is accepted."""
    ranges = [media_range for media_range in _parse(header or "*/*") if media_range.quality > 0]
    return sorted(ranges, key=lambda media_range: -media_range.quality)


def accepted_by(request: Request) -> list[MediaRange]:
    """The ranges of a request: of its accept parameter, which a link has in place of a header (PS3.18 8.3.3.1)."""
    parameter = ",".join(request.query_params.getlist("accept"))
    ranges = accepted(_UNENCODED_PLUS.sub("+", parameter)) if parameter else []
    return ranges or accepted(request.headers.get("accept"))


def _parse(header: str) -> Iterator[MediaRange]:
    position = 0
    while match := _RANGE.match(header, position):
        parameters = {name.lower(): value.strip('"') for name, value in _PARAMETER.findall(match[2])}
        media_type = match[1].lower()
        is_multipart = media_type in (MULTIPART, "multipart/*")
        yield MediaRange(
            type="*/*" if media_type == "*" else parameters.get("type", "*/*").lower() if is_multipart else media_type,
            is_multipart=is_multipart,
            transfer_syntax=parameters.get("transfer-syntax") or None,
            quality=_quality(parameters.get("q", "1")),
        )
        if header[match.end() : match.end() + 1] != ",":
            return  # else what is no list could be read from each of its characters on, in quadratic time
        position = match.end() + 1


def _quality(text: str) -> float:
    return float(text) if re.fullmatch(r"[01](\.\d{0,3})?", text) else 1.0
