"""Objects of ours that come back: a PACS that sends a study to the worker sends our reports and pictures of it too."""

from __future__ import annotations

from worker.db.engine import Database
from worker.db.instances import NewInstance
from worker.db.results import objects_of
from worker.db.tables import ObjectRow
from worker.dicom import standard
from worker.errors import RefusedInstance
from worker.logs import get_log
from worker.storage.acceptance import PRODUCED_KEY

_CLASSES = {*standard.PRODUCED_SOP_CLASSES, standard.COMPREHENSIVE_SR}


def is_held(database: Database, new: NewInstance) -> bool:
    """Whether an arriving instance is an object that this worker made, and holds.

    The PACS may have transcoded it or changed its attributes. Raises RefusedInstance for another instance under the
    UID of such an object.
    """
    if new.sop_class_uid not in _CLASSES or not new.sop_instance_uid.startswith(standard.DERIVED_PREFIX):
        return False  # without a query: nearly all that is received
    with database.read() as session:
        objects = objects_of(session, [new.sop_instance_uid], new.series_instance_uid)
    row = next((row for row in objects if new.sop_instance_uid in _forms(row)), None)
    if row is None:
        return False
    is_ours = new.attributes.get(PRODUCED_KEY) or new.series_instance_uid == row.series_instance_uid
    if not is_ours or new.sop_class_uid != _forms(row)[new.sop_instance_uid]:
        raise RefusedInstance(
            standard.DUPLICATE_SOP_INSTANCE, "uid-of-produced", "another instance has the UID of an object of ours"
        )
    get_log().info("an object of ours came back", object_row=row.id)
    return True


def _forms(row: ObjectRow) -> dict[str, str]:
    """The SOP classes in which an object is sent, by SOP Instance UID."""
    other = standard.comprehensive_uid(row.sop_instance_uid)
    return {row.sop_instance_uid: row.sop_class_uid, other: standard.COMPREHENSIVE_SR}
