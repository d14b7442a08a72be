"""Of whom a study's files are. The rest: tests/unit/storage/test_deletion.py."""

from __future__ import annotations

from sqlalchemy import select, update

from tests.testbed.studies import STUDY, classify
from worker.db.engine import Database
from worker.db.operating.deleting import delete_study_rows, lock_study_to_delete
from worker.db.tables import InstanceRow, SearchEntryRow, SeriesRow


def test_a_file_and_an_entry_that_another_study_has_stay(database: Database) -> None:
    classify(database, "first")
    classify(database, "second", study_instance_uid="1.2.3")
    with database.write() as session:
        paths = list(session.scalars(select(InstanceRow.path).order_by(InstanceRow.id)))
        assert len(set(session.scalars(select(SeriesRow.search_entry_id)))) == 1
        session.execute(update(InstanceRow).where(InstanceRow.path == paths[1]).values(path=paths[0]))
    with database.write() as session:
        assert lock_study_to_delete(session, "9.9") is None
        assert lock_study_to_delete(session, STUDY) == []
        delete_study_rows(session, STUDY, [])
    with database.write() as session:
        assert len(session.scalars(select(SearchEntryRow)).all()) == 1
        assert lock_study_to_delete(session, "1.2.3") == [paths[0]]
        delete_study_rows(session, "1.2.3", paths)
        assert session.scalars(select(SearchEntryRow)).all() == []
