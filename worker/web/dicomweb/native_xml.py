"""A dataset in the Native DICOM Model, XML (PS3.19 A.1), from its DICOM JSON Model (PS3.18 F): the two say the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import keyword_for_tag

_NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")  # in the order of PS3.5 6.2
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2


def as_xml(told: dict[str, Any]) -> bytes:
    """`told`: what `answers.as_json` gives. Characters that XML cannot hold are left out."""
    content = "".join(_attributes(told))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<NativeDicomModel xmlns="{_NAMESPACE}" xml:space="preserve">{content}</NativeDicomModel>'
    ).encode()


def _attributes(told: dict[str, Any]) -> Iterator[str]:
    for tag, one in sorted(told.items()):
        names = {"tag": tag, "vr": one["vr"]} | _naming(tag, told)
        if "privateCreator" in names:
            names["tag"] = f"{tag[:4]}00{tag[6:]}"  # the block is the creator's, wherever it lies: PS3.19 A.1.5.2
        attributes = " ".join(f"{name}={quoteattr(_text(value))}" for name, value in names.items())
        yield f"<DicomAttribute {attributes}>{''.join(_content(one))}</DicomAttribute>"


def _naming(tag: str, told: dict[str, Any]) -> dict[str, str]:
    """The keyword of a standard attribute, the creator of a private one; neither where neither is known."""
    if keyword := keyword_for_tag(int(tag, 16)):
        return {"keyword": keyword}
    creator = told.get(f"{tag[:4]}00{tag[4:6]}", {}).get("Value")
    return {"privateCreator": str(creator[0])} if int(tag[:4], 16) % 2 and tag[4:6] != "00" and creator else {}


def _content(one: dict[str, Any]) -> Iterator[str]:
    if "BulkDataURI" in one:
        yield f"<BulkData uri={quoteattr(one['BulkDataURI'])}/>"
    if "InlineBinary" in one:
        yield f"<InlineBinary>{one['InlineBinary']}</InlineBinary>"
    for number, value in enumerate(one.get("Value", ()), 1):
        if one["vr"] == "SQ":
            yield f'<Item number="{number}">{"".join(_attributes(value))}</Item>'
        elif one["vr"] == "PN":
            yield f'<PersonName number="{number}">{"".join(_name(value or {}))}</PersonName>'
        else:
            yield f'<Value number="{number}">{_escaped(value)}</Value>'


def _name(groups: dict[str, str]) -> Iterator[str]:
    for group, name in groups.items():
        components = zip(_COMPONENTS, name.split("^"), strict=False)
        content = "".join(f"<{component}>{_escaped(text)}</{component}>" for component, text in components if text)
        yield f"<{group}>{content}</{group}>"


def _escaped(value: Any) -> str:
    return escape("" if value is None else _text(value), {"\r": "&#13;"})  # a parser makes a bare CR a line feed


def _text(value: Any) -> str:
    return _NOT_IN_XML.sub("", str(value))
