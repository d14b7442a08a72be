"""What the tables accept, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import StatementError

from tests.testbed.instances import later, new_instance
from tests.testbed.rows import add_series
from worker.db.engine import Database, IntegrityError
from worker.db.instances import add_instance
from worker.db.tables import Base, DeliveryRow, JobRow, ModelRow, ObjectRow, ResultRow, SeriesRow, SeriesStatus


def test_a_time_is_aware_and_utc_whatever_zone_it_came_in(database: Database) -> None:
    moment = datetime(2026, 3, 1, 13, 30, tzinfo=timezone(timedelta(hours=2)))
    with database.write() as session:
        row = add_instance(session, new_instance(), moment)
        number = row.series_id
    with database.read() as session:
        stored = session.get_one(SeriesRow, number).created_at
    assert (stored, stored.tzinfo) == (moment, UTC)


def test_a_naive_time_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="naive"), database.write() as session:
        add_instance(session, new_instance(), datetime(2026, 3, 1))


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (SeriesRow, {"state": "lost"}),
        (SeriesRow, {"status": "unknown"}),
        (JobRow, {"state": "running"}),  # without a lease
        (JobRow, {"lease_owner": "me"}),  # with a lease, but done
        (ResultRow, {"probability": 1.5}),
        (ResultRow, {"reason": "too-uncertain"}),  # though classified
        (ObjectRow, {"kind": "letter"}),
        (DeliveryRow, {"state": "sending"}),
        (DeliveryRow, {"commitment": "promised"}),
        (ModelRow, {"state": "great"}),
    ],
)
def test_the_database_refuses_states_that_do_not_exist(
    database: Database, table: type[Base], values: dict[str, Any]
) -> None:
    add_series(database, "a", SeriesStatus.CLASSIFIED)
    with pytest.raises(IntegrityError), database.write() as session:
        session.execute(update(table).values(**values))


def test_a_row_refers_to_rows_that_exist(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as session:
        add_instance(session, new_instance(association_id=7), later(0))
