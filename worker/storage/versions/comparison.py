"""What differs between the stored content of an instance and other content that came under its UID."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from worker.db.instances import NewInstance
from worker.db.tables import InstanceRow
from worker.dicom.odd_values import ignore_value_warnings
from worker.logs import fault_fields, get_log
from worker.storage.integrity import fault_of
from worker.storage.versions.pixel_digest import pixel_digest


class Difference(StrEnum):
    """Why other content is no correction, but a conflict."""

    PIXELS = "pixels"
    TRANSFER_SYNTAX = "transfer-syntax"
    SOP_CLASS = "sop-class"
    NOT_COMPARABLE = "not-comparable"  # the stored file is deleted or damaged, or either cannot be read


@dataclass(frozen=True, slots=True)
class StoredContent:
    """The content that an instance had when it was looked at."""

    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    size: int
    sha256: str
    is_removed: bool

    @classmethod
    def of(cls, row: InstanceRow) -> StoredContent:
        removed = row.removed_at is not None
        return cls(row.sop_class_uid, row.transfer_syntax_uid, row.path, row.size, row.sha256, removed)


def difference(stored: StoredContent, data_dir: Path, new: NewInstance, file: str) -> Difference | None:
    """What differs beside attributes, None where nothing does; `file` is where the new content is.

    Takes the time of reading both files, so no lock is held meanwhile.
    """
    if stored.sop_class_uid != new.sop_class_uid:
        return Difference.SOP_CLASS
    if stored.transfer_syntax_uid != new.transfer_syntax_uid:
        return Difference.TRANSFER_SYNTAX
    path = data_dir / stored.path
    if stored.is_removed or fault_of(path, stored.sha256, stored.size) is not None:
        return Difference.NOT_COMPARABLE
    try:
        with ignore_value_warnings(), path.open("rb") as ours, open(file, "rb") as theirs:
            syntax = stored.transfer_syntax_uid
            is_same = pixel_digest(ours, syntax) == pixel_digest(theirs, syntax)
    except Exception as error:  # a boundary: hostile bytes may raise anything in a parser
        get_log().warning("contents of an instance not compared", **fault_fields(error))
        return Difference.NOT_COMPARABLE
    return None if is_same else Difference.PIXELS
