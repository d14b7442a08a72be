"""The Native DICOM Model of a dataset, XML (PS3.19 A.1), from its DICOM JSON Model (PS3.18 F), content unchanged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import keyword_for_tag

_NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
_COMPONENTS = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")  # in the order of PS3.5 6.2
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2


def as_xml(dataset: dict[str, Any]) -> bytes:
    """The XML of a dataset in the DICOM JSON Model. Characters that XML cannot hold are left out."""
    content = "".join(_attributes(dataset))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<NativeDicomModel xmlns="{_NAMESPACE}" xml:space="preserve">{content}</NativeDicomModel>'
    ).encode()


def _attributes(dataset: dict[str, Any]) -> Iterator[str]:
    for tag, member in sorted(dataset.items()):
        names = {"tag": tag, "vr": member["vr"]} | _names(tag, dataset)
        if "privateCreator" in names:
            names["tag"] = f"{tag[:4]}00{tag[6:]}"  # without the number of its block: PS3.19 A.1.5.2
        attributes = " ".join(f"{name}={quoteattr(_text(value))}" for name, value in names.items())
        yield f"<DicomAttribute {attributes}>{''.join(_content(member))}</DicomAttribute>"


def _names(tag: str, dataset: dict[str, Any]) -> dict[str, str]:
    """The keyword of a standard attribute, the creator of a private attribute; nothing where neither is known."""
    if keyword := keyword_for_tag(int(tag, 16)):
        return {"keyword": keyword}
    creator = dataset.get(f"{tag[:4]}00{tag[4:6]}", {}).get("Value")
    return {"privateCreator": str(creator[0])} if int(tag[:4], 16) % 2 and tag[4:6] != "00" and creator else {}


def _content(member: dict[str, Any]) -> Iterator[str]:
    if "BulkDataURI" in member:
        yield f"<BulkData uri={quoteattr(member['BulkDataURI'])}/>"
    if "InlineBinary" in member:
        yield f"<InlineBinary>{member['InlineBinary']}</InlineBinary>"
    for number, value in enumerate(member.get("Value", ()), 1):
        if member["vr"] == "SQ":
            yield f'<Item number="{number}">{"".join(_attributes(value))}</Item>'
        elif member["vr"] == "PN":
            yield f'<PersonName number="{number}">{"".join(_person_name(value or {}))}</PersonName>'
        else:
            yield f'<Value number="{number}">{_escaped(value)}</Value>'


def _person_name(groups: dict[str, str]) -> Iterator[str]:
    for group, name in groups.items():
        components = zip(_COMPONENTS, name.split("^"), strict=False)
        content = "".join(f"<{component}>{_escaped(text)}</{component}>" for component, text in components if text)
        yield f"<{group}>{content}</{group}>"


def _escaped(value: Any) -> str:
    return escape("" if value is None else _text(value), {"\r": "&#13;"})  # a parser makes a bare CR a line feed


def _text(value: Any) -> str:
    return _NOT_IN_XML.sub("", str(value))
