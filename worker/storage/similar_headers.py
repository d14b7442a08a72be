"""The rows of instances that have most of their header in common, as the slices of a series have: it is read once.

Reading a header was half of what receiving an instance took. Now its elements are walked, and what is made of them is
taken from the row of an earlier instance with the same elements, but for what tells slices apart. A header that is
long, has many elements or is of an unusual kind is read anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from pydicom import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRBigEndian

from worker.config import routing
from worker.db.instances import NewInstance
from worker.dicom import functional_groups, standard
from worker.dicom.header import EncodedElement, encoded_elements
from worker.dicom.odd_values import ignore_value_warnings
from worker.dicom.walk import UNDEFINED
from worker.storage.acceptance import (
    SLICE_KEYS,
    STORED_TAGS,
    StoreRequest,
    instance_path,
    read_instance,
    sha256_of,
    slice_attributes,
    uid_of,
)
from worker.storage.spool import FileContent

_SHARED_BYTES = 1 << 13  # of the values of a header; those of a slice take less than 2 KiB
_ROWS = 256
# What differs between the slices of a series, and of the rest what `slice_attributes` reads.
_OWN = frozenset(int(Tag(keyword)) for keyword in ("SOPInstanceUID", "InstanceNumber", "ImagePositionPatient"))
_OF_SLICE = _OWN | {
    int(Tag(keyword)) for keyword in ("ImageOrientationPatient", "SpacingBetweenSlices", "SliceThickness")
}

_Key = tuple[str, tuple[EncodedElement, ...]]


class HeaderReader:
    """Reads rows as `read_instance` does; any number of threads may use it."""

    def __init__(self, routes: Sequence[routing.RouteSection], pseudonym: Callable[[str], str] | None) -> None:
        self._routes = routes
        self._pseudonym = pseudonym
        groups = (functional_groups.SHARED, functional_groups.PER_FRAME)
        self._keywords = (*STORED_TAGS, *routing.keywords(routes), *groups)
        self._own = _OWN - {int(Tag(keyword)) for keyword in routing.keywords(routes)}
        self._rows: dict[_Key, NewInstance] = {}

    def read(self, request: StoreRequest) -> NewInstance:
        """The row of a request's instance. Raises RefusedInstance, as `read_instance`."""
        content = request.encoded
        found = None
        if not isinstance(content, FileContent):
            found = encoded_elements(content, request.transfer_syntax_uid, self._keywords, _SHARED_BYTES)
        if found is None:
            return read_instance(request, instance_path, self._routes, self._pseudonym)
        key = (request.transfer_syntax_uid, tuple(element for element in found if element.tag not in self._own))
        similar = self._rows.get(key)
        row = self._from_similar(request, similar, found) if similar is not None else None
        if row is None:
            row = read_instance(request, instance_path, self._routes, self._pseudonym)
            if len(self._rows) >= _ROWS:
                self._rows.clear()
            self._rows[key] = row
        return row

    def _from_similar(
        self, request: StoreRequest, similar: NewInstance, found: Sequence[EncodedElement]
    ) -> NewInstance | None:
        """The row, made of that of an instance whose other elements are the same; None for what is to be refused."""
        of_slice = [element for element in found if element.tag in _OF_SLICE]
        if any(element.length == UNDEFINED for element in of_slice):
            return None
        little = request.transfer_syntax_uid != ExplicitVRBigEndian
        with ignore_value_warnings():
            ds = Dataset({BaseTag(element.tag): element.raw(little) for element in of_slice})
            uid, own = uid_of(ds, "SOPInstanceUID"), slice_attributes(ds)
        affected = (request.affected_sop_class_uid, request.affected_sop_instance_uid)
        if not standard.is_uid(uid) or affected != (similar.sop_class_uid, uid):
            return None
        shared = {key: value for key, value in similar.attributes.items() if key not in SLICE_KEYS}
        sha256 = sha256_of(request.encoded)
        return replace(
            similar,
            sop_instance_uid=uid,
            attributes=shared | own,
            path=instance_path(similar.series_instance_uid, sha256),
            size=len(request.encoded),
            sha256=sha256,
            association_id=request.association_id,
        )
