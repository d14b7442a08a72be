"""Where a process other than the receiver stores what comes to it (STOW-RS, C-GET), as durably as the receiver does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from worker.audit import events
from worker.config.fingerprint import rules_fingerprint
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import AssociationEnd
from worker.logs import fault_fields, get_log
from worker.storage.acceptance import StoreRequest, beginning_of, require_storable
from worker.storage.associations import Associations
from worker.storage.keeper import InstanceKeeper
from worker.storage.pending import StoreOutcome, status_of
from worker.storage.refusals import Refusals, RefusedRequest
from worker.storage.spool import Spool

_MEMORY_BYTES = 64 << 20  # of all instances that are arriving


class InstanceStore:
    """What the transfers of a process share. `close` at the end."""

    def __init__(
        self, settings: Settings, database: Database, clock: Callable[[], datetime], record: events.RecordEvent
    ) -> None:
        receive = settings.receive
        self.keeper = InstanceKeeper(
            database,
            settings.worker.data_dir,
            clock,
            receive.minimum_free_bytes,
            settings.route,
            record,
            rules_fingerprint(settings),
        )
        self.associations = Associations(database, settings.worker.ae_title, clock, record)
        self.refusals = Refusals(database, clock)
        incoming = settings.worker.data_dir / "instances" / "incoming"
        self.spool = Spool(incoming, min(_MEMORY_BYTES, receive.memory_bytes), receive.minimum_free_bytes)
        self.maximum_bytes = receive.maximum_dataset_bytes

    def write_refusals(self) -> None:
        """Add the refusals to the counts of the database; they are kept for the next time if that fails."""
        try:
            self.refusals.write()
        except Exception as error:  # a handler's boundary: what was stored is stored
            get_log().warning("refusals not counted", **fault_fields(error))

    def close(self) -> None:
        """Stop storing instances."""
        self.write_refusals()
        self.keeper.close()


class Transfer:
    """What brings instances, a request or an association: series wait for its `end`.

    Its row in the database is opened by its first instance.
    """

    def __init__(self, store: InstanceStore, calling: str, address: str) -> None:
        self.store, self._calling, self.address = store, calling, address
        self.row: int | None = None

    def keep(self, request: StoreRequest) -> StoreOutcome:
        """Store an instance durably. Raises RefusedInstance, or what else prevents it."""
        if self.row is None:
            self.row = self.store.associations.open(self._calling, self.address)
        request.association_id = self.row
        return self.store.keeper.keep(request)

    def answer(self, request: StoreRequest) -> int:
        """Store an instance durably; the status to answer (PS3.4 B.2.3), whatever happens."""
        try:
            require_storable(request)
            return status_of(self.keep(request))
        except Exception as fault:  # a handler's boundary: record and answer
            instance = request.affected_sop_instance_uid
            refused = RefusedRequest(beginning_of(request), instance, self.row, self.address)
            return self.store.refusals.refuse(fault, refused)

    def end(self, end: AssociationEnd, sender: str | None = None) -> None:
        """Record that nothing more will come: see `Associations.close`."""
        self.store.write_refusals()
        if self.row is not None:
            self.store.associations.close(self.row, end, sender)
