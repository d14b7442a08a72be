"""A Storage SCP in this process, with an empty database of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.testbed.dcmtk import free_port
from worker.audit import events
from worker.config import ReceiveSection, Settings, WorkerSection
from worker.inbound.association import Receiver
from worker.migrate import migrate
from worker.store import Store


@contextmanager
def receiving(tmp_path: Path, record: events.Record = events.unrecorded, **receive: Any) -> Iterator[tuple[int, Store]]:
    """Its port and its database; `receive` are keys of the [receive] section."""
    values = {"host": "127.0.0.1", "port": free_port(), "minimum_free_bytes": 0} | receive
    settings = Settings(worker=WorkerSection(data_dir=tmp_path / "data"), receive=ReceiveSection(**values))
    database = Store(f"sqlite:///{tmp_path / 'worker.db'}")
    migrate(database)
    receiver = Receiver(settings, database, lambda: datetime.now(UTC), record)
    receiver.start()
    try:
        yield settings.receive.port, database
    finally:
        receiver.stop(1)
        database.close()
