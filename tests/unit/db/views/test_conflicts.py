from __future__ import annotations

from tests.testbed.instances import later, new_instance
from worker.db.engine import Database
from worker.db.instances import add_instance, open_association
from worker.db.versions.conflicts import add_conflict
from worker.db.versions.corrections import correct_instances
from worker.db.views.conflicts import (
    VersionsOfSeries,
    count_conflicts,
    count_corrections,
    list_conflicts,
    versions_of_series,
)
from worker.dicom.standard import derive_uid


def test_conflicts_and_corrections_are_listed_and_counted(database: Database) -> None:
    series = derive_uid("series", "a")
    with database.write() as session:
        rows = [add_instance(session, new_instance(number), later(0)) for number in (1, 2)]
        association = open_association(session, "PACS", "127.0.0.1", "host:1", later(0))
        for number, row in enumerate(rows):
            new = new_instance(row.id, sha256=f"{number}" * 64, association_id=association if number else None)
            add_conflict(session, row, new, f"conflicts/{number}", later(number), "pixels" if number else None)
        for digest in "cd":
            correct_instances(session, [(rows[0], new_instance(1, sha256=digest * 64))], later(2))
    with database.read() as session:
        first, second = list_conflicts(session)
        assert (first.series_instance_uid, first.differs, first.sender) == (series, None, None)
        assert (second.sop_instance_uid, second.differs, second.sender) == (
            derive_uid("instance", "a", "2"),
            "pixels",
            "PACS",
        )
        assert list_conflicts(session, after=first.number) == list_conflicts(session, 1, 1) == [second]
        assert (count_conflicts(session), count_corrections(session)) == (2, 2)
        assert versions_of_series(session, series) == VersionsOfSeries(corrected=1, conflicts=2)
        assert versions_of_series(session, "1.2.3") == VersionsOfSeries(0, 0)
