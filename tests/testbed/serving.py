"""A model for a conductor without a bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from worker import store
from worker.inference.served import ServedModel
from worker.inference.shelf import Classify
from worker.store import Store
from worker.values import ModelIdentity


def one_model(
    database: Store, identity: ModelIdentity, classify: Classify, now: datetime
) -> Callable[[], Sequence[ServedModel]]:
    """Its row made, where there is none."""
    with database.write() as session:
        row = store.model_row(session, identity, now)
    return lambda: [ServedModel(row.id, identity, classify)]
