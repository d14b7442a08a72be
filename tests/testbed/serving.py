"""A model for a conductor without a bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from worker.db.engine import Database
from worker.db.models import model_row
from worker.jobs.bundle_store import Classify
from worker.jobs.model_pool import ServedModel
from worker.results import ModelIdentity


def one_model(
    database: Database, identity: ModelIdentity, classify: Classify, now: datetime
) -> Callable[[], Sequence[ServedModel]]:
    """Its row made, where there is none."""
    with database.write() as session:
        row = model_row(session, identity, now)
    return lambda: [ServedModel(row.id, identity, classify)]
