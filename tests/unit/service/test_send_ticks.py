from __future__ import annotations

from tests.testbed.find_scp import sender
from tests.testbed.instances import later
from tests.testbed.studies import refuse
from tests.testbed.waiting import wait_until
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import open_association
from worker.db.studies.counting import studies_to_count
from worker.service.schedule import tick_now
from worker.service.send_ticks import start_send_ticks


def test_a_peer_that_may_be_queried_is(database: Database) -> None:
    with database.write() as session:
        number = open_association(session, "SENDER", "127.0.0.1", "host:1", later(0))
    refuse(database, "a", "modality", association_id=number)

    def is_counted() -> bool:
        with database.read() as session:
            return not studies_to_count(session, "SENDER", later(1), later(65) - later(0), later(5) - later(0))

    assert not is_counted()
    with sender(lambda _: iter(())) as peer:
        ticks = start_send_ticks(Settings(peer=(peer,)), database, lambda: later(1))
        assert ticks is not None
        tick_now(ticks)
        wait_until(is_counted, "the query")
        ticks.shutdown(wait=True)


def test_without_such_a_peer_there_is_no_tick(database: Database) -> None:
    assert start_send_ticks(Settings(), database, lambda: later(0)) is None
