"""What the objects of a study are made of, on both databases."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import update

from tests.testbed.instances import classified, later, new_instance
from tests.testbed.rows import claimed_job
from tests.testbed.studies import STUDY, receive, refuse
from worker.db.engine import Database
from worker.db.jobs import end_job
from worker.db.results import add_result
from worker.db.studies.contents import study_contents
from worker.db.tables import InstanceRow, JobState
from worker.dicom.standard import derive_uid
from worker.results import Activation

MAP = Activation(((0, 255),), 0.1, 0.2, 0.3, 0.4)


def test_images_deciding_slices_and_files_of_a_series(database: Database) -> None:
    for number in (1, 2, 3):
        series_id = receive(database, "a", number)
    new = [new_instance(number, "a") for number in (1, 2, 3)]
    result = classified(new)
    slices = [replace(item, deciding=index > 0, activation=MAP) for index, item in enumerate(result.slices)]
    with database.write() as session:
        job = claimed_job(session, series_id)
        end_job(session, job.id, "me", JobState.DONE, later(1))
        ids = {item.sop_instance_uid: index for index, item in enumerate(new, 1)}
        add_result(session, job, replace(result, slices=tuple(slices)), ids, [], [], later(1))
        session.execute(update(InstanceRow).where(InstanceRow.id == 3).values(removed_at=later(2)))
    receive(database, "a", 4)  # after the job
    refuse(database, "knee", "body-part")
    with database.read() as session:
        contents = study_contents(session, STUDY, model_id=1)
        other = study_contents(session, STUDY, model_id=2)
    head, knee = contents[derive_uid("series", "a")], contents[derive_uid("series", "knee")]
    assert head.images == tuple((item.sop_class_uid, item.sop_instance_uid) for item in new)
    assert (head.slices, [number for number, _ in head.key_slices]) == (3, [2, 3])
    assert head.key_slices[0][1].probabilities == (0.9, 0.09999999999999998)
    assert head.key_slices[0][1].activation == replace(MAP, rows=[[0, 255]])  # type: ignore[arg-type]  # from JSON
    assert {uid: file.path for uid, file in head.files.items()} == {
        item.sop_instance_uid: item.path for item in new[:2]
    }
    assert (knee.description, knee.images, knee.key_slices, knee.slices) == ("t1", (), (), 0)
    assert other[derive_uid("series", "a")].images == ()
