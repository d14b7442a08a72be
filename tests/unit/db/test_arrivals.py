"""Instances whose rows the driver adds: the same rows as those of `add_instances`, or nothing; on both databases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, text

from tests.testbed.instances import later, new_instance
from tests.testbed.rows import add_series
from worker.db.arrivals import Arrivals
from worker.db.engine import Database, Session
from worker.db.instances import add_instances
from worker.db.tables import SeriesRow, SeriesState, SeriesStatus


def _rows(session: Session, table: str) -> list[dict[str, Any]]:
    """As the database holds them, without the ids, of which PostgreSQL does not reuse any."""
    rows = session.execute(text(f"SELECT * FROM {table} ORDER BY id")).mappings()
    return [{name: value for name, value in row.items() if name != "id"} for row in rows]


def _all(database: Database) -> list[list[dict[str, Any]]]:
    with database.read() as session:
        return [_rows(session, table) for table in ("series", "instance")]


def test_rows_are_those_that_add_instances_writes(database: Database) -> None:
    arrivals = Arrivals(database)
    attributes = {"name": "Jürgen", "place": [0.5, 1e-7], "none": None}
    first, more = [new_instance(1, "a"), new_instance(1, "b")], [new_instance(2, name) for name in "ba"]
    more.append(replace(new_instance(3, "b"), attributes=attributes, series_description="o'clock %s ?"))
    assert not arrivals.add(first, later(0))
    assert _all(database) == [[], []]
    with database.write() as session:
        add_instances(session, first, later(0))
    with database.write() as session:
        add_instances(session, more, later(5))
        expected = [_rows(session, table) for table in ("series", "instance")]
        session.rollback()
    assert arrivals.add(more, later(5))
    assert _all(database) == expected


@pytest.mark.parametrize("outcome", [SeriesStatus.CLASSIFIED, SeriesStatus.REFUSED])
def test_a_series_that_settled_is_opened_unless_it_was_refused(database: Database, outcome: SeriesStatus) -> None:
    add_series(database, "a", outcome)
    before = _all(database)
    if outcome is SeriesStatus.REFUSED:  # its answer changes too
        assert not Arrivals(database).add([new_instance(2, "a")], later(60))
        assert _all(database) == before
        return
    assert Arrivals(database).add([new_instance(2, "a")], later(60))
    with database.read() as session:
        series = session.scalars(select(SeriesRow)).one()
        assert (series.state, series.reason, series.last_received_at) == (SeriesState.OPEN, None, later(60))


def test_nothing_is_added_where_one_is_there_already(database: Database) -> None:
    with database.write() as session:
        add_instances(session, [new_instance(1, "a")], later(0))
    before = _all(database)
    arrivals = Arrivals(database)
    assert not arrivals.add([new_instance(2, "a"), new_instance(1, "a")], later(60))
    assert not arrivals.add([new_instance(2, "a"), new_instance(1, "b")], later(60))
    assert _all(database) == before
    assert arrivals.add([new_instance(2, "a")], later(60))  # the connection that the fault left is as good as new
