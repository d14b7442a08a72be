"""A Storage SCP in this process, with an empty database of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.testbed.databases import make_tables
from tests.testbed.dcmtk import free_port
from worker.audit import events
from worker.config.sections import PeerSection, ReceiveSection, WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.receive.storage_scp import Receiver


@contextmanager
def receiving(
    tmp_path: Path,
    record: events.RecordEvent = events.unrecorded,
    *,
    peers: Sequence[PeerSection] = (),
    **receive: Any,
) -> Iterator[tuple[int, Database]]:
    """Its port and its database; `receive` are keys of the [receive] section."""
    values = {"host": "127.0.0.1", "port": free_port(), "minimum_free_bytes": 0} | receive
    settings = Settings(
        worker=WorkerSection(data_dir=tmp_path / "data"), receive=ReceiveSection(**values), peer=tuple(peers)
    )
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    receiver = Receiver(settings, database, lambda: datetime.now(UTC), record)
    receiver.start()
    try:
        yield settings.receive.port, database
    finally:
        receiver.stop(1)
        database.close()
