"""The models that this process serves: those in use, and those that jobs still wait for.

A change of the models in use needs no restart: `current` reads the model table between jobs, at most once a second. A
model that cannot be loaded is reported in the log and in the database, tried again later, and stops no other model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from worker.db import models
from worker.db.engine import Database
from worker.db.jobs import adopt_jobs
from worker.db.tables import LoadState, ModelLoadRow, ModelRow, ModelState
from worker.errors import StartError
from worker.jobs.bundle_store import BundleStore, ServedModel
from worker.logs import get_log
from worker.process import is_dead
from worker.process_limits import lift_memory_limit, limit_memory
from worker.wording import counted

POLL_SECONDS = 1.0
TRY_AGAIN = timedelta(minutes=5)
_DEATHS = 3


class ModelPool:
    """`job_memory_bytes`: what a job may allocate beside the loaded models, 0: no limit."""

    def __init__(
        self,
        database: Database,
        store: BundleStore,
        owner: str,
        clock: Callable[[], datetime],
        job_memory_bytes: int = 0,
    ) -> None:
        self._database = database
        self._store = store
        self._owner = owner
        self._clock = clock
        self._job_memory_bytes = job_memory_bytes
        self._loaded: dict[int, ServedModel] = {}
        self._not_before: dict[int, datetime] = {}
        self._next_refresh = -float("inf")
        self._limit_lifted = False

    def current(self) -> Mapping[int, ServedModel]:
        """The loaded models by the id of their row, refreshed once a second."""
        if time.monotonic() >= self._next_refresh:
            self.refresh()
        return dict(self._loaded)

    def refresh(self) -> None:
        """Load the models that are needed and drop the others."""
        with self._database.read() as session:
            rows = models.models_to_serve(session)
        needed = {row.id for row in rows}
        dropped = [self._loaded.pop(row_id) for row_id in list(self._loaded) if row_id not in needed]
        self._not_before = {row_id: moment for row_id, moment in self._not_before.items() if row_id in needed}
        several_active = sum(row.state == ModelState.ACTIVE for row in rows) > 1
        for row in rows:
            if row.id not in self._loaded:
                self._load(row, dispensable=several_active or row.state != ModelState.ACTIVE)
        self._reassign_lost_jobs(rows)
        for model in dropped:
            get_log().info("model not needed any more", model=model.identity.name, version=model.identity.version)
        if dropped or self._limit_lifted:
            self._limit_lifted = False
            limit_memory(self._job_memory_bytes)
        self._next_refresh = time.monotonic() + POLL_SECONDS

    def require_any(self) -> None:
        """Raises StartError with the first reason when models are needed and none of them could be loaded."""
        with self._database.read() as session:
            faults = [
                load.detail for _, load in models.model_loads(session, self._host) if load.state == LoadState.FAILED
            ]
        if faults and not self._loaded:
            raise StartError("bundle-unusable", f"no model can be loaded: {faults[0]}")

    @property
    def _host(self) -> str:
        return self._owner.partition(":")[0]

    def _load(self, row: ModelRow, dispensable: bool) -> None:
        now = self._clock()
        if self._not_before.get(row.id, now) > now:
            return
        folder = self._store.find(row.sha256)
        if folder is None and row.state not in (ModelState.ACTIVE, ModelState.SHADOW):
            return
        with self._database.write() as session:
            deaths = self._deaths(models.model_load(session, row.id, self._host))
            models.record_load(session, row.id, self._owner, LoadState.LOADING, None, now, deaths)
        # A bundle that crashed earlier processes would crash this process; but without the only active model no series
        # is answered.
        if dispensable and deaths >= _DEATHS:
            fault: str | None = f"{counted(deaths, 'process')} died while loading the model"
        else:
            fault = self._try_to_load(row, folder)
        with self._database.write() as session:
            state = LoadState.LOADED if fault is None else LoadState.FAILED
            models.record_load(session, row.id, self._owner, state, fault, now)
        if fault is not None:
            self._not_before[row.id] = now + TRY_AGAIN
            get_log().error("model not loaded", model=row.name, version=row.version, model_state=row.state, why=fault)

    def _deaths(self, load: ModelLoadRow | None) -> int:
        """How many processes of this host in a row ended while they loaded the model."""
        if load is None or load.state != LoadState.LOADING or load.process == self._owner:
            return 0
        return load.deaths + int(is_dead(load.process, self._host))

    def _try_to_load(self, row: ModelRow, folder: Path | None) -> str | None:
        """Load a model; returns the fault, None when the model is served from now on."""
        if folder is None:
            return "this host has no such bundle in its data folder"
        self._limit_lifted = True
        lift_memory_limit()
        try:
            model = self._store.load(folder)
        except StartError as error:
            return error.detail
        except (OSError, MemoryError) as error:
            return f"{type(error).__name__} while it was loaded"
        if model.identity.sha256 != row.sha256:
            return "the bundle in its folder is another bundle"
        self._loaded[row.id] = model
        get_log().info("model loaded", model=row.name, version=row.version, model_state=row.state)
        return None

    def _reassign_lost_jobs(self, rows: Sequence[ModelRow]) -> None:
        """Give jobs of a model whose bundle is on no host to an active model, as after an upgrade of the worker."""
        active = next((row for row in rows if row.state == ModelState.ACTIVE and row.id in self._loaded), None)
        in_use = (ModelState.ACTIVE, ModelState.SHADOW)
        lost = [row.id for row in rows if row.state not in in_use and self._store.find(row.sha256) is None]
        if active is None or not lost:
            return
        with self._database.write() as session:
            reassigned = adopt_jobs(session, lost, active.id, self._clock())
        if reassigned:
            get_log().warning("jobs of a model without its bundle are classified by another", jobs=reassigned)
