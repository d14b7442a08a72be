from __future__ import annotations

from sqlalchemy import update

from tests.testbed.instances import later, new_instance
from tests.testbed.studies import STUDY, receive
from worker.db.engine import Database
from worker.db.operating.images import StoredImage, stored_image
from worker.db.tables import InstanceRow


def test_the_image_of_a_number_and_whether_its_file_is_there(database: Database) -> None:
    receive(database, "first", 1)
    receive(database, "first", 2)
    receive(database, "second", 1)
    first, second = new_instance(1, "first"), new_instance(2, "first")
    uid = first.series_instance_uid
    with database.write() as session:
        assert stored_image(session, uid, 2) == StoredImage(STUDY, second.sop_instance_uid, 2, second.path)
        assert stored_image(session, uid, 3) is None
        assert stored_image(session, "1.2", 1) is None
        session.execute(update(InstanceRow).values(removed_at=later(9)))
        image = stored_image(session, uid, 1)
    assert image is not None
    assert (image.sop_instance_uid, image.path) == (first.sop_instance_uid, None)
