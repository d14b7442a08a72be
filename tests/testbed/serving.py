"""A model for a job runner without a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from worker.db.engine import Database
from worker.db.models import model_row
from worker.jobs.bundle_store import Classify, ServedModel
from worker.jobs.model_pool import ModelPool
from worker.results import ModelIdentity


class LoadedModels(ModelPool):
    """Models that are loaded from the start, by the id of their row, and stay so."""

    def __init__(self, models: Mapping[int, ServedModel]) -> None:
        self._models = models

    def current(self) -> Mapping[int, ServedModel]:
        return self._models


def one_model(database: Database, identity: ModelIdentity, classify: Classify, now: datetime) -> LoadedModels:
    """Its row made, where there is none."""
    with database.write() as session:
        row = model_row(session, identity, now)
    return LoadedModels({row.id: ServedModel(identity, classify)})
