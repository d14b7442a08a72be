from __future__ import annotations

from tests.testbed.instances import later, new_instance
from worker.db.engine import Database
from worker.db.instances import add_instance, kept_files
from worker.db.tables import Decision
from worker.db.versions.conflicts import add_conflict, decide_conflict, find_conflict


def test_each_content_waits_once(database: Database) -> None:
    with database.write() as session:
        row = add_instance(session, new_instance(), later(0))
        for digest in ("11", "22", "11"):
            new = new_instance(sha256=digest * 32)
            add_conflict(session, row, new, f"conflicts/{digest}", later(1), "pixels")
        found = [find_conflict(session, number) for number in (1, 2, 3)]
        assert found[2] is None
        assert [(each[0].path, each[0].reason, each[1].id) for each in found if each is not None] == [
            ("conflicts/11", "pixels", row.id),
            ("conflicts/22", "pixels", row.id),
        ]


def test_a_decision_tells_which_file_is_of_no_use_and_the_content_may_come_again(database: Database) -> None:
    other = new_instance(sha256="11" * 32)
    with database.write() as session:
        row = add_instance(session, new_instance(), later(0))
        add_conflict(session, row, other, "conflicts/11", later(1))
        add_conflict(session, row, new_instance(sha256="22" * 32), row.path, later(1))
        assert decide_conflict(session, row.id, "11" * 32, Decision.REJECTED, later(2), "ada") == ["conflicts/11"]
        assert decide_conflict(session, row.id, "22" * 32, Decision.REJECTED, later(2)) == []
        assert decide_conflict(session, row.id, "11" * 32, Decision.ACCEPTED, later(3)) == []
        assert find_conflict(session, 1) is None
        assert [path for path, _ in kept_files(session)] == [row.path]
        add_conflict(session, row, other, "conflicts/11", later(4), "pixels")
        again = find_conflict(session, 1)
        assert again is not None
        assert (again[0].reason, again[0].received_at, again[0].decided_by) == ("pixels", later(4), None)
