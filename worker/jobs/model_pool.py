"""The models that this process serves: those in use, and those that jobs still wait for.

A change of the choice needs no restart: `refresh` is called between jobs and looks at the model table once a second.
What cannot be loaded here is said in the log and in the database, tried again after a while, and stops no other model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from worker.db import models
from worker.db.engine import Database
from worker.db.jobs import adopt_jobs
from worker.db.tables import LoadState, ModelLoadRow, ModelRow, ModelState
from worker.errors import StartError
from worker.jobs.bundle_store import Classify, Ready
from worker.logs import get_log
from worker.process import is_dead
from worker.results import ModelIdentity

POLL_SECONDS = 1.0
TRY_AGAIN = timedelta(minutes=5)
_DEATHS = 3


@dataclass(frozen=True)
class ServedModel:
    """A model that is loaded; `id` is its row."""

    id: int
    identity: ModelIdentity
    classify: Classify


class ServedModels:
    """`find` gives the folder of a bundle hash on this host, `make_ready` verifies and loads it (see `shelf`).

    `changed` is called after a load or a drop: the memory that a job may take is counted anew from there.
    """

    def __init__(
        self,
        database: Database,
        find: Callable[[str], Path | None],
        make_ready: Callable[[Path], Ready],
        owner: str,
        clock: Callable[[], datetime],
        before_load: Callable[[], None] = lambda: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._find = find
        self._make_ready = make_ready
        self._owner = owner
        self._clock = clock
        self._before_load = before_load
        self._changed = changed
        self._loaded: dict[int, ServedModel] = {}
        self._not_before: dict[int, datetime] = {}
        self._look_at = -float("inf")
        self._touched = False

    def current(self) -> Sequence[ServedModel]:
        """What is loaded now, after a look at the database once a second."""
        if time.monotonic() >= self._look_at:
            self.refresh()
        return list(self._loaded.values())

    def refresh(self) -> None:
        """Load what is wanted and drop what is not."""
        with self._database.read() as session:
            rows = models.models_to_serve(session)
        wanted = {one.id for one in rows}
        dropped = [self._loaded.pop(one) for one in list(self._loaded) if one not in wanted]
        self._not_before = {key: value for key, value in self._not_before.items() if key in wanted}
        several = sum(one.state == ModelState.ACTIVE for one in rows) > 1
        for row in rows:
            if row.id not in self._loaded:
                self._load(row, dispensable=several or row.state != ModelState.ACTIVE)
        self._give_away_lost(rows)
        for one in dropped:
            get_log().info("model not needed any more", model=one.identity.name, version=one.identity.version)
        if dropped or self._touched:
            self._touched = False
            self._changed()
        self._look_at = time.monotonic() + POLL_SECONDS

    def require_one(self) -> None:
        """Raises StartError with the first reason when models are wanted and none of them could be loaded."""
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
        folder = self._find(row.sha256)
        if folder is None and row.state not in (ModelState.ACTIVE, ModelState.SHADOW):
            return
        with self._database.write() as session:
            deaths = self._deaths(models.model_load(session, row.id, self._host))
            models.record_load(session, row.id, self._owner, LoadState.LOADING, None, now, deaths)
        # What ended the processes before us would end us too; but without the only active model nothing is answered.
        if dispensable and deaths >= _DEATHS:
            fault: str | None = f"{deaths} processes died while they loaded the model"
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
        """None when the model is served from now on; else why not."""
        if folder is None:
            return "this host has no such bundle in its data folder"
        self._touched = True
        self._before_load()
        try:
            ready = self._make_ready(folder)
        except StartError as error:
            return error.detail
        except (OSError, MemoryError) as error:
            return f"{type(error).__name__} while it was loaded"
        if ready.identity.sha256 != row.sha256:
            return "the bundle in its folder is another one"
        self._loaded[row.id] = ServedModel(row.id, ready.identity, ready.classify)
        get_log().info("model loaded", model=row.name, version=row.version, model_state=row.state)
        return None

    def _give_away_lost(self, rows: Sequence[ModelRow]) -> None:
        """Jobs of a model whose bundle nobody has any more go to an active one, as after an upgrade of the worker."""
        active = next((one for one in rows if one.state == ModelState.ACTIVE and one.id in self._loaded), None)
        kept = (ModelState.ACTIVE, ModelState.SHADOW)
        lost = [one.id for one in rows if one.state not in kept and self._find(one.sha256) is None]
        if active is None or not lost:
            return
        with self._database.write() as session:
            given = adopt_jobs(session, lost, active.id, self._clock())
        if given:
            get_log().warning("jobs of a model without its bundle are classified by another", jobs=given)
