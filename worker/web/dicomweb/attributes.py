"""The attributes that a study, a series or an instance is answered with, from the database and a file's header.

Where the database keeps pseudonyms ([privacy] pseudonymise), of a header only attributes that cannot identify the
patient are used: nothing that the database must not hold leaves here, nor can it be searched for.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pydicom import DataElement, Dataset

from worker.db.views.archive import Instance, Study
from worker.db.views.archive_dataset import Entry, to_dataset
from worker.dicom.header import read_stored_header
from worker.dicom.odd_values import add_value
from worker.web.dicomweb.dicom_json import as_json
from worker.web.dicomweb.messages import entry_address

# Of received files: the geometry and acquisition of the image, in values that are not free text.
_HARMLESS_GROUPS = {0x0018, 0x0020, 0x0028, 0x5200}
_HARMLESS_VRS = {"AT", "CS", "DS", "FD", "FL", "IS", "OB", "OW", "SL", "SQ", "SS", "UI", "UL", "US"}
_HARMLESS_TAGS = {
    0x00080005, 0x00080008, 0x00080016, 0x00080018, 0x00080060, 0x00080201, 0x0040A043, 0x0040A504,
    0x00081140, 0x00082112, 0x00081150, 0x00081155, 0x00081115, 0x00081199, 0x00200011, 0x00200013,
}  # fmt: skip
# Of produced files: the content of the report, which does not identify the patient.
_REPORT_TAGS = {
    0x0008103E, 0x00080023, 0x00080033, 0x0040A040, 0x0040A050, 0x0040A491, 0x0040A493, 0x0040A496, 0x0040A375,
    0x0040A730, 0x00280301,
}  # fmt: skip


_WHOLE_HEADERS_AT_ONCE = 2  # each may take a few hundred MiB, and seconds


class AttributeReader:
    """Reads the attributes of entries. `pseudonymised`: only those that cannot identify the patient."""

    def __init__(self, data_dir: Path, pseudonymised: bool) -> None:
        self._data_dir = data_dir
        self._pseudonymised = pseudonymised
        self._whole = threading.BoundedSemaphore(_WHOLE_HEADERS_AT_ONCE)

    def read(self, entry: Entry, tags: Collection[int] | None, address: str) -> Dataset:
        """The attributes of an entry; of the header only these tags, if given. `address`: of this service."""
        with self._whole if tags is None else nullcontext():
            return self._read(entry, tags, address)

    def read_json(self, entry: Entry, address: str, bulk: str | None = None) -> dict[str, Any]:
        """All attributes of an entry in the DICOM JSON Model; `bulk` as `as_json` has it."""
        with self._whole:
            return as_json(self._read(entry, None, address), None, bulk)

    def _read(self, entry: Entry, tags: Collection[int] | None, address: str) -> Dataset:
        ds = self._header(entry, tags)
        ds.update(to_dataset(entry))
        add_value(ds, "RetrieveURL", entry_address(entry, address))
        if isinstance(entry, Instance):
            add_value(ds, "AvailableTransferSyntaxUID", entry.transfer_syntax_uid)
        return ds

    def _header(self, entry: Entry, tags: Collection[int] | None) -> Dataset:
        if entry.path is None or (tags is not None and not tags):
            return Dataset()
        ds = read_stored_header(self._data_dir / entry.path, None if tags is None else sorted(tags))
        is_produced = not isinstance(entry, Study) and entry.kind is not None
        return _without_identity(ds, is_produced) if self._pseudonymised else ds


def _without_identity(ds: Dataset, is_produced: bool) -> Dataset:
    kept = Dataset()
    for element in ds:
        tag = int(element.tag)
        if is_produced and tag in _REPORT_TAGS:
            kept.add(element)
        elif tag in _HARMLESS_TAGS or (tag >> 16 in _HARMLESS_GROUPS and element.VR in _HARMLESS_VRS):
            if element.VR == "SQ":
                items = [_without_identity(item, is_produced) for item in element.value or ()]
                element = DataElement(tag, "SQ", items)
            kept.add(element)
    return kept
