"""The elements of a header as lines that a person reads: private, binary and long values are cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from pydicom import DataElement, Dataset

from worker.dicom.odd_values import ignore_value_warnings
from worker.dicom.text.printable import printable
from worker.wording import counted

MOST_LINES = 2000
_LONGEST = 160
_DEEPEST = 8
_BINARY = frozenset({"OB", "OW", "OD", "OF", "OL", "OV", "UN"})


@dataclass(frozen=True, slots=True)
class TagLine:
    """An element: its tag as (gggg,eeee), VR, name and value; `depth` of the sequences around it."""

    tag: str
    vr: str
    name: str
    value: str
    depth: int = 0


@ignore_value_warnings()
def tag_lines(ds: Dataset) -> list[TagLine]:
    """The first elements of a dataset with its file meta information, those of sequences below them."""
    meta = getattr(ds, "file_meta", None)
    lines = [*_lines(meta, 0)] if meta is not None else []
    return [*lines, *islice(_lines(ds, 0), MOST_LINES - len(lines))]


def _lines(ds: Dataset, depth: int) -> Iterator[TagLine]:
    for tag in sorted(ds.keys()):
        try:
            element = ds[tag]
        except Exception:  # a value that does not fit its VR may raise anything in pydicom
            yield TagLine(f"({tag >> 16:04X},{tag & 0xFFFF:04X})", "??", "", "cannot be read", depth)
            continue
        name = f"({element.tag.group:04X},{element.tag.element:04X})"
        title = "" if element.tag.is_private and not element.tag.is_private_creator else printable(element.name)
        yield TagLine(name, element.VR, title, _value(element), depth)
        if element.VR == "SQ" and not element.tag.is_private and depth < _DEEPEST:
            for item in element.value or ():
                yield from _lines(item, depth + 1)


def _value(element: DataElement) -> str:
    value = element.value
    if element.VR == "SQ":
        return counted(len(value or ()), "item")
    if element.tag.is_private and not element.tag.is_private_creator:
        return "private, not shown"
    if element.VR in _BINARY or isinstance(value, bytes):
        return counted(len(value or b""), "byte")
    if value is None:
        return ""
    values = list(value) if element.VM > 1 else [value]
    text = printable("\\".join(str(item)[: _LONGEST + 1] for item in values[: _LONGEST + 1]))
    return f"{text[:_LONGEST]}…" if len(text) > _LONGEST else text
