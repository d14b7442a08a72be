"""Add new instances to known series by the database's driver itself, as this is done for each instance received.

SQLAlchemy took four times as long to hand these two statements to SQLite as SQLite took to execute them. They are Core
statements, compiled once. Any other case is left to `worker.db.instances`, which also reports the faults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

from sqlalchemy import Dialect, Insert, Update, bindparam

from worker.db.engine import Database
from worker.db.instances import ADD_INSTANCE, INSTANCE_COLUMNS, NewInstance, arrival_of, instance_row


class Arrivals:
    """Adds instances to a database; any number of threads may use it."""

    def __init__(self, database: Database) -> None:
        self._engine = database.engine
        self._insert = _Compiled(ADD_INSTANCE.inline(), self._engine.dialect, INSTANCE_COLUMNS)
        self._arrive: dict[int, _Compiled] = {}  # by the number of series

    def add(self, new: Sequence[NewInstance], now: datetime) -> bool:
        """Add instances in a transaction of their own, and open their series.

        False, and nothing is changed, where one of them has a row or its series has none or is refused, or where the
        database reports a fault.
        """
        uids = dict.fromkeys(instance.series_instance_uid for instance in new)
        arrive = self._arrive.get(len(uids)) or self._arrive.setdefault(len(uids), self._arrival(len(uids)))
        try:
            # What was not committed is rolled back as the connection returns to its pool.
            with closing(self._engine.raw_connection()) as connection, closing(connection.cursor()) as cursor:
                if self._engine.dialect.name == "sqlite":
                    cursor.execute("BEGIN IMMEDIATE")  # PostgreSQL's driver begins by itself
                named = {f"uid{number}": uid for number, uid in enumerate(uids)}
                cursor.execute(arrive.text, arrive.values(named | {"now": now}))
                ids = {uid: id_ for id_, uid in cursor.fetchall()}
                if len(ids) < len(uids):
                    return False
                rows = [self._insert.values(instance_row(instance, ids, now)) for instance in new]
                cursor.executemany(self._insert.text, rows)
                connection.commit()
        except self._engine.dialect.loaded_dbapi.Error:
            return False
        return True

    def _arrival(self, number: int) -> _Compiled:
        return _Compiled(arrival_of([bindparam(f"uid{index}") for index in range(number)]), self._engine.dialect)


class _Compiled:
    """A statement as a driver takes it."""

    def __init__(self, statement: Insert | Update, dialect: Dialect, columns: Sequence[str] | None = None) -> None:
        compiled: Any = statement.compile(dialect=dialect, column_keys=columns)
        self.text: str = compiled.string
        self._names: list[str] | None = compiled.positiontup if compiled.positional else None
        self._fixed = {} if columns else dict(compiled.params)
        types = {name: compiled.binds[name].type for name in compiled.params}
        encoders = {name: kind.dialect_impl(dialect).bind_processor(dialect) for name, kind in types.items()}
        self._encoders = [(name, encode) for name, encode in encoders.items() if encode is not None]

    def values(self, values: Mapping[str, Any]) -> Any:
        """The parameters, in the order or by the names that the driver wants."""
        encoded = {**self._fixed, **values}
        for name, encode in self._encoders:
            encoded[name] = encode(encoded[name])
        return encoded if self._names is None else [encoded[name] for name in self._names]
