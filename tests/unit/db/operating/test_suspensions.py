from __future__ import annotations

from tests.testbed.instances import later
from worker.db.engine import Database
from worker.db.operating.suspensions import Suspension, is_suspended, list_suspensions, resume, suspend
from worker.db.tables import Stage


def test_a_stage_stays_suspended_by_the_first_who_did_it_until_it_is_resumed(database: Database) -> None:
    long_name = "a" * 70
    with database.write() as session:
        assert suspend(session, [Stage.DELIVERIES], long_name, later(1)) == [Stage.DELIVERIES]
        both = [Stage.DELIVERIES, Stage.CLASSIFICATION]
        assert suspend(session, both, "another", later(2)) == [Stage.CLASSIFICATION]
    with database.read() as session:
        assert is_suspended(session, Stage.CLASSIFICATION)
        assert list_suspensions(session) == [
            Suspension("classification", later(2), "another"),
            Suspension("deliveries", later(1), long_name[:64]),
        ]
    with database.write() as session:
        assert resume(session, [Stage.DELIVERIES]) == [Stage.DELIVERIES]
        assert resume(session, [Stage.DELIVERIES]) == []
        assert not is_suspended(session, Stage.DELIVERIES)
        assert is_suspended(session, Stage.CLASSIFICATION)
